//! One optimiser step: from units to what is reported of them, and the gradient.

use std::ops::Range;
use std::sync::mpsc::{Sender, channel};

use collimate_model::{Decoder, Error as ModelError, Grads, Layout, Options, ParamId, Precision, Ready, Scores};
use collimate_workers::{Workers, of_all, share};

use crate::error::Error;
use crate::task::{Judgement, Said, Seen, Task, Unit};
use crate::team;

/// How a step is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// Most units of a micro-batch.
    pub units: usize,
    /// If above 0, most input tokens of one.
    pub tokens: usize,
    /// Whether a prompt is laid out once for all its completions.
    pub share: bool,
    /// Whether each of several workers has the gradient of its rows alone.
    pub own_rows: bool,
    pub engine: Options,
}

/// Units with what the reference said of them, if that is wanted.
pub(crate) struct Items<U> {
    pub units: Vec<U>,
    /// As many as units, or none.
    pub reference: Vec<Vec<Vec<f32>>>,
}

impl<U: Unit> Items<U> {
    fn reference(&self, i: usize) -> Option<&[Vec<f32>]> {
        self.reference.get(i).map(Vec::as_slice)
    }

    /// The units of `range` with what was said of them, in their order.
    pub fn seen<'a>(&'a self, range: Range<usize>, said: &'a [Vec<Said>]) -> Vec<Seen<'a, U>> {
        let one =
            |(i, policy): (usize, &'a Vec<Said>)| Seen { unit: &self.units[i], policy, reference: self.reference(i) };
        range.zip(said).map(one).collect()
    }
}

/// Where units came from, for messages.
pub(crate) fn places<U: Unit>(units: &[U]) -> String {
    units.iter().map(Unit::place).collect::<Vec<_>>().join(", ")
}

fn at<U: Unit>(units: &[U]) -> impl FnOnce(ModelError) -> Error + '_ {
    |source| {
        let place = format!("{} {}", if units.len() == 1 { "row" } else { "rows" }, places(units));
        Error::Model { place, source }
    }
}

/// What a task made, against what it was asked for.
fn count(what: &'static str, got: usize, expected: usize) -> Result<(), Error> {
    if got == expected { Ok(()) } else { Err(Error::Task { what, got, expected }) }
}

/// One call of the task, on units with what was said of them.
fn judge<T: Task>(
    model: &Decoder,
    task: &T,
    seen: &[Seen<'_, T::Unit>],
    totals: T::Totals,
) -> Result<Judgement, Error> {
    let (profile, device) = (model.profile(), model.device());
    let judged = profile.timed("loss", device, || task.judge(seen, totals, device))?;
    let tokens = seen.iter().flat_map(|s| s.policy).map(|said| said.log_probs.len()).sum();
    count("rows of metrics", judged.rows.len(), seen.len())?;
    count("coefficients", judged.coefficients.len(), tokens)?;
    Ok(judged)
}

fn lay_out<U: Unit>(units: &[U], how: How) -> Result<Layout, Error> {
    let mut layout = if how.balances() { Layout::whole() } else { Layout::default() };
    for (i, unit) in units.iter().enumerate() {
        unit.lay_out(&mut layout, how.share).map_err(at(std::slice::from_ref(unit)))?;
        count("units", layout.units.len(), i + 1)?;
    }
    Ok(layout)
}

/// Cuts a step into micro-batches of at most `units` units and, if above 0, `tokens` input tokens.
pub(crate) fn cut(sizes: &[usize], units: usize, tokens: usize) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    let (mut start, mut held) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        if i > start && (i - start == units || (tokens > 0 && held + size > tokens)) {
            cuts.push(start..i);
            (start, held) = (i, 0);
        }
        held += size;
    }
    if start < sizes.len() {
        cuts.push(start..sizes.len());
    }
    cuts
}

/// The loss that balances experts, added to the rows of a micro-batch: its part of their loss, and itself behind all else.
fn balance(rows: &mut [Vec<f64>], how: How, aux_loss: f64) {
    for row in rows.iter_mut().filter(|_| how.balances()) {
        row[0] += how.engine.router_aux_loss_coef * aux_loss;
        row.push(aux_loss);
    }
}

impl How {
    /// Whether the loss that balances experts is added: that of each micro-batch, by its share of the step's units.
    pub fn balances(&self) -> bool {
        self.engine.router_aux_loss_coef != 0.0
    }

    /// How many inputs a unit has beyond its [`size`](Unit::size), at most: the last tokens of its completions.
    pub fn more_inputs(&self) -> usize {
        if self.balances() { 2 } else { 0 }
    }

    /// The units of `range` in micro-batches.
    fn cut<U: Unit>(&self, units: &[U], range: Range<usize>) -> Vec<Range<usize>> {
        let own = units[range.clone()].iter();
        let sizes: Vec<usize> = own.map(|u| u.size(self.share).inputs + self.more_inputs()).collect();
        let cuts = cut(&sizes, self.units, self.tokens).into_iter();
        cuts.map(|r| r.start + range.start..r.end + range.start).collect()
    }
}

/// What was said of units `units` of a layout, given the scores of their tokens.
fn said(layout: &Layout, units: Range<usize>, scores: &Scores) -> Vec<Vec<Said>> {
    let first = layout.completions[layout.units[units.start].start].start;
    let of = |completion: usize| {
        let at = &layout.completions[completion];
        let at = at.start - first..at.end - first;
        let log_collisions = scores.log_collisions.as_ref().map(|c| c[at.clone()].to_vec());
        Said { log_probs: scores.log_probs[at].to_vec(), log_collisions }
    };
    layout.units[units].iter().map(|u| u.clone().map(of).collect()).collect()
}

/// What a model says of units, in one batch, and the loss that balances its experts.
pub(crate) fn score<U: Unit>(model: &Decoder, units: &[U], how: How) -> Result<(Vec<Vec<Said>>, f64), Error> {
    let layout = lay_out(units, how)?;
    let (scores, aux_loss) = model.score_and_balance(&layout, how.engine).map_err(at(units))?;
    Ok((said(&layout, 0..units.len(), &scores), aux_loss))
}

/// What a step yields.
pub(crate) struct Outcome {
    /// The metrics of each unit.
    pub rows: Vec<Vec<f64>>,
    /// What the policy said of each.
    pub said: Vec<Vec<Said>>,
    pub gradients: Grads,
    /// Of several workers: the parameters that any of them has a gradient of, in the order of a backward pass.
    pub given: Vec<ParamId>,
    /// Whether any token's coefficient is not 0.
    asked: bool,
}

/// What a worker finds in its own units: their rows, what was said of them or (where units are coupled) of all, and whether
/// any token's coefficient is not 0.
struct Learnt {
    rows: Vec<Vec<f64>>,
    said: Vec<Vec<Said>>,
    asked: bool,
}

/// The metrics of units that a model is asked about without learning from them, taken for one batch; each worker asks about
/// its own.
pub(crate) fn evaluate<T: Task>(
    model: &Decoder,
    task: &T,
    items: &Items<T::Unit>,
    how: How,
    workers: &dyn Workers,
) -> Result<Vec<Vec<f64>>, Error> {
    let how = How { engine: Options { collision: task.needs_collisions(), ..how.engine }, ..how };
    let totals = task.totals(&items.units);
    let own = share(items.units.len(), workers);
    let (mut rows, mut all, mut balances) = (Vec::with_capacity(own.len()), Vec::new(), Vec::new());
    for range in how.cut(&items.units, own.clone()) {
        let (said, aux_loss) = score(model, &items.units[range.clone()], how)?;
        balances.push((range.clone(), aux_loss));
        match task.coupled() {
            true => all.extend(said),
            false => rows.extend(judge(model, task, &items.seen(range, &said), totals)?.rows),
        }
    }
    if task.coupled() {
        let all = of_all(workers, all)?;
        rows = judge(model, task, &items.seen(0..all.len(), &all), totals)?.rows.drain(own.clone()).collect();
    }
    let of = |range: Range<usize>| range.start - own.start..range.end - own.start;
    balances.into_iter().for_each(|(range, aux_loss)| balance(&mut rows[of(range)], how, aux_loss));
    Ok(of_all(workers, rows)?)
}

/// Judges units and computes the gradient of their mean loss. However they are cut into micro-batches, loss and gradient
/// are those of the undivided batch, but for the loss that balances experts: that is each micro-batch's own. Each worker
/// learns from its own units, and has the outcome of all.
pub(crate) fn run<T: Task>(
    policy: &Decoder,
    task: &T,
    items: &Items<T::Unit>,
    how: How,
    workers: &dyn Workers,
) -> Result<Outcome, Error> {
    let mut gradients = policy.no_gradients();
    if workers.size() == 1 {
        let Learnt { rows, said, asked } = learn_own(policy, task, items, how, workers, &mut gradients, None)?;
        return Ok(Outcome { rows, said, gradients, given: Vec::new(), asked });
    }
    let parameters = team::shaped(policy, policy.backward_order());
    let (learnt, sums) = std::thread::scope(|scope| {
        let (send, receive) = channel();
        let device = policy.device();
        // Nothing else is told to the others between its first gradient and its end.
        let adding = scope.spawn(|| team::add_up(workers, &parameters, receive, how.own_rows, device));
        let learnt = learn_own(policy, task, items, how, workers, &mut gradients, Some(send));
        if learnt.is_ok() {
            policy.hand_over_rest(&mut gradients);
        }
        // Nothing comes any more.
        gradients.take_back([]);
        let join = || adding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (learnt, policy.profile().timed("gradients of all workers", device, join))
    });
    let Learnt { rows, said, asked } = learnt?;
    let team::Sums { gradients: sums, given } = sums;
    gradients.take_back(sums);
    let (rows, asked) = (of_all(workers, rows)?, team::any(workers, asked)?);
    let said = if task.coupled() { said } else { of_all(workers, said)? };
    Ok(Outcome { rows, said, gradients, given, asked })
}

/// Learns from this worker's units; gradients go to `receiver`, where there is one, as the last micro-batch is done with them.
fn learn_own<T: Task>(
    policy: &Decoder,
    task: &T,
    items: &Items<T::Unit>,
    how: How,
    workers: &dyn Workers,
    gradients: &mut Grads,
    mut receiver: Option<Sender<Ready>>,
) -> Result<Learnt, Error> {
    let Items { units, .. } = items;
    let totals = task.totals(units);
    let engine = Options { collision: task.needs_collisions(), ..how.engine };
    let (mut rows, mut all, mut asked) = (Vec::with_capacity(units.len()), Vec::with_capacity(units.len()), false);
    let judge = |range: Range<usize>, said: &[Vec<Said>]| judge(policy, task, &items.seen(range, said), totals);
    // Each micro-batch drops out other inputs, and has its share of the balance.
    let engine_of = |range: &Range<usize>| Options {
        router_aux_loss_coef: engine.router_aux_loss_coef * range.len() as f64 / units.len() as f64,
        dropout: engine.dropout.map(|key| key ^ (range.start as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93)),
        ..engine
    };
    let own = share(units.len(), workers);
    let of = |range: Range<usize>| range.start - own.start..range.end - own.start;
    let cuts = how.cut(units, own.clone());
    let mut begin = |range: Option<&Range<usize>>, gradients: &mut Grads| {
        if range == cuts.last()
            && let Some(receiver) = receiver.take()
        {
            gradients.hand_over(receiver);
        }
    };
    if cuts.is_empty() {
        begin(None, gradients);
    }
    if task.coupled() {
        // A loss that couples units wants all of their scores before any gradient.
        let mut open = None;
        for range in &cuts {
            let part = &units[range.clone()];
            let layout = lay_out(part, how)?;
            let engine = engine_of(range);
            let scores = if cuts.len() == 1 {
                let pass = policy.open(&layout, engine).map_err(at(part))?;
                let scores = policy.scores(&pass);
                open = Some(pass);
                scores
            } else {
                policy.score(&layout, engine).map_err(at(part))?
            };
            all.extend(said(&layout, 0..part.len(), &scores));
        }
        let all = of_all(workers, all)?;
        let mut judged = judge(0..units.len(), &all)?;
        rows.extend(judged.rows.drain(own.clone()));
        asked = judged.coefficients.iter().any(|c| *c != 0.0);
        // Tokens are met again in the order in which they were judged.
        let before = all[..own.start].iter().flatten().map(|said| said.log_probs.len()).sum::<usize>();
        let mut left = &judged.coefficients[before..];
        let mut next = |_: Range<usize>, scores: &Scores| {
            let (now, later) = left.split_at(scores.log_probs.len());
            left = later;
            now.to_vec()
        };
        match open {
            Some(pass) => {
                balance(&mut rows, how, pass.aux_loss());
                begin(cuts.last(), gradients);
                policy.close(pass, &mut next, gradients);
            }
            None => {
                for range in &cuts {
                    let (engine, part) = (engine_of(range), &units[range.clone()]);
                    begin(Some(range), gradients);
                    let learnt = policy.learn(&lay_out(part, how)?, engine, &mut next, gradients);
                    balance(&mut rows[of(range.clone())], how, learnt.map_err(at(part))?);
                }
            }
        }
        return Ok(Learnt { rows, said: all, asked });
    }
    for range in &cuts {
        let part = &units[range.clone()];
        let layout = lay_out(part, how)?;
        let mut fault = None;
        let mut ask = |group: Range<usize>, scores: &Scores| {
            let here = range.start + group.start..range.start + group.end;
            let heard = said(&layout, group, scores);
            let judged = judge(here, &heard).unwrap_or_else(|e| {
                // Nothing can be learnt from this step any more; what is left of it costs no more than it would.
                fault.get_or_insert(e);
                Judgement { rows: Vec::new(), coefficients: vec![0.0; scores.log_probs.len()] }
            });
            rows.extend(judged.rows);
            all.extend(heard);
            asked |= judged.coefficients.iter().any(|c| *c != 0.0);
            judged.coefficients
        };
        begin(Some(range), gradients);
        let aux_loss = policy.learn(&layout, engine_of(range), &mut ask, gradients).map_err(at(part))?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        balance(&mut rows[of(range.clone())], how, aux_loss);
    }
    Ok(Learnt { rows, said: all, asked })
}

/// As [`run`], with the global norm of the gradient.
///
/// Gradients that overflow f16 on the way back are computed again, smaller, and gradients that vanish there larger: no
/// step is skipped, and nothing is remembered for the next.
pub(crate) fn learn<T: Task>(
    policy: &Decoder,
    task: &T,
    items: &Items<T::Unit>,
    how: How,
    workers: &dyn Workers,
) -> Result<(Outcome, f64), Error> {
    let usual = how.engine.headroom;
    let mut headroom = usual;
    loop {
        let how = How { engine: Options { headroom, ..how.engine }, ..how };
        let outcome = run(policy, task, items, how, workers)?;
        let mut norm = policy.gradient_norm(&outcome.gradients);
        if how.own_rows {
            norm = team::norm(workers, norm)?;
        }
        let overflowed = !norm.is_finite() && outcome.rows.iter().all(|r| r[0].is_finite());
        let vanished = norm == 0.0 && outcome.asked;
        if policy.precision() == Precision::F16 {
            if overflowed && headroom >= usual && headroom < usual + 24 {
                headroom += 8;
                continue;
            }
            if vanished && headroom > usual - 16 && headroom <= usual {
                headroom -= 8;
                continue;
            }
            if vanished {
                return Err(Error::Vanished { rows: places(&items.units) });
            }
        }
        return Ok((outcome, norm));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Preference;
    use burn::tensor::Device;
    use collimate_backend_flex as _;
    use collimate_core::Method;
    use collimate_data::Tokens;
    use collimate_model::{ModelConfig, Tensors};
    use collimate_workers::{Solo, Threads};
    use serde_json::{Map, json};

    fn pair(row: usize) -> Tokens {
        Tokens {
            prompt: vec![1, 2],
            chosen: vec![3; 20],
            rejected: vec![4; 20],
            chosen_mask: None,
            rejected_mask: None,
            key: 0,
            file: 0,
            row,
        }
    }

    /// A model whose parameters are multiplied by what `by` says of their names.
    fn model(by: impl Fn(&str) -> f64) -> Decoder {
        let table = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 64
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        let random = Decoder::random(config.clone(), 1, &Device::flex());
        let wide = random.specs().iter().zip(&random.parameters().0).map(|(spec, t)| t.clone() * by(&spec.name));
        Decoder::new(config, Tensors(wide.collect()), &Device::flex())
    }

    fn dpo() -> Preference {
        Method::find("dpo").unwrap().objective(&Map::new()).unwrap().into()
    }

    fn items(reference: &Decoder, how: How) -> Items<Tokens> {
        let units: Vec<_> = (1..=8).map(pair).collect();
        let (said, _) = score(reference, &units, how).unwrap();
        let reference = said.into_iter().map(|u| u.into_iter().map(|s| s.log_probs).collect()).collect();
        Items { units, reference }
    }

    const HOW: How = How {
        units: 8,
        tokens: 0,
        share: true,
        own_rows: false,
        engine: Options {
            logits: 1 << 24,
            recomputed: 0,
            collision: false,
            headroom: 4,
            dropout: None,
            router_aux_loss_coef: 0.0,
        },
    };

    #[test]
    fn what_overflows_f16_is_computed_again() {
        // Hidden states of some 10⁴ under a head of small weights: scores are moderate, the head's gradient is not.
        let exact = model(|name| match name {
            "model.norm.weight" => 2e4,
            "lm_head.weight" => 1e-3,
            _ => 1.0,
        });
        let items = items(&exact, HOW);
        let (_, expected) = learn(&exact, &dpo(), &items, HOW, &Solo).unwrap();
        let half = exact.with_precision(Precision::F16, true).unwrap();
        let once = half.gradient_norm(&run(&half, &dpo(), &items, HOW, &Solo).unwrap().gradients);
        assert!(!once.is_finite(), "{once}: nothing overflows");
        let (_, norm) = learn(&half, &dpo(), &items, HOW, &Solo).unwrap();
        assert!((norm / expected - 1.0).abs() < 0.02, "{norm} is not {expected}");
    }

    /// However many workers share a step, each has the loss, the norm and the gradient of one that has all units.
    #[test]
    fn workers_have_the_step_of_one() {
        let exact = model(|_| 1.0);
        let coupled = Preference::from(Method::find("aot").unwrap().objective(&Map::new()).unwrap());
        for task in [dpo(), coupled] {
            for units in [2, 8] {
                let how = How { units, ..HOW };
                let items = items(&exact, HOW);
                let (one, norm) = learn(&exact, &task, &items, how, &Solo).unwrap();
                for size in [2, 3, 5, 9] {
                    std::thread::scope(|scope| {
                        for worker in Threads::new(size) {
                            let (exact, task, items, one) = (&exact, &task, &items, &one);
                            scope.spawn(move || {
                                let (all, same) = learn(exact, task, items, how, &worker).unwrap();
                                assert!((same / norm - 1.0).abs() < 1e-5, "{size} workers: {same}, {norm}");
                                assert_eq!(all.rows.len(), one.rows.len());
                                for (got, row) in all.rows.iter().flatten().zip(one.rows.iter().flatten()) {
                                    assert!((got - row).abs() < 1e-5, "{size} workers: {got}, {row}");
                                }
                                for (got, own) in all.gradients.all().iter().zip(one.gradients.all()) {
                                    let far = (got.clone().unwrap() - own.clone().unwrap()).abs().max();
                                    assert!(far.into_scalar::<f32>() < 1e-5);
                                }
                                let own = share(items.units.len(), &worker);
                                let rows = evaluate(exact, task, items, how, &worker).unwrap();
                                assert!(rows.len() == items.units.len() && own.end <= rows.len());
                            });
                        }
                    });
                }
            }
        }
    }

    #[test]
    fn what_vanishes_in_f16_is_said() {
        // Under a head of weights that f16 takes for 0, and hidden states of 0 behind the norm, nothing has a gradient.
        let nothing = model(|name| match name {
            "model.norm.weight" | "lm_head.weight" => 1e-12,
            _ => 1.0,
        });
        let items = items(&nothing, HOW);
        let (_, norm) = learn(&nothing, &dpo(), &items, HOW, &Solo).unwrap();
        assert!(norm > 0.0);
        let half = nothing.with_precision(Precision::F16, true).unwrap();
        let said = learn(&half, &dpo(), &items, HOW, &Solo).err().unwrap().to_string();
        assert!(said.contains("vanishes") && said.contains("rows 1, 2"), "{said}");
    }

    #[test]
    fn cuts_keep_to_both_bounds_and_lose_nothing() {
        assert_eq!(cut(&[5, 5, 5, 5, 5], 2, 0), [0..2, 2..4, 4..5]);
        assert_eq!(cut(&[5, 5, 5, 9, 1], 8, 10), [0..2, 2..3, 3..5]);
        // A unit larger than the bound still goes, alone.
        assert_eq!(cut(&[50, 5], 8, 10), [0..1, 1..2]);
        assert!(cut(&[], 8, 10).is_empty());
    }
}

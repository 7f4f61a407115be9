//! Laws, generated for everything that is registered, on every backend that is linked.
//!
//! A newcomer's operator, loss or method is held to them without a test being written: its name is found in the
//! registry, its missing parameters are filled in, and its formula runs on every device. A trial is named
//! `backend::item::law`; what needs no device runs once, under `host`.

mod common;

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate::core::averaging::{AnyAveraging, Mean, Sum};
use collimate::core::loss::{AnyLoss, Hinge, Logistic, Squared};
use collimate::core::optimality::{AnyOptimality, ReverseKl, by_bisection};
use collimate::core::registry;
use collimate::core::tabular::{World, normalise};
use collimate::core::{
    AveragedDpo, AveragedIpo, AveragedSlic, AveragingOperator, Batch, Column, Completion, Dpo, Ipo, Method, Objective,
    OptimalityOperator, Pair, Preference, PreferenceLoss, Scores, Slic, Totals,
};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

// ---- What the laws are about -------------------------------------------------------------------------------------

/// Something registered, in an objective that can be evaluated.
#[derive(Clone)]
struct Item {
    name: String,
    /// The objective's table.
    table: Value,
}

impl Item {
    fn objective(&self) -> Objective {
        Objective::from_value(&self.table).unwrap()
    }
    fn is(&self, part: &str, names: &[&str]) -> bool {
        names.iter().any(|n| self.table[part]["type"] == *n)
    }
}

/// A table for a registered name: parameters that it can't do without get the first value that it accepts.
fn instance<B: DeserializeOwned>(kind: &'static str, name: &str, valid: impl Fn(&B) -> bool) -> Value {
    let mut table = json!({"type": name});
    let values = [
        json!(0.25),
        json!(1),
        json!(true),
        json!({"type": "logistic"}),
        json!([{"weight": 0.5, "loss": {"type": "logistic"}}, {"weight": 2.0, "loss": {"type": "bco"}}]),
    ];
    loop {
        let fault = match registry::read::<B>(kind, &table) {
            Ok(it) if valid(&it) => return table,
            Ok(_) => panic!("{kind} \"{name}\": no sample value is in range: {table}"),
            Err(fault) => fault.to_string(),
        };
        let missing =
            |said: &str| said.split_once("missing field `").map(|(_, rest)| rest.split('`').next().unwrap().to_owned());
        let Some(key) = missing(&fault) else { panic!("{kind} \"{name}\": {fault}") };
        let fits = values.iter().find(|value| {
            let mut tried = table.clone();
            tried[&key] = (*value).clone();
            registry::read::<B>(kind, &tried)
                .map_or_else(|e| missing(&e.to_string()).is_some_and(|k| k != key), |it| valid(&it))
        });
        table[&key] = fits.unwrap_or_else(|| panic!("{kind} \"{name}\": no sample value for {key}")).clone();
    }
}

fn items() -> Vec<Item> {
    let vocabulary = collimate::core::methods::vocabulary();
    let mut all = Vec::new();
    let reverse_kl = json!({"type": "reverse_kl", "beta": 0.75});
    for name in vocabulary.averaging {
        let averaging = instance::<Box<dyn AnyAveraging>>("averaging", name, |a| a.validate().is_ok());
        let table = json!({"averaging": averaging, "optimality": reverse_kl, "loss": {"type": "logistic"}});
        all.push(Item { name: format!("averaging-{name}"), table });
    }
    for name in vocabulary.optimality {
        let optimality = instance::<Box<dyn AnyOptimality>>("optimality", name, |o| o.validate().is_ok());
        let table = json!({"averaging": {"type": "mean"}, "optimality": optimality, "loss": {"type": "logistic"}});
        all.push(Item { name: format!("optimality-{name}"), table });
    }
    for name in vocabulary.loss {
        let loss = instance::<Box<dyn AnyLoss>>("loss", name, |l| l.validate().is_ok());
        let mut table = json!({"averaging": {"type": "mean"}, "optimality": reverse_kl, "loss": loss});
        let reads = registry::read::<Box<dyn AnyLoss>>("loss", &loss).unwrap().reads();
        if !reads.rewards && !reads.scores {
            // Whatever else it were composed with would be ignored, and is refused.
            table["averaging"] = json!({"type": "sum"});
            table["optimality"] = json!({"type": "none", "beta": 0.75});
        }
        all.push(Item { name: format!("loss-{name}"), table });
    }
    for method in Method::all() {
        let table = method.objective(&Map::new()).unwrap().to_value();
        all.push(Item { name: method.name.to_owned(), table });
    }
    all
}

// ---- What they are tried on --------------------------------------------------------------------------------------

/// A sequence of numbers in [0, 1), the same everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The token log-probabilities of a pair under policy and reference.
#[derive(Clone)]
struct Text {
    policy: Pair<Vec<f64>>,
    reference: Pair<Vec<f64>>,
    confidence: Pair<f64>,
    key: u64,
}

impl Text {
    fn lengths(&self) -> Pair<usize> {
        self.policy.as_ref().map(Vec::len)
    }
}

fn texts(pairs: usize, seed: u64) -> Vec<Text> {
    let mut draw = Draw(seed);
    let mut text = |key| {
        let lengths = Pair::new(0, 0).map(|_: i32| 1 + (draw.next() * 12.0) as usize);
        let mut tokens = |lengths: Pair<usize>| lengths.map(|n| (0..n).map(|_| -0.05 - 2.0 * draw.next()).collect());
        let (policy, reference) = (tokens(lengths), tokens(lengths));
        Text { policy, reference, confidence: Pair::new(draw.next() - 0.5, draw.next() - 0.5), key }
    };
    (0..pairs as u64).map(&mut text).collect()
}

/// What an objective sees of pairs, on the host.
#[derive(Clone)]
struct Seen {
    policy: Pair<Completion<Column>>,
    reference: Pair<Completion<Column>>,
    totals: Totals,
}

fn see(objective: &Objective, texts: &[Text]) -> Seen {
    let side = |model: fn(&Text) -> &Pair<Vec<f64>>| {
        let each = |pick: fn(&Pair<Vec<f64>>) -> &Vec<f64>, confidence: fn(&Pair<f64>) -> f64| {
            let weights = |t: &Text| {
                let w = objective.weights(t.lengths(), t.key).unwrap();
                pick(&w).clone()
            };
            let dot = |t: &Text| weights(t).iter().zip(pick(model(t))).map(|(w, p)| w * p).sum();
            Completion {
                score: Column(texts.iter().map(dot).collect()),
                sum: Column(texts.iter().map(|t| pick(model(t)).iter().sum()).collect()),
                tokens: Column(texts.iter().map(|t| pick(model(t)).len() as f64).collect()),
                confidence: Column(texts.iter().map(|t| confidence(&t.confidence)).collect()),
            }
        };
        Pair::new(each(|p| &p.chosen, |c| c.chosen), each(|p| &p.rejected, |c| c.rejected))
    };
    Seen { policy: side(|t| &t.policy), reference: side(|t| &t.reference), totals: totals(texts) }
}

fn totals(texts: &[Text]) -> Totals {
    Totals { pairs: texts.len(), chosen_tokens: texts.iter().map(|t| t.policy.chosen.len()).sum() }
}

impl Seen {
    fn oracle(&self, objective: &Objective) -> Vec<f64> {
        objective.evaluate_column(&self.policy, &self.reference, self.totals).loss.0
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

// ---- On a device -------------------------------------------------------------------------------------------------

#[derive(Clone)]
struct Place {
    device: Device,
    dtype: DType,
}

/// Each pair's loss and the gradient of the mean with respect to scores and sums.
#[derive(Debug, PartialEq)]
struct Computed {
    loss: Vec<f64>,
    score: Pair<Vec<f64>>,
    sum: Pair<Vec<f64>>,
}

impl Place {
    fn tensor(&self, v: &[f64]) -> Batch {
        Tensor::from_data(TensorData::new(v.to_vec(), [v.len()]), (&self.device, self.dtype))
    }

    fn compute<A: AnyAveraging, O: AnyOptimality, L: AnyLoss>(
        &self,
        objective: &Objective<A, O, L>,
        seen: &Seen,
    ) -> Computed {
        let here = Place { device: self.device.clone().autodiff(), dtype: self.dtype };
        let send = |side: &Pair<Completion<Column>>| {
            side.as_ref().map(|c| Completion {
                score: here.tensor(&c.score.0),
                sum: here.tensor(&c.sum.0),
                tokens: here.tensor(&c.tokens.0),
                confidence: here.tensor(&c.confidence.0),
            })
        };
        let policy =
            send(&seen.policy).map(|c| Completion { score: c.score.require_grad(), sum: c.sum.require_grad(), ..c });
        let loss = objective.evaluate_batch(&policy, &send(&seen.reference), seen.totals).loss;
        let gradients = loss.clone().mean().backward();
        let loss = host(loss.inner());
        let gradient = |leaf: &Batch| leaf.grad(&gradients).map_or_else(|| vec![0.0; loss.len()], host);
        let score = policy.as_ref().map(|c| gradient(&c.score));
        let sum = policy.as_ref().map(|c| gradient(&c.sum));
        Computed { loss, score, sum }
    }

    /// What is lost to rounding, relative to the larger of the value and 1.
    fn tolerance(&self) -> f64 {
        if self.dtype == DType::F64 { 1e-11 } else { 2e-5 }
    }
}

fn host(t: Batch) -> Vec<f64> {
    t.into_data().convert::<f64>().try_to_vec().unwrap()
}

fn close(got: &[f64], wanted: &[f64], tolerance: f64) -> Result<(), Failed> {
    let far = |(g, w): (&f64, &f64)| {
        let off = (g - w).abs();
        off.is_nan() || off > tolerance * w.abs().max(1.0)
    };
    match got.len() == wanted.len() && !got.iter().zip(wanted).any(far) {
        true => Ok(()),
        false => Err(format!("{got:?}, not {wanted:?} (within {tolerance:e})").into()),
    }
}

fn demand(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

// ---- The laws on devices -----------------------------------------------------------------------------------------

/// The formula on a device is the formula of the oracle.
fn value(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let seen = see(&objective, &texts(9, 1));
    close(&place.compute(&objective, &seen).loss, &seen.oracle(&objective), place.tolerance())
}

/// The gradient on a device is the slope of the oracle, by central differences.
// ANCHOR: gradient
fn gradient(item: &Item, place: &Place) -> Result<(), Failed> {
    const STEP: f64 = 1e-5;
    let objective = item.objective();
    let seen = see(&objective, &texts(7, 2));
    let slope = |chosen: bool, score: bool| -> Vec<f64> {
        let moved = |i: usize, by: f64| {
            let mut moved = seen.clone();
            let completion = if chosen { &mut moved.policy.chosen } else { &mut moved.policy.rejected };
            let column = if score { &mut completion.score } else { &mut completion.sum };
            column.0[i] += by;
            mean(&moved.oracle(&objective))
        };
        (0..7).map(|i| (moved(i, STEP) - moved(i, -STEP)) / (2.0 * STEP)).collect()
    };
    let got = place.compute(&objective, &seen);
    let tolerance = if place.dtype == DType::F64 { 1e-8 } else { 1e-4 };
    // Relative to the largest slope, so that steep losses aren't held to more than differences can tell.
    let scale = |wanted: &[f64]| wanted.iter().fold(1.0f64, |m, w| m.max(w.abs()));
    for (got, chosen, score) in [
        (&got.score.chosen, true, true),
        (&got.score.rejected, false, true),
        (&got.sum.chosen, true, false),
        (&got.sum.rejected, false, false),
    ] {
        let wanted = slope(chosen, score);
        close(got, &wanted, tolerance * scale(&wanted))?;
    }
    Ok(())
}
// ANCHOR_END: gradient

/// Scores that are 1e4 nats apart, either way, give finite losses and gradients in f32.
fn finite(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let extremes = [-1e4, -1.0, -1e-3];
    let mut rows = Vec::new();
    for a in extremes {
        for b in extremes {
            for c in [-1e4, -1.0] {
                for d in [-1e4, -1.0] {
                    rows.push([a, b, c, d]);
                }
            }
        }
    }
    let completion = |k: usize, n: f64| Completion {
        score: Column(rows.iter().map(|r| r[k]).collect()),
        sum: Column(rows.iter().map(|r| r[k]).collect()),
        tokens: Column(vec![n; rows.len()]),
        confidence: Column(vec![2.0; rows.len()]),
    };
    let seen = Seen {
        policy: Pair::new(completion(0, 3.0), completion(1, 5.0)),
        reference: Pair::new(completion(2, 3.0), completion(3, 5.0)),
        totals: Totals { pairs: rows.len(), chosen_tokens: 3 * rows.len() },
    };
    let single = Place { dtype: DType::F32, ..place.clone() };
    let got = single.compute(&objective, &seen);
    for (what, values) in [
        ("loss", &got.loss),
        ("gradient, chosen", &got.score.chosen),
        ("gradient, rejected", &got.score.rejected),
        ("gradient of sums", &got.sum.chosen),
    ] {
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(format!("{what}: {} at scores {:?}", values[i], rows[i]).into());
        }
    }
    Ok(())
}

/// Where policy and reference agree, the loss is the method's known value.
fn start(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let mut texts = texts(6, 3);
    texts.iter_mut().for_each(|t| t.policy = t.reference.clone());
    let seen = see(&objective, &texts);
    let wanted = objective.loss_at_reference().map_or_else(|| seen.oracle(&objective), |known| vec![known; 6]);
    close(&place.compute(&objective, &seen).loss, &wanted, place.tolerance())
}

/// Padding on either side, as much as you like, changes nothing: its weight is zero.
fn padding(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let texts = texts(5, 4);
    let plain = see(&objective, &texts);
    let wanted = place.compute(&objective, &plain).loss;
    let width = |extra: usize| 12 + extra;
    for (left, extra) in [(false, 0), (false, 5), (true, 0), (true, 9)] {
        let row = |values: &[f64], filler: f64| {
            let mut row = vec![filler; width(extra) - values.len()];
            let at = if left { row.len() } else { 0 };
            row.splice(at..at, values.iter().copied());
            row
        };
        let score = |tokens: &dyn Fn(&Text) -> Vec<f64>, weights: &dyn Fn(&Text) -> Vec<f64>| -> Vec<f64> {
            let table = |rows: Vec<Vec<f64>>| -> Tensor<2> {
                let data = TensorData::new(rows.concat(), [texts.len(), width(extra)]);
                Tensor::from_data(data, (&place.device, place.dtype))
            };
            let log_probs = table(texts.iter().map(|t| row(&tokens(t), -7.5)).collect());
            let weights = table(texts.iter().map(|t| row(&weights(t), 0.0)).collect());
            host((log_probs * weights).sum_dim(1).squeeze_dim::<1>(1))
        };
        let weights = |t: &Text| objective.weights(t.lengths(), t.key).unwrap();
        let mut padded = plain.clone();
        padded.policy.chosen.score = Column(score(&|t| t.policy.chosen.clone(), &|t| weights(t).chosen));
        padded.policy.rejected.score = Column(score(&|t| t.policy.rejected.clone(), &|t| weights(t).rejected));
        padded.reference.chosen.score = Column(score(&|t| t.reference.chosen.clone(), &|t| weights(t).chosen));
        padded.reference.rejected.score = Column(score(&|t| t.reference.rejected.clone(), &|t| weights(t).rejected));
        close(&place.compute(&objective, &padded).loss, &wanted, 10.0 * place.tolerance())?;
    }
    Ok(())
}

/// The order of pairs doesn't matter.
fn order(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let texts = texts(7, 5);
    let turned: Vec<Text> = texts.iter().rev().cloned().collect();
    let (one, other) = (see(&objective, &texts), see(&objective, &turned));
    let (one, mut other) = (place.compute(&objective, &one).loss, place.compute(&objective, &other).loss);
    other.reverse();
    if objective.coupled() {
        return close(&[mean(&one)], &[mean(&other)], place.tolerance());
    }
    close(&one, &other, place.tolerance())
}

/// However a batch is cut, its loss and gradient are the same; a loss for which they aren't says that it is coupled.
fn cuts(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let texts = texts(8, 6);
    let whole = see(&objective, &texts);
    let wanted = place.compute(&objective, &whole);
    let mut differs = false;
    for size in [1, 3] {
        let (mut loss, mut slope) = (Vec::new(), Vec::new());
        for piece in texts.chunks(size) {
            let seen = Seen { totals: totals(&texts), ..see(&objective, piece) };
            let got = place.compute(&objective, &seen);
            loss.extend(&got.loss);
            // The gradient of the piece's mean, brought to the mean of the whole.
            let share = piece.len() as f64 / texts.len() as f64;
            slope.extend(got.score.chosen.iter().zip(&got.sum.chosen).map(|(a, b)| (a + b) * share));
        }
        let whole: Vec<f64> = wanted.score.chosen.iter().zip(&wanted.sum.chosen).map(|(a, b)| a + b).collect();
        let same = close(&loss, &wanted.loss, place.tolerance()).and(close(&slope, &whole, place.tolerance()));
        if !objective.coupled() {
            same?;
        } else {
            differs |= same.is_err();
        }
    }
    demand(!objective.coupled() || differs, || "it says that it is coupled, but no cut changes it".into())
}

/// With n⁺ = n⁻ = n, the mean at β is the sum at β/n: rewards always, the loss where it sees rewards alone.
fn equal_lengths(item: &Item, place: &Place) -> Result<(), Failed> {
    const N: usize = 6;
    let averaged = item.objective();
    let mut table = item.table.clone();
    table["averaging"] = json!({"type": "sum"});
    table["optimality"]["beta"] = json!(averaged.optimality.beta() / N as f64);
    let summed = Objective::from_value(&table).unwrap();
    let mut texts = texts(6, 7);
    let stretch = |tokens: &mut Vec<f64>| *tokens = tokens.iter().copied().cycle().take(N).collect();
    for text in &mut texts {
        for side in [&mut text.policy, &mut text.reference] {
            stretch(&mut side.chosen);
            stretch(&mut side.rejected);
        }
    }
    let (one, other) = (see(&averaged, &texts), see(&summed, &texts));
    let rewards = |o: &Objective, s: &Seen| o.evaluate_column(&s.policy, &s.reference, s.totals).reward;
    let (mean, sum) = (rewards(&averaged, &one), rewards(&summed, &other));
    close(&mean.chosen.0, &sum.chosen.0, 1e-12)?;
    close(&mean.rejected.0, &sum.rejected.0, 1e-12)?;
    if sees_rewards_alone(averaged.loss.as_ref()) {
        let (one, other) = (place.compute(&averaged, &one), place.compute(&summed, &other));
        close(&one.loss, &other.loss, place.tolerance())?;
    }
    Ok(())
}

/// A constant log-ratio per token and twice the length leave an averaged method where it was.
fn doubled_length(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let mut draw = Draw(8);
    let mut short = texts(6, 8);
    for text in &mut short {
        for (policy, reference) in [
            (&mut text.policy.chosen, &mut text.reference.chosen),
            (&mut text.policy.rejected, &mut text.reference.rejected),
        ] {
            let (log_prob, ratio) = (-0.1 - draw.next(), draw.next() - 0.5);
            reference.fill(log_prob - ratio);
            policy.fill(log_prob);
        }
    }
    let mut long = short.clone();
    for text in &mut long {
        for side in [&mut text.policy, &mut text.reference] {
            side.chosen.extend_from_within(..);
            side.rejected.extend_from_within(..);
        }
    }
    let (short, long) = (see(&objective, &short), see(&objective, &long));
    close(&place.compute(&objective, &long).loss, &place.compute(&objective, &short).loss, place.tolerance())
}

/// A loss that says so never rises with the chosen score and never falls with the rejected one.
fn monotone(item: &Item, place: &Place) -> Result<(), Failed> {
    let objective = item.objective();
    let pairs = 41;
    let seen = see(&objective, &vec![texts(1, 9)[0].clone(); pairs]);
    let ramp = |from: &Column| Column(from.0.iter().enumerate().map(|(i, x)| x + (i as f64 - 20.0) * 0.4).collect());
    let below = |x: &Column| Column(x.0.iter().map(|x| x.min(-1e-3)).collect());
    for chosen in [true, false] {
        let mut moved = seen.clone();
        let completion = if chosen { &mut moved.policy.chosen } else { &mut moved.policy.rejected };
        completion.score = below(&ramp(&completion.score));
        let loss = place.compute(&objective, &moved).loss;
        let slack = place.tolerance();
        let wrong = loss.windows(2).position(|w| {
            let (earlier, later) = if chosen { (w[0], w[1]) } else { (w[1], w[0]) };
            later > earlier + slack * earlier.abs().max(1.0)
        });
        demand(wrong.is_none(), || format!("chosen {chosen}: {loss:?} at {wrong:?}"))?;
    }
    Ok(())
}

/// On a device too, the score from the reward undoes the reward from the score, in closed form and by search.
fn both_directions_there(item: &Item, place: &Place) -> Result<(), Failed> {
    let optimality = item.objective().optimality;
    let (policy, scores) = ramp(|v| place.tensor(&v));
    let reward = optimality.reward(&scores);
    let tolerance = if place.dtype == DType::F64 { 1e-9 } else { 1e-3 };
    let Scores { reference, tokens, .. } = scores;
    close(&host(optimality.score(reward.clone(), reference.clone(), tokens.clone())), &policy, tolerance)?;
    close(&host(by_bisection(&optimality, reward, reference, tokens)), &policy, tolerance)
}

/// An objective of types has the very bits of the one that configuration makes of the same parts.
fn bits<A: AnyAveraging, O: AnyOptimality, L: AnyLoss>(
    typed: &Objective<A, O, L>,
    named: &Objective,
    place: &Place,
) -> Result<(), Failed> {
    let seen = see(named, &texts(9, 13));
    let [one, other] = [
        typed.evaluate_column(&seen.policy, &seen.reference, seen.totals),
        named.evaluate_column(&seen.policy, &seen.reference, seen.totals),
    ];
    demand(one.loss == other.loss && one.reward == other.reward, || format!("{one:?}, not {other:?}"))?;
    for i in 0..seen.totals.pairs {
        let pick = |side: &Pair<Completion<Column>>| {
            side.as_ref().map(|c| Completion::new(c.score.0[i], c.sum.0[i], c.tokens.0[i]))
        };
        let alone = typed.evaluate(&pick(&seen.policy), &pick(&seen.reference), seen.totals);
        demand(alone.loss == other.loss.0[i], || format!("{alone:?} of pair {i}"))?;
    }
    let [one, other] = [place.compute(typed, &seen), place.compute(named, &seen)];
    demand(one == other, || format!("{one:?}, not {other:?}"))
}

/// The objectives that have a type of their own, beside the method of the same parts.
fn typed(method: &str, place: &Place) -> Result<(), Failed> {
    let named = Method::find(method)?.objective(&Map::new())?;
    let optimality = ReverseKl { beta: named.optimality.beta() };
    match method {
        "dpo" => bits(&Dpo::new(Sum {}, optimality, Logistic {})?, &named, place),
        "ipo" => bits(&Ipo::new(Sum {}, optimality, Squared {})?, &named, place),
        "slic" => bits(&Slic::new(Sum {}, optimality, Hinge::default())?, &named, place),
        "averaged-dpo" => bits(&AveragedDpo::new(Mean {}, optimality, Logistic {})?, &named, place),
        "averaged-ipo" => bits(&AveragedIpo::new(Mean {}, optimality, Squared {})?, &named, place),
        "averaged-slic" => bits(&AveragedSlic::new(Mean {}, optimality, Hinge::default())?, &named, place),
        other => Err(format!("{other} has no type").into()),
    }
}

/// The methods that [`typed`] knows.
const TYPED: [&str; 6] = ["dpo", "ipo", "slic", "averaged-dpo", "averaged-ipo", "averaged-slic"];

// ---- The laws that need no device --------------------------------------------------------------------------------

/// A configuration is written as it is read, as JSON and as TOML.
fn configuration(item: &Item) -> Result<(), Failed> {
    let objective = item.objective();
    let table = objective.to_value();
    demand(Objective::from_value(&table)?.to_value() == table, || format!("{table}"))?;
    let text = toml::to_string(&table)?;
    let back: Value = serde_json::to_value(toml::from_str::<toml::Table>(&text)?)?;
    demand(Objective::from_value(&back)?.to_value() == table, || format!("{table}, not {back}"))?;
    let mut odd = table;
    for part in ["averaging", "optimality", "loss"] {
        let mut with = odd.clone();
        with[part]["no_such_key"] = json!(1);
        let said = Objective::from_value(&with).map(|_| ()).err().map(|e| e.to_string()).unwrap_or_default();
        demand(said.contains("no_such_key"), || format!("{part}: a misspelt key is not refused by name: {said:?}"))?;
    }
    odd["optimality"]["beta"] = json!(-1.0);
    demand(Objective::from_value(&odd).is_err(), || "a negative β is accepted".into())
}

/// Weights are one per token, finite, not negative (all three are checked where they are handed out), not all zero, and
/// the same for the same pair.
fn weights(item: &Item) -> Result<(), Failed> {
    let objective = item.objective();
    for (key, (chosen, rejected)) in [(1, 1), (1, 9), (9, 1), (7, 7), (300, 2)].into_iter().enumerate() {
        let lengths = Pair::new(chosen, rejected);
        let found = objective.weights(lengths, key as u64)?;
        demand(found == objective.weights(lengths, key as u64)?, || "the same pair has other weights".into())?;
        for (n, w) in lengths.zip(found).into_array() {
            demand(w.iter().any(|w| *w > 0.0), || format!("none of {n} tokens counts"))?;
        }
    }
    Ok(())
}

/// The reward rises with the policy's score; the score from the reward undoes it, in closed form and by search.
fn both_directions(item: &Item) -> Result<(), Failed> {
    let objective = item.objective();
    let (policy, scores) = ramp(Column);
    let reward = objective.optimality.reward(&scores);
    demand(reward.0.windows(2).all(|w| w[0] > w[1]), || "the reward doesn't rise with the score".into())?;
    let Scores { reference, tokens, .. } = scores;
    close(&objective.optimality.score(reward.clone(), reference.clone(), tokens.clone()).0, &policy, 1e-9)?;
    close(&by_bisection(&objective.optimality, reward.clone(), reference.clone(), tokens.clone()).0, &policy, 1e-9)?;
    for i in 0..policy.len() {
        let alone = objective.optimality.score(reward.0[i], reference.0[i], tokens.0[i]);
        demand(alone == objective.optimality.score(reward.clone(), reference.clone(), tokens.clone()).0[i], || {
            format!("one reward alone has another score: {alone}")
        })?;
    }
    Ok(())
}

/// Falling scores of the policy beside one of the reference, for completions of three tokens.
fn ramp<T>(number: impl Fn(Vec<f64>) -> T) -> (Vec<f64>, Scores<T>) {
    let policy: Vec<f64> = (1..60).map(|i| -0.1 * f64::from(i)).collect();
    let same = |value: f64| number(vec![value; policy.len()]);
    let scores = Scores { policy: number(policy.clone()), reference: same(-2.0), tokens: same(3.0) };
    (policy, scores)
}

/// Where 𝒜 is a map of policies, it and 𝒜⁻¹ undo each other, it is what the token weights say, and the optimum obeys the
/// composition: the implicit rewards of its scores are R − λ.
fn composition(item: &Item) -> Result<(), Failed> {
    let objective = item.objective();
    let averaging = &objective.averaging;
    let world = World::new(vec![3, 9, 2, 12, 5], vec![-1.0, -2.0, -1.5, -1.25, -0.5])?;
    let Some(weights) = world.lengths().iter().map(|n| averaging.weight(*n)).collect::<Option<Vec<f64>>>() else {
        let none = averaging.average(world.log_reference(), world.lengths()).is_none()
            && averaging.unaverage(world.log_reference(), world.lengths()).is_none();
        return demand(none, || "𝒜 is said of weights that aren't the completion's own".into());
    };
    for (n, w) in world.lengths().iter().zip(&weights) {
        close(&objective.weights(Pair::new(*n, 4), 7)?.chosen, &vec![*w; *n], 0.0)?;
    }
    let averaged = averaging.average(world.log_reference(), world.lengths()).ok_or("𝒜 is not said")?;
    let raised: Vec<f64> = world.log_reference().iter().zip(&weights).map(|(p, w)| p * w).collect();
    close(&averaged, &normalise(&raised), 1e-13)?;
    let back = averaging.unaverage(&averaged, world.lengths()).ok_or("𝒜⁻¹ is not said")?;
    close(&back, world.log_reference(), 1e-12)?;
    let reward = [0.1, -0.05, 0.15, 0.0, -0.1];
    let best = world.optimum(averaging, &objective.optimality, &reward)?;
    close(&normalise(&best.log_policy), &best.log_policy, 1e-12)?;
    let averaged_policy = averaging.average(&best.log_policy, world.lengths()).ok_or("𝒜 is not said")?;
    let implicit: Vec<f64> = (0..reward.len())
        .map(|i| {
            let tokens = world.lengths()[i] as f64;
            objective.optimality.reward(&Scores { policy: averaged_policy[i], reference: averaged[i], tokens })
        })
        .collect();
    let above: Vec<f64> = reward.iter().map(|r| r - reward[0] + implicit[0]).collect();
    close(&implicit, &above, 1e-9)
}

/// A loss reads what it says, all of it and nothing else; and one pair alone has the loss that it has in a batch, bit for
/// bit, unless it reads the others.
fn reads(item: &Item) -> Result<(), Failed> {
    let objective = item.objective();
    let (texts, other) = (texts(9, 10), texts(9, 11));
    let (seen, strange) = (see(&objective, &texts), see(&objective, &other));
    let pair = |seen: &Seen| Preference {
        reward: objective.evaluate(&seen.policy, &seen.reference, seen.totals).reward,
        beta: objective.optimality.beta(),
        policy: seen.policy.clone(),
        reference: seen.reference.clone(),
        totals: totals(&texts),
    };
    let (plain, strange) = (pair(&seen), pair(&strange));
    let loss = |pair: &Preference<Column>| objective.loss.loss(pair).0;
    let reads = objective.loss.reads();
    type Swap = fn(&mut Completion<Column>, &Completion<Column>);
    let swaps: [(&str, bool, Swap); 3] = [
        ("scores", reads.scores, |into, from| into.score = from.score.clone()),
        ("sums", reads.sums, |into, from| into.sum = from.sum.clone()),
        ("confidence", reads.confidence, |into, from| into.confidence = from.confidence.clone()),
    ];
    let mut moved = vec![("rewards", reads.rewards, Preference { reward: strange.reward.clone(), ..plain.clone() })];
    for (what, declared, swap) in swaps {
        let mut moving = plain.clone();
        for (into, from) in [(&mut moving.policy, &strange.policy), (&mut moving.reference, &strange.reference)] {
            swap(&mut into.chosen, &from.chosen);
            swap(&mut into.rejected, &from.rejected);
        }
        moved.push((what, declared, moving));
    }
    for (what, declared, moved) in moved {
        demand((loss(&moved) != loss(&plain)) == declared, || {
            format!("it says of {what}: {declared}; but {:?} became {:?}", loss(&plain), loss(&moved))
        })?;
    }
    let whole = seen.oracle(&objective);
    let alone = texts.iter().map(|t| {
        let Seen { policy, reference, .. } = see(&objective, std::slice::from_ref(t));
        let one = |side: Pair<Completion<Column>>| {
            side.map(|c| Completion {
                score: c.score.0[0],
                sum: c.sum.0[0],
                tokens: c.tokens.0[0],
                confidence: c.confidence.0[0],
            })
        };
        objective.evaluate(&one(policy), &one(reference), totals(&texts)).loss
    });
    demand((alone.collect::<Vec<f64>>() != whole) == reads.whole_batch, || {
        format!("it says of the whole batch: {}; but alone each pair has another loss", reads.whole_batch)
    })
}

/// Whatever is composed is either refused by name or has an effect: other operators, and the wrappers around the loss.
fn nothing_is_ignored(item: &Item) -> Result<(), Failed> {
    let texts = texts(9, 12);
    let losses = |objective: &Objective| see(objective, &texts).oracle(objective);
    let plain = losses(&item.objective());
    let loss = &item.table["loss"];
    let other = |part: &str, one: Value, two: Value| match item.table[part]["type"] == one["type"] {
        true => (part.to_owned(), two),
        false => (part.to_owned(), one),
    };
    let changes = [
        other("averaging", json!({"type": "sum"}), json!({"type": "mean"})),
        other("optimality", json!({"type": "none", "beta": 0.5}), json!({"type": "reverse_kl", "beta": 0.5})),
        ("loss".to_owned(), json!({"type": "target_margin", "gamma": 0.375, "loss": loss})),
        ("loss".to_owned(), json!({"type": "per_token", "loss": loss})),
    ];
    for (part, table) in changes {
        let mut changed = item.table.clone();
        changed[&part] = table.clone();
        match Objective::from_value(&changed) {
            Ok(objective) => demand(losses(&objective) != plain, || format!("{part} = {table} changes nothing"))?,
            Err(said) => {
                let (said, name) = (said.to_string(), loss["type"].as_str().unwrap_or_default());
                demand(said.contains(&format!("loss \"{name}\"")), || said.clone())?;
            }
        }
    }
    Ok(())
}

/// Whether a loss looks at nothing but the rewards.
fn sees_rewards_alone(loss: &dyn AnyLoss) -> bool {
    let at = |beta: f64, score: f64, tokens: f64| {
        let completion = Completion { score, sum: score * 2.0, tokens, confidence: score / 3.0 };
        let both = Pair::new(completion.clone(), completion);
        let totals = Totals { pairs: 1, chosen_tokens: tokens as usize };
        let reward = Pair::new(0.7, -0.4);
        PreferenceLoss::<f64>::loss(loss, &Preference { reward, beta, policy: both.clone(), reference: both, totals })
    };
    !loss.reads().whole_batch && at(0.5, -1.0, 2.0) == at(2.0, -3.0, 7.0)
}

/// Whether a loss sees lengths by themselves.
fn sees_lengths(loss: &dyn AnyLoss) -> bool {
    let at = |tokens: f64| {
        let completion = Completion { score: -1.0, sum: -2.0, tokens, confidence: 0.1 };
        let both = Pair::new(completion.clone(), completion);
        let totals = Totals { pairs: 1, chosen_tokens: 2 };
        let reward = Pair::new(0.7, -0.4);
        PreferenceLoss::<f64>::loss(
            loss,
            &Preference { reward, beta: 0.5, policy: both.clone(), reference: both, totals },
        )
    };
    at(2.0) != at(5.0)
}

// ---- The trials --------------------------------------------------------------------------------------------------

type Law = fn(&Item, &Place) -> Result<(), Failed>;
type HostLaw = fn(&Item) -> Result<(), Failed>;

/// The laws that bind an item on a device, by name.
fn laws(item: &Item) -> Vec<(&'static str, Law)> {
    let objective = item.objective();
    let mut laws: Vec<(&'static str, Law)> = vec![
        ("value", value),
        ("both_directions", both_directions_there),
        ("gradient", gradient),
        ("finite", finite),
        ("start", start),
        ("padding", padding),
        ("order", order),
        ("cuts", cuts),
    ];
    let linear = item.is("optimality", &["reverse_kl", "none"]);
    if linear && item.is("averaging", &["mean"]) {
        laws.push(("equal_lengths", equal_lengths));
    }
    if item.is("averaging", &["mean"])
        && !sees_lengths(objective.loss.as_ref())
        && !item.is("optimality", &["length_penalised"])
    {
        laws.push(("doubled_length", doubled_length));
    }
    if objective.loss.monotone() {
        laws.push(("monotone", monotone));
    }
    laws
}

/// Runs all laws; a crate that adds operators can run them over its own as well, as `examples/plugin-loss` does.
pub fn main() {
    let arguments = Arguments::from_args();
    let items = items();
    let mut trials = Vec::new();
    for item in &items {
        let host: [(&str, HostLaw); 6] = [
            ("configuration", configuration),
            ("weights", weights),
            ("both_directions", both_directions),
            ("composition", composition),
            ("reads", reads),
            ("nothing_is_ignored", nothing_is_ignored),
        ];
        for (law, run) in host {
            let it = item.clone();
            trials.push(Trial::test(format!("host::{}::{law}", item.name), move || run(&it)));
        }
    }
    let devices = common::devices();
    for (backend, device) in &devices {
        let dtype = if device.supports_dtype(DType::F64) { DType::F64 } else { DType::F32 };
        let place = Place { device: device.clone(), dtype };
        for item in &items {
            for (law, run) in laws(item) {
                let (it, place) = (item.clone(), place.clone());
                trials.push(Trial::test(format!("{backend}::{}::{law}", item.name), move || run(&it, &place)));
            }
        }
        for method in TYPED {
            let place = place.clone();
            trials.push(Trial::test(format!("{backend}::{method}::typed"), move || typed(method, &place)));
        }
    }
    let backends: Vec<_> = devices.iter().map(|(name, _)| *name).collect();
    if !arguments.list {
        println!("{} laws over {} items, on: host, {}", trials.len(), items.len(), backends.join(", "));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        println!("{} laws ran and held, {} failed", conclusion.num_passed, conclusion.num_failed);
    }
    conclusion.exit();
}

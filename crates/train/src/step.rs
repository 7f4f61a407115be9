//! One optimiser step: from pairs to the loss, the numbers to report, and the gradient.

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate_core::{Batch, Completion, Objective, Pair, Totals};
use collimate_data::{Lengths, Tokens};
use collimate_model::{Decoder, Gradients, Layout, Options, Pass, Precision, Scores, Text};

use crate::error::Error;

/// What a model says of one completion, on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// Σ ω_t ln p_t, in nats.
    pub score: f64,
    /// Σ ln p_t, in nats.
    pub sum: f64,
    /// Scored tokens.
    pub tokens: f64,
    /// Mean of ln p_t − ln Σ_v p², where it was asked for.
    pub confidence: f64,
}

impl Said {
    fn new(log_probs: &[f32], collisions: Option<&[f32]>, weights: &[f64]) -> Self {
        let n = log_probs.len() as f64;
        let score = log_probs.iter().zip(weights).map(|(p, w)| f64::from(*p) * w).sum();
        let sum: f64 = log_probs.iter().copied().map(f64::from).sum();
        let confidence = collisions.map_or(0.0, |c| (sum - c.iter().copied().map(f64::from).sum::<f64>()) / n);
        Self { score, sum, tokens: n, confidence }
    }
}

/// A pair with all that does not depend on the policy.
pub(crate) struct Item {
    pub tokens: Tokens,
    pub weights: Pair<Vec<f64>>,
    pub reference: Pair<Said>,
}

/// The number of scored tokens of each completion.
pub(crate) fn scored_lengths(t: &Tokens) -> Pair<usize> {
    let count = |tokens: &[u32], mask: &Option<Vec<bool>>| {
        mask.as_ref().map_or(tokens.len(), |m| m.iter().filter(|s| **s).count())
    };
    Pair::new(count(&t.chosen, &t.chosen_mask), count(&t.rejected, &t.rejected_mask))
}

impl Item {
    /// `reference`: the token log-probabilities of the reference, unless the objective has none.
    ///
    /// # Errors
    /// An averaging operator that doesn't give one proper weight per token.
    pub fn new(objective: &Objective, tokens: Tokens, reference: Option<&Pair<Vec<f32>>>) -> Result<Self, Error> {
        let weights = objective
            .weights(scored_lengths(&tokens), tokens.key)
            .map_err(|source| Error::Weights { row: tokens.row, source })?;
        let reference = match reference {
            Some(r) => r.as_ref().zip(weights.as_ref()).map(|(p, w)| Said::new(p, None, w)),
            None => weights.as_ref().map(|w| Said { tokens: w.len() as f64, ..Said::default() }),
        };
        Ok(Self { tokens, weights, reference })
    }

    /// Input tokens, the prompt counted for each completion, as TRL counts them.
    pub fn num_tokens(&self) -> u64 {
        (2 * self.tokens.prompt.len() + self.tokens.chosen.len() + self.tokens.rejected.len()) as u64
    }
}

/// Where a batch came from, for messages.
pub(crate) fn rows<'a>(tokens: impl Iterator<Item = &'a Tokens>) -> String {
    tokens.map(|t| t.row.to_string()).collect::<Vec<_>>().join(", ")
}

/// Lays out pairs: chosen, rejected, chosen, rejected …
pub(crate) fn lay_out<'a>(pairs: impl Iterator<Item = &'a Tokens> + Clone, share: bool) -> Result<Layout, Error> {
    let mut layout = Layout::default();
    for t in pairs {
        let completions = [
            Text { tokens: &t.chosen, scored: t.chosen_mask.as_deref() },
            Text { tokens: &t.rejected, scored: t.rejected_mask.as_deref() },
        ];
        layout
            .push(&t.prompt, &completions, share)
            .map_err(|source| Error::Model { place: format!("row {}", t.row), source })?;
    }
    Ok(layout)
}

/// Cuts a step into micro-batches of at most `pairs` pairs and, if above 0, `tokens` input tokens.
pub(crate) fn cut(sizes: &[usize], pairs: usize, tokens: usize) -> Vec<std::ops::Range<usize>> {
    let mut cuts = Vec::new();
    let (mut start, mut held) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        if i > start && (i - start == pairs || (tokens > 0 && held + size > tokens)) {
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

/// What each completion of a layout was said to be, pair by pair.
fn said(layout: &Layout, scores: &Scores, items: &[Item]) -> Vec<Pair<Said>> {
    let one = |completion: usize, weights: &[f64]| {
        let range = layout.completions[completion].clone();
        let collisions = scores.log_collisions.as_ref().map(|c| &c[range.clone()]);
        Said::new(&scores.log_probs[range], collisions, weights)
    };
    let pairs = items.iter().enumerate();
    pairs.map(|(i, item)| Pair::new(one(2 * i, &item.weights.chosen), one(2 * i + 1, &item.weights.rejected))).collect()
}

/// The numbers of pairs as columns of one kind: what an objective takes for the policy or for the reference.
pub(crate) fn completions<T>(pairs: &[Pair<Said>], column: impl Fn(Vec<f64>) -> T) -> Pair<Completion<T>> {
    let sides: Pair<fn(&Pair<Said>) -> &Said> = Pair::new(|p| &p.chosen, |p| &p.rejected);
    sides.map(|side| {
        let of = |number: fn(&Said) -> f64| column(pairs.iter().map(|p| number(side(p))).collect());
        Completion {
            score: of(|s| s.score),
            sum: of(|s| s.sum),
            tokens: of(|s| s.tokens),
            confidence: of(|s| s.confidence),
        }
    })
}

/// What the objective says of pairs, and the derivative of the loss of the whole step.
pub(crate) struct Judged {
    pub loss: Vec<f64>,
    pub reward: Pair<Vec<f64>>,
    /// With respect to each score, `[pairs]`.
    d_score: Pair<Vec<f64>>,
    /// With respect to each plain sum, `[pairs]`.
    d_sum: Pair<Vec<f64>>,
}

/// The one call of the loss: numbers of pairs to a small batch on the device, and back.
pub(crate) fn judge(
    objective: &Objective,
    device: &Device,
    policy: &[Pair<Said>],
    reference: &[Pair<Said>],
    totals: Totals,
) -> Judged {
    let device = device.clone().autodiff();
    // The loss is a handful of numbers: where the device has f64, its rounding need not be seen.
    let dtype = if device.supports_dtype(DType::F64) { DType::F64 } else { DType::F32 };
    let column = |values: Vec<f64>| -> Batch {
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), (&device, dtype))
    };
    let policy = completions(policy, column).map(|c| Completion {
        score: c.score.require_grad(),
        sum: c.sum.require_grad(),
        ..c
    });
    let reference = completions(reference, column);
    let evaluation = objective.evaluate_batch(&policy, &reference, totals);
    let host = |t: Batch| -> Vec<f64> { t.into_data().convert::<f64>().try_to_vec().expect("it was converted") };
    let gradients = (evaluation.loss.clone().sum() / totals.pairs as f64).backward();
    let pairs = reference.chosen.score.dims()[0];
    let gradient = |leaf: &Batch| leaf.grad(&gradients).map_or_else(|| vec![0.0; pairs], host);
    Judged {
        d_score: policy.as_ref().map(|c| gradient(&c.score)),
        d_sum: policy.as_ref().map(|c| gradient(&c.sum)),
        loss: host(evaluation.loss.inner()),
        reward: evaluation.reward.map(|r| host(r.inner())),
    }
}

impl Judged {
    /// dL/d ln π of each scored token of pairs `pairs`, in the order of their layout.
    fn coefficients(&self, items: &[Item], pairs: std::ops::Range<usize>) -> Vec<f32> {
        let mut all = Vec::new();
        for i in pairs {
            let weights = items[i].weights.as_ref().zip(self.d_score.as_ref()).zip(self.d_sum.as_ref());
            for ((w, score), sum) in weights.into_array() {
                all.extend(w.iter().map(|w| (w * score[i] + sum[i]) as f32));
            }
        }
        all
    }
}

/// What a step yields.
pub(crate) struct Outcome {
    pub judged: Judged,
    pub policy: Vec<Pair<Said>>,
    pub gradients: Option<Gradients>,
}

/// How a step is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub pairs: usize,
    pub tokens: usize,
    pub share: bool,
    pub engine: Options,
}

impl How {
    /// Tokens that a pair lays out, its prompt once or twice.
    pub fn tokens_of(&self, l: Lengths) -> usize {
        let prompts = if self.share { 1 } else { 2 };
        prompts * l.prompt + l.chosen + l.rejected
    }

    fn cut(&self, items: &[Item]) -> Vec<std::ops::Range<usize>> {
        let lengths = items.iter().map(|i| Lengths {
            prompt: i.tokens.prompt.len(),
            chosen: i.tokens.chosen.len(),
            rejected: i.tokens.rejected.len(),
        });
        // The last token of a completion is no input.
        let sizes: Vec<usize> = lengths.map(|l| self.tokens_of(l) - 2).collect();
        cut(&sizes, self.pairs, self.tokens)
    }

    fn lay_out(&self, items: &[Item]) -> Result<Layout, Error> {
        lay_out(items.iter().map(|i| &i.tokens), self.share)
    }
}

fn at<'a>(tokens: impl Iterator<Item = &'a Tokens>) -> impl FnOnce(collimate_model::Error) -> Error {
    let place = format!("rows {}", rows(tokens));
    move |source| Error::Model { place, source }
}

/// Token log-probabilities of pairs under one model, in one batch.
pub(crate) fn log_probs(model: &Decoder, pairs: &[Tokens], how: How) -> Result<Vec<Pair<Vec<f32>>>, Error> {
    let layout = lay_out(pairs.iter(), how.share)?;
    let scores = model.score(&layout, how.engine).map_err(at(pairs.iter()))?;
    let of = |completion: usize| scores.log_probs[layout.completions[completion].clone()].to_vec();
    Ok((0..pairs.len()).map(|i| Pair::new(of(2 * i), of(2 * i + 1))).collect())
}

/// Scores pairs and, if `learn`, computes the gradient of their mean loss. However the pairs are cut into
/// micro-batches, loss and gradient are those of the undivided batch.
pub(crate) fn run(
    policy: &Decoder,
    objective: &Objective,
    items: &[Item],
    how: How,
    learn: bool,
) -> Result<Outcome, Error> {
    let chosen_tokens = items.iter().map(|i| i.weights.chosen.len()).sum();
    let totals = Totals { pairs: items.len(), chosen_tokens };
    let reference: Vec<_> = items.iter().map(|i| i.reference).collect();
    let (device, profile) = (policy.device(), policy.profile());
    let engine = Options { collision: objective.needs_confidence(), ..how.engine };
    let cuts = how.cut(items);
    let mut gradients = learn.then(|| Gradients::none(policy.specs().len()));

    // A loss that couples pairs wants all of their scores before any gradient; so does an evaluation.
    if !learn || objective.coupled() && cuts.len() > 1 {
        let mut all = Vec::with_capacity(items.len());
        for range in &cuts {
            let part = &items[range.clone()];
            let layout = how.lay_out(part)?;
            let scores = policy.score(&layout, engine).map_err(at(part.iter().map(|i| &i.tokens)))?;
            all.extend(said(&layout, &scores, part));
        }
        let judged = profile.timed("loss", device, || judge(objective, device, &all, &reference, totals));
        if let Some(gradients) = &mut gradients {
            for range in cuts {
                let part = &items[range.clone()];
                let pass = policy.forward(&how.lay_out(part)?, engine).map_err(at(part.iter().map(|i| &i.tokens)))?;
                policy.backward(pass, &judged.coefficients(items, range), gradients);
            }
        }
        return Ok(Outcome { judged, policy: all, gradients });
    }

    let mut all = Vec::with_capacity(items.len());
    let mut judged =
        Judged { loss: Vec::new(), reward: Pair::default(), d_score: Pair::default(), d_sum: Pair::default() };
    for range in cuts {
        let part = &items[range.clone()];
        let layout = how.lay_out(part)?;
        let pass: Pass = policy.forward(&layout, engine).map_err(at(part.iter().map(|i| &i.tokens)))?;
        let said = said(&layout, &pass.scores, part);
        let one = profile.timed("loss", device, || judge(objective, device, &said, &reference[range], totals));
        let coefficients = one.coefficients(part, 0..part.len());
        policy.backward(pass, &coefficients, gradients.as_mut().expect("it learns"));
        all.extend(said);
        judged.loss.extend(one.loss);
        for (whole, more) in
            [(&mut judged.reward, one.reward), (&mut judged.d_score, one.d_score), (&mut judged.d_sum, one.d_sum)]
        {
            whole.chosen.extend(more.chosen);
            whole.rejected.extend(more.rejected);
        }
    }
    Ok(Outcome { judged, policy: all, gradients })
}

/// Scores pairs with the gradient of their mean loss, and its global norm.
///
/// Gradients that overflow f16 on the way back are computed again, smaller: no step is skipped, and nothing is remembered
/// for the next.
pub(crate) fn learn(
    policy: &Decoder,
    objective: &Objective,
    items: &[Item],
    mut how: How,
) -> Result<(Outcome, f64), Error> {
    loop {
        let outcome = run(policy, objective, items, how, true)?;
        let gradients = outcome.gradients.as_ref().expect("it learns");
        let norm = policy.profile().timed("gradient norm", policy.device(), || gradients.norm());
        let overflowed = policy.precision() == Precision::F16
            && !norm.is_finite()
            && outcome.judged.loss.iter().all(|l| l.is_finite());
        if !overflowed || how.engine.headroom >= 28 {
            return Ok((outcome, norm));
        }
        how.engine.headroom += 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collimate_core::Method;
    use collimate_model::{ModelConfig, Tensors};
    use serde_json::{Map, json};

    #[test]
    fn what_overflows_f16_is_computed_again() {
        let table = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 64
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        let random = Decoder::random(config.clone(), 1, &Device::flex());
        // Hidden states of some 10⁴ under a head of small weights: scores are moderate, the head's gradient is not.
        let wide = random.specs().iter().zip(&random.parameters().0).map(|(spec, t)| {
            let by: f64 = match spec.name.as_str() {
                "model.norm.weight" => 2e4,
                "lm_head.weight" => 1e-3,
                _ => 1.0,
            };
            t.clone() * by
        });
        let exact = Decoder::new(config, Tensors(wide.collect()), &Device::flex());
        let objective = Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
        let pair = |row: usize| Tokens {
            prompt: vec![1, 2],
            chosen: vec![3; 20],
            rejected: vec![4; 20],
            chosen_mask: None,
            rejected_mask: None,
            key: 0,
            file: 0,
            row,
        };
        let how = How { pairs: 8, tokens: 0, share: true, engine: Options::default() };
        let pairs: Vec<_> = (1..=8).map(pair).collect();
        let reference = log_probs(&exact, &pairs, how).unwrap();
        let items: Vec<_> =
            pairs.into_iter().zip(&reference).map(|(t, r)| Item::new(&objective, t, Some(r)).unwrap()).collect();
        let (_, expected) = learn(&exact, &objective, &items, how).unwrap();
        let half = exact.with_precision(Precision::F16, true).unwrap();
        let once = run(&half, &objective, &items, how, true).unwrap().gradients.unwrap().norm();
        assert!(!once.is_finite(), "{once}: nothing overflows");
        let (_, norm) = learn(&half, &objective, &items, how).unwrap();
        assert!((norm / expected - 1.0).abs() < 0.02, "{norm} is not {expected}");
    }

    #[test]
    fn cuts_keep_to_both_bounds_and_lose_nothing() {
        assert_eq!(cut(&[5, 5, 5, 5, 5], 2, 0), [0..2, 2..4, 4..5]);
        assert_eq!(cut(&[5, 5, 5, 9, 1], 8, 10), [0..2, 2..3, 3..5]);
        // A pair larger than the bound still goes, alone.
        assert_eq!(cut(&[50, 5], 8, 10), [0..1, 1..2]);
        assert!(cut(&[], 8, 10).is_empty());
    }

    #[test]
    fn a_completion_is_summed_by_its_weights() {
        let said = Said::new(&[-1.0, -3.0], Some(&[-0.5, -1.5]), &[0.5, 0.5]);
        assert_eq!(said, Said { score: -2.0, sum: -4.0, tokens: 2.0, confidence: -1.0 });
    }
}

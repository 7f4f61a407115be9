//! Direct alignment from pairs: an [`Objective`] on the log-probabilities of a preferred and a dispreferred completion.

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate_backend::read_all;
use collimate_core::{Batch, Column, Completion, Objective, Pair, Totals};
use collimate_data::Tokens;
use collimate_model::{Error as ModelError, Layout, Text};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::task::{Judgement, Said, Seen, Size, Task, Unit};

impl Unit for Tokens {
    fn size(&self, share: bool) -> Size {
        pair_size(self.prompt.len(), self.chosen.len(), self.rejected.len(), share)
    }

    fn lay_out(&self, layout: &mut Layout, share: bool) -> Result<(), ModelError> {
        let completions = [
            Text { tokens: &self.chosen, scored: self.chosen_mask.as_deref() },
            Text { tokens: &self.rejected, scored: self.rejected_mask.as_deref() },
        ];
        layout.push(&self.prompt, &completions, share)
    }

    fn place(&self) -> String {
        self.row.to_string()
    }

    fn key(&self) -> u128 {
        let mut bytes = Vec::new();
        let sides = [(&self.prompt, &None), (&self.chosen, &self.chosen_mask), (&self.rejected, &self.rejected_mask)];
        for (tokens, mask) in sides {
            hash_side(&mut bytes, tokens, mask);
        }
        xxh3_128(&bytes)
    }
}

/// The sizes of a pair of those token counts.
pub(crate) fn pair_size(prompt: usize, chosen: usize, rejected: usize, share: bool) -> Size {
    let (scored, read) = (chosen + rejected, 2 * prompt + chosen + rejected);
    match share {
        true => {
            let inputs = (prompt + scored).saturating_sub(2);
            Size { inputs, scored, rows: 1, longest: inputs, read }
        }
        false => {
            let longest = (prompt + chosen.max(rejected)).saturating_sub(1);
            Size { inputs: read.saturating_sub(2), scored, rows: 2, longest, read }
        }
    }
}

/// Adds what a score of `tokens` depends on to what is hashed.
pub(super) fn hash_side(bytes: &mut Vec<u8>, tokens: &[u32], mask: &Option<Vec<bool>>) {
    bytes.extend((tokens.len() as u64).to_le_bytes());
    for (i, id) in tokens.iter().enumerate() {
        bytes.extend(id.to_le_bytes());
        bytes.push(u8::from(mask.as_ref().is_none_or(|m| m[i])));
    }
}

/// The number of scored tokens of a completion.
pub(super) fn count(tokens: &[u32], mask: &Option<Vec<bool>>) -> usize {
    mask.as_ref().map_or(tokens.len(), |m| m.iter().filter(|s| **s).count())
}

/// The number of scored tokens of each completion.
fn scored(t: &Tokens) -> Pair<usize> {
    Pair::new(count(&t.chosen, &t.chosen_mask), count(&t.rejected, &t.rejected_mask))
}

/// What a model says of one completion, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    /// Σ ω_t ln p_t, in nats.
    score: f64,
    /// Σ ln p_t, in nats.
    sum: f64,
    /// Scored tokens.
    tokens: f64,
    /// Mean of ln p_t − ln Σ_v p², where it was asked for.
    confidence: f64,
}

impl Sums {
    fn new(log_probs: &[f32], collisions: Option<&[f32]>, weights: &[f64]) -> Self {
        let n = log_probs.len() as f64;
        let score = log_probs.iter().zip(weights).map(|(p, w)| f64::from(*p) * w).sum();
        let sum: f64 = log_probs.iter().copied().map(f64::from).sum();
        let confidence = collisions.map_or(0.0, |c| (sum - c.iter().copied().map(f64::from).sum::<f64>()) / n);
        Self { score, sum, tokens: n, confidence }
    }
}

/// A pair as an objective sees it.
struct Item {
    weights: Pair<Vec<f64>>,
    policy: Pair<Sums>,
    reference: Pair<Sums>,
}

/// One side's numbers of all pairs as columns of one kind: what an objective takes for the policy or for the reference.
fn completions<T>(pairs: &[Pair<Sums>], column: impl Fn(Vec<f64>) -> T) -> Pair<Completion<T>> {
    let sides: Pair<fn(&Pair<Sums>) -> &Sums> = Pair::new(|p| &p.chosen, |p| &p.rejected);
    sides.map(|side| {
        let of = |number: fn(&Sums) -> f64| column(pairs.iter().map(|p| number(side(p))).collect());
        Completion {
            score: of(|s| s.score),
            sum: of(|s| s.sum),
            tokens: of(|s| s.tokens),
            confidence: of(|s| s.confidence),
        }
    })
}

/// What is reported of each pair, in the order in which it is written. Rewards, margins and accuracies are those of the
/// objective that is optimised; `logps` are plain sums, as TRL's.
const METRICS: [&str; 15] = [
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "logps_per_token/chosen",
    "logps_per_token/rejected",
    "logratios/chosen",
    "logratios/rejected",
    "logratios_per_token/chosen",
    "logratios_per_token/rejected",
    "completion_tokens/chosen",
    "completion_tokens/rejected",
];

/// An objective on pairs.
#[doc = include_str!("../../equations/token-gradient.html")]
#[doc = include_str!("../../equations/task-align.html")]
#[derive(Debug)]
pub struct Preference(pub Objective);

impl From<Objective> for Preference {
    fn from(objective: Objective) -> Self {
        Self(objective)
    }
}

impl Preference {
    /// Without a reference there are no log-ratios.
    fn has(&self, metric: &str) -> bool {
        self.needs_reference() || !metric.starts_with("logratios")
    }

    /// # Errors
    /// An averaging operator that doesn't give one proper weight per token.
    fn items(&self, units: &[Seen<'_, Tokens>]) -> Result<Vec<Item>, Error> {
        let item = |seen: &Seen<'_, Tokens>| {
            let at = |source| Error::Weights { row: seen.unit.row, source };
            let weights = self.0.weights(scored(seen.unit), seen.unit.key).map_err(at)?;
            let sides = Pair::new(0, 1).zip(weights.as_ref());
            let policy = sides.map(|(side, w)| {
                let Said { log_probs, log_collisions } = &seen.policy[side];
                Sums::new(log_probs, log_collisions.as_deref(), w)
            });
            let reference = sides.map(|(side, w)| match seen.reference {
                Some(r) => Sums::new(&r[side], None, w),
                None => Sums { tokens: w.len() as f64, ..Sums::default() },
            });
            Ok(Item { weights, policy, reference })
        };
        units.iter().map(item).collect()
    }

    /// The loss of the reference taken for the policy, exactly: where it depends on the pairs.
    fn loss_of_reference(&self, items: &[Item]) -> f64 {
        let same = |i: &Item| i.reference.zip(i.policy).map(|(r, p)| Sums { confidence: p.confidence, ..r });
        let same = completions(&items.iter().map(same).collect::<Vec<_>>(), Column);
        let totals = Totals { pairs: items.len(), chosen_tokens: items.iter().map(|i| i.weights.chosen.len()).sum() };
        let losses = self.0.evaluate_column(&same, &same, totals).loss.0;
        losses.iter().sum::<f64>() / losses.len() as f64
    }
}

impl Task for Preference {
    type Unit = Tokens;
    type Totals = Totals;

    fn metrics(&self) -> Vec<&'static str> {
        METRICS.into_iter().filter(|name| self.has(name)).collect()
    }

    fn needs_reference(&self) -> bool {
        self.0.uses_reference()
    }

    fn needs_collisions(&self) -> bool {
        self.0.needs_confidence()
    }

    fn coupled(&self) -> bool {
        self.0.coupled()
    }

    fn totals(&self, batch: &[Tokens]) -> Totals {
        Totals { pairs: batch.len(), chosen_tokens: batch.iter().map(|t| scored(t).chosen).sum() }
    }

    /// The one call of the loss: numbers of pairs to a small batch on the device, and back.
    // ANCHOR: coefficients
    fn judge(&self, units: &[Seen<'_, Tokens>], totals: Totals, device: &Device) -> Result<Judgement, Error> {
        let items = self.items(units)?;
        let device = device.clone().autodiff();
        // The loss is a handful of numbers: where the device has f64, its rounding need not be seen.
        let dtype = if device.supports_dtype(DType::F64) { DType::F64 } else { DType::F32 };
        let column = |values: Vec<f64>| -> Batch {
            let n = values.len();
            Tensor::from_data(TensorData::new(values, [n]), (&device, dtype))
        };
        let side = |of: fn(&Item) -> Pair<Sums>| completions(&items.iter().map(of).collect::<Vec<_>>(), column);
        let policy =
            side(|i| i.policy).map(|c| Completion { score: c.score.require_grad(), sum: c.sum.require_grad(), ..c });
        let evaluation = self.0.evaluate_batch(&policy, &side(|i| i.reference), totals);
        let gradients = (evaluation.loss.clone().sum() / totals.pairs as f64).backward();
        let none = || Tensor::zeros([items.len()], (&device.clone().inner(), dtype));
        let gradient = |leaf: &Batch| leaf.grad(&gradients).unwrap_or_else(none);
        let (d_score, d_sum) = (policy.as_ref().map(|c| gradient(&c.score)), policy.as_ref().map(|c| gradient(&c.sum)));
        let reward = evaluation.reward.map(|r| r.inner());
        // One reading for all of it.
        let lines = [d_score, d_sum, reward].into_iter().flat_map(Pair::into_array).chain([evaluation.loss.inner()]);
        let lines: [Vec<f64>; 7] = read_all(lines.collect()).try_into().expect("as many as there were");
        let [c, c_, d, d_, r, r_, loss] = lines;
        let (d_score, d_sum, reward) = (Pair::new(c, c_), Pair::new(d, d_), Pair::new(r, r_));

        let mut judgement = Judgement::default();
        for (i, item) in items.iter().enumerate() {
            let weights = item.weights.as_ref().zip(d_score.as_ref()).zip(d_sum.as_ref());
            for ((w, score), sum) in weights.into_array() {
                judgement.coefficients.extend(w.iter().map(|w| (w * score[i] + sum[i]) as f32));
            }
            let (r, r_) = (reward.chosen[i], reward.rejected[i]);
            let (c, c_) = (item.policy.chosen, item.policy.rejected);
            let (a, b) = (c.sum - item.reference.chosen.sum, c_.sum - item.reference.rejected.sum);
            let row = [
                loss[i],
                r,
                r_,
                r - r_,
                f64::from(u8::from(r > r_)),
                c.sum,
                c_.sum,
                c.sum / c.tokens,
                c_.sum / c_.tokens,
                a,
                b,
                a / c.tokens,
                b / c_.tokens,
                c.tokens,
                c_.tokens,
            ];
            let row = METRICS.iter().zip(row).filter(|(name, _)| self.has(name)).map(|(_, value)| value).collect();
            judgement.rows.push(row);
        }
        Ok(judgement)
    }
    // ANCHOR_END: coefficients

    /// With π = μ the loss is known before it is measured.
    fn check_start(&self, units: &[Seen<'_, Tokens>], loss: f64, rounding: f64) -> Result<(), Error> {
        if !self.needs_reference() {
            return Ok(());
        }
        let items = self.items(units)?;
        let expected = self.0.loss_at_reference().unwrap_or_else(|| self.loss_of_reference(&items));
        let both = || items.iter().flat_map(|i| i.policy.zip(i.reference).into_array());
        let difference = both().map(|(p, r)| (p.score - r.score).abs()).fold(0.0, f64::max);
        // Scores repeat to about ten roundings of their size when batches are composed differently; more is a fault.
        let (of_scores, of_loss) = ((10.0 * rounding).max(1e-4), (10.0 * rounding).max(1e-2));
        let size = both().map(|(p, _)| p.score.abs()).fold(1.0, f64::max);
        if difference <= of_scores * size && (loss - expected).abs() <= of_loss * expected.abs().max(1e-6) {
            return Ok(());
        }
        Err(Error::SelfCheck { expected, got: loss, difference })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_summed_by_its_weights() {
        let said = Sums::new(&[-1.0, -3.0], Some(&[-0.5, -1.5]), &[0.5, 0.5]);
        assert_eq!(said, Sums { score: -2.0, sum: -4.0, tokens: 2.0, confidence: -1.0 });
    }
}

//! Supervised training: the cross-entropy of completions, averaged over the tokens of a batch.
//!
//! L = −(1/N) Σ_i Σ_t ln π(y_i,t | x_i, y_i,<t), with N the scored tokens of the whole batch.

use burn::tensor::Device;
use collimate_data::Lesson;
use collimate_model::{Error as ModelError, Layout, Text};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::task::{Judgement, Seen, Size, Task, Unit};
use crate::tasks::preference::{count, hash_side};

impl Unit for Lesson {
    fn size(&self, _share: bool) -> Size {
        lesson_size(self.prompt.len(), self.completion.len())
    }

    fn lay_out(&self, layout: &mut Layout, share: bool) -> Result<(), ModelError> {
        layout.push(&self.prompt, &[Text { tokens: &self.completion, scored: self.mask.as_deref() }], share)
    }

    fn place(&self) -> String {
        self.row.to_string()
    }

    fn key(&self) -> u128 {
        let mut bytes = Vec::new();
        for (tokens, mask) in [(&self.prompt, &None), (&self.completion, &self.mask)] {
            hash_side(&mut bytes, tokens, mask);
        }
        xxh3_128(&bytes)
    }
}

/// The sizes of a lesson of those token counts.
pub(crate) fn lesson_size(prompt: usize, completion: usize) -> Size {
    let read = prompt + completion;
    let inputs = read.saturating_sub(1);
    Size { inputs, scored: completion, rows: 1, longest: inputs, read }
}

/// The token-averaged cross-entropy.
#[doc = include_str!("../../equations/task-sft.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supervised;

/// What it must know of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    units: usize,
    tokens: usize,
}

impl Task for Supervised {
    type Unit = Lesson;
    type Totals = Counts;

    fn metrics(&self) -> Vec<&'static str> {
        vec!["loss", "logps", "completion_tokens"]
    }

    fn totals(&self, batch: &[Lesson]) -> Counts {
        Counts { units: batch.len(), tokens: batch.iter().map(|l| count(&l.completion, &l.mask)).sum() }
    }

    // ANCHOR: coefficients
    fn judge(&self, units: &[Seen<'_, Lesson>], totals: Counts, _device: &Device) -> Result<Judgement, Error> {
        let Counts { units: all, tokens } = totals;
        let mut judgement = Judgement::default();
        for seen in units {
            let log_probs = &seen.policy[0].log_probs;
            let sum: f64 = log_probs.iter().copied().map(f64::from).sum();
            judgement.rows.push(vec![-sum * all as f64 / tokens as f64, sum, log_probs.len() as f64]);
            judgement.coefficients.extend(log_probs.iter().map(|_| (-1.0 / tokens as f64) as f32));
        }
        Ok(judgement)
    }
    // ANCHOR_END: coefficients
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Said;

    // ANCHOR: tokens_count_alike_however_the_batch_is_cut
    #[test]
    fn tokens_count_alike_however_the_batch_is_cut() {
        let lesson = |n: usize| Lesson { prompt: vec![1], completion: vec![2; n], row: n, ..Lesson::default() };
        // Of the second, one token more that is not learnt.
        let masked = Lesson { mask: Some(vec![true, false, true, true]), ..lesson(4) };
        assert_ne!(masked.key(), lesson(4).key());
        let batch = [lesson(1), masked];
        let totals = Supervised.totals(&batch);
        let said = [vec![-2.0], vec![-1.0, -1.5, -0.5]].map(|log_probs| [Said { log_probs, log_collisions: None }]);
        let judge = |range: std::ops::Range<usize>| {
            let seen: Vec<_> = range.map(|i| Seen { unit: &batch[i], policy: &said[i], reference: None }).collect();
            Supervised.judge(&seen, totals, &Device::flex()).unwrap()
        };
        let whole = judge(0..2);
        // (2 + 3)/4
        assert_eq!(whole.rows.iter().map(|r| r[0]).sum::<f64>() / 2.0, 1.25);
        assert_eq!(whole.coefficients, [-0.25; 4]);
        let (one, other) = (judge(0..1), judge(1..2));
        assert_eq!(whole.rows, [one.rows, other.rows].concat());
    }
    // ANCHOR_END: tokens_count_alike_however_the_batch_is_cut
}

//! Supervised training: the cross-entropy of completions, averaged over the tokens of a batch.
//!
//! L = −(1/N) Σ_i Σ_t ln π(y_i,t | x_i, y_i,<t), with N the scored tokens of the whole batch.

use burn::tensor::Device;
use collimate_model::{Error as ModelError, Layout, Text};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::task::{Judgement, Seen, Size, Task, Unit};

/// A prompt that is read and a completion that is learnt, as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// x.
    pub prompt: Vec<u32>,
    /// y, EOS included where it is learnt.
    pub completion: Vec<u32>,
    /// Its place in its file, from 1.
    pub row: usize,
}

impl Unit for Lesson {
    fn size(&self, _share: bool) -> Size {
        let (scored, read) = (self.completion.len(), self.prompt.len() + self.completion.len());
        let inputs = read.saturating_sub(1);
        Size { inputs, scored, rows: 1, longest: inputs, read }
    }

    fn lay_out(&self, layout: &mut Layout, share: bool) -> Result<(), ModelError> {
        layout.push(&self.prompt, &[Text::whole(&self.completion)], share)
    }

    fn place(&self) -> String {
        self.row.to_string()
    }

    fn key(&self) -> u128 {
        let lengths = [self.prompt.len() as u32, self.completion.len() as u32];
        let ids = lengths.iter().chain(&self.prompt).chain(&self.completion);
        xxh3_128(&ids.flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())
    }
}

/// The token-averaged cross-entropy.
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
        Counts { units: batch.len(), tokens: batch.iter().map(|l| l.completion.len()).sum() }
    }

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Said;

    #[test]
    fn tokens_count_alike_however_the_batch_is_cut() {
        let lesson = |n: usize| Lesson { prompt: vec![1], completion: vec![2; n], row: n };
        let batch = [lesson(1), lesson(3)];
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
}

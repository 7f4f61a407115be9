//! `mean_end_apart`: the mean, but for the last token.

use serde::{Deserialize, Serialize};

use super::{AnyAveraging, AveragingOperator};
use crate::{Error, Pair, check};

/// ω_t = 1/n for t < n, and ω_n = e, with n the number of scored tokens of the completion: the end-of-sequence token,
/// which is the last scored one where texts end, weighs the same in short and in long answers. An ablation: under the
/// mean it weighs 1/n, so that stopping is learnt less from long answers; this tells that from the averaging itself.
#[doc = include_str!("../../equations/averaging-mean-end-apart.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanEndApart {
    /// e > 0, whatever n is.
    pub end: f64,
}

// ANCHOR: formula
impl AveragingOperator for MeanEndApart {
    fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
        lengths.map(|n| (1..=n).map(|t| if t < n { 1.0 / n as f64 } else { self.end }).collect())
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "mean_end_apart")]
impl AnyAveraging for MeanEndApart {
    fn validate(&self) -> Result<(), Error> {
        let holds = self.end > 0.0 && self.end.is_finite();
        check(holds, "mean_end_apart", "end", "a finite number greater than 0", self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mean;
    use super::*;

    // ANCHOR: the_last_token_weighs_the_same_at_every_length_and_the_others_as_in_the_mean
    #[test]
    fn the_last_token_weighs_the_same_at_every_length_and_the_others_as_in_the_mean() {
        for n in 1..60 {
            let lengths = Pair::new(n, 60 - n);
            let apart = MeanEndApart { end: 0.05 }.weights(lengths, 0);
            let mean = Mean {}.weights(lengths, 0);
            for (apart, mean) in [(apart.chosen, mean.chosen), (apart.rejected, mean.rejected)] {
                let (last, others) = apart.split_last().unwrap();
                assert_eq!((*last, others), (0.05, &mean[..mean.len() - 1]));
            }
        }
    }
    // ANCHOR_END: the_last_token_weighs_the_same_at_every_length_and_the_others_as_in_the_mean

    #[test]
    fn end_must_be_positive() {
        let said = MeanEndApart { end: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "mean_end_apart: end must be a finite number greater than 0, got 0");
    }
}

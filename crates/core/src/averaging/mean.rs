//! `mean`: the length-averaged log-likelihood.

use serde::{Deserialize, Serialize};

use super::{AnyAveraging, AveragingOperator};
use crate::Pair;

/// ω_t = 1/n, with n the number of scored tokens of the completion (arXiv:2406.19188).
#[doc = include_str!("../../equations/per-token.html")]
#[doc = include_str!("../../equations/averaging-mean.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {}

// ANCHOR: formula
impl AveragingOperator for Mean {
    fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
        lengths.map(|n| vec![1.0 / n as f64; n])
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "mean")]
impl AnyAveraging for Mean {}

#[cfg(test)]
mod tests {
    use super::*;

    // ANCHOR: weights_of_each_completion_add_up_to_one
    #[test]
    fn weights_of_each_completion_add_up_to_one() {
        let w = Mean {}.weights(Pair::new(4, 5), 0);
        assert_eq!(w.chosen, vec![0.25; 4]);
        assert_eq!(w.rejected, vec![0.2; 5]);
    }
    // ANCHOR_END: weights_of_each_completion_add_up_to_one
}

//! `sum`: the summed log-likelihood.

use serde::{Deserialize, Serialize};

use super::{AnyAveraging, AveragingOperator};
use crate::Pair;

/// ω_t = 1: 𝒜 is the identity, as in DPO, IPO and SLiC as first published.
#[doc = include_str!("../../equations/sum.html")]
#[doc = include_str!("../../equations/averaging-sum.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sum {}

// ANCHOR: formula
impl AveragingOperator for Sum {
    fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
        lengths.map(|n| vec![1.0; n])
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "sum")]
impl AnyAveraging for Sum {}

#[cfg(test)]
mod tests {
    use super::*;

    // ANCHOR: every_token_counts_once
    #[test]
    fn every_token_counts_once() {
        let w = Sum {}.weights(Pair::new(3, 1), 0);
        assert_eq!((w.chosen, w.rejected), (vec![1.0; 3], vec![1.0]));
    }
    // ANCHOR_END: every_token_counts_once
}

//! `length_desensitised`: what one completion has beyond the other's length counts less.

use serde::{Deserialize, Serialize};

use super::{AnyAveraging, AveragingOperator};
use crate::{Error, Pair, check};

/// ω_t = 1 for t ≤ min(n⁺, n⁻) and α beyond, with n⁺ and n⁻ the scored tokens of the two completions
/// (LD-DPO, arXiv:2409.06411, eq. 11; TRL's `ld_alpha`). With `mean`, divided by n as TRL's averaged losses do.
#[doc = include_str!("../../equations/averaging-length-desensitised.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthDesensitised {
    /// α from 0 (the surplus doesn't count) to 1 (the sum).
    pub alpha: f64,
    /// Whether to divide by the length n of the whole completion.
    #[serde(default)]
    pub mean: bool,
}

// ANCHOR: formula
impl AveragingOperator for LengthDesensitised {
    fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
        let shared = lengths.chosen.min(lengths.rejected);
        lengths.map(|n| {
            let scale = if self.mean { n as f64 } else { 1.0 };
            (0..n).map(|t| if t < shared { 1.0 } else { self.alpha } / scale).collect()
        })
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "length_desensitised")]
impl AnyAveraging for LengthDesensitised {
    fn validate(&self) -> Result<(), Error> {
        check((0.0..=1.0).contains(&self.alpha), "length_desensitised", "alpha", "between 0 and 1", self.alpha)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ANCHOR: the_surplus_counts_alpha
    #[test]
    fn the_surplus_counts_alpha() {
        let w = LengthDesensitised { alpha: 0.25, mean: false }.weights(Pair::new(2, 4), 0);
        assert_eq!(w, Pair::new(vec![1.0; 2], vec![1.0, 1.0, 0.25, 0.25]));
        let w = LengthDesensitised { alpha: 0.5, mean: true }.weights(Pair::new(2, 1), 0);
        assert_eq!(w, Pair::new(vec![0.5, 0.25], vec![1.0]));
    }
    // ANCHOR_END: the_surplus_counts_alpha

    #[test]
    fn alpha_has_a_range() {
        let said = LengthDesensitised { alpha: -0.1, mean: false }.validate().unwrap_err().to_string();
        assert_eq!(said, "length_desensitised: alpha must be between 0 and 1, got -0.1");
    }
}

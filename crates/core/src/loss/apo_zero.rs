//! `apo_zero`: anchored: the chosen likelier, the rejected less likely.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// ℓ = 1 − σ(r⁺) + σ(r⁻), with r⁺ and r⁻ the rewards (APO-zero, arXiv:2408.06266, eq. 7). At r⁺ = r⁻ = 0: 1.
#[doc = include_str!("../../equations/loss-apo-zero.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApoZero {}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for ApoZero {
    fn loss(&self, pair: &Preference<T>) -> T {
        // 1 − σ(r) = σ(−r), which keeps its digits where σ(r) is nearly 1.
        (-pair.reward.chosen.clone()).sigmoid() + pair.reward.rejected.clone().sigmoid()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "apo_zero")]
impl AnyLoss for ApoZero {
    fn monotone(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::at;
    use super::*;

    // ANCHOR: values
    #[test]
    fn values() {
        assert_eq!(ApoZero {}.loss(&at(0.0, 0.0, 1.0)), 1.0);
        // 1 − 3/4 + 1/3
        assert_abs_diff_eq!(ApoZero {}.loss(&at(3f64.ln(), -2f64.ln(), 1.0)), 7.0 / 12.0, epsilon = 1e-15);
    }
    // ANCHOR_END: values
}

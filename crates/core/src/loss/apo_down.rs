//! `apo_down`: anchored: both less likely, the rejected more so.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// ℓ = σ(r⁺) + 1 − σ(r⁺ − r⁻), with r⁺ and r⁻ the rewards (APO-down, arXiv:2408.06266, eq. 8). At r⁺ = r⁻ = 0: 1.
#[doc = include_str!("../../equations/loss-apo-down.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApoDown {}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for ApoDown {
    fn loss(&self, pair: &Preference<T>) -> T {
        // 1 − σ(z) = σ(−z), which keeps its digits where σ(z) is nearly 1.
        pair.reward.chosen.clone().sigmoid() + (-pair.margin()).sigmoid()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "apo_down")]
impl AnyLoss for ApoDown {}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::at;
    use super::*;

    // ANCHOR: values
    #[test]
    fn values() {
        assert_eq!(ApoDown {}.loss(&at(0.0, 0.0, 1.0)), 1.0);
        // r⁺ = ln 3, z = ln 2: 3/4 + 1 − 2/3
        assert_abs_diff_eq!(ApoDown {}.loss(&at(3f64.ln(), 1.5f64.ln(), 1.0)), 13.0 / 12.0, epsilon = 1e-15);
    }
    // ANCHOR_END: values
}

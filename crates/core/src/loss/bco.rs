//! `bco`: binary classification of each completion.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// ℓ = −ln σ(r⁺) − ln σ(−r⁻), with r⁺ and r⁻ the rewards (BCO for pairs, without its reward shift, arXiv:2404.04656,
/// eq. 7). At r⁺ = r⁻ = 0: 2 ln 2.
#[doc = include_str!("../../equations/loss-bco.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bco {}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Bco {
    fn loss(&self, pair: &Preference<T>) -> T {
        -pair.reward.chosen.clone().log_sigmoid() - (-pair.reward.rejected.clone()).log_sigmoid()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "bco")]
impl AnyLoss for Bco {
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
        assert_eq!(Bco {}.loss(&at(0.0, 0.0, 1.0)), 2.0 * std::f64::consts::LN_2);
        // σ(r⁺) = 3/4, σ(−r⁻) = 2/3
        assert_abs_diff_eq!(Bco {}.loss(&at(3f64.ln(), -2f64.ln(), 1.0)), -(0.75f64 * 2.0 / 3.0).ln(), epsilon = 1e-15);
    }
    // ANCHOR_END: values
}

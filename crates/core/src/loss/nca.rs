//! `nca`: noise-contrastive alignment, each reward held to 0.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// ℓ = −ln σ(r⁺) − ½ ln σ(−r⁺) − ½ ln σ(−r⁻), with r⁺ and r⁻ the rewards (NCA for pairs, arXiv:2402.05369, eq. 11).
/// At r⁺ = r⁻ = 0: 2 ln 2.
#[doc = include_str!("../../equations/loss-nca.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nca {}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Nca {
    fn loss(&self, pair: &Preference<T>) -> T {
        let Preference { reward, .. } = pair;
        let [up, down] = [reward.chosen.clone(), reward.rejected.clone()];
        -up.clone().log_sigmoid() - (-up).log_sigmoid() * 0.5 - (-down).log_sigmoid() * 0.5
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "nca")]
impl AnyLoss for Nca {}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::at;
    use super::*;

    // ANCHOR: values
    #[test]
    fn values() {
        assert_abs_diff_eq!(Nca {}.loss(&at(0.0, 0.0, 1.0)), 2.0 * std::f64::consts::LN_2, epsilon = 1e-15);
        // σ(r⁺) = 3/4, σ(r⁻) = 1/3: −ln(3/4) − ½ ln(1/4) − ½ ln(2/3)
        let expected = -0.75f64.ln() - 0.5 * 0.25f64.ln() - 0.5 * (2f64 / 3.0).ln();
        assert_abs_diff_eq!(Nca {}.loss(&at(3f64.ln(), -2f64.ln(), 1.0)), expected, epsilon = 1e-15);
    }
    // ANCHOR_END: values
}

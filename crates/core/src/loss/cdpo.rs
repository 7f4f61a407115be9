//! `cdpo`: the logistic loss when some labels are wrong.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::{Error, Number, check};

/// φ(z) = −(1−ε) ln σ(z) − ε ln σ(−z), with z the margin r⁺ − r⁻ and ε `self.label_smoothing`, the share of labels
/// believed wrong (conservative DPO, Mitchell 2023, eq. 3). At z = 0: ln 2. Least at z = ln((1−ε)/ε).
#[doc = include_str!("../../equations/loss-cdpo.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cdpo {
    /// ε from 0 (the logistic loss) to below ½.
    pub label_smoothing: f64,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Cdpo {
    fn loss(&self, pair: &Preference<T>) -> T {
        let z = pair.margin();
        z.clone().log_sigmoid() * (self.label_smoothing - 1.0) - (-z).log_sigmoid() * self.label_smoothing
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "cdpo")]
impl AnyLoss for Cdpo {
    fn validate(&self) -> Result<(), Error> {
        let holds = (0.0..0.5).contains(&self.label_smoothing);
        check(holds, "cdpo", "label_smoothing", "at least 0 and below 0.5", self.label_smoothing)
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
        assert_abs_diff_eq!(
            Cdpo { label_smoothing: 0.2 }.loss(&at(0.0, 0.0, 1.0)),
            std::f64::consts::LN_2,
            epsilon = 1e-15
        );
        // Without smoothing: −ln σ(1) = ln(1 + 1/e).
        assert_abs_diff_eq!(
            Cdpo { label_smoothing: 0.0 }.loss(&at(1.5, 0.5, 1.0)),
            (-1f64).exp().ln_1p(),
            epsilon = 1e-15
        );
        // The least value is at z = ln 4 for ε = 0.2, the entropy of (0.8, 0.2).
        let entropy = -0.8 * 0.8f64.ln() - 0.2 * 0.2f64.ln();
        assert_abs_diff_eq!(Cdpo { label_smoothing: 0.2 }.loss(&at(4f64.ln(), 0.0, 1.0)), entropy, epsilon = 1e-15);
    }
    // ANCHOR_END: values

    #[test]
    fn label_smoothing_has_a_range() {
        let said = Cdpo { label_smoothing: 0.5 }.validate().unwrap_err().to_string();
        assert_eq!(said, "cdpo: label_smoothing must be at least 0 and below 0.5, got 0.5");
    }
}

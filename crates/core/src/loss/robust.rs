//! `robust`: the logistic loss, unbiased when some labels are wrong.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::{Error, Number, check};

/// φ(z) = [−(1−ε) ln σ(z) + ε ln σ(−z)]/(1 − 2ε), with z the margin r⁺ − r⁻ and ε `self.label_smoothing`, the share of
/// labels that are wrong (robust DPO, arXiv:2403.00409, eq. 12). At z = 0: ln 2.
#[doc = include_str!("../../equations/loss-robust.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Robust {
    /// ε from 0 (the logistic loss) to below ½.
    pub label_smoothing: f64,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Robust {
    fn loss(&self, pair: &Preference<T>) -> T {
        let z = pair.margin();
        let noisy = z.clone().log_sigmoid() * (self.label_smoothing - 1.0) + (-z).log_sigmoid() * self.label_smoothing;
        noisy * (1.0 / (1.0 - 2.0 * self.label_smoothing))
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "robust")]
impl AnyLoss for Robust {
    fn monotone(&self) -> bool {
        true
    }
    fn validate(&self) -> Result<(), Error> {
        let holds = (0.0..0.5).contains(&self.label_smoothing);
        check(holds, "robust", "label_smoothing", "at least 0 and below 0.5", self.label_smoothing)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::{Logistic, at};
    use super::*;

    // ANCHOR: its_mean_over_flipped_labels_is_the_clean_loss
    #[test]
    fn its_mean_over_flipped_labels_is_the_clean_loss() {
        let robust = Robust { label_smoothing: 0.3 };
        for z in [-2.0, 0.0, 0.7] {
            // A label is right with probability 0.7, and turned round otherwise.
            let expected = 0.7 * robust.loss(&at(z, 0.0, 1.0)) + 0.3 * robust.loss(&at(0.0, z, 1.0));
            assert_abs_diff_eq!(expected, Logistic {}.loss(&at(z, 0.0, 1.0)), epsilon = 1e-14);
        }
    }
    // ANCHOR_END: its_mean_over_flipped_labels_is_the_clean_loss

    #[test]
    fn label_smoothing_has_a_range() {
        let said = Robust { label_smoothing: 0.7 }.validate().unwrap_err().to_string();
        assert_eq!(said, "robust: label_smoothing must be at least 0 and below 0.5, got 0.7");
    }
}

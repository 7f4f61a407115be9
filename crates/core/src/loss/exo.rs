//! `exo`: the reverse KL between the policy's preference and the smoothed label.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::{Error, Number, check};

/// φ(z) = q ln(q/(1−ε)) + (1−q) ln((1−q)/ε), with q = σ(z), z the margin r⁺ − r⁻ and ε `self.label_smoothing`
/// (EXO for pairs, arXiv:2402.00856, eq. 16). Least at z = ln((1−ε)/ε): 0.
#[doc = include_str!("../../equations/loss-exo.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exo {
    /// ε from above 0 (a hard label would cost infinitely much) to below 1.
    pub label_smoothing: f64,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Exo {
    fn loss(&self, pair: &Preference<T>) -> T {
        let z = pair.margin();
        let chosen = z.clone().sigmoid() * (z.clone().log_sigmoid() - (-self.label_smoothing).ln_1p());
        let rejected = (-z.clone()).sigmoid() * ((-z).log_sigmoid() - self.label_smoothing.ln());
        chosen + rejected
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "exo")]
impl AnyLoss for Exo {
    fn validate(&self) -> Result<(), Error> {
        let holds = self.label_smoothing > 0.0 && self.label_smoothing < 1.0;
        check(holds, "exo", "label_smoothing", "above 0 and below 1", self.label_smoothing)
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
        let exo = Exo { label_smoothing: 0.1 };
        // σ(ln 9) = 0.9 = 1 − ε
        assert_abs_diff_eq!(exo.loss(&at(9f64.ln(), 0.0, 1.0)), 0.0, epsilon = 1e-15);
        // q = ½: ½ ln(0.25/(0.9 · 0.1))
        assert_abs_diff_eq!(exo.loss(&at(0.0, 0.0, 1.0)), 0.5 * (0.25f64 / 0.09).ln(), epsilon = 1e-15);
    }
    // ANCHOR_END: values

    #[test]
    fn a_hard_label_is_refused() {
        let said = Exo { label_smoothing: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "exo: label_smoothing must be above 0 and below 1, got 0");
    }
}

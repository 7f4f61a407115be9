//! `dpop`: the logistic loss, and a price on a chosen completion that got less likely.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::{Error, Number, check};

/// ℓ = −ln σ(z − λ max(0, −r⁺)), with z the margin r⁺ − r⁻, λ `self.penalty` and r⁺ = βa, so that λ max(0, −r⁺) is
/// βλ max(0, −a) (DPO-Positive, arXiv:2402.13228, eq. 3). At r⁺ = r⁻ = 0: ln 2.
#[doc = include_str!("../../equations/loss-dpop.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpop {
    /// λ ≥ 0.
    pub penalty: f64,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Dpop {
    fn loss(&self, pair: &Preference<T>) -> T {
        let fallen = (-pair.reward.chosen.clone()).relu();
        -(pair.margin() - fallen * self.penalty).log_sigmoid()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "dpop")]
impl AnyLoss for Dpop {
    fn monotone(&self) -> bool {
        true
    }
    fn validate(&self) -> Result<(), Error> {
        let holds = self.penalty >= 0.0 && self.penalty.is_finite();
        check(holds, "dpop", "penalty", "a finite number of at least 0", self.penalty)
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
        let dpop = Dpop { penalty: 3.0 };
        assert_eq!(dpop.loss(&at(0.0, 0.0, 1.0)), std::f64::consts::LN_2);
        // r⁺ above 0 is not charged: −ln σ(1).
        assert_abs_diff_eq!(dpop.loss(&at(0.5, -0.5, 1.0)), (-1f64).exp().ln_1p(), epsilon = 1e-15);
        // r⁺ = −0.5: −ln σ(1 − 1.5)
        assert_abs_diff_eq!(dpop.loss(&at(-0.5, -1.5, 1.0)), 0.5f64.exp().ln_1p(), epsilon = 1e-15);
    }
    // ANCHOR_END: values

    #[test]
    fn penalty_must_not_be_negative() {
        let said = Dpop { penalty: -1.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "dpop: penalty must be a finite number of at least 0, got -1");
    }
}

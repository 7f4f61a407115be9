//! `discopop`: a loss found by search, logistic below a margin of 0 and exponential above.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::{Error, Number, check};

/// φ(z) = (1−m)(−ln σ(z)) + m e^(−z), with m = σ(z/τ), z the margin r⁺ − r⁻ and τ `self.tau` (DiscoPOP,
/// arXiv:2406.08414, eq. 5). At z = 0: (1 + ln 2)/2. Not monotone: it rises a little just above 0.
#[doc = include_str!("../../equations/loss-discopop.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discopop {
    /// τ > 0, the width of the passage between the two; the paper has 0.05.
    #[serde(default = "paper")]
    pub tau: f64,
}

/// The paper's τ.
fn paper() -> f64 {
    0.05
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Discopop {
    fn loss(&self, pair: &Preference<T>) -> T {
        let z = pair.margin();
        let logistic = (z.clone() * (-1.0 / self.tau)).sigmoid() * -z.clone().log_sigmoid();
        // m e^(−z) = exp(ln σ(z/τ) − z): for z far below 0 the two factors are 0 and infinite.
        logistic + ((z.clone() * (1.0 / self.tau)).log_sigmoid() - z).bounded_exp()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "discopop")]
impl AnyLoss for Discopop {
    fn validate(&self) -> Result<(), Error> {
        let holds = self.tau > 0.0 && self.tau.is_finite();
        check(holds, "discopop", "tau", "a finite number greater than 0", self.tau)
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
        let loss = |z| Discopop { tau: 0.05 }.loss(&at(z, 0.0, 1.0));
        assert_abs_diff_eq!(loss(0.0), (1.0 + std::f64::consts::LN_2) / 2.0, epsilon = 1e-15);
        // Far above 0 it is e^(−z), far below −ln σ(z).
        assert_abs_diff_eq!(loss(3.0), (-3f64).exp(), epsilon = 1e-15);
        assert_abs_diff_eq!(loss(-3.0), 3f64.exp().ln_1p(), epsilon = 1e-15);
        assert_eq!(loss(-1e4), 1e4);
    }
    // ANCHOR_END: values

    #[test]
    fn tau_must_be_positive() {
        let said = Discopop { tau: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "discopop: tau must be a finite number greater than 0, got 0");
    }
}

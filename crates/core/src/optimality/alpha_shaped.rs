//! `alpha_shaped`: a power of the probability for a reward, without a reference.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores, check_beta};
use crate::{Error, Number, check};

/// r = β (1 − p^(−α))/α with p = exp s(π), which is β ln p as α → 0; 𝓑\[R\] = (1 − α (R − λ)/β)^(−1/α)
/// (AlphaPO, arXiv:2501.03884, eq. 8, with s the mean).
///
/// The exponent −α s is held at 80, where an f32 overflows.
#[doc = include_str!("../../equations/optimality-alpha-shaped.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlphaShaped {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
    /// α, finite and not 0; at 0 it would be `none`.
    pub alpha: f64,
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for AlphaShaped {
    fn reward(&self, scores: &Scores<T>) -> T {
        let power = (scores.policy.clone() * -self.alpha).bounded_exp();
        (-power + 1.0) * (self.beta / self.alpha)
    }
    fn score(&self, reward: T, _reference: T, _tokens: T) -> T {
        // p^(−α); at 0 and below every p is worth more, or none as much, and ln 0 says so.
        (-reward * (self.alpha / self.beta) + 1.0).relu().ln() * (-1.0 / self.alpha)
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "alpha_shaped")]
impl AnyOptimality for AlphaShaped {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        false
    }
    fn validate(&self) -> Result<(), Error> {
        check_beta("alpha_shaped", self.beta)?;
        let holds = self.alpha.is_finite() && self.alpha != 0.0;
        check(holds, "alpha_shaped", "alpha", "a finite number other than 0 (that is `none`)", self.alpha)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::NoReference;
    use super::*;

    // ANCHOR: reward_by_hand
    #[test]
    fn reward_by_hand() {
        // p = 1/4, α = 1/2: (1 − 2)/(1/2) = −2
        let s = Scores { policy: 0.25f64.ln(), reference: 0.0, tokens: 1.0 };
        assert_abs_diff_eq!(AlphaShaped { beta: 3.0, alpha: 0.5 }.reward(&s), -6.0, epsilon = 1e-14);
    }
    // ANCHOR_END: reward_by_hand

    #[test]
    fn a_small_alpha_is_the_plain_score() {
        let s = Scores { policy: -1.5, reference: 0.0, tokens: 1.0 };
        let limit: f64 = NoReference { beta: 2.0 }.reward(&s);
        assert_abs_diff_eq!(AlphaShaped { beta: 2.0, alpha: 1e-7 }.reward(&s), limit, epsilon = 1e-6);
    }

    #[test]
    fn alpha_must_not_be_zero() {
        let said = AlphaShaped { beta: 1.0, alpha: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "alpha_shaped: alpha must be a finite number other than 0 (that is `none`), got 0");
    }
}

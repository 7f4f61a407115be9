//! `alpha_divergence`: regularisation towards the reference by an α-divergence.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores, check_beta};
use crate::{Error, Number, check};

/// f′(u) = (u^(α−1) − 1)/(α − 1) with u = π/μ, which is ln u at α = 1: r = β f′(exp(s(π) − s(μ)));
/// 𝓑\[R\] = μ · (1 + (α − 1)(R − λ)/β)^(1/(α−1)) (f-DPO, arXiv:2309.16240, table 2, whose α is 1 − α here and in TRL).
///
/// The exponent is held at 80, where an f32 overflows; TRL does likewise.
#[doc = include_str!("../../equations/optimality-alpha-divergence.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlphaDivergence {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
    /// α, finite; within 1e-6 of 1 it is the reverse KL.
    #[serde(default = "half")]
    pub alpha: f64,
}

/// TRL's default for `f_alpha_divergence_coef`.
fn half() -> f64 {
    0.5
}

impl AlphaDivergence {
    /// α − 1, or nothing in the limit α → 1.
    fn exponent(&self) -> Option<f64> {
        Some(self.alpha - 1.0).filter(|e| e.abs() >= 1e-6)
    }
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for AlphaDivergence {
    fn reward(&self, scores: &Scores<T>) -> T {
        match self.exponent() {
            Some(e) => ((scores.log_ratio() * e).bounded_exp() - 1.0) * (self.beta / e),
            None => scores.log_ratio() * self.beta,
        }
    }
    fn score(&self, reward: T, reference: T, _tokens: T) -> T {
        match self.exponent() {
            // u^(α−1); at 0 and below every u is worth more, or none as much, and ln 0 says so.
            Some(e) => reference + (reward * (e / self.beta) + 1.0).relu().ln() * (1.0 / e),
            None => reference + reward * (1.0 / self.beta),
        }
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "alpha_divergence")]
impl AnyOptimality for AlphaDivergence {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        true
    }
    fn validate(&self) -> Result<(), Error> {
        check_beta("alpha_divergence", self.beta)?;
        check(self.alpha.is_finite(), "alpha_divergence", "alpha", "a finite number", self.alpha)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::ReverseKl;
    use super::*;

    // ANCHOR: reward_by_hand
    #[test]
    fn reward_by_hand() {
        // α = 1/2, u = 4: (4^(−1/2) − 1)/(−1/2) = 1
        let at =
            |policy| AlphaDivergence { beta: 3.0, alpha: 0.5 }.reward(&Scores { policy, reference: -9.0, tokens: 1.0 });
        assert_abs_diff_eq!(at(-9.0 + 4f64.ln()), 3.0, epsilon = 1e-14);
        assert_eq!(at(-9.0), 0.0);
    }
    // ANCHOR_END: reward_by_hand

    #[test]
    fn alpha_one_is_the_reverse_kl() {
        let s = Scores { policy: -3.0, reference: -5.5, tokens: 1.0 };
        let limit: f64 = ReverseKl { beta: 0.1 }.reward(&s);
        assert_eq!(AlphaDivergence { beta: 0.1, alpha: 1.0 }.reward(&s), limit);
        assert_abs_diff_eq!(AlphaDivergence { beta: 0.1, alpha: 1.0 + 1e-5 }.reward(&s), limit, epsilon = 1e-5);
    }

    #[test]
    fn alpha_must_be_finite() {
        let said = AlphaDivergence { beta: 1.0, alpha: f64::INFINITY }.validate().unwrap_err().to_string();
        assert_eq!(said, "alpha_divergence: alpha must be a finite number, got inf");
    }
}

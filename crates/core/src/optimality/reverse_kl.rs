//! `reverse_kl`: regularisation towards the reference by KL(π‖μ).

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores};
use crate::Number;

/// D = KL(π‖μ): 𝓑\[R\](y|x) = μ(y|x) exp(R/β) / Z, so r = β (s(π) − s(μ)) (arXiv:2305.18290, eq. 4 and 5).
#[doc = include_str!("../../equations/optimality-reverse-kl.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseKl {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for ReverseKl {
    fn reward(&self, scores: &Scores<T>) -> T {
        scores.log_ratio() * self.beta
    }
    fn score(&self, reward: T, reference: T, _tokens: T) -> T {
        reference + reward * (1.0 / self.beta)
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "reverse_kl")]
impl AnyOptimality for ReverseKl {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    // ANCHOR: reward_is_the_scaled_log_ratio
    #[test]
    fn reward_is_the_scaled_log_ratio() {
        // 0.1 · (−3 − (−5)) = 0.2
        let r = ReverseKl { beta: 0.1 }.reward(&Scores { policy: -3.0, reference: -5.0, tokens: 2.0 });
        assert_abs_diff_eq!(r, 0.2, epsilon = 1e-15);
    }
    // ANCHOR_END: reward_is_the_scaled_log_ratio

    #[test]
    fn beta_must_be_positive() {
        let said = ReverseKl { beta: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "reverse_kl: beta must be a finite number greater than 0, got 0");
        assert!(ReverseKl { beta: f64::NAN }.validate().is_err());
    }
}

//! `forward_kl`: regularisation towards the reference by KL(μ‖π).

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores};
use crate::Number;

/// D = KL(μ‖π), f(u) = u − 1 − ln u, f′(u) = 1 − 1/u with u = π/μ: r = β (1 − exp(−(s(π) − s(μ)))), below β always;
/// 𝓑\[R\] = μ / (1 − (R − λ)/β) (f-DPO, arXiv:2309.16240, table 2; the 1 cancels in the margin).
///
/// The exponent is held at 80, where an f32 overflows.
#[doc = include_str!("../../equations/optimality-forward-kl.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardKl {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for ForwardKl {
    fn reward(&self, scores: &Scores<T>) -> T {
        (-(-scores.log_ratio()).bounded_exp() + 1.0) * self.beta
    }
    fn score(&self, reward: T, reference: T, _tokens: T) -> T {
        // 1/u; at 0 and below no u is worth as much, and −ln 0 says so.
        let inverse_ratio = -reward * (1.0 / self.beta) + 1.0;
        reference - inverse_ratio.relu().ln()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "forward_kl")]
impl AnyOptimality for ForwardKl {
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

    // ANCHOR: reward_by_hand
    #[test]
    fn reward_by_hand() {
        let at = |policy, reference| ForwardKl { beta: 0.5 }.reward(&Scores { policy, reference, tokens: 1.0 });
        assert_eq!(at(-2.0, -2.0), 0.0);
        // u = 2: 0.5 · (1 − 1/2) = 0.25
        assert_abs_diff_eq!(at(-1.0 + std::f64::consts::LN_2, -1.0), 0.25, epsilon = 1e-15);
        assert!((at(-1e4, -1.0) as f32).is_finite());
    }
    // ANCHOR_END: reward_by_hand

    #[test]
    fn no_policy_is_worth_more_than_beta() {
        assert_eq!(ForwardKl { beta: 0.5 }.score(0.5, -1.0, 1.0), f64::INFINITY);
    }
}

//! `odds`: the log-odds of the completion, without a reference.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores};
use crate::Number;

/// D = Σ_y π ln π + (1 − π) ln(1 − π), the entropy of one yes-or-no draw per completion: r = β ln(p/(1 − p)) with
/// p = exp s(π), and 𝓑\[R\] = σ((R − λ)/β) (ORPO, arXiv:2403.07691, eq. 4, with s the mean; the regulariser is derived).
///
/// A score of 0, p = 1, is held at odds of about 1e30.
#[doc = include_str!("../../equations/optimality-odds.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Odds {
    /// β > 0, the strength of the regularisation; ORPO has 1.
    pub beta: f64,
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for Odds {
    fn reward(&self, scores: &Scores<T>) -> T {
        (scores.policy.clone() - scores.policy.clone().ln_1m_exp()) * self.beta
    }
    fn score(&self, reward: T, _reference: T, _tokens: T) -> T {
        (reward * (1.0 / self.beta)).log_sigmoid()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "odds")]
impl AnyOptimality for Odds {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    // ANCHOR: reward_by_hand
    #[test]
    fn reward_by_hand() {
        let at = |policy: f64| Odds { beta: 2.0 }.reward(&Scores { policy, reference: 0.0, tokens: 1.0 });
        // p = 3/4: odds of 3
        assert_abs_diff_eq!(at(0.75f64.ln()), 2.0 * 3f64.ln(), epsilon = 1e-14);
        // p = e^(−1e4): the odds are the probability.
        assert_eq!(at(-1e4), -2e4);
        assert!((at(0.0) as f32).is_finite());
    }
    // ANCHOR_END: reward_by_hand
}

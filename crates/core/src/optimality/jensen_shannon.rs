//! `js_divergence`: regularisation towards the reference by the Jensen–Shannon divergence.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores};
use crate::Number;

/// D = JS(π, μ), f′(u) = ln(2u/(1 + u)) = ln 2 + ln σ(ln u) with u = π/μ: r = β (ln 2 + ln σ(s(π) − s(μ))), below
/// β ln 2 always; 𝓑\[R\] = μ · v/(2 − v) with v = exp((R − λ)/β) (f-DPO, arXiv:2309.16240, table 2; ln 2 cancels).
#[doc = include_str!("../../equations/optimality-js-divergence.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JensenShannon {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for JensenShannon {
    fn reward(&self, scores: &Scores<T>) -> T {
        (scores.log_ratio().log_sigmoid() + std::f64::consts::LN_2) * self.beta
    }
    fn score(&self, reward: T, reference: T, _tokens: T) -> T {
        // ln σ(d) = t solves to d = t − ln(1 − e^t), with 1 − e^t = −tanh(t/2) (1 + e^t); from t = 0 on there is none.
        let t = reward * (1.0 / self.beta) - std::f64::consts::LN_2;
        let half = -(t.clone() * 0.5).tanh();
        reference + t.clone() - half.relu().ln() - t.exp().ln_1p()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "js_divergence")]
impl AnyOptimality for JensenShannon {
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
        let at = |policy| JensenShannon { beta: 0.5 }.reward(&Scores { policy, reference: -4.0, tokens: 1.0 });
        assert_eq!(at(-4.0), 0.0);
        // u = 3: 0.5 · ln(6/4)
        assert_abs_diff_eq!(at(-4.0 + 3f64.ln()), 0.5 * 1.5f64.ln(), epsilon = 1e-15);
    }
    // ANCHOR_END: reward_by_hand

    #[test]
    fn no_policy_is_worth_more_than_beta_ln_2() {
        assert_eq!(JensenShannon { beta: 1.0 }.score(std::f64::consts::LN_2, -1.0, 1.0), f64::INFINITY);
    }
}

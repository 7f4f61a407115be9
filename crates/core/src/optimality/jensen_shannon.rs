//! `js_divergence`: regularisation towards the reference by the Jensen–Shannon divergence.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores};
use crate::Number;

/// D = JS(π, μ), f′(u) = ln(2u/(1 + u)) = ln 2 + ln σ(ln u) with u = π/μ: r = β (ln 2 + ln σ(s(π) − s(μ))), below
/// β ln 2 always; 𝓑\[R\] = μ · v/(2 − v) with v = exp((R − λ)/β) (f-DPO, arXiv:2309.16240, table 2; ln 2 cancels).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JensenShannon {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
}

impl<T: Number> OptimalityOperator<T> for JensenShannon {
    fn reward(&self, scores: &Scores<T>) -> T {
        (scores.log_ratio().log_sigmoid() + std::f64::consts::LN_2) * self.beta
    }
}

#[typetag::serde(name = "js_divergence")]
impl AnyOptimality for JensenShannon {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        true
    }
    fn score(&self, reward: f64, reference: f64, _tokens: f64) -> f64 {
        // ln σ(d) = t solves to d = t − ln(1 − e^t).
        let t = reward / self.beta - std::f64::consts::LN_2;
        if t < 0.0 { reference + t - (-t.exp_m1()).ln() } else { f64::INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reward_by_hand() {
        let at = |policy| JensenShannon { beta: 0.5 }.reward(&Scores { policy, reference: -4.0, tokens: 1.0 });
        assert_eq!(at(-4.0), 0.0);
        // u = 3: 0.5 · ln(6/4)
        assert!((at(-4.0 + 3f64.ln()) - 0.5 * 1.5f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn no_policy_is_worth_more_than_beta_ln_2() {
        assert_eq!(JensenShannon { beta: 1.0 }.score(std::f64::consts::LN_2, -1.0, 1.0), f64::INFINITY);
    }
}

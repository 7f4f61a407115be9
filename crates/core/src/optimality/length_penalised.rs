//! `length_penalised`: the reverse KL, with a price on every token.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores, check_beta};
use crate::{Error, Number, check};

/// The reward is R − α n and D = KL(π‖μ): 𝓑\[R\] = μ exp((R − α n)/β) / Z, so r = β (s(π) − s(μ)) + α n
/// (R-DPO, arXiv:2403.19159, eq. 9). A longer chosen completion has a larger margin already: α > 0 takes from what the
/// policy must do, and so penalises length.
#[doc = include_str!("../../equations/optimality-length-penalised.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthPenalised {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
    /// α, the price of a token; below 0 length is rewarded.
    pub alpha: f64,
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for LengthPenalised {
    fn reward(&self, scores: &Scores<T>) -> T {
        scores.log_ratio() * self.beta + scores.tokens.clone() * self.alpha
    }
    fn score(&self, reward: T, reference: T, tokens: T) -> T {
        reference + (reward - tokens * self.alpha) * (1.0 / self.beta)
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "length_penalised")]
impl AnyOptimality for LengthPenalised {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        true
    }
    fn validate(&self) -> Result<(), Error> {
        check_beta("length_penalised", self.beta)?;
        check(self.alpha.is_finite(), "length_penalised", "alpha", "a finite number", self.alpha)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    // ANCHOR: a_positive_alpha_penalises_length
    #[test]
    fn a_positive_alpha_penalises_length() {
        let o = LengthPenalised { beta: 0.1, alpha: 0.5 };
        // 0.1 · 2 + 0.5 · 3 = 1.7
        let r = o.reward(&Scores { policy: -3.0, reference: -5.0, tokens: 3.0 });
        assert_abs_diff_eq!(r, 1.7, epsilon = 1e-15);
        // Of two completions of one reward, the best policy gives the longer one less.
        assert!(o.score(1.0, -5.0, 8.0) < o.score(1.0, -5.0, 3.0));
    }
    // ANCHOR_END: a_positive_alpha_penalises_length

    #[test]
    fn alpha_must_be_finite() {
        assert!(LengthPenalised { beta: 0.1, alpha: f64::NAN }.validate().is_err());
    }
}

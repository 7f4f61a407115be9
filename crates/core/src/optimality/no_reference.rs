//! `none`: entropy regularisation, without a reference.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator, Scores};
use crate::Number;

/// D = −H(π), the entropy: 𝓑\[R\](y|x) = exp(R/β) / Z, so r = β s(π), and no reference is asked (arXiv:2405.14734).
#[doc = include_str!("../../equations/optimality-none.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoReference {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
}

// ANCHOR: formula
impl<T: Number> OptimalityOperator<T> for NoReference {
    fn reward(&self, scores: &Scores<T>) -> T {
        scores.policy.clone() * self.beta
    }
    fn score(&self, reward: T, _reference: T, _tokens: T) -> T {
        reward * (1.0 / self.beta)
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "none")]
impl AnyOptimality for NoReference {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ANCHOR: the_reference_does_not_enter
    #[test]
    fn the_reference_does_not_enter() {
        let o = NoReference { beta: 2.0 };
        assert_eq!(o.reward(&Scores { policy: -1.5, reference: -7.0, tokens: 1.0 }), -3.0);
        assert_eq!(o.reward(&Scores { policy: -1.5, reference: -2.0, tokens: 1.0 }), -3.0);
    }
    // ANCHOR_END: the_reference_does_not_enter
}

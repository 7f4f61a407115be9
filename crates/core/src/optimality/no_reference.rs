//! `none`: entropy regularisation, without a reference.

use serde::{Deserialize, Serialize};

use super::{AnyOptimality, OptimalityOperator};
use crate::{Error, Number, check};

/// D = −H(π), the entropy: 𝓑\[R\](y|x) = exp(R/β) / Z, so r = β s(π), and no reference is asked (arXiv:2405.14734).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoReference {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
}

impl<T: Number> OptimalityOperator<T> for NoReference {
    fn reward(&self, policy: T, _reference: T) -> T {
        policy * self.beta
    }
}

#[typetag::serde(name = "none")]
impl AnyOptimality for NoReference {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        false
    }
    fn validate(&self) -> Result<(), Error> {
        check(self.beta > 0.0 && self.beta.is_finite(), "none", "beta", "a finite number greater than 0", self.beta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_does_not_enter() {
        let o = NoReference { beta: 2.0 };
        assert_eq!(o.reward(-1.5, -7.0), -3.0);
        assert_eq!(o.reward(-1.5, 7.0), -3.0);
    }
}

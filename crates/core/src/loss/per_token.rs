//! `per_token`: any loss, on rewards divided by the length.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss, read_loss};
use crate::optimality::AnyOptimality;
use crate::{Error, Number};

/// ℓ(r⁺/n⁺, r⁻/n⁻), with n the scored tokens of a completion and ℓ `self.loss`.
///
/// Under the reverse KL this is averaging by `mean`; under another divergence it isn't, for f′(u)/n is not f′(u^(1/n)).
/// It is what TRL's `ipo` and `sigmoid_norm` do, and how an averaged loss and a summed one share one objective. The
/// composition of formalism 𝒜 π* = 𝓑_{β,𝒜μ}\[R\] is the averaging operator's, and to be preferred.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerToken {
    /// ℓ, any loss on rewards.
    #[serde(deserialize_with = "read_loss")]
    pub loss: Box<dyn AnyLoss>,
}

impl<T: Number> PreferenceLoss<T> for PerToken
where
    dyn AnyLoss: PreferenceLoss<T>,
{
    fn loss(&self, pair: &Preference<T>) -> T {
        let lengths = pair.policy.as_ref().map(|c| c.tokens.clone());
        let reward = pair.reward.clone().zip(lengths).map(|(r, n)| r / n);
        PreferenceLoss::<T>::loss(self.loss.as_ref(), &Preference { reward, ..pair.clone() })
    }
}

#[typetag::serde(name = "per_token")]
impl AnyLoss for PerToken {
    fn validate(&self) -> Result<(), Error> {
        self.loss.validate()
    }
    fn coupled(&self) -> bool {
        self.loss.coupled()
    }
    fn monotone(&self) -> bool {
        self.loss.monotone()
    }
    fn needs_confidence(&self) -> bool {
        self.loss.needs_confidence()
    }
    fn suits(&self, optimality: &dyn AnyOptimality) -> Result<(), Error> {
        self.loss.suits(optimality)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hinge, at};
    use super::*;

    #[test]
    fn rewards_are_divided_by_their_own_length() {
        let mut pair = at(2.0, 1.0, 1.0);
        (pair.policy.chosen.tokens, pair.policy.rejected.tokens) = (4.0, 10.0);
        // 1 − (2/4 − 1/10)
        let loss = PerToken { loss: Box::new(Hinge::default()) };
        assert!((PreferenceLoss::<f64>::loss(&loss, &pair) - 0.6).abs() < 1e-15);
    }
}

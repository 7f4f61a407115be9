//! `target_margin`: any loss, asked for a margin of γ more.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss, read_loss};
use crate::optimality::AnyOptimality;
use crate::{Error, Number, Pair, check};

/// ℓ(r⁺ − γ, r⁻), with γ `self.gamma` and ℓ `self.loss`; φ(z − γ) for a loss on the margin (SimPO, arXiv:2405.14734,
/// eq. 6). γ is on the scale of rewards: TRL's `simpo_gamma`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetMargin {
    /// γ, in units of the reward.
    pub gamma: f64,
    /// ℓ, any loss on rewards.
    #[serde(deserialize_with = "read_loss")]
    pub loss: Box<dyn AnyLoss>,
}

impl<T: Number> PreferenceLoss<T> for TargetMargin
where
    dyn AnyLoss: PreferenceLoss<T>,
{
    fn loss(&self, pair: &Preference<T>) -> T {
        let reward = Pair::new(pair.reward.chosen.clone() - self.gamma, pair.reward.rejected.clone());
        PreferenceLoss::<T>::loss(self.loss.as_ref(), &Preference { reward, ..pair.clone() })
    }
}

#[typetag::serde(name = "target_margin")]
impl AnyLoss for TargetMargin {
    fn validate(&self) -> Result<(), Error> {
        check(self.gamma.is_finite(), "target_margin", "gamma", "a finite number", self.gamma)?;
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
    use super::super::{Logistic, at};
    use super::*;

    #[test]
    fn the_margin_is_short_by_gamma() {
        let loss = TargetMargin { gamma: 0.5, loss: Box::new(Logistic {}) };
        let expected: f64 = Logistic {}.loss(&at(0.75, 0.0, 1.0));
        assert_eq!(PreferenceLoss::<f64>::loss(&loss, &at(1.0, -0.25, 1.0)), expected);
    }

    #[test]
    fn gamma_must_be_finite() {
        assert!(TargetMargin { gamma: f64::NAN, loss: Box::new(Logistic {}) }.validate().is_err());
    }
}

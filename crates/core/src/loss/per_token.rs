//! `per_token`: any loss, on rewards divided by the length.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss, read_loss, wants_rewards};
use crate::{Error, Number};

/// ℓ(r⁺/n⁺, r⁻/n⁻), with n the scored tokens of a completion and ℓ `self.loss`.
///
/// Under the reverse KL this is averaging by `mean`; under another divergence it isn't, for f′(u)/n is not f′(u^(1/n)).
/// It is what TRL's `ipo` and `sigmoid_norm` do, and how an averaged loss and a summed one share one objective. The
/// composition of formalism 𝒜 π* = 𝓑_{β,𝒜μ}\[R\] is the averaging operator's, and to be preferred.
#[doc = include_str!("../../equations/loss-per-token.html")]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerToken {
    /// ℓ, any loss that reads rewards, and no scores.
    #[serde(deserialize_with = "read_loss")]
    pub loss: Box<dyn AnyLoss>,
}

// ANCHOR: formula
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
// ANCHOR_END: formula

#[typetag::serde(name = "per_token")]
impl AnyLoss for PerToken {
    fn inside(&self) -> Vec<&dyn AnyLoss> {
        vec![self.loss.as_ref()]
    }
    fn validate(&self) -> Result<(), Error> {
        wants_rewards("per_token", self.loss.as_ref())?;
        if self.loss.reads().scores {
            return Err(Error::Configuration(format!(
                "loss \"per_token\" divides rewards, and loss \"{}\" inside it reads scores beside them, which would be \
                 whole: use averaging \"mean\"",
                self.loss.typetag_name()
            )));
        }
        self.loss.validate()
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::{Aot, Hinge, Supervised, at};
    use super::*;

    // ANCHOR: what_would_not_be_divided_is_refused
    #[test]
    fn what_would_not_be_divided_is_refused() {
        let said = |loss: Box<dyn AnyLoss>| PerToken { loss }.validate().unwrap_err().to_string();
        assert!(said(Box::<Supervised>::default()).ends_with("loss \"supervised\" inside it reads none"));
        assert!(said(Box::<Aot>::default()).contains("loss \"aot\" inside it reads scores beside them"));
    }
    // ANCHOR_END: what_would_not_be_divided_is_refused

    // ANCHOR: rewards_are_divided_by_their_own_length
    #[test]
    fn rewards_are_divided_by_their_own_length() {
        let mut pair = at(2.0, 1.0, 1.0);
        (pair.policy.chosen.tokens, pair.policy.rejected.tokens) = (4.0, 10.0);
        // 1 − (2/4 − 1/10)
        let loss = PerToken { loss: Box::new(Hinge::default()) };
        assert_abs_diff_eq!(PreferenceLoss::<f64>::loss(&loss, &pair), 0.6, epsilon = 1e-15);
    }
    // ANCHOR_END: rewards_are_divided_by_their_own_length
}

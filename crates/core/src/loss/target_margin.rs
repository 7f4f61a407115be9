//! `target_margin`: any loss, asked for a margin of γ more.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss, read_loss, wants_rewards};
use crate::{Error, Number, Pair, check};

/// ℓ(r⁺ − γ, r⁻), with γ `self.gamma` and ℓ `self.loss`; φ(z − γ) for a loss on the margin (SimPO, arXiv:2405.14734,
/// eq. 6). γ is on the scale of rewards: TRL's `simpo_gamma`.
#[doc = include_str!("../../equations/loss-target-margin.html")]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetMargin {
    /// γ, in units of the reward.
    pub gamma: f64,
    /// ℓ, any loss that reads rewards.
    #[serde(deserialize_with = "read_loss")]
    pub loss: Box<dyn AnyLoss>,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for TargetMargin
where
    dyn AnyLoss: PreferenceLoss<T>,
{
    fn loss(&self, pair: &Preference<T>) -> T {
        let reward = Pair::new(pair.reward.chosen.clone() - self.gamma, pair.reward.rejected.clone());
        PreferenceLoss::<T>::loss(self.loss.as_ref(), &Preference { reward, ..pair.clone() })
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "target_margin")]
impl AnyLoss for TargetMargin {
    fn inside(&self) -> Vec<&dyn AnyLoss> {
        vec![self.loss.as_ref()]
    }
    fn validate(&self) -> Result<(), Error> {
        check(self.gamma.is_finite(), "target_margin", "gamma", "a finite number", self.gamma)?;
        wants_rewards("target_margin", self.loss.as_ref())?;
        self.loss.validate()
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::{Aot, AotUnpaired, Logistic, Supervised, at, batch};
    use super::*;

    // ANCHOR: the_margin_is_short_by_gamma
    #[test]
    fn the_margin_is_short_by_gamma() {
        let loss = TargetMargin { gamma: 0.5, loss: Box::new(Logistic {}) };
        let expected: f64 = Logistic {}.loss(&at(0.75, 0.0, 1.0));
        assert_eq!(PreferenceLoss::<f64>::loss(&loss, &at(1.0, -0.25, 1.0)), expected);
    }
    // ANCHOR_END: the_margin_is_short_by_gamma

    #[test]
    fn sorting_across_the_batch_keeps_the_target() {
        // At π = μ every δ is −γ: ln(1 + e^5) = 5.00672.
        let scores = [(-1.0, -4.0), (-2.5, -0.5), (-3.0, -3.0)];
        for loss in [Box::new(Aot::default()) as Box<dyn AnyLoss>, Box::new(AotUnpaired::default())] {
            let loss = TargetMargin { gamma: 5.0, loss };
            loss.validate().unwrap();
            let found = loss.loss(&batch(&scores, &scores, 0.1)).0;
            assert_abs_diff_eq!(found[..], [5f64.exp().ln_1p(); 3][..], epsilon = 1e-12);
        }
    }

    #[test]
    fn a_loss_that_reads_no_rewards_is_refused() {
        let said =
            TargetMargin { gamma: 0.5, loss: Box::new(Supervised::default()) }.validate().unwrap_err().to_string();
        assert_eq!(
            said,
            "loss \"target_margin\" would be ignored: it changes rewards, and loss \"supervised\" inside it reads none"
        );
    }

    #[test]
    fn gamma_must_be_finite() {
        assert!(TargetMargin { gamma: f64::NAN, loss: Box::new(Logistic {}) }.validate().is_err());
    }
}

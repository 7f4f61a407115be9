//! `wpo`: any loss, weighed by how likely the policy is to write the pair.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss, Reads, read_loss};
use crate::{Error, Number};

/// w⁺ w⁻ ℓ, with w = exp((1/n) Σ_t [ln π_t − ln Σ_v π_v²]) of each completion, through which no gradient flows, and ℓ
/// `self.loss` (WPO with aligned weights, arXiv:2406.11827, eq. 2 and 4).
#[doc = include_str!("../../equations/loss-wpo.html")]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wpo {
    /// ℓ, any loss that doesn't couple the pairs of a batch.
    #[serde(deserialize_with = "read_loss")]
    pub loss: Box<dyn AnyLoss>,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Wpo
where
    dyn AnyLoss: PreferenceLoss<T>,
{
    fn loss(&self, pair: &Preference<T>) -> T {
        let confidence = pair.policy.chosen.confidence.clone() + pair.policy.rejected.confidence.clone();
        PreferenceLoss::<T>::loss(self.loss.as_ref(), pair) * confidence.detach().bounded_exp()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "wpo")]
impl AnyLoss for Wpo {
    fn inside(&self) -> Vec<&dyn AnyLoss> {
        vec![self.loss.as_ref()]
    }
    fn reads(&self) -> Reads {
        Reads { confidence: true, ..self.loss.reads() }
    }
    fn validate(&self) -> Result<(), Error> {
        if self.loss.reads().whole_batch {
            return Err(Error::Configuration(format!(
                "loss \"wpo\" weighs each pair, and loss \"{}\" sorts them across the batch: they don't go together",
                self.loss.typetag_name()
            )));
        }
        self.loss.validate()
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::{Aot, Logistic, at};
    use super::*;

    // ANCHOR: the_weight_is_the_product_of_both_confidences
    #[test]
    fn the_weight_is_the_product_of_both_confidences() {
        let mut pair = at(0.0, 0.0, 1.0);
        (pair.policy.chosen.confidence, pair.policy.rejected.confidence) = (-1.0, 0.25);
        let loss = PreferenceLoss::<f64>::loss(&Wpo { loss: Box::new(Logistic {}) }, &pair);
        assert_abs_diff_eq!(loss, std::f64::consts::LN_2 * (-0.75f64).exp(), epsilon = 1e-15);
    }
    // ANCHOR_END: the_weight_is_the_product_of_both_confidences

    #[test]
    fn a_coupled_loss_is_refused() {
        let said = Wpo { loss: Box::new(Aot::default()) }.validate().unwrap_err().to_string();
        assert!(said.ends_with("loss \"aot\" sorts them across the batch: they don't go together"), "{said}");
    }
}

//! `weighted_sum`: several losses at once.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss, Reads, read_loss};
use crate::{Error, Number, check};

/// ℓ = Σ_k w_k ℓ_k, with w_k the `weight` and ℓ_k the `loss` of term k: MPO (arXiv:2411.10442, eq. 1), RPO, CPO, ORPO,
/// SLiC-HF, and TRL's `loss_weights`.
#[doc = include_str!("../../equations/loss-weighted-sum.html")]
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedSum {
    /// The terms, at least one.
    pub terms: Vec<Term>,
}

/// A term of a [`WeightedSum`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// w, a finite number.
    pub weight: f64,
    /// ℓ, any loss.
    #[serde(deserialize_with = "read_loss")]
    pub loss: Box<dyn AnyLoss>,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for WeightedSum
where
    dyn AnyLoss: PreferenceLoss<T>,
{
    fn loss(&self, pair: &Preference<T>) -> T {
        let terms = self.terms.iter().map(|t| PreferenceLoss::<T>::loss(t.loss.as_ref(), pair) * t.weight);
        terms.reduce(|sum, term| sum + term).expect("validate() asks for a term")
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "weighted_sum")]
impl AnyLoss for WeightedSum {
    fn inside(&self) -> Vec<&dyn AnyLoss> {
        self.terms.iter().map(|t| t.loss.as_ref()).collect()
    }
    fn reads(&self) -> Reads {
        // A term of weight 0 is there for its place in the table alone.
        let counting = self.terms.iter().filter(|t| t.weight != 0.0);
        counting.map(|t| t.loss.reads()).fold(Reads::default(), std::ops::BitOr::bitor)
    }
    fn validate(&self) -> Result<(), Error> {
        check(!self.terms.is_empty(), "weighted_sum", "terms", "a list of at least 1", 0.0)?;
        for term in &self.terms {
            check(term.weight.is_finite(), "weighted_sum", "weight", "a finite number", term.weight)?;
        }
        self.inside().iter().try_for_each(|l| l.validate())
    }
    fn monotone(&self) -> bool {
        self.terms.iter().all(|t| t.weight >= 0.0 && t.loss.monotone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;
    use serde_json::json;

    // ANCHOR: terms_add_up
    #[test]
    fn terms_add_up() {
        let loss: Box<dyn AnyLoss> = serde_json::from_value(json!({"type": "weighted_sum", "terms": [
            {"weight": 2.0, "loss": {"type": "hinge"}}, {"weight": 3.0, "loss": {"type": "apo_zero"}},
        ]}))
        .unwrap();
        // At rewards 0 and 0: 2 · 1 + 3 · 1
        assert_eq!(PreferenceLoss::<f64>::loss(loss.as_ref(), &at(0.0, 0.0, 1.0)), 5.0);
    }
    // ANCHOR_END: terms_add_up

    #[test]
    fn faults_inside_are_named() {
        let read = |terms| {
            let table = json!({"type": "weighted_sum", "terms": terms});
            let loss = crate::registry::read::<Box<dyn AnyLoss>>("loss", &table);
            loss.and_then(|l| l.validate()).unwrap_err().to_string()
        };
        assert_eq!(read(json!([])), "weighted_sum: terms must be a list of at least 1, got 0");
        let said = read(json!([{"weight": 1.0, "loss": {"type": "hing"}}]));
        assert!(said.contains("unknown loss \"hing\"; there are: aot, aot_unpaired"), "{said}");
        let said = read(json!([{"weight": 1.0, "loss": {"type": "cdpo", "label_smoothing": 0.9}}]));
        assert_eq!(said, "cdpo: label_smoothing must be at least 0 and below 0.5, got 0.9");
    }
}

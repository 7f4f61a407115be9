//! `aot`: the chosen ratios of the batch, as a distribution, above the reference's.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Cdpo, Preference, PreferenceLoss, Reads};
use crate::optimality::AnyOptimality;
use crate::{Error, Number, Pair};

/// cDPO on δ_(i) = (z + βe)_(i) − (βe)_(i), with z the margin r⁺ − r⁻ and e = s(μ; y⁺) − s(μ; y⁻) over the batch, each of
/// the two sorted by itself: the i-th smallest meets the i-th smallest. z + βe is βd, d = s(π; y⁺) − s(π; y⁻) (AOT for
/// pairs, arXiv:2406.05882, eq. 8), or short of it by what a wrapper takes from the margin. One pair alone is cDPO.
/// **Couples the pairs of the batch.**
#[doc = include_str!("../../equations/loss-aot.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aot {
    /// ε from 0 to below ½, as in `cdpo`.
    #[serde(default)]
    pub label_smoothing: f64,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Aot {
    fn loss(&self, pair: &Preference<T>) -> T {
        let scores = pair.reference.as_ref().map(|c| c.score.clone());
        let e = (scores.chosen - scores.rejected) * pair.beta;
        let reward = Pair::new((pair.margin() + e.clone()).sorted(), e.sorted());
        Cdpo { label_smoothing: self.label_smoothing }.loss(&Preference { reward, ..pair.clone() })
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "aot")]
impl AnyLoss for Aot {
    fn validate(&self) -> Result<(), Error> {
        Cdpo { label_smoothing: self.label_smoothing }.validate()
    }
    fn reads(&self) -> Reads {
        Reads { scores: true, whole_batch: true, ..Reads::REWARDS }
    }
    fn suits(&self, optimality: &dyn AnyOptimality) -> Result<(), Error> {
        if optimality.typetag_name() == "reverse_kl" {
            return Ok(());
        }
        Err(Error::Configuration(format!(
            "loss \"aot\" compares the policy's score differences with the reference's: it goes with optimality \
             \"reverse_kl\", not with \"{}\"",
            optimality.typetag_name()
        )))
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::batch;
    use super::*;
    use crate::optimality::{Odds, ReverseKl};

    // ANCHOR: quantiles_meet_quantiles
    #[test]
    fn quantiles_meet_quantiles() {
        // d = (3, 1), e = (0, 5); sorted (1, 3) and (0, 5): δ = (1, −2)
        let pair = batch(&[(-1.0, -4.0), (-2.0, -3.0)], &[(-2.0, -2.0), (-1.0, -6.0)], 1.0);
        let loss = Aot { label_smoothing: 0.0 }.loss(&pair).0;
        for (loss, delta) in loss.iter().zip([1.0f64, -2.0]) {
            assert_abs_diff_eq!(*loss, (-delta).exp().ln_1p(), epsilon = 1e-15);
        }
    }
    // ANCHOR_END: quantiles_meet_quantiles

    #[test]
    fn it_goes_with_the_reverse_kl_alone() {
        assert!(Aot::default().suits(&ReverseKl { beta: 1.0 }).is_ok());
        let said = Aot::default().suits(&Odds { beta: 1.0 }).unwrap_err().to_string();
        assert!(said.ends_with("it goes with optimality \"reverse_kl\", not with \"odds\""), "{said}");
    }
}

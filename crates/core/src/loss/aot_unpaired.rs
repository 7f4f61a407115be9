//! `aot_unpaired`: the chosen rewards of the batch, as a distribution, above the rejected ones.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Cdpo, Preference, PreferenceLoss, Reads};
use crate::{Error, Number};

/// cDPO on z_(i) = r⁺_(i) − r⁻_(i), where the chosen rewards of the batch and the rejected ones are each sorted by
/// themselves: the i-th smallest meets the i-th smallest (unpaired AOT, arXiv:2406.05882, eq. 10). One pair alone is
/// cDPO. **Couples the pairs of the batch.**
#[doc = include_str!("../../equations/loss-aot-unpaired.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AotUnpaired {
    /// ε from 0 to below ½, as in `cdpo`.
    #[serde(default)]
    pub label_smoothing: f64,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for AotUnpaired {
    fn loss(&self, pair: &Preference<T>) -> T {
        let reward = pair.reward.clone().map(T::sorted);
        Cdpo { label_smoothing: self.label_smoothing }.loss(&Preference { reward, ..pair.clone() })
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "aot_unpaired")]
impl AnyLoss for AotUnpaired {
    fn validate(&self) -> Result<(), Error> {
        Cdpo { label_smoothing: self.label_smoothing }.validate()
    }
    fn reads(&self) -> Reads {
        Reads { whole_batch: true, ..Reads::REWARDS }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::batch;
    use super::*;

    // ANCHOR: quantiles_meet_quantiles
    #[test]
    fn quantiles_meet_quantiles() {
        // At μ = 0 and β = 1 the rewards are the scores: r⁺ = (−1, −3), r⁻ = (−2, −7), so z = (−3 + 7, −1 + 2).
        let pair = batch(&[(-1.0, -2.0), (-3.0, -7.0)], &[(0.0, 0.0), (0.0, 0.0)], 1.0);
        let loss = AotUnpaired { label_smoothing: 0.0 }.loss(&pair).0;
        for (loss, z) in loss.iter().zip([4.0f64, 1.0]) {
            assert_abs_diff_eq!(*loss, (-z).exp().ln_1p(), epsilon = 1e-15);
        }
    }
    // ANCHOR_END: quantiles_meet_quantiles
}

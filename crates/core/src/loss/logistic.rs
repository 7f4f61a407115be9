//! `logistic`: the loss of DPO.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// φ(z) = −ln σ(z), with z the margin r⁺ − r⁻ (arXiv:2305.18290, eq. 7). At z = 0: ln 2.
#[doc = include_str!("../../equations/loss-logistic.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logistic {}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Logistic {
    fn loss(&self, pair: &Preference<T>) -> T {
        -pair.margin().log_sigmoid()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "logistic")]
impl AnyLoss for Logistic {
    fn monotone(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::at;
    use super::*;

    // ANCHOR: values
    #[test]
    fn values() {
        assert_eq!(Logistic {}.loss(&at(0.0, 0.0, 0.1)), std::f64::consts::LN_2);
        // −ln σ(1) = ln(1 + 1/e)
        assert_abs_diff_eq!(Logistic {}.loss(&at(1.5, 0.5, 0.1)), (1.0 + (-1f64).exp()).ln(), epsilon = 1e-15);
    }
    // ANCHOR_END: values
}

//! `squared`: the loss of IPO.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// φ(z) = (z/β − 1/(2β))², with z the margin r⁺ − r⁻ and β the one inside the rewards (arXiv:2310.12036, eq. 17).
/// At z = 0: 1/(4β²).
#[doc = include_str!("../../equations/loss-squared.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Squared {}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Squared {
    fn loss(&self, pair: &Preference<T>) -> T {
        ((pair.margin() - 0.5) * (1.0 / pair.beta)).square()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "squared")]
impl AnyLoss for Squared {}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    // ANCHOR: values
    #[test]
    fn values() {
        // 1/(4 · 0.5²) = 1
        assert_eq!(Squared {}.loss(&at(0.0, 0.0, 0.5)), 1.0);
        // Least where the log-ratio margin is 1/(2β): z = 1/2.
        assert_eq!(Squared {}.loss(&at(0.75, 0.25, 0.5)), 0.0);
    }
    // ANCHOR_END: values
}

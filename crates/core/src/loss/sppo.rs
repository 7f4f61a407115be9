//! `sppo`: self-play preference optimisation with hard labels.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// ℓ = (r⁺/β − 1/(2β))² + (r⁻/β + 1/(2β))², with r⁺ and r⁻ the rewards and β the one inside them (SPPO,
/// arXiv:2405.00675, eq. 4.7, with a win probability of 1 for the chosen). At r⁺ = r⁻ = 0: 1/(2β²).
#[doc = include_str!("../../equations/loss-sppo.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sppo {}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Sppo {
    fn loss(&self, pair: &Preference<T>) -> T {
        let [up, down] = [pair.reward.chosen.clone(), pair.reward.rejected.clone()];
        ((up - 0.5) * (1.0 / pair.beta)).square() + ((down + 0.5) * (1.0 / pair.beta)).square()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "sppo")]
impl AnyLoss for Sppo {}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    // ANCHOR: values
    #[test]
    fn values() {
        // 1/(2 · 0.5²) = 2
        assert_eq!(Sppo {}.loss(&at(0.0, 0.0, 0.5)), 2.0);
        assert_eq!(Sppo {}.loss(&at(0.5, -0.5, 0.5)), 0.0);
        // β = 1: (2 − ½)² + (1 + ½)² = 4.5
        assert_eq!(Sppo {}.loss(&at(2.0, 1.0, 1.0)), 4.5);
    }
    // ANCHOR_END: values
}

//! `hinge`: the loss of SLiC.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::{Error, Number, check};

/// φ(z) = max(0, δ − z), with z the margin r⁺ − r⁻ and δ `self.delta` (arXiv:2305.10425, eq. 1; with a reference and
/// δ = 1 as in arXiv:2309.06657). At z = 0: δ.
#[doc = include_str!("../../equations/loss-hinge.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hinge {
    /// δ > 0, the margin from which on nothing is charged; 1 if left out.
    #[serde(default = "one")]
    pub delta: f64,
}

/// The usual margin.
fn one() -> f64 {
    1.0
}

impl Default for Hinge {
    fn default() -> Self {
        Self { delta: one() }
    }
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Hinge {
    fn loss(&self, pair: &Preference<T>) -> T {
        (-pair.margin() + self.delta).relu()
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "hinge")]
impl AnyLoss for Hinge {
    fn monotone(&self) -> bool {
        true
    }
    fn validate(&self) -> Result<(), Error> {
        let holds = self.delta > 0.0 && self.delta.is_finite();
        check(holds, "hinge", "delta", "a finite number greater than 0", self.delta)
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    // ANCHOR: values
    #[test]
    fn values() {
        assert_eq!(Hinge::default().loss(&at(0.0, 0.0, 1.0)), 1.0);
        assert_eq!(Hinge::default().loss(&at(0.75, 0.5, 1.0)), 0.75);
        assert_eq!(Hinge::default().loss(&at(3.0, 0.5, 1.0)), 0.0);
        assert_eq!(Hinge { delta: 2.5 }.loss(&at(1.5, 0.5, 1.0)), 1.5);
    }
    // ANCHOR_END: values

    #[test]
    fn delta_must_be_positive() {
        let said = Hinge { delta: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "hinge: delta must be a finite number greater than 0, got 0");
    }
}

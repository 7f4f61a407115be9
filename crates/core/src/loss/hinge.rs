//! `hinge`: the loss of SLiC.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss};
use crate::Number;

/// φ(z) = max(0, 1 − z), with z the margin r⁺ − r⁻ (arXiv:2305.10425; with a reference as in arXiv:2309.06657). At z = 0: 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hinge {}

impl<T: Number> PreferenceLoss<T> for Hinge {
    fn loss(&self, pair: &Preference<T>) -> T {
        (-pair.margin() + 1.0).relu()
    }
}

#[typetag::serde(name = "hinge")]
impl AnyLoss for Hinge {}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    #[test]
    fn values() {
        assert_eq!(Hinge {}.loss(&at(0.0, 0.0, 1.0)), 1.0);
        assert_eq!(Hinge {}.loss(&at(0.75, 0.5, 1.0)), 0.75);
        assert_eq!(Hinge {}.loss(&at(3.0, 0.5, 1.0)), 0.0);
    }
}

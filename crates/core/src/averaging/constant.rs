//! `constant`: one length for all.

use serde::{Deserialize, Serialize};

use super::{AnyAveraging, AveragingOperator};
use crate::{Error, Pair, check};

/// ω_t = 1/L for every completion: the sum at β/L. An ablation: it tells what averaging does from what a smaller β does.
#[doc = include_str!("../../equations/averaging-constant.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// L > 0, in tokens.
    pub length: f64,
}

// ANCHOR: formula
impl AveragingOperator for Constant {
    fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
        lengths.map(|n| vec![1.0 / self.length; n])
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "constant")]
impl AnyAveraging for Constant {
    fn validate(&self) -> Result<(), Error> {
        let holds = self.length > 0.0 && self.length.is_finite();
        check(holds, "constant", "length", "a finite number greater than 0", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ANCHOR: the_completions_own_length_does_not_enter
    #[test]
    fn the_completions_own_length_does_not_enter() {
        let w = Constant { length: 4.0 }.weights(Pair::new(1, 3), 0);
        assert_eq!(w, Pair::new(vec![0.25], vec![0.25; 3]));
    }
    // ANCHOR_END: the_completions_own_length_does_not_enter

    #[test]
    fn length_must_be_positive() {
        let said = Constant { length: 0.0 }.validate().unwrap_err().to_string();
        assert_eq!(said, "constant: length must be a finite number greater than 0, got 0");
    }
}

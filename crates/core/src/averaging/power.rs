//! `power`: between the sum and the mean.

use serde::{Deserialize, Serialize};

use super::{AnyAveraging, AveragingOperator};
use crate::{Error, Pair, check};

/// ω_t = n^(−α), with n the number of scored tokens of the completion: the sum at α = 0, the mean at α = 1.
#[doc = include_str!("../../equations/averaging-power.html")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// α from 0 (sum) to 1 (mean).
    pub alpha: f64,
}

// ANCHOR: formula
impl AveragingOperator for Power {
    fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
        lengths.map(|n| vec![(n as f64).powf(-self.alpha); n])
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "power")]
impl AnyAveraging for Power {
    fn validate(&self) -> Result<(), Error> {
        check((0.0..=1.0).contains(&self.alpha), "power", "alpha", "between 0 and 1", self.alpha)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mean, Sum};
    use super::*;

    // ANCHOR: its_ends_are_sum_and_mean
    #[test]
    fn its_ends_are_sum_and_mean() {
        let lengths = Pair::new(3, 8);
        assert_eq!(Power { alpha: 0.0 }.weights(lengths, 0), Sum {}.weights(lengths, 0));
        assert_eq!(Power { alpha: 1.0 }.weights(lengths, 0), Mean {}.weights(lengths, 0));
        // 4^(−1/2) = 1/2
        assert_eq!(Power { alpha: 0.5 }.weights(Pair::new(4, 1), 0).chosen, vec![0.5; 4]);
    }
    // ANCHOR_END: its_ends_are_sum_and_mean

    #[test]
    fn alpha_has_a_range() {
        let said = Power { alpha: 1.5 }.validate().unwrap_err().to_string();
        assert_eq!(said, "power: alpha must be between 0 and 1, got 1.5");
    }
}

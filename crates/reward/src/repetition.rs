//! `repetition`: the share of repeated n-grams, as a control.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::error::parameter;
use crate::{AnyReward, Error, Reward, Sample};

/// −(1 − d/m): d of the m n-grams of tokens are distinct. 0 repeats nothing; a completion of fewer than n tokens neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repetition {
    /// Tokens in an n-gram, 1 or more.
    pub n: usize,
}

/// The share of the n-grams of `tokens` that have been there before, 0 to 1.
pub fn repeated(tokens: &[u32], n: usize) -> f64 {
    let grams = tokens.windows(n);
    let count = grams.len();
    if count == 0 {
        return 0.0;
    }
    1.0 - grams.collect::<HashSet<_>>().len() as f64 / count as f64
}

impl Reward for Repetition {
    fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
        samples.iter().map(|s| Ok(0.0 - repeated(s.counted("repetition")?, self.n))).collect()
    }
}

#[typetag::serde(name = "repetition")]
impl AnyReward for Repetition {
    fn validate(&self) -> Result<(), Error> {
        if self.n == 0 { Err(parameter("repetition", "n", "1 or more", self.n)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_n_grams_count_against() {
        let score = |tokens, n| {
            let sample = Sample { prompt: "p", completion: "c", tokens, row: 1 };
            Repetition { n }.scores(&[sample]).unwrap()[0]
        };
        assert_eq!(score(&[1, 2, 3, 4], 2), 0.0);
        // (1 2), (2 1), (1 2), (2 1): two of four are distinct.
        assert_eq!(score(&[1, 2, 1, 2, 1], 2), -0.5);
        assert_eq!(score(&[7, 7, 7, 7], 1), -0.75);
        assert_eq!(score(&[7, 7], 3), 0.0);
    }
}

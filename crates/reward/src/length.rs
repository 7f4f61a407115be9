//! `length`: the number of tokens, as a control.

use serde::{Deserialize, Serialize};

use crate::{AnyReward, Error, Reward, Sample};

/// n, the tokens of the completion, its stop token included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Length {}

impl Reward for Length {
    fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
        samples.iter().map(|s| Ok(s.counted("length")?.len() as f64)).collect()
    }
}

#[typetag::serde(name = "length")]
impl AnyReward for Length {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_with_the_stop_token() {
        let sample = |tokens| Sample { prompt: "p", completion: " a b", tokens, row: 3 };
        assert_eq!(Length {}.scores(&[sample(&[5, 6, 2])]).unwrap(), [3.0]);
        let said = Length {}.scores(&[sample(&[])]).unwrap_err().to_string();
        assert_eq!(said, "row 3: reward \"length\" goes by tokens, and nobody counted them: name the model");
        assert_eq!(Length {}.scores(&[Sample { completion: "", ..sample(&[]) }]).unwrap(), [0.0]);
    }
}

//! Rewards: what a generation is worth, by name.
//!
//! A [`Reward`] scores generations; [`AnyReward`] gives it a name in configuration, as losses have one. [`labels`] draws
//! preferences from scores, and [`world`] is a world of texts whose reward, and whose best policies, are known exactly.

mod command;
mod error;
pub mod labels;
mod length;
mod repetition;
pub mod world;

use std::fmt::Debug;

use collimate_core::registry;
use serde_json::Value;

pub use command::Command;
pub use error::Error;
pub use length::Length;
pub use repetition::{Repetition, repeated};
pub use world::World;

/// One generation, as a reward sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The completion as text.
    pub completion: &'a str,
    /// The completion's tokens, the stop token included; empty where nobody counted them.
    pub tokens: &'a [u32],
    /// The row of the prompt in its file, from 1.
    pub row: usize,
}

impl Sample<'_> {
    /// The tokens, for a reward that can't do without.
    ///
    /// # Errors
    /// A completion without tokens.
    pub fn counted(&self, reward: &str) -> Result<&[u32], Error> {
        if self.tokens.is_empty() && !self.completion.is_empty() {
            let why = format!("reward \"{reward}\" goes by tokens, and nobody counted them: name the model");
            return Err(Error::Sample { row: self.row, why });
        }
        Ok(self.tokens)
    }
}

/// What generations are worth; one mandatory method.
///
/// The reward itself, and the two lines that give it a name in configuration:
///
/// ```
/// use collimate_reward::{AnyReward, Error, Reward, Sample};
/// use serde::{Deserialize, Serialize};
///
/// /// The number of exclamation marks, negated.
/// #[derive(Debug, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Calm {}
///
/// impl Reward for Calm {
///     fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
///         Ok(samples.iter().map(|s| -(s.completion.matches('!').count() as f64)).collect())
///     }
/// }
///
/// #[typetag::serde(name = "calm")]
/// impl AnyReward for Calm {}
///
/// let calm = collimate_reward::read(&serde_json::json!({"type": "calm"})).unwrap();
/// let sample = Sample { prompt: "Well?", completion: " No!", tokens: &[], row: 1 };
/// assert_eq!(collimate_reward::scores(&*calm, &[sample]).unwrap(), [-1.0]);
/// ```
pub trait Reward: Debug + Send + Sync {
    /// The score of each sample, in their order; higher is better.
    ///
    /// What is slow to open is opened with the first call and kept.
    ///
    /// # Errors
    /// A sample that can't be scored, by its row.
    fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error>;
}

/// A [`Reward`] that configuration knows by name.
#[typetag::serde(tag = "type")]
pub trait AnyReward: Reward {
    /// Checks the parameters, and nothing outside this process; the default has none.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The names of the rewards that are linked, sorted.
pub fn names() -> Vec<&'static str> {
    registry::names::<Box<dyn AnyReward>>()
}

/// Reads a reward from its table, `{"type": "length"}`, or from its name alone where nothing else need be said.
///
/// # Errors
/// An unknown name, a missing, unknown or ill-typed key, a parameter out of range.
pub fn read(value: &Value) -> Result<Box<dyn AnyReward>, Error> {
    let reward: Box<dyn AnyReward> = match value {
        Value::String(name) => registry::read("reward", &serde_json::json!({ "type": name }))?,
        table => registry::read("reward", table)?,
    };
    reward.validate()?;
    Ok(reward)
}

/// The score of each sample; a reward that doesn't give one finite number for each is at fault.
///
/// # Errors
/// Whatever the reward says; a count that is another, a number that isn't finite.
pub fn scores(reward: &dyn AnyReward, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    let scores = reward.scores(samples)?;
    let name = reward.typetag_name();
    if scores.len() != samples.len() {
        let why = format!("reward \"{name}\" gives {} scores for {} samples", scores.len(), samples.len());
        return Err(Error::Sample { row: samples[0].row, why });
    }
    match samples.iter().zip(&scores).find(|(_, score)| !score.is_finite()) {
        Some((sample, score)) => {
            let why = format!("reward \"{name}\" gives {score}; expected a finite number");
            Err(Error::Sample { row: sample.row, why })
        }
        None => Ok(scores),
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    /// A reward that gives what it was told to.
    #[derive(Debug, Serialize, Deserialize)]
    struct Told {
        scores: Vec<f64>,
        by: f64,
    }

    impl Reward for Told {
        fn scores(&self, _: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
            Ok(self.scores.iter().map(|s| s / self.by).collect())
        }
    }

    #[typetag::serde(name = "told")]
    impl AnyReward for Told {}

    #[test]
    fn rewards_are_read_by_name_from_inside_and_outside() {
        let names = names();
        for name in ["command", "length", "repetition", "told", "world"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert_eq!(read(&json!("length")).unwrap().typetag_name(), "length");
        let said = |v: Value| read(&v).unwrap_err().to_string();
        let unknown = said(json!("lenght"));
        assert!(unknown.starts_with("unknown reward \"lenght\"; there are: command, length, "), "{unknown}");
        assert_eq!(said(json!({"type": "repetition"})), "reward \"repetition\": missing field `n`");
        assert_eq!(
            said(json!({"type": "repetition", "n": 0})),
            "reward.n (of \"repetition\"): must be 1 or more, got 0"
        );
        assert!(said(json!({"type": "length", "n": 1})).contains("unknown field `n`"));
        assert!(said(json!({"type": "repetition", "n": "three"})).starts_with("reward.n (of \"repetition\"): "));
    }

    #[test]
    fn one_finite_number_each_or_an_error() {
        let sample = |row| Sample { prompt: "p", completion: " c", tokens: &[], row };
        let samples = [sample(4), sample(7)];
        let said = |scores: Vec<f64>, by| super::scores(&Told { scores, by }, &samples).map_err(|e| e.to_string());
        assert_eq!(said(vec![2.0, 1.0], 1.0), Ok(vec![2.0, 1.0]));
        assert_eq!(said(vec![2.0], 1.0).unwrap_err(), "row 4: reward \"told\" gives 1 scores for 2 samples");
        assert_eq!(
            said(vec![0.5, 0.0], 0.0).unwrap_err(),
            "row 4: reward \"told\" gives inf; expected a finite number"
        );
    }
}

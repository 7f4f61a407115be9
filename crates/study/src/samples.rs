//! The measurements of a cell: what `collimate measure` writes, a line an answer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::Error;
use crate::statistics::Observation;

/// An answer of a policy to a held-out prompt.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Sample {
    /// The prompt's row.
    pub prompt: u64,
    /// Which answer to it.
    pub sample: u64,
    /// Its tokens.
    pub tokens: u64,
    /// Whether it ended by itself.
    pub ended: bool,
    /// The reward's score.
    pub score: f64,
    /// Share of 3-grams that were there before.
    pub repetition: f64,
    /// ln π of all its tokens.
    pub log_prob: f64,
    /// ln μ of them.
    pub log_reference: f64,
    /// The objective's reward of it.
    #[serde(default)]
    pub implicit_reward: Option<f64>,
    /// Its text.
    pub completion: String,
    /// Score of the prompt's chosen text.
    #[serde(default)]
    pub chosen_score: Option<f64>,
    /// Tokens of the prompt's chosen text.
    #[serde(default)]
    pub chosen_tokens: Option<u64>,
}

/// Reads a file of measurements.
///
/// # Errors
/// A file that can't be read, has no line, or has a line that is none.
pub fn read(path: &Path) -> Result<Vec<Sample>, Error> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let fault = |i: usize, what: String| Error::Line { path: path.to_owned(), line: i + 1, what };
    let all = text.lines().enumerate().map(|(i, line)| serde_json::from_str(line).map_err(|e| fault(i, e.to_string())));
    let all = all.collect::<Result<Vec<Sample>, Error>>()?;
    if all.is_empty() {
        return Err(fault(0, "expected an answer a line, the file is empty".into()));
    }
    Ok(all)
}

/// The SFT policy's answers, by prompt and number.
#[derive(Clone, Debug)]
pub struct Reference {
    answers: BTreeMap<(u64, u64), Sample>,
    prompts: Vec<u64>,
}

impl Reference {
    /// Takes the answers that all others are compared with.
    pub fn new(all: Vec<Sample>) -> Self {
        let mut prompts: Vec<u64> = all.iter().map(|s| s.prompt).collect();
        prompts.sort_unstable();
        prompts.dedup();
        Self { answers: all.into_iter().map(|s| ((s.prompt, s.sample), s)).collect(), prompts }
    }

    /// How many prompts there are.
    pub fn prompts(&self) -> usize {
        self.prompts.len()
    }

    /// Its answers.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> + Clone {
        self.answers.values()
    }

    /// Pairs a policy's answers with those here; `seed` is which of its setting's seeds the policy is of.
    ///
    /// # Errors
    /// Answers to other prompts, or more or fewer of them.
    pub fn pair(&self, samples: &[Sample], seed: usize, path: &Path) -> Result<Vec<Observation>, Error> {
        let fault = |line: usize, what: String| Error::Line { path: path.to_owned(), line, what };
        if samples.len() != self.answers.len() {
            let (here, there) = (samples.len(), self.answers.len());
            return Err(fault(here, format!("{here} answers, and the SFT policy has {there}")));
        }
        let pair = |(i, s): (usize, &Sample)| {
            let missing = || fault(i + 1, format!("prompt {}, sample {}: the SFT policy has none", s.prompt, s.sample));
            let sft = self.answers.get(&(s.prompt, s.sample)).ok_or_else(missing)?;
            Ok(Observation {
                seed,
                prompt: self.prompts.binary_search(&s.prompt).expect("its answer is here"),
                length: s.tokens as f64,
                score: s.score,
                ended: s.ended,
                repetition: s.repetition,
                log_ratio: s.log_prob - s.log_reference,
                implicit_reward: s.implicit_reward,
                sft_length: sft.tokens as f64,
                sft_score: sft.score,
                chosen_score: s.chosen_score,
            })
        };
        samples.iter().enumerate().map(pair).collect()
    }
}

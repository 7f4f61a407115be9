//! What can go wrong with rewards, said so that the sample can be found.

use std::path::PathBuf;

/// Everything this crate refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sample that can't be scored.
    #[error("row {row}: {why}")]
    Sample {
        /// The row of its prompt, from 1.
        row: usize,
        /// What is amiss.
        why: String,
    },
    /// A reward command that doesn't do as it should.
    #[error("reward command `{command}`: {why}")]
    Command {
        /// The command line.
        command: String,
        /// Which sample, what was expected and what came.
        why: String,
    },
    /// A folder that isn't a world that can be read.
    #[error("{}: {why}", path.display())]
    World {
        /// The file.
        path: PathBuf,
        /// What is amiss, and what was expected.
        why: String,
    },
    /// A reward that can't be used as it is configured, or a model behind it that can't be opened.
    #[error("{0}")]
    Configuration(String),
    /// A name or key that the registry refuses, or a world of the exact theory.
    #[error(transparent)]
    Core(#[from] collimate_core::Error),
}

/// A parameter out of its range, as the registry says it of one of another type.
pub(crate) fn parameter(reward: &str, key: &str, rule: &str, value: impl std::fmt::Display) -> Error {
    Error::Configuration(format!("reward.{key} (of \"{reward}\"): must be {rule}, got {value}"))
}

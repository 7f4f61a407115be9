//! What can go wrong between a folder on disk and log-probabilities.

use std::path::PathBuf;

/// A fault in a checkpoint or in what is asked of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder does not hold a Hugging Face checkpoint.
    #[error("{} is not a checkpoint folder: {why}; expected config.json, tokenizer.json and model.safetensors", path.display())]
    NotACheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is amiss.
        why: String,
    },
    /// A file that is not the JSON it should be.
    #[error("{}: {why}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is amiss.
        why: String,
    },
    /// A key of `config.json` that is missing, of the wrong kind, or asks for what this decoder lacks.
    #[error("{}: {key}: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is amiss, and what was expected.
        why: String,
    },
    /// A tensor that is missing, unexpected, or of the wrong shape or type.
    #[error("{}: tensor {name}: {why}", path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What is amiss, and what was expected.
        why: String,
    },
    /// A safetensors file that can't be read as one.
    #[error("{}: not a whole safetensors file: {why}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is amiss.
        why: String,
    },
    /// A `pytorch_model.bin` that holds something else than tensors, or is broken.
    #[error("{}: {why}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is amiss.
        why: String,
    },
    /// A file that can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A type of numbers that a device lacks.
    #[error("the device has no {name} numbers; it has: {known}")]
    Precision {
        /// The type asked for.
        name: &'static str,
        /// The types that it has, separated by commas.
        known: String,
    },
    /// Adapters, or a part of a network, that can't be as asked for.
    #[error("{0}")]
    Part(String),
    /// An option of sampling that has no meaning.
    #[error("{0}")]
    Sampling(String),
    /// A sequence that the model can't take.
    #[error("{0}")]
    Sequence(String),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

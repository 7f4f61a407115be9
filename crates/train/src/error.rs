//! What can go wrong in a training run.

/// A fault of a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting outside its range.
    #[error("{key} must be {rule}, got {value}")]
    Setting {
        /// The configuration key.
        key: &'static str,
        /// The range allowed.
        rule: &'static str,
        /// What was given.
        value: f64,
    },
    /// Settings that exclude each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// What the best policy is can't be told as it was asked for.
    #[error("{0}")]
    Best(String),
    /// A step holds more than it may, however it is computed.
    #[error(
        "max_memory_mib {allowed}: the smallest micro-batch, with every layer recomputed and the fewest logits held, takes \
         {needed} MiB, {fixed} of them parameters, gradients and moments; bf16 or adapters (use_peft) take less, and so do \
         shorter texts (max_length)"
    )]
    Memory {
        /// What it may hold, in MiB.
        allowed: usize,
        /// What it would hold, in MiB.
        needed: usize,
        /// What does not depend on the batch, in MiB.
        fixed: usize,
    },
    /// The data set has no pairs.
    #[error("there are no pairs to train on")]
    NoPairs,
    /// A share of the prompts that leaves nothing to evaluate on, or nothing to train on.
    #[error(
        "eval_split {share} of {count} {of} leaves no row to {what} on; expected a share of at least one of them, and \
             not of all"
    )]
    Split {
        /// The share asked for.
        share: f64,
        /// How many it is a share of,
        count: usize,
        /// and what these are.
        of: &'static str,
        /// "evaluate" or "train".
        what: &'static str,
    },
    /// The model refuses a batch.
    #[error("{place}: {source}")]
    Model {
        /// The rows that the batch was made of.
        place: String,
        /// What the model says.
        source: collimate_model::Error,
    },
    /// The objective has no proper weights for a pair.
    #[error("row {row}: {source}")]
    Weights {
        /// The row of the pair.
        row: usize,
        /// What the objective says.
        source: collimate_core::Error,
    },
    /// At step 0 policy and reference are the same model, but the loss is not what it must then be.
    #[error(
        "step 0: policy and reference are the same model, so the loss must be {expected}, but it is {got}; the largest \
         difference between their log-probabilities of a completion is {difference} nats. The reference scores are of \
         other tokens, another template or another model, or scoring does not repeat itself"
    )]
    SelfCheck {
        /// The method's known value.
        expected: f64,
        /// The loss measured.
        got: f64,
        /// Largest |s(π) − s(μ)| of the batch, in nats.
        difference: f64,
    },
    /// The loss or the gradient stopped being a number.
    #[error("step {step}: {what} is {value}; lower learning_rate, or check the data behind rows {rows}")]
    NotFinite {
        /// The optimiser step, counted from 1.
        step: usize,
        /// "the loss" or "the gradient norm".
        what: &'static str,
        /// Its value.
        value: f64,
        /// The rows of the step.
        rows: String,
    },
    /// In 16 bits the gradient came out as 0 although the loss has one.
    #[error(
        "the gradient of rows {rows} vanishes in float16, however it is scaled; compute in bf16 or float32, or check the \
         model's weights"
    )]
    Vanished {
        /// The rows of the step.
        rows: String,
    },
    /// A task that does not keep to its contract.
    #[error("the task laid out or judged {got} {what} where there are {expected}")]
    Task {
        /// "units", "rows of metrics" or "coefficients".
        what: &'static str,
        /// How many it made.
        got: usize,
        /// How many there are.
        expected: usize,
    },
    /// A unit that the reference was not asked about: a fault of this program.
    #[error("row {row}: the reference has no scores of it")]
    NoReference {
        /// The row.
        row: String,
    },
    /// Reading or writing state failed.
    #[error(transparent)]
    Checkpoint(#[from] collimate_model::Error),
    /// A file of reference scores that can't be used.
    #[error("{}: {why}", path.display())]
    Cache {
        /// The file.
        path: std::path::PathBuf,
        /// What is amiss.
        why: String,
    },
    /// Workers that train together, and don't do the same.
    #[error(transparent)]
    Workers(#[from] collimate_workers::Error),
    /// Whoever watches the run could not go on.
    #[error("{0}")]
    Observer(String),
    /// The run was told to stop, and has saved its state.
    #[error("stopped after step {0}")]
    Stopped(usize),
    /// A checkpoint that does not belong to this run.
    #[error("{0}")]
    Resume(String),
}

//! What a run trains: units that are laid out together, where they come from, and what is asked of them.

use burn::tensor::Device;
use collimate_model::{Error as ModelError, Layout};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Sizes of a unit, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// What is laid out: the last token of a completion is no input.
    pub inputs: usize,
    /// What is scored, at most.
    pub scored: usize,
    /// The number of rows.
    pub rows: usize,
    /// The longest row.
    pub longest: usize,
    /// What is read, a prompt counted for each of its completions.
    pub read: usize,
}

/// What is laid out together: a prompt and its completions, with whatever a task wants to know beside them.
pub trait Unit {
    /// Its sizes; with `share`, the prompt is laid out once.
    fn size(&self, share: bool) -> Size;

    /// Adds it to a batch by one call of [`Layout::push`].
    ///
    /// # Errors
    /// As [`Layout::push`].
    fn lay_out(&self, layout: &mut Layout, share: bool) -> Result<(), ModelError>;

    /// Where it came from, for messages: a row's number.
    fn place(&self) -> String;

    /// A hash of all that the reference's scores depend on.
    fn key(&self) -> u128;
}

/// Units in a fixed order.
pub trait Source<U> {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Unit `i`.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    fn get(&self, i: usize) -> U;

    /// The sizes of unit `i`; see [`Unit::size`].
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    fn size(&self, i: usize, share: bool) -> Size;
}

impl<U> Source<U> for Box<dyn Source<U>> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn get(&self, i: usize) -> U {
        (**self).get(i)
    }
    fn size(&self, i: usize, share: bool) -> Size {
        (**self).size(i, share)
    }
}

impl<U: Unit + Clone> Source<U> for Vec<U> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
    fn get(&self, i: usize) -> U {
        self[i].clone()
    }
    fn size(&self, i: usize, share: bool) -> Size {
        self[i].size(share)
    }
}

/// What a model says of one completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// ln π(y_t | x, y_<t) of each scored token, in nats; of a reward model, its number there.
    pub log_probs: Vec<f32>,
    /// ln Σ_v π(v | x, y_<t)² of each, where the task asked for it.
    pub log_collisions: Option<Vec<f32>>,
}

/// A unit, with what was said of its completions, in the order in which it laid them out.
#[derive(Debug)]
pub struct Seen<'a, U> {
    /// The unit.
    pub unit: &'a U,
    /// By the policy.
    pub policy: &'a [Said],
    /// Token log-probabilities by the reference; there, if the task asked for them.
    pub reference: Option<&'a [Vec<f32>]>,
}

/// What a task says of units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// For each unit its metrics, in the order of [`Task::metrics`]; the first is its share of the loss: the loss of a
    /// batch is the mean of these over its units.
    pub rows: Vec<Vec<f64>>,
    /// The derivative of the batch's loss with respect to ln π of each scored token, unit by unit and completion by
    /// completion.
    pub coefficients: Vec<f32>,
}

/// How a metric of units becomes one of their step; over several steps it is the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pool {
    /// Their mean.
    #[default]
    Mean,
    /// Their least.
    Min,
    /// Their greatest.
    Max,
}

/// What a step optimises.
pub trait Task {
    /// What it is about.
    type Unit: Unit;
    /// What it must know of a whole batch, however that is cut into micro-batches.
    type Totals: Copy;

    /// The names of what it reports of each unit, under TRL's names where TRL has them; the first is `loss`.
    fn metrics(&self) -> Vec<&'static str>;

    /// How a metric becomes one of a step.
    fn pool(&self, _metric: &str) -> Pool {
        Pool::Mean
    }

    /// Whether it compares with a reference.
    fn needs_reference(&self) -> bool {
        false
    }

    /// Whether it reads [`Said::log_collisions`].
    fn needs_collisions(&self) -> bool {
        false
    }

    /// Whether the units of a batch depend on each other. Then [`judge`](Self::judge) is given the whole batch of an
    /// optimiser step at once; otherwise it may be given any part of it.
    fn coupled(&self) -> bool {
        false
    }

    /// What it must know of a batch.
    fn totals(&self, batch: &[Self::Unit]) -> Self::Totals;

    /// Judges units of a batch; arithmetic that wants a device may use the model's.
    ///
    /// # Errors
    /// Whatever makes the units unfit.
    fn judge(&self, units: &[Seen<'_, Self::Unit>], totals: Self::Totals, device: &Device) -> Result<Judgement, Error>;

    /// Looks at the first step of a run whose policy is still its reference, which `rounding` is the precision of, and
    /// whose loss was `loss`.
    ///
    /// # Errors
    /// A loss that can't be.
    fn check_start(&self, _units: &[Seen<'_, Self::Unit>], _loss: f64, _rounding: f64) -> Result<(), Error> {
        Ok(())
    }
}

//! The formalism of direct alignment, and nothing else.
//!
//! A method is a triple: an [averaging operator](averaging::AveragingOperator) 𝒜, which weighs the token
//! log-probabilities of a completion; an [optimality operator](optimality::OptimalityOperator) 𝓑, whose inverse turns
//! scores into implicit rewards; and a [preference loss](loss::PreferenceLoss) ℓ on the rewards of a pair.
//! [`Objective`] composes the three, as types or as what configuration names; [`methods`] names the compositions,
//! [`trl`] reads another trainer's keys, and [`tabular`] computes the exact optimum on finite sets.
//!
//! Every formula is written once, generic over the [`Number`] it runs on: `f64` or a [`Column`] (the exact oracle), or
//! a [`Batch`] on any device.

pub mod averaging;
pub mod loss;
pub mod methods;
pub mod number;
pub mod objective;
pub mod optimality;
pub mod registry;
pub mod tabular;
pub mod trl;

pub use averaging::AveragingOperator;
pub use loss::{Preference, PreferenceLoss, Reads};
pub use methods::Method;
pub use number::{Batch, Column, Number};
pub use objective::{
    AveragedDpo, AveragedIpo, AveragedSlic, Completion, Dpo, Evaluation, Ipo, Objective, Slic, Totals,
};
pub use optimality::{OptimalityOperator, Scores};

use serde::{Deserialize, Serialize};

/// Something held once for the chosen completion of a pair and once for the rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair<T> {
    /// Of the preferred completion y⁺.
    pub chosen: T,
    /// Of the dispreferred completion y⁻.
    pub rejected: T,
}

impl<T> Pair<T> {
    /// A pair from its two halves, chosen first.
    pub fn new(chosen: T, rejected: T) -> Self {
        Self { chosen, rejected }
    }

    /// Applies `f` to both halves, chosen first.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Pair<U> {
        Pair { chosen: f(self.chosen), rejected: f(self.rejected) }
    }

    /// Joins two pairs half by half.
    pub fn zip<U>(self, other: Pair<U>) -> Pair<(T, U)> {
        Pair { chosen: (self.chosen, other.chosen), rejected: (self.rejected, other.rejected) }
    }

    /// Borrows both halves.
    pub fn as_ref(&self) -> Pair<&T> {
        Pair { chosen: &self.chosen, rejected: &self.rejected }
    }

    /// Both halves as an array, chosen first.
    pub fn into_array(self) -> [T; 2] {
        [self.chosen, self.rejected]
    }
}

/// A parameter, or a set of them, that the mathematics does not allow.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter lies outside its range.
    #[error("{owner}: {key} must be {rule}, got {value}")]
    Parameter {
        /// The operator or loss, by its registered name.
        owner: &'static str,
        /// The configuration key.
        key: &'static str,
        /// The range allowed, as in "greater than 0".
        rule: &'static str,
        /// What was given.
        value: f64,
    },
    /// A name that nothing is registered under.
    #[error("unknown {kind} \"{name}\"; there are: {known}")]
    Unknown {
        /// What was looked for: "method", "loss" …
        kind: &'static str,
        /// The name given.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// An averaging operator that doesn't say one weight per token.
    #[error(
        "averaging \"{averaging}\" gives {said} for a {side} completion of {tokens} tokens; expected one per token, \
         finite and not negative"
    )]
    Weights {
        /// The operator, by its registered name.
        averaging: &'static str,
        /// What it gave: "3 weights", "a weight of NaN".
        said: String,
        /// "chosen" or "rejected".
        side: &'static str,
        /// n, the scored tokens of that completion.
        tokens: usize,
    },
    /// A configuration that names a key wrongly or gives it a value of the wrong type.
    #[error("{0}")]
    Configuration(String),
}

/// Checks a parameter against its rule, the one way every constructor here says what it wants.
pub(crate) fn check(
    holds: bool,
    owner: &'static str,
    key: &'static str,
    rule: &'static str,
    value: f64,
) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Parameter { owner, key, rule, value }) }
}

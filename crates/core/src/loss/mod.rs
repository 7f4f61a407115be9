//! Preference losses ℓ(r⁺, r⁻): what a pair of rewards costs.

mod hinge;
mod logistic;
mod squared;

pub use hinge::Hinge;
pub use logistic::Logistic;
pub use squared::Squared;

use std::fmt::Debug;

use crate::{Batch, Error, Number, Pair};

/// What a loss is told about a pair; in a batch, about each pair at its place.
#[derive(Clone, Debug)]
pub struct Preference<T> {
    /// The implicit rewards r⁺ and r⁻, as the optimality operator gives them.
    pub reward: Pair<T>,
    /// The β that is inside the rewards.
    pub beta: f64,
}

impl<T: Number> Preference<T> {
    /// The margin z = r⁺ − r⁻.
    pub fn margin(&self) -> T {
        self.reward.chosen.clone() - self.reward.rejected.clone()
    }
}

/// A loss on the rewards of a pair; one mandatory method, written once for every [`Number`].
///
/// The loss itself, and the two lines that give it a name in configuration:
///
/// ```
/// use collimate_core::{Number, Preference, PreferenceLoss, loss::AnyLoss};
/// use serde::{Deserialize, Serialize};
///
/// /// φ(z) = e^(−z).
/// #[derive(Clone, Debug, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Exponential {}
///
/// impl<T: Number> PreferenceLoss<T> for Exponential {
///     fn loss(&self, pair: &Preference<T>) -> T {
///         (-pair.margin()).exp()
///     }
/// }
///
/// #[typetag::serde(name = "exponential")]
/// impl AnyLoss for Exponential {}
/// # fn main() {}
/// ```
pub trait PreferenceLoss<T: Number> {
    /// The loss of each pair; the mean over pairs is what training minimises.
    fn loss(&self, pair: &Preference<T>) -> T;
}

/// A [`PreferenceLoss`] that configuration knows by name.
#[typetag::serde(tag = "type")]
pub trait AnyLoss: PreferenceLoss<f64> + PreferenceLoss<Batch> + Debug + Send + Sync {
    /// Checks the parameters; the default accepts all.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) fn at(chosen: f64, rejected: f64, beta: f64) -> Preference<f64> {
    Preference { reward: Pair::new(chosen, rejected), beta }
}

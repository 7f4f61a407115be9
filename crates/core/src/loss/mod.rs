//! Preference losses ℓ(r⁺, r⁻): what a pair of rewards costs.

mod aot;
mod aot_unpaired;
mod apo_down;
mod apo_zero;
mod bco;
mod cdpo;
mod discopop;
mod dpop;
mod exo;
mod hinge;
mod logistic;
mod nca;
mod per_token;
mod robust;
mod sppo;
mod squared;
mod supervised;
mod target_margin;
mod weighted_sum;
mod wpo;

pub use aot::Aot;
pub use aot_unpaired::AotUnpaired;
pub use apo_down::ApoDown;
pub use apo_zero::ApoZero;
pub use bco::Bco;
pub use cdpo::Cdpo;
pub use discopop::Discopop;
pub use dpop::Dpop;
pub use exo::Exo;
pub use hinge::Hinge;
pub use logistic::Logistic;
pub use nca::Nca;
pub use per_token::PerToken;
pub use robust::Robust;
pub use sppo::Sppo;
pub use squared::Squared;
pub use supervised::{Over, Supervised};
pub use target_margin::TargetMargin;
pub use weighted_sum::{Term, WeightedSum};
pub use wpo::Wpo;

use std::fmt::Debug;

use serde::{Deserialize, Deserializer};

use crate::optimality::AnyOptimality;
use crate::{Batch, Column, Completion, Error, Number, Pair, Totals, registry};

/// What a loss is told about a pair; in a batch, about each pair at its place.
#[derive(Clone, Debug)]
pub struct Preference<T> {
    /// The implicit rewards r⁺ and r⁻, as the optimality operator gives them.
    pub reward: Pair<T>,
    /// The β that is inside the rewards.
    pub beta: f64,
    /// The completions under the policy; for losses that ask for more than rewards.
    pub policy: Pair<Completion<T>>,
    /// The completions under the reference, which mean nothing where the optimality operator has no reference.
    pub reference: Pair<Completion<T>>,
    /// The counts of the whole batch.
    pub totals: Totals,
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
pub trait AnyLoss: PreferenceLoss<f64> + PreferenceLoss<Column> + PreferenceLoss<Batch> + Debug + Send + Sync {
    /// Checks the parameters; the default accepts all.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Whether the loss of a pair depends on the other pairs of the batch; then the optimiser's whole batch must be
    /// given at once.
    fn coupled(&self) -> bool {
        false
    }
    /// Whether the loss never rises with r⁺ and never falls with r⁻; whoever says so is held to it by a law.
    fn monotone(&self) -> bool {
        false
    }
    /// Whether [`Completion::confidence`] is used; where it isn't, it need not be computed.
    fn needs_confidence(&self) -> bool {
        false
    }
    /// Checks that the loss makes sense on the rewards of that operator; the default accepts all.
    fn suits(&self, _optimality: &dyn AnyOptimality) -> Result<(), Error> {
        Ok(())
    }
}

/// Reads a loss inside another one, with the registry's readable errors.
fn read_loss<'de, D: Deserializer<'de>>(from: D) -> Result<Box<dyn AnyLoss>, D::Error> {
    registry::read("loss", &serde_json::Value::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// A pair with the rewards given, of one token each, and scores that have those rewards under the reverse KL.
#[cfg(test)]
pub(crate) fn at(chosen: f64, rejected: f64, beta: f64) -> Preference<f64> {
    let completion = |score| Completion { score, sum: score, tokens: 1.0, confidence: 0.0 };
    let reward = Pair::new(chosen, rejected);
    Preference {
        reward,
        beta,
        policy: reward.map(|r| completion(r / beta)),
        reference: Pair::new(completion(0.0), completion(0.0)),
        totals: Totals { pairs: 1, chosen_tokens: 1 },
    }
}

/// A batch with the scores (chosen, rejected) given, of one token each, and their rewards under the reverse KL.
#[cfg(test)]
pub(crate) fn batch(policy: &[(f64, f64)], reference: &[(f64, f64)], beta: f64) -> Preference<Column> {
    let column = |of: Vec<f64>| Completion {
        score: Column(of.clone()),
        sum: Column(of.clone()),
        tokens: Column(vec![1.0; of.len()]),
        confidence: Column(vec![0.0; of.len()]),
    };
    let pair = |of: &[(f64, f64)]| {
        Pair::new(of.iter().map(|s| s.0).collect(), of.iter().map(|s| s.1).collect::<Vec<_>>()).map(column)
    };
    let (policy, reference) = (pair(policy), pair(reference));
    let reward = policy.as_ref().zip(reference.as_ref()).map(|(p, r)| (p.score.clone() - r.score.clone()) * beta);
    let pairs = reward.chosen.0.len();
    Preference { reward, beta, policy, reference, totals: Totals { pairs, chosen_tokens: pairs } }
}

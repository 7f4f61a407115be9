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
    #[doc = include_str!("../../equations/cancel.html")]
    // ANCHOR: margin
    pub fn margin(&self) -> T {
        self.reward.chosen.clone() - self.reward.rejected.clone()
    }
    // ANCHOR_END: margin
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

/// What is in the box.
impl<T: Number, L: PreferenceLoss<T> + ?Sized> PreferenceLoss<T> for Box<L> {
    fn loss(&self, pair: &Preference<T>) -> T {
        (**self).loss(pair)
    }
}

/// What a loss reads of a [`Preference`], beside β and the counts of tokens and pairs, which are there for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// The implicit rewards.
    pub rewards: bool,
    /// [`Completion::score`], of the policy or of the reference.
    pub scores: bool,
    /// [`Completion::sum`].
    pub sums: bool,
    /// [`Completion::confidence`]; where nothing reads it, it is not computed.
    pub confidence: bool,
    /// The other pairs of the batch; then the optimiser's whole batch must be given at once.
    pub whole_batch: bool,
}

impl Reads {
    /// The rewards, and nothing else.
    pub const REWARDS: Self = Self { rewards: true, scores: false, sums: false, confidence: false, whole_batch: false };
}

/// What either reads.
impl std::ops::BitOr for Reads {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self {
            rewards: self.rewards | other.rewards,
            scores: self.scores | other.scores,
            sums: self.sums | other.sums,
            confidence: self.confidence | other.confidence,
            whole_batch: self.whole_batch | other.whole_batch,
        }
    }
}

/// A [`PreferenceLoss`] that configuration knows by name.
#[typetag::serde(tag = "type")]
pub trait AnyLoss: PreferenceLoss<f64> + PreferenceLoss<Column> + PreferenceLoss<Batch> + Debug + Send + Sync {
    /// The losses that this one is made of, if it is made of others: what they read and refuse, it does.
    fn inside(&self) -> Vec<&dyn AnyLoss> {
        Vec::new()
    }
    /// What the loss reads, held to it by a law. The default is what the losses inside read, or else
    /// [the rewards alone](Reads::REWARDS).
    fn reads(&self) -> Reads {
        self.inside().iter().map(|l| l.reads()).reduce(std::ops::BitOr::bitor).unwrap_or(Reads::REWARDS)
    }
    /// Checks the parameters, those of the losses inside included; the default has none of its own.
    fn validate(&self) -> Result<(), Error> {
        self.inside().iter().try_for_each(|l| l.validate())
    }
    /// Whether the loss never rises with r⁺ and never falls with r⁻; whoever says so is held to it by a law. The
    /// default is whether all losses inside say so, if there are any.
    fn monotone(&self) -> bool {
        let inside = self.inside();
        !inside.is_empty() && inside.iter().all(|l| l.monotone())
    }
    /// Checks that the loss, and those inside, make sense on the rewards of that operator; the default accepts all.
    fn suits(&self, optimality: &dyn AnyOptimality) -> Result<(), Error> {
        self.inside().iter().try_for_each(|l| l.suits(optimality))
    }
}

// By hand, since the macro would register it under a name.
impl AnyLoss for Box<dyn AnyLoss> {
    fn inside(&self) -> Vec<&dyn AnyLoss> {
        (**self).inside()
    }
    fn reads(&self) -> Reads {
        (**self).reads()
    }
    fn validate(&self) -> Result<(), Error> {
        (**self).validate()
    }
    fn monotone(&self) -> bool {
        (**self).monotone()
    }
    fn suits(&self, optimality: &dyn AnyOptimality) -> Result<(), Error> {
        (**self).suits(optimality)
    }
    fn typetag_name(&self) -> &'static str {
        (**self).typetag_name()
    }
    fn typetag_deserialize(&self) {}
}

/// Refuses a loss whose value wouldn't change with the rewards that a wrapper changes.
fn wants_rewards(wrapper: &str, loss: &dyn AnyLoss) -> Result<(), Error> {
    match loss.reads().rewards {
        true => Ok(()),
        false => Err(Error::Configuration(format!(
            "loss \"{wrapper}\" would be ignored: it changes rewards, and loss \"{}\" inside it reads none",
            loss.typetag_name()
        ))),
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

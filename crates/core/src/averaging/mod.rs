//! Averaging operators 𝒜_ω: how the token log-probabilities of a completion are weighed.
//!
//! An operator is a family of weights ω_t(y) ≥ 0 that depend on **lengths only**, never on the parameters of a model.
//! It defines the score s_ω(π; x, y) = Σ_t ω_t ln π(y_t | x, y_<t) and the policy
//! (𝒜_ω π)(y|x) = exp s_ω(π; x, y) / Z_𝒜(x) (arXiv:2406.19188). The weights are computed when a batch is built, and are
//! the same for the policy and for the reference.

mod constant;
mod down_sampled;
mod length_desensitised;
mod mean;
mod mean_end_apart;
mod power;
mod sum;

pub use constant::Constant;
pub use down_sampled::DownSampled;
pub use length_desensitised::LengthDesensitised;
pub use mean::Mean;
pub use mean_end_apart::MeanEndApart;
pub use power::Power;
pub use sum::Sum;

use std::fmt::Debug;

use crate::tabular::{log_sum_exp, normalise, root};
use crate::{Error, Pair};

/// 𝒜: the token weights of a pair of completions, and on a finite set the map of policies that they define.
///
/// One method is mandatory, [`weights`](Self::weights); the rest follows from it. To make an operator known by name to
/// configuration:
///
/// ```
/// use collimate_core::{AveragingOperator, Pair, averaging::AnyAveraging};
/// use serde::{Deserialize, Serialize};
///
/// /// ω_t = 1/√n.
/// #[derive(Clone, Debug, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Root {}
///
/// impl AveragingOperator for Root {
///     fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
///         lengths.map(|n| vec![1.0 / (n as f64).sqrt(); n])
///     }
/// }
///
/// #[typetag::serde(name = "root")]
/// impl AnyAveraging for Root {}
/// # fn main() {}
/// ```
pub trait AveragingOperator {
    /// The weights ω_t of the scored tokens, one per token: `chosen` has `lengths.chosen` of them, `rejected` likewise.
    ///
    /// `lengths` counts scored tokens, each at least 1 (a completion without tokens is refused before it gets here).
    /// `key` identifies the pair, and is the same in every epoch and batch layout: whatever is drawn at random is
    /// drawn from it.
    #[doc = include_str!("../../equations/score.html")]
    // ANCHOR: weights
    fn weights(&self, lengths: Pair<usize>, key: u64) -> Pair<Vec<f64>>;
    // ANCHOR_END: weights

    /// w(n) > 0, the weight of every token of a completion of n tokens, if n alone decides. Otherwise 𝒜 is no map of
    /// policies: it depends on the pair that a completion is in.
    ///
    /// The default compares what [`weights`](Self::weights) says beside completions of other lengths.
    fn weight(&self, tokens: usize) -> Option<f64> {
        let seen = [tokens, 1, 2 * tokens + 1].map(|other| self.weights(Pair::new(tokens, other), 0).chosen);
        let first = *seen[0].first()?;
        (first > 0.0 && seen.iter().flatten().all(|w| *w == first)).then_some(first)
    }

    /// 𝒜 on a finite set: (𝒜π)(y) = π(y)^w(n) / Z, in log-probabilities `[completions]` of `lengths` tokens. Nothing
    /// where [`weight`](Self::weight) is nothing.
    #[doc = include_str!("../../equations/averaging.html")]
    // ANCHOR: average
    fn average(&self, log_policy: &[f64], lengths: &[usize]) -> Option<Vec<f64>> {
        let weighed = log_policy.iter().zip(lengths).map(|(p, n)| Some(self.weight(*n)? * p));
        weighed.collect::<Option<Vec<_>>>().map(|w| normalise(&w))
    }
    // ANCHOR_END: average

    /// 𝒜⁻¹ on a finite set: (𝒜⁻¹q)(y) = (c q(y))^(1/w(n)) with c the one root of Σ = 1, in log-probabilities
    /// `[completions]`. Nothing where [`weight`](Self::weight) is nothing.
    #[doc = include_str!("../../equations/unaverage.html")]
    // ANCHOR: unaverage
    fn unaverage(&self, log_averaged: &[f64], lengths: &[usize]) -> Option<Vec<f64>> {
        let weights = lengths.iter().map(|n| self.weight(*n)).collect::<Option<Vec<_>>>()?;
        let at = |log_c: f64| log_averaged.iter().zip(&weights).map(|(q, w)| (q + log_c) / w).collect::<Vec<_>>();
        Some(at(-root(|c| log_sum_exp(&at(-c)), 0.0)))
    }
    // ANCHOR_END: unaverage
}

/// What is in the box.
impl<A: AveragingOperator + ?Sized> AveragingOperator for Box<A> {
    fn weights(&self, lengths: Pair<usize>, key: u64) -> Pair<Vec<f64>> {
        (**self).weights(lengths, key)
    }
    fn weight(&self, tokens: usize) -> Option<f64> {
        (**self).weight(tokens)
    }
    fn average(&self, log_policy: &[f64], lengths: &[usize]) -> Option<Vec<f64>> {
        (**self).average(log_policy, lengths)
    }
    fn unaverage(&self, log_averaged: &[f64], lengths: &[usize]) -> Option<Vec<f64>> {
        (**self).unaverage(log_averaged, lengths)
    }
}

/// An [`AveragingOperator`] that configuration knows by name.
#[typetag::serde(tag = "type")]
pub trait AnyAveraging: AveragingOperator + Debug + Send + Sync {
    /// Checks the parameters; the default accepts all.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

// By hand, since the macro would register it under a name.
impl AnyAveraging for Box<dyn AnyAveraging> {
    fn validate(&self) -> Result<(), Error> {
        (**self).validate()
    }
    fn typetag_name(&self) -> &'static str {
        (**self).typetag_name()
    }
    fn typetag_deserialize(&self) {}
}

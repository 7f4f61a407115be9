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
mod power;
mod sum;

pub use constant::Constant;
pub use down_sampled::DownSampled;
pub use length_desensitised::LengthDesensitised;
pub use mean::Mean;
pub use power::Power;
pub use sum::Sum;

use std::fmt::Debug;

use crate::{Error, Pair};

/// The token weights of a pair of completions.
///
/// One method is mandatory, [`weights`](Self::weights). To make an operator known by name to configuration:
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
    fn weights(&self, lengths: Pair<usize>, key: u64) -> Pair<Vec<f64>>;
}

/// An [`AveragingOperator`] that configuration knows by name.
#[typetag::serde(tag = "type")]
pub trait AnyAveraging: AveragingOperator + Debug + Send + Sync {
    /// Checks the parameters; the default accepts all.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

//! Optimality operators 𝓑_{β,μ}: from a reward to the best policy of the regularised problem
//! max_π E_{y∼π}[R(x,y)] − β D(π‖μ), and back to the implicit reward.

mod no_reference;
mod reverse_kl;

pub use no_reference::NoReference;
pub use reverse_kl::ReverseKl;

use std::fmt::Debug;

use crate::{Batch, Error, Number};

/// The inverse of 𝓑: the implicit reward of a completion from its scores, up to a term in the prompt alone.
///
/// [`reward`](OptimalityOperator::reward) is mandatory; it is written once, for every [`Number`].
pub trait OptimalityOperator<T: Number> {
    /// The implicit reward r(x, y).
    ///
    /// Let s be `policy`, the score s_ω(π; x, y) in nats, and m be `reference`, the score s_ω(μ; x, y) in nats.
    fn reward(&self, policy: T, reference: T) -> T;
}

/// An [`OptimalityOperator`] that configuration knows by name.
#[typetag::serde(tag = "type")]
pub trait AnyOptimality: OptimalityOperator<f64> + OptimalityOperator<Batch> + Debug + Send + Sync {
    /// β > 0, the strength of the regularisation.
    fn beta(&self) -> f64;
    /// Whether the reward depends on the reference μ; without it no reference pass is made.
    fn uses_reference(&self) -> bool;
    /// Checks the parameters.
    fn validate(&self) -> Result<(), Error>;
}

//! Optimality operators 𝓑_{β,μ}: from a reward to the best policy of the regularised problem
//! max_π E_{y∼π}[R(x,y)] − β D(π‖μ), and back to the implicit reward.

mod alpha_divergence;
mod alpha_shaped;
mod forward_kl;
mod jensen_shannon;
mod length_penalised;
mod no_reference;
mod odds;
mod reverse_kl;

pub use alpha_divergence::AlphaDivergence;
pub use alpha_shaped::AlphaShaped;
pub use forward_kl::ForwardKl;
pub use jensen_shannon::JensenShannon;
pub use length_penalised::LengthPenalised;
pub use no_reference::NoReference;
pub use odds::Odds;
pub use reverse_kl::ReverseKl;

use std::fmt::Debug;

use crate::{Batch, Column, Error, Number, check};

/// What an operator is told about one completion; in a batch, about each completion at its place.
#[derive(Clone, Debug)]
pub struct Scores<T> {
    /// The score s_ω(π; x, y) under the policy, in nats.
    pub policy: T,
    /// The score s_ω(μ; x, y) under the reference, in nats.
    pub reference: T,
    /// n, the number of scored tokens.
    pub tokens: T,
}

impl<T: Number> Scores<T> {
    /// s_ω(π) − s_ω(μ), in nats.
    pub fn log_ratio(&self) -> T {
        self.policy.clone() - self.reference.clone()
    }
}

/// The inverse of 𝓑: the implicit reward of a completion from its scores, up to a term in the prompt alone.
///
/// [`reward`](OptimalityOperator::reward) is mandatory; it is written once, for every [`Number`], and rises with the
/// policy's score:
///
/// ```
/// use collimate_core::{Error, Number, OptimalityOperator, Scores, optimality::AnyOptimality};
/// use serde::{Deserialize, Serialize};
///
/// /// r = β (s(π) − s(μ)/2): half a reference.
/// #[derive(Clone, Debug, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct HalfReference {
///     beta: f64,
/// }
///
/// impl<T: Number> OptimalityOperator<T> for HalfReference {
///     fn reward(&self, scores: &Scores<T>) -> T {
///         (scores.policy.clone() - scores.reference.clone() * 0.5) * self.beta
///     }
/// }
///
/// #[typetag::serde(name = "half_reference")]
/// impl AnyOptimality for HalfReference {
///     fn beta(&self) -> f64 {
///         self.beta
///     }
///     fn uses_reference(&self) -> bool {
///         true
///     }
/// }
/// # fn main() {}
/// ```
pub trait OptimalityOperator<T: Number> {
    /// The implicit reward r(x, y).
    fn reward(&self, scores: &Scores<T>) -> T;
}

/// An [`OptimalityOperator`] that configuration knows by name.
#[typetag::serde(tag = "type")]
pub trait AnyOptimality:
    OptimalityOperator<f64> + OptimalityOperator<Column> + OptimalityOperator<Batch> + Debug + Send + Sync
{
    /// β > 0, the strength of the regularisation.
    fn beta(&self) -> f64;
    /// Whether the reward depends on the reference μ; without it no reference pass is made.
    fn uses_reference(&self) -> bool;
    /// Checks the parameters; the default asks for β > 0.
    fn validate(&self) -> Result<(), Error> {
        check_beta(self.typetag_name(), self.beta())
    }
    /// The forward direction, for one completion: the policy's score s at which the implicit reward is `reward`, given
    /// the reference's score m and n. It is −∞ where every score is worth more and +∞ where none is worth as much.
    ///
    /// [`World::best`](crate::tabular::World::best) makes 𝓑\[R\] of it. The default solves for s by bisection.
    fn score(&self, reward: f64, reference: f64, tokens: f64) -> f64 {
        by_bisection(self, reward, reference, tokens)
    }
}

/// Solves r(s) = `reward` for the policy's score s, for any operator whose reward rises with s.
pub fn by_bisection<O>(operator: &O, reward: f64, reference: f64, tokens: f64) -> f64
where
    O: OptimalityOperator<f64> + ?Sized,
{
    let excess = |policy: f64| operator.reward(&Scores { policy, reference, tokens }) - reward;
    let reach = (0..24).map(|k| f64::from(1u32 << k));
    let Some(mut low) = reach.clone().map(|d| reference - d).find(|s| excess(*s) <= 0.0) else {
        return f64::NEG_INFINITY;
    };
    let Some(mut high) = reach.map(|d| reference + d).find(|s| excess(*s) >= 0.0) else {
        return f64::INFINITY;
    };
    // 100 halvings of an interval of at most 2^25 end below one unit in the last place.
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if excess(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The one rule that every β obeys.
pub(crate) fn check_beta(owner: &'static str, beta: f64) -> Result<(), Error> {
    check(beta > 0.0 && beta.is_finite(), owner, "beta", "a finite number greater than 0", beta)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that the forward direction undoes the reward at a few scores, and agrees with bisection.
    pub(crate) fn inverts(operator: &dyn AnyOptimality) {
        for policy in [-7.0, -2.5, -0.3] {
            for reference in [-5.0, -1.0] {
                let reward = operator.reward(&Scores { policy, reference, tokens: 4.0 });
                let exact = operator.score(reward, reference, 4.0);
                assert!((exact - policy).abs() < 1e-9, "{operator:?}: {policy} came back as {exact}");
                let searched = by_bisection(operator, reward, reference, 4.0);
                assert!((searched - policy).abs() < 1e-9, "{operator:?}: bisection found {searched}, not {policy}");
            }
        }
    }

    #[test]
    fn every_operator_and_its_forward_direction_agree() {
        inverts(&ReverseKl { beta: 0.3 });
        inverts(&NoReference { beta: 0.3 });
        inverts(&ForwardKl { beta: 0.3 });
        inverts(&JensenShannon { beta: 0.3 });
        inverts(&AlphaDivergence { beta: 0.3, alpha: 0.5 });
        inverts(&AlphaDivergence { beta: 0.3, alpha: 1.0 });
        inverts(&AlphaDivergence { beta: 0.3, alpha: 2.0 });
        inverts(&Odds { beta: 1.0 });
        inverts(&AlphaShaped { beta: 2.0, alpha: 0.25 });
        inverts(&AlphaShaped { beta: 2.0, alpha: -0.25 });
        inverts(&LengthPenalised { beta: 0.1, alpha: 0.02 });
    }
}

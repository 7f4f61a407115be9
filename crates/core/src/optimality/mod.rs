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

/// 𝓑 completion by completion, in both directions and up to a term in the prompt alone: the implicit reward from the
/// scores, and the policy's score from the reward.
///
/// [`reward`](OptimalityOperator::reward) is mandatory; it is written once, for every [`Number`], and rises with the
/// policy's score. [`score`](OptimalityOperator::score) is found from it, unless a closed form is given:
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
    /// 𝓑⁻¹: the implicit reward r(x, y) of a policy whose scores these are.
    #[doc = include_str!("../../equations/implicit.html")]
    fn reward(&self, scores: &Scores<T>) -> T;

    /// 𝓑: the policy's score at which the implicit reward is `reward`, given the reference's score and n. It is −∞ where
    /// every score is worth more and +∞ where none is worth as much. Without gradient, if it is left to the default.
    ///
    /// [`World::best`](crate::tabular::World::best) makes the policy 𝓑\[R\] of it. The default solves
    /// [`reward`](Self::reward) by [bisection](by_bisection).
    fn score(&self, reward: T, reference: T, tokens: T) -> T {
        by_bisection(self, reward, reference, tokens)
    }
}

/// What is in the box.
impl<T: Number, O: OptimalityOperator<T> + ?Sized> OptimalityOperator<T> for Box<O> {
    fn reward(&self, scores: &Scores<T>) -> T {
        (**self).reward(scores)
    }
    fn score(&self, reward: T, reference: T, tokens: T) -> T {
        (**self).score(reward, reference, tokens)
    }
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
}

// By hand, since the macro would register it under a name.
impl AnyOptimality for Box<dyn AnyOptimality> {
    fn beta(&self) -> f64 {
        (**self).beta()
    }
    fn uses_reference(&self) -> bool {
        (**self).uses_reference()
    }
    fn validate(&self) -> Result<(), Error> {
        (**self).validate()
    }
    fn typetag_name(&self) -> &'static str {
        (**self).typetag_name()
    }
    fn typetag_deserialize(&self) {}
}

/// Solves r(s) = `reward` for the policy's score s within 2^24 nats of the reference's, for any operator whose reward
/// rises with s.
pub fn by_bisection<T, O>(operator: &O, reward: T, reference: T, tokens: T) -> T
where
    T: Number,
    O: OptimalityOperator<T> + ?Sized,
{
    // r(s) − reward, and where that is above 0.
    let excess = |policy: &T| {
        let scores = Scores { policy: policy.clone(), reference: reference.clone(), tokens: tokens.clone() };
        (operator.reward(&scores) - reward.clone()).detach()
    };
    let (mut low, mut high) = (reference.clone().detach(), reference.clone().detach());
    for reach in (0..24).map(|k| f64::from(1u32 << k)) {
        low = low.clone() - excess(&low).step() * reach;
        high = high.clone() + (-excess(&high)).step() * reach;
    }
    // ln 1 = 0 where the end lies beyond, ln 0 = −∞ where no score does.
    let unreached = |beyond: T| (-beyond.step() + 1.0).ln();
    let (below, above) = (unreached(excess(&low)), unreached(-excess(&high)));
    // 100 halvings of an interval of at most 2^25 end below one unit in the last place.
    for _ in 0..100 {
        let middle = (low.clone() + high.clone()) * 0.5;
        let short = (-excess(&middle)).step();
        low = low.clone() + (middle.clone() - low) * short.clone();
        high = high.clone() + (middle - high) * (-short + 1.0);
    }
    (low + high) * 0.5 + below - above
}

/// The one rule that every β obeys.
pub(crate) fn check_beta(owner: &'static str, beta: f64) -> Result<(), Error> {
    check(beta > 0.0 && beta.is_finite(), owner, "beta", "a finite number greater than 0", beta)
}

#[cfg(test)]
mod tests {
    use approx::{abs_diff_eq, assert_abs_diff_eq};

    use super::*;

    /// Asserts that the forward direction undoes the reward at a few scores, and agrees with bisection.
    pub(crate) fn inverts(operator: &dyn AnyOptimality) {
        for policy in [-7.0, -2.5, -0.3] {
            for reference in [-5.0, -1.0] {
                let reward = operator.reward(&Scores { policy, reference, tokens: 4.0 });
                let exact = operator.score(reward, reference, 4.0);
                assert!(abs_diff_eq!(exact, policy, epsilon = 1e-9), "{operator:?}: {policy} came back as {exact}");
                let searched = by_bisection(operator, reward, reference, 4.0);
                assert!(
                    abs_diff_eq!(searched, policy, epsilon = 1e-9),
                    "{operator:?}: bisection found {searched}, not {policy}"
                );
            }
        }
    }

    #[test]
    fn bisection_finds_each_place_of_a_column_and_says_where_there_is_none() {
        // r = 0.5 (1 − 1/u), below 0.5 always: ln u = −ln(1 − 2r).
        let reward = Column(vec![0.25, -3.0, 0.625]);
        let reference = Column(vec![-4.0, -1.0, -1.0]);
        let found = by_bisection(&ForwardKl { beta: 0.5 }, reward, reference, Column(vec![1.0; 3])).0;
        assert_abs_diff_eq!(found[0], -4.0 + std::f64::consts::LN_2, epsilon = 1e-14);
        assert_abs_diff_eq!(found[1], -1.0 - 7f64.ln(), epsilon = 1e-14);
        assert_eq!(found[2], f64::INFINITY);
        // α = 2: r = u − 1, above −1 always.
        let found = by_bisection(&AlphaDivergence { beta: 1.0, alpha: 2.0 }, -1.5, -3.0, 1.0);
        assert_eq!(found, f64::NEG_INFINITY);
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

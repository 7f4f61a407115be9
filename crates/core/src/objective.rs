//! The composition of the three parts.

use serde::Serialize;
use serde_json::Value;

use crate::averaging::AnyAveraging;
use crate::loss::AnyLoss;
use crate::optimality::{AnyOptimality, OptimalityOperator, Scores};
use crate::registry;
use crate::{Batch, Column, Error, Number, Pair, Preference, PreferenceLoss};

pub use crate::methods::{Method, Parameter};

/// What an objective is told about one completion under one model; in a batch, about each completion at its place.
#[derive(Clone, Debug)]
pub struct Completion<T> {
    /// The score s_ω = Σ_t ω_t ln π(y_t | x, y_<t), in nats.
    pub score: T,
    /// The plain sum Σ_t ln π(y_t | x, y_<t), in nats.
    pub sum: T,
    /// n, the number of scored tokens.
    pub tokens: T,
    /// (1/n) Σ_t [ln π(y_t | x, y_<t) − ln Σ_v π(v | x, y_<t)²], in nats, under the policy; zero where
    /// [`Objective::needs_confidence`] says that it isn't asked for.
    pub confidence: T,
}

impl<T: Number> Completion<T> {
    /// A completion whose confidence isn't asked for.
    pub fn new(score: T, sum: T, tokens: T) -> Self {
        let confidence = score.constant(0.0);
        Self { score, sum, tokens, confidence }
    }
}

/// What the whole batch of an optimiser step holds, however it is cut into micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The number of pairs.
    pub pairs: usize,
    /// The number of scored tokens in chosen completions.
    pub chosen_tokens: usize,
}

/// What an objective says of a pair.
#[derive(Clone, Debug)]
pub struct Evaluation<T> {
    /// The share of each pair: the loss of the batch is the mean of these over all its pairs.
    pub loss: T,
    /// The implicit rewards of the objective.
    pub reward: Pair<T>,
}

/// A method: 𝒜, 𝓑 and ℓ composed, 𝒜 π* = 𝓑_{β, 𝒜μ}\[R\] (arXiv:2406.19188).
#[derive(Debug, Serialize)]
pub struct Objective {
    /// 𝒜: how the token log-probabilities are weighed.
    pub averaging: Box<dyn AnyAveraging>,
    /// 𝓑: how scores become rewards.
    pub optimality: Box<dyn AnyOptimality>,
    /// ℓ: what a pair of rewards costs.
    pub loss: Box<dyn AnyLoss>,
}

impl Objective {
    /// Composes the three parts.
    ///
    /// # Errors
    /// Parameters out of range, and a loss that doesn't go with the optimality operator.
    pub fn new(
        averaging: Box<dyn AnyAveraging>,
        optimality: Box<dyn AnyOptimality>,
        loss: Box<dyn AnyLoss>,
    ) -> Result<Self, Error> {
        averaging.validate()?;
        optimality.validate()?;
        loss.validate()?;
        loss.suits(optimality.as_ref())?;
        Ok(Self { averaging, optimality, loss })
    }

    /// Reads an objective from a table of the three parts.
    ///
    /// # Errors
    /// Unknown names, missing, unknown and ill-typed keys, and parameters out of range.
    pub fn from_value(value: &Value) -> Result<Self, Error> {
        const PARTS: [&str; 3] = ["averaging", "optimality", "loss"];
        let table = value
            .as_object()
            .ok_or_else(|| Error::Configuration(format!("objective: expected a table, got {value}")))?;
        if let Some(key) = table.keys().find(|k| !PARTS.contains(&k.as_str())) {
            return Err(Error::Configuration(format!("objective.{key}: unknown key; there are: {}", PARTS.join(", "))));
        }
        let part = |key| {
            table.get(key).ok_or_else(|| Error::Configuration(format!("objective.{key} is missing; expected a table")))
        };
        Self::new(
            registry::read("averaging", part("averaging")?)?,
            registry::read("optimality", part("optimality")?)?,
            registry::read("loss", part("loss")?)?,
        )
    }

    /// The same table that [`from_value`](Self::from_value) reads.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("operators serialise to plain tables")
    }

    /// The token weights of a pair; see [`AveragingOperator::weights`](crate::AveragingOperator::weights).
    pub fn weights(&self, lengths: Pair<usize>, key: u64) -> Pair<Vec<f64>> {
        self.averaging.weights(lengths, key)
    }

    /// Whether scores of a reference model are needed.
    pub fn uses_reference(&self) -> bool {
        self.optimality.uses_reference()
    }

    /// Whether the losses of a batch depend on each other across its pairs. Then `evaluate_batch` must be given the
    /// whole batch of the optimiser step at once; otherwise any cut into micro-batches gives the same value.
    pub fn coupled(&self) -> bool {
        self.loss.coupled()
    }

    /// Whether [`Completion::confidence`] is used.
    pub fn needs_confidence(&self) -> bool {
        self.loss.needs_confidence()
    }

    /// The loss and the rewards of one pair, exactly; a coupled loss takes it for the whole batch.
    pub fn evaluate(
        &self,
        policy: &Pair<Completion<f64>>,
        reference: &Pair<Completion<f64>>,
        totals: Totals,
    ) -> Evaluation<f64> {
        compose(self.optimality.as_ref(), self.loss.as_ref(), self.optimality.beta(), policy, reference, totals)
    }

    /// The loss and the rewards of each pair of a batch, exactly, on the host.
    pub fn evaluate_column(
        &self,
        policy: &Pair<Completion<Column>>,
        reference: &Pair<Completion<Column>>,
        totals: Totals,
    ) -> Evaluation<Column> {
        compose(self.optimality.as_ref(), self.loss.as_ref(), self.optimality.beta(), policy, reference, totals)
    }

    /// The loss and the rewards of each pair, on a device.
    pub fn evaluate_batch(
        &self,
        policy: &Pair<Completion<Batch>>,
        reference: &Pair<Completion<Batch>>,
        totals: Totals,
    ) -> Evaluation<Batch> {
        compose(self.optimality.as_ref(), self.loss.as_ref(), self.optimality.beta(), policy, reference, totals)
    }

    /// The loss where policy and reference agree (π = μ), if the method has a reference and that value is the same for
    /// every pair: ln 2 for the logistic loss, 1/(4β²) for the squared, 1 for the hinge. A run that starts elsewhere
    /// has a fault. A supervised term, a price on length or a weight by confidence makes it depend on the pair.
    pub fn loss_at_reference(&self) -> Option<f64> {
        let at = |score: [f64; 2], tokens: [usize; 2]| {
            let same = Pair::new((score[0], tokens[0]), (score[1], tokens[1])).map(|(score, n)| Completion {
                score,
                sum: score * n as f64,
                tokens: n as f64,
                confidence: score,
            });
            self.evaluate(&same, &same, Totals { pairs: 1, chosen_tokens: tokens[0] }).loss
        };
        let (one, other) = (at([-1.0, -1.0], [1, 1]), at([-2.0, -3.5], [3, 7]));
        (self.uses_reference() && one == other).then_some(one)
    }
}

fn compose<T: Number>(
    optimality: &(impl OptimalityOperator<T> + ?Sized),
    loss: &(impl PreferenceLoss<T> + ?Sized),
    beta: f64,
    policy: &Pair<Completion<T>>,
    reference: &Pair<Completion<T>>,
    totals: Totals,
) -> Evaluation<T> {
    let reward = policy.as_ref().zip(reference.as_ref()).map(|(p, r)| {
        optimality.reward(&Scores { policy: p.score.clone(), reference: r.score.clone(), tokens: p.tokens.clone() })
    });
    let pair =
        Preference { reward: reward.clone(), beta, policy: policy.clone(), reference: reference.clone(), totals };
    Evaluation { loss: loss.loss(&pair), reward }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    #[test]
    fn a_value_at_the_reference_is_given_only_where_there_is_one() {
        let at = |name: &str| Method::find(name).unwrap().objective(&Map::new()).unwrap().loss_at_reference();
        assert_eq!(at("dpo"), Some(std::f64::consts::LN_2));
        assert_eq!(at("aot"), Some(std::f64::consts::LN_2));
        // No reference; a price on length; a supervised term; a weight by confidence.
        for name in ["simpo", "r-dpo", "rpo", "wpo"] {
            assert_eq!(at(name), None, "{name}");
        }
    }

    #[test]
    fn parts_that_do_not_go_together_are_refused() {
        let said = Objective::from_value(&json!({
            "averaging": {"type": "sum"}, "optimality": {"type": "none", "beta": 1.0}, "loss": {"type": "aot"},
        }));
        assert!(said.unwrap_err().to_string().contains("it goes with optimality \"reverse_kl\""));
    }

    #[test]
    fn a_column_is_its_pairs_one_by_one() {
        let objective = Method::find("averaged-mpo").unwrap().objective(&Map::new()).unwrap();
        let totals = Totals { pairs: 2, chosen_tokens: 9 };
        let one = |a: f64, n: f64| Completion::new(a, a * n, n);
        let policy = [Pair::new(one(-1.0, 4.0), one(-2.0, 3.0)), Pair::new(one(-0.5, 5.0), one(-0.25, 8.0))];
        let reference = [Pair::new(one(-1.5, 4.0), one(-1.0, 3.0)), Pair::new(one(-0.75, 5.0), one(-0.5, 8.0))];
        let column = |of: &[Pair<Completion<f64>>; 2]| {
            let half = |f: fn(&Pair<Completion<f64>>) -> &Completion<f64>| Completion {
                score: Column(of.iter().map(|p| f(p).score).collect()),
                sum: Column(of.iter().map(|p| f(p).sum).collect()),
                tokens: Column(of.iter().map(|p| f(p).tokens).collect()),
                confidence: Column(vec![0.0; 2]),
            };
            Pair::new(half(|p| &p.chosen), half(|p| &p.rejected))
        };
        let together = objective.evaluate_column(&column(&policy), &column(&reference), totals);
        for i in 0..2 {
            let alone = objective.evaluate(&policy[i], &reference[i], totals);
            assert_eq!(together.loss.0[i], alone.loss);
            assert_eq!(together.reward.rejected.0[i], alone.reward.rejected);
        }
    }
}

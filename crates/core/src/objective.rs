//! The composition of the three parts.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::averaging::{AnyAveraging, Mean};
use crate::loss::{AnyLoss, Hinge, Logistic, Squared};
use crate::optimality::{AnyOptimality, OptimalityOperator, ReverseKl, Scores};
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
///
/// The three parts are types: averaged DPO is `Objective<Mean, ReverseKl, Logistic>`, or [`Dpo<Mean>`](Dpo). What
/// configuration makes is the same over boxed parts, plain `Objective`.
///
/// ```
/// use collimate_core::averaging::Mean;
/// use collimate_core::loss::Logistic;
/// use collimate_core::objective::{Completion, Dpo, Totals};
/// use collimate_core::optimality::ReverseKl;
/// use collimate_core::{Method, Pair};
///
/// let typed: Dpo<Mean> = Dpo::new(Mean {}, ReverseKl { beta: 2.0 }, Logistic {})?;
/// let named = Method::find("averaged-dpo")?.objective(&Default::default())?;
///
/// let policy = Pair::new(Completion::new(-1.0, -4.0, 4.0), Completion::new(-1.5, -3.0, 2.0));
/// let reference = Pair::new(Completion::new(-1.25, -5.0, 4.0), Completion::new(-1.25, -2.5, 2.0));
/// let totals = Totals { pairs: 1, chosen_tokens: 4 };
/// let loss: f64 = typed.evaluate(&policy, &reference, totals).loss;
/// // z = 2 · (0.25 + 0.25): −ln σ(1) = ln(1 + 1/e)
/// assert!((loss - (-1f64).exp().ln_1p()).abs() < 1e-15);
/// assert_eq!(loss, named.evaluate(&policy, &reference, totals).loss);
/// # Ok::<(), collimate_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Objective<A = Box<dyn AnyAveraging>, O = Box<dyn AnyOptimality>, L = Box<dyn AnyLoss>> {
    /// 𝒜: how the token log-probabilities are weighed.
    pub averaging: A,
    /// 𝓑: how scores become rewards.
    pub optimality: O,
    /// ℓ: what a pair of rewards costs.
    pub loss: L,
}

/// DPO on any average: −ln σ(z).
pub type Dpo<A> = Objective<A, ReverseKl, Logistic>;
/// IPO on any average: (z/β − 1/(2β))².
pub type Ipo<A> = Objective<A, ReverseKl, Squared>;
/// SLiC's hinge, with a reference, on any average: max(0, 1 − z).
pub type Slic<A> = Objective<A, ReverseKl, Hinge>;
/// [`Dpo`] on length-averaged log-likelihoods.
pub type AveragedDpo = Dpo<Mean>;
/// [`Ipo`] on length-averaged log-likelihoods.
pub type AveragedIpo = Ipo<Mean>;
/// [`Slic`] on length-averaged log-likelihoods.
pub type AveragedSlic = Slic<Mean>;

impl Objective {
    /// Reads an objective from a table of the three parts.
    ///
    /// # Errors
    /// Unknown names, missing, unknown and ill-typed keys, and what [`new`](Self::new) refuses.
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
        json!({"averaging": self.averaging, "optimality": self.optimality, "loss": self.loss})
    }
}

impl Serialize for Objective {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(to)
    }
}

impl<A: AnyAveraging, O: AnyOptimality, L: AnyLoss> Objective<A, O, L> {
    /// Composes the three parts.
    ///
    /// # Errors
    /// Parameters out of range, a loss that doesn't go with the optimality operator, and operators that would be
    /// ignored because the loss reads neither scores nor rewards.
    pub fn new(averaging: A, optimality: O, loss: L) -> Result<Self, Error> {
        averaging.validate()?;
        optimality.validate()?;
        loss.validate()?;
        loss.suits(&optimality)?;
        let reads = loss.reads();
        if !reads.rewards && !reads.scores {
            for (part, name, plain) in
                [("averaging", averaging.typetag_name(), "sum"), ("optimality", optimality.typetag_name(), "none")]
            {
                if name != plain {
                    return Err(Error::Configuration(format!(
                        "{part} \"{name}\" would be ignored: loss \"{}\" reads neither scores nor rewards; use {part} \
                         \"{plain}\"",
                        loss.typetag_name()
                    )));
                }
            }
        }
        Ok(Self { averaging, optimality, loss })
    }

    /// The same objective with its parts in boxes, as configuration makes it.
    pub fn boxed(self) -> Objective
    where
        A: 'static,
        O: 'static,
        L: 'static,
    {
        Objective {
            averaging: Box::new(self.averaging),
            optimality: Box::new(self.optimality),
            loss: Box::new(self.loss),
        }
    }

    /// The token weights of a pair, one per token; see
    /// [`AveragingOperator::weights`](crate::AveragingOperator::weights).
    ///
    /// # Errors
    /// [`Error::Weights`]: an operator that gives more or fewer weights than there are tokens, or one that is negative or
    /// not finite.
    pub fn weights(&self, lengths: Pair<usize>, key: u64) -> Result<Pair<Vec<f64>>, Error> {
        let weights = self.averaging.weights(lengths, key);
        for ((side, tokens), given) in Pair::new("chosen", "rejected").zip(lengths).zip(weights.as_ref()).into_array() {
            let said = match given.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
                _ if given.len() != tokens => format!("{} weights", given.len()),
                Some(odd) => format!("a weight of {odd}"),
                None => continue,
            };
            return Err(Error::Weights { averaging: self.averaging.typetag_name(), said, side, tokens });
        }
        Ok(weights)
    }

    /// Whether scores of a reference model are needed.
    pub fn uses_reference(&self) -> bool {
        self.optimality.uses_reference()
    }

    /// Whether the losses of a batch depend on each other across its pairs. Then [`evaluate`](Self::evaluate) must be
    /// given the whole batch of the optimiser step at once; otherwise any cut into micro-batches gives the same value.
    pub fn coupled(&self) -> bool {
        self.loss.reads().whole_batch
    }

    /// Whether [`Completion::confidence`] is used.
    pub fn needs_confidence(&self) -> bool {
        self.loss.reads().confidence
    }

    /// The loss and the rewards of each pair, on whatever number the scores are; a coupled loss takes what it is given
    /// for the whole batch.
    #[doc = include_str!("../equations/reward.html")]
    #[doc = include_str!("../equations/same-length.html")]
    // ANCHOR: evaluate
    pub fn evaluate<T: Number>(
        &self,
        policy: &Pair<Completion<T>>,
        reference: &Pair<Completion<T>>,
        totals: Totals,
    ) -> Evaluation<T>
    where
        O: OptimalityOperator<T>,
        L: PreferenceLoss<T>,
    {
        let reward = policy.as_ref().zip(reference.as_ref()).map(|(p, r)| {
            let scores = Scores { policy: p.score.clone(), reference: r.score.clone(), tokens: p.tokens.clone() };
            OptimalityOperator::<T>::reward(&self.optimality, &scores)
        });
        let pair = Preference {
            reward: reward.clone(),
            beta: self.optimality.beta(),
            policy: policy.clone(),
            reference: reference.clone(),
            totals,
        };
        Evaluation { loss: PreferenceLoss::<T>::loss(&self.loss, &pair), reward }
    }
    // ANCHOR_END: evaluate

    /// [`evaluate`](Self::evaluate) of a batch of pairs, exactly, on the host.
    pub fn evaluate_column(
        &self,
        policy: &Pair<Completion<Column>>,
        reference: &Pair<Completion<Column>>,
        totals: Totals,
    ) -> Evaluation<Column> {
        self.evaluate(policy, reference, totals)
    }

    /// [`evaluate`](Self::evaluate) of a batch of pairs, on a device.
    pub fn evaluate_batch(
        &self,
        policy: &Pair<Completion<Batch>>,
        reference: &Pair<Completion<Batch>>,
        totals: Totals,
    ) -> Evaluation<Batch> {
        self.evaluate(policy, reference, totals)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AveragingOperator;
    use serde_json::Map;

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

    /// Two weights at most, and none that is a number for a single token.
    #[derive(Debug, Serialize, serde::Deserialize)]
    struct Short {}

    impl AveragingOperator for Short {
        fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
            lengths.map(|n| vec![if n == 1 { f64::NAN } else { 1.0 }; n.min(2)])
        }
    }

    #[typetag::serde(name = "short")]
    impl AnyAveraging for Short {}

    #[test]
    fn weights_of_the_wrong_length_are_refused_by_the_operators_name() {
        let objective = Dpo::new(Short {}, ReverseKl { beta: 0.1 }, Logistic {}).unwrap();
        assert_eq!(objective.weights(Pair::new(2, 2), 0).unwrap(), Pair::new(vec![1.0; 2], vec![1.0; 2]));
        let said = |objective: &Objective, chosen, rejected| {
            objective.weights(Pair::new(chosen, rejected), 0).unwrap_err().to_string()
        };
        let objective = objective.boxed();
        assert_eq!(
            said(&objective, 2, 5),
            "averaging \"short\" gives 2 weights for a rejected completion of 5 tokens; expected one per token, finite \
             and not negative"
        );
        assert!(said(&objective, 1, 2).starts_with("averaging \"short\" gives a weight of NaN for a chosen"));
    }

    #[test]
    fn what_nothing_reads_is_refused_by_name() {
        let refused = |averaging: &str, optimality: &str| {
            let table = json!({
                "averaging": {"type": averaging}, "optimality": {"type": optimality, "beta": 1.0},
                "loss": {"type": "weighted_sum", "terms": [
                    {"weight": 0.5, "loss": {"type": "supervised"}}, {"weight": 0.0, "loss": {"type": "logistic"}},
                ]},
            });
            Objective::from_value(&table).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(
            refused("mean", "none").unwrap_err(),
            "averaging \"mean\" would be ignored: loss \"weighted_sum\" reads neither scores nor rewards; use averaging \
             \"sum\""
        );
        assert!(refused("sum", "reverse_kl").unwrap_err().starts_with("optimality \"reverse_kl\" would be ignored"));
        refused("sum", "none").unwrap();
    }

    #[test]
    fn types_and_tables_make_one_objective() {
        let typed = Slic::new(Mean {}, ReverseKl { beta: 2.0 }, Hinge::default()).unwrap();
        let named = Method::find("averaged-slic").unwrap().objective(&Map::new()).unwrap();
        assert_eq!(typed.boxed().to_value(), named.to_value());
        assert_eq!(serde_json::to_value(&named).unwrap(), named.to_value());
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

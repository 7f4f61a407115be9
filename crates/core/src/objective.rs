//! The composition of the three parts, and the methods that have a name.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::averaging::AnyAveraging;
use crate::loss::AnyLoss;
use crate::optimality::{AnyOptimality, OptimalityOperator};
use crate::registry;
use crate::{Batch, Error, Number, Pair, Preference, PreferenceLoss};

/// What an objective is told about one completion under one model; in a batch, about each completion at its place.
#[derive(Clone, Debug)]
pub struct Completion<T> {
    /// The score s_ω = Σ_t ω_t ln π(y_t | x, y_<t), in nats.
    pub score: T,
    /// The plain sum Σ_t ln π(y_t | x, y_<t), in nats.
    pub sum: T,
    /// n, the number of scored tokens.
    pub tokens: T,
    /// Confidence.
    pub confidence: T,
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
        let objective = Self {
            averaging: registry::read("averaging", part("averaging")?)?,
            optimality: registry::read("optimality", part("optimality")?)?,
            loss: registry::read("loss", part("loss")?)?,
        };
        objective.averaging.validate()?;
        objective.optimality.validate()?;
        objective.loss.validate()?;
        Ok(objective)
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

    /// Whether losses depend on each other across pairs.
    pub fn coupled(&self) -> bool {
        false
    }

    /// Whether confidence is used.
    pub fn needs_confidence(&self) -> bool {
        false
    }

    /// The loss and the rewards of one pair, exactly.
    pub fn evaluate(
        &self,
        policy: &Pair<Completion<f64>>,
        reference: &Pair<Completion<f64>>,
        totals: Totals,
    ) -> Evaluation<f64> {
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

    /// The loss where policy and reference agree (π = μ), if the method has a reference: ln 2 for the logistic loss,
    /// 1/(4β²) for the squared, 1 for the hinge. A run that starts elsewhere has a fault.
    pub fn loss_at_reference(&self) -> Option<f64> {
        let same = Pair::new(-1.0, -1.0).map(|s| Completion { score: s, sum: s, tokens: 1.0, confidence: 0.0 });
        let totals = Totals { pairs: 1, chosen_tokens: 1 };
        self.uses_reference().then(|| self.evaluate(&same, &same, totals).loss)
    }
}

fn compose<T: Number>(
    optimality: &(impl OptimalityOperator<T> + ?Sized),
    loss: &(impl PreferenceLoss<T> + ?Sized),
    beta: f64,
    policy: &Pair<Completion<T>>,
    reference: &Pair<Completion<T>>,
    _totals: Totals,
) -> Evaluation<T> {
    let reward = policy
        .as_ref()
        .zip(reference.as_ref())
        .map(|(p, r)| optimality.reward(p.score.clone(), r.score.clone()));
    let loss = loss.loss(&Preference { reward: reward.clone(), beta });
    Evaluation { loss, reward }
}

/// A parameter of a named method.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// The key in configuration, spelt as TRL spells it where TRL has it.
    pub key: &'static str,
    /// Where it goes in the objective's table: part and key.
    pub path: (&'static str, &'static str),
    /// Its value if none is given.
    pub default: f64,
    /// What it does.
    pub about: &'static str,
}

/// A method that has a name: a triple, its parameters and its source. Any crate can register one with `inventory`.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// The name in configuration.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The loss as a formula.
    pub formula: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// The names of its averaging, optimality and loss.
    pub triple: (&'static str, &'static str, &'static str),
    /// Its parameters.
    pub parameters: &'static [Parameter],
}

inventory::collect!(Method);

impl Method {
    /// All methods linked into this program, by name.
    pub fn all() -> Vec<&'static Method> {
        let mut all: Vec<_> = inventory::iter::<Method>.into_iter().collect();
        all.sort_by_key(|m| m.name);
        all
    }

    /// The method of that name.
    ///
    /// # Errors
    /// [`Error::Unknown`], with the names that exist.
    pub fn find(name: &str) -> Result<&'static Method, Error> {
        let all = Self::all();
        let known = || all.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
        all.iter().find(|m| m.name == name).copied().ok_or_else(|| Error::Unknown {
            kind: "method",
            name: name.to_owned(),
            known: known(),
        })
    }

    /// The objective of this method, with `given` in place of the defaults.
    ///
    /// # Errors
    /// A parameter that this method lacks is refused by name; so is a value out of range or of the wrong type.
    pub fn objective(&self, given: &Map<String, Value>) -> Result<Objective, Error> {
        if let Some(key) = given.keys().find(|k| !self.parameters.iter().any(|p| p.key == k.as_str())) {
            let known = self.parameters.iter().map(|p| p.key).collect::<Vec<_>>().join(", ");
            return Err(Error::Configuration(format!(
                "{key}: method \"{}\" has no such parameter; it has: {known}",
                self.name
            )));
        }
        let (averaging, optimality, loss) = self.triple;
        let mut value = json!({
            "averaging": {"type": averaging}, "optimality": {"type": optimality}, "loss": {"type": loss}
        });
        for p in self.parameters {
            let v = given.get(p.key).cloned().unwrap_or_else(|| json!(p.default));
            value[p.path.0][p.path.1] = v;
        }
        Objective::from_value(&value)
    }
}

const fn beta(default: f64) -> Parameter {
    Parameter {
        key: "beta",
        path: ("optimality", "beta"),
        default,
        about: "strength of the regularisation towards the reference",
    }
}

inventory::submit! { Method {
    name: "dpo",
    about: "direct preference optimisation",
    formula: "−ln σ(β(a − b))",
    paper: "arXiv:2305.18290",
    triple: ("sum", "reverse_kl", "logistic"),
    parameters: &[beta(0.1)],
} }
inventory::submit! { Method {
    name: "averaged-dpo",
    about: "DPO on length-averaged log-likelihoods",
    formula: "−ln σ(β(a/n⁺ − b/n⁻))",
    paper: "arXiv:2406.19188",
    triple: ("mean", "reverse_kl", "logistic"),
    parameters: &[beta(2.0)],
} }
inventory::submit! { Method {
    name: "ipo",
    about: "identity preference optimisation",
    formula: "(a − b − 1/(2β))²",
    paper: "arXiv:2310.12036",
    triple: ("sum", "reverse_kl", "squared"),
    parameters: &[beta(0.1)],
} }
inventory::submit! { Method {
    name: "averaged-ipo",
    about: "IPO on length-averaged log-likelihoods",
    formula: "(a/n⁺ − b/n⁻ − 1/(2β))²",
    paper: "arXiv:2406.19188",
    triple: ("mean", "reverse_kl", "squared"),
    parameters: &[beta(1.0)],
} }
inventory::submit! { Method {
    name: "slic",
    about: "SLiC's hinge, with a reference",
    formula: "max(0, 1 − β(a − b))",
    paper: "arXiv:2305.10425",
    triple: ("sum", "reverse_kl", "hinge"),
    parameters: &[beta(0.1)],
} }
inventory::submit! { Method {
    name: "averaged-slic",
    about: "SLiC's hinge on length-averaged log-likelihoods",
    formula: "max(0, 1 − β(a/n⁺ − b/n⁻))",
    paper: "arXiv:2406.19188",
    triple: ("mean", "reverse_kl", "hinge"),
    parameters: &[beta(2.0)],
} }

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn named_methods_start_at_their_known_values() {
        let at = |name: &str, params: &str| {
            Method::find(name).unwrap().objective(&given(params)).unwrap().loss_at_reference().unwrap()
        };
        for name in ["dpo", "averaged-dpo"] {
            assert_eq!(at(name, "{}"), std::f64::consts::LN_2);
        }
        for name in ["ipo", "averaged-ipo"] {
            assert!((at(name, r#"{"beta": 0.1}"#) - 25.0).abs() < 1e-12);
        }
        for name in ["slic", "averaged-slic"] {
            assert_eq!(at(name, "{}"), 1.0);
        }
    }

    #[test]
    fn faults_are_named() {
        let said = Method::find("dpoo").unwrap_err().to_string();
        assert!(said.starts_with("unknown method \"dpoo\"; there are: averaged-dpo, averaged-ipo"), "{said}");
        let dpo = Method::find("dpo").unwrap();
        let said = dpo.objective(&given(r#"{"betta": 1}"#)).unwrap_err().to_string();
        assert_eq!(said, "betta: method \"dpo\" has no such parameter; it has: beta");
        let said = dpo.objective(&given(r#"{"beta": -1}"#)).unwrap_err().to_string();
        assert_eq!(said, "reverse_kl: beta must be a finite number greater than 0, got -1");
        let said = dpo.objective(&given(r#"{"beta": "x"}"#)).unwrap_err().to_string();
        assert!(said.starts_with("optimality.beta (of \"reverse_kl\")"), "{said}");
    }

    #[test]
    fn an_objective_survives_its_own_table() {
        for m in Method::all() {
            let one = m.objective(&Map::new()).unwrap();
            let two = Objective::from_value(&one.to_value()).unwrap();
            assert_eq!(one.to_value(), two.to_value(), "{}", m.name);
        }
    }
}

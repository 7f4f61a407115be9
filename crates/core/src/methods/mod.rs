//! The methods that have a name: triples with their parameters, defaults and sources.

mod presets;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::averaging::AnyAveraging;
use crate::loss::AnyLoss;
use crate::optimality::AnyOptimality;
use crate::registry;
use crate::{Error, Objective};

/// The value of a parameter that isn't given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// What the operator itself has for a default.
    Unset,
    /// A number.
    Number(f64),
    /// A whole number.
    Whole(u64),
    /// A yes or no.
    Flag(bool),
    /// A name.
    Text(&'static str),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unset => f.write_str("–"),
            Self::Number(x) => write!(f, "{x}"),
            Self::Whole(n) => write!(f, "{n}"),
            Self::Flag(b) => write!(f, "{b}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// A parameter of a named method.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parameter {
    /// The key in configuration, spelt as TRL spells it where TRL has it.
    pub key: &'static str,
    /// Where it goes in the objective's table, as a JSON pointer: `/optimality/beta`.
    pub path: &'static str,
    /// Its value if none is given.
    pub default: Setting,
    /// What it does.
    pub about: &'static str,
}

/// A method that has a name: a triple, its parameters and its source. Any crate can register one with `inventory`:
///
/// ```
/// use collimate_core::methods::{Method, Parameter, Setting};
///
/// inventory::submit! { Method {
///     name: "root-dpo",
///     about: "DPO on log-likelihoods divided by √n",
///     formula: "−ln σ(β(a/√n⁺ − b/√n⁻))",
///     paper: "this example",
///     triple: ("power", "reverse_kl", "logistic"),
///     fixed: &[("/averaging/alpha", "0.5")],
///     parameters: &[Parameter {
///         key: "beta",
///         path: "/optimality/beta",
///         default: Setting::Number(0.5),
///         about: "strength of the regularisation towards the reference",
///     }],
/// } }
/// # fn main() { Method::find("root-dpo").unwrap().objective(&Default::default()).unwrap(); }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// The name in configuration.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The loss as a formula, with a = ln π(y⁺)/μ(y⁺) and b = ln π(y⁻)/μ(y⁻), sums over scored tokens.
    pub formula: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// The names of its averaging, optimality and loss.
    pub triple: (&'static str, &'static str, &'static str),
    /// What else is fixed, as (JSON pointer, JSON text): the losses inside a loss, say.
    pub fixed: &'static [(&'static str, &'static str)],
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

    /// The table of this method's objective, with `given` in place of the defaults; see [`Objective::from_value`].
    ///
    /// # Errors
    /// A parameter that this method lacks is refused by name.
    pub fn table(&self, given: &Map<String, Value>) -> Result<Value, Error> {
        if let Some(key) = given.keys().find(|k| !self.parameters.iter().any(|p| p.key == k.as_str())) {
            let known = self.parameters.iter().map(|p| p.key).collect::<Vec<_>>().join(", ");
            return Err(Error::Configuration(format!(
                "{key}: method \"{}\" has no such parameter; it has: {known}",
                self.name
            )));
        }
        let (averaging, optimality, loss) = self.triple;
        let mut table = json!({
            "averaging": {"type": averaging}, "optimality": {"type": optimality}, "loss": {"type": loss}
        });
        for (path, text) in self.fixed {
            let value = serde_json::from_str(text)
                .map_err(|e| Error::Configuration(format!("method \"{}\": {path} is not JSON: {e}", self.name)))?;
            self.place(&mut table, path, value)?;
        }
        for p in self.parameters {
            match given.get(p.key) {
                Some(value) => self.place(&mut table, p.path, value.clone())?,
                None if p.default == Setting::Unset => {}
                None => self.place(&mut table, p.path, json!(p.default))?,
            }
        }
        Ok(table)
    }

    /// The objective of this method, with `given` in place of the defaults.
    ///
    /// # Errors
    /// A parameter that this method lacks is refused by name; so is a value out of range or of the wrong type.
    pub fn objective(&self, given: &Map<String, Value>) -> Result<Objective, Error> {
        Objective::from_value(&self.table(given)?)
    }

    /// Puts a value where a JSON pointer says; its parent must be there.
    fn place(&self, table: &mut Value, path: &str, value: Value) -> Result<(), Error> {
        let (parent, key) = path.rsplit_once('/').unwrap_or(("", path));
        match table.pointer_mut(parent).and_then(Value::as_object_mut) {
            Some(parent) => {
                parent.insert(key.to_owned(), value);
                Ok(())
            }
            None => Err(Error::Configuration(format!("method \"{}\": there is no table at {parent}", self.name))),
        }
    }
}

/// A method as a reader wants to see it: for a table, or for JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// The name in configuration.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The name of its averaging operator.
    pub averaging: &'static str,
    /// The name of its optimality operator.
    pub optimality: &'static str,
    /// The name of its loss.
    pub loss: &'static str,
    /// The loss as a formula.
    pub formula: &'static str,
    /// Its parameters with their defaults.
    pub parameters: &'static [Parameter],
    /// Where it comes from.
    pub paper: &'static str,
    /// The whole objective with every default filled in, as configuration spells it.
    pub objective: Value,
}

/// All methods linked into this program, by name.
///
/// # Errors
/// A method whose own defaults are refused, which is a fault of whoever registered it.
pub fn describe() -> Result<Vec<Description>, Error> {
    let each = |m: &'static Method| {
        let at_fault = |e| Error::Configuration(format!("method \"{}\": {e}", m.name));
        Ok(Description {
            name: m.name,
            about: m.about,
            averaging: m.triple.0,
            optimality: m.triple.1,
            loss: m.triple.2,
            formula: m.formula,
            parameters: m.parameters,
            paper: m.paper,
            objective: m.objective(&Map::new()).map_err(at_fault)?.to_value(),
        })
    };
    Method::all().into_iter().map(each).collect()
}

/// The names of the operators and losses linked into this program, from which any triple can be spelt out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vocabulary {
    /// The averaging operators.
    pub averaging: Vec<&'static str>,
    /// The optimality operators.
    pub optimality: Vec<&'static str>,
    /// The losses.
    pub loss: Vec<&'static str>,
}

/// What is registered in this program.
pub fn vocabulary() -> Vocabulary {
    Vocabulary {
        averaging: registry::names::<Box<dyn AnyAveraging>>(),
        optimality: registry::names::<Box<dyn AnyOptimality>>(),
        loss: registry::names::<Box<dyn AnyLoss>>(),
    }
}

#[cfg(test)]
mod tests {
    use approx::{abs_diff_eq, assert_abs_diff_eq};

    use super::*;

    fn given(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn named_methods_start_at_their_known_values() {
        let at = |name: &str, params: &str| {
            Method::find(name).unwrap().objective(&given(params)).unwrap().loss_at_reference().unwrap()
        };
        for name in ["dpo", "averaged-dpo", "cdpo", "robust-dpo", "ld-dpo", "sampo", "dpop", "f-dpo", "averaged-aot"] {
            assert!(abs_diff_eq!(at(name, "{}"), std::f64::consts::LN_2, epsilon = 1e-15), "{name}");
        }
        for name in ["ipo", "averaged-ipo"] {
            assert_abs_diff_eq!(at(name, r#"{"beta": 0.1}"#), 25.0, epsilon = 1e-12);
        }
        for name in ["slic", "averaged-slic", "apo-zero", "apo-down"] {
            assert_eq!(at(name, "{}"), 1.0);
        }
        for name in ["nca", "bco"] {
            assert!(abs_diff_eq!(at(name, "{}"), 2.0 * std::f64::consts::LN_2, epsilon = 1e-15), "{name}");
        }
    }

    #[test]
    fn faults_are_named() {
        let said = Method::find("dpoo").unwrap_err().to_string();
        assert!(said.starts_with("unknown method \"dpoo\"; there are: alphapo, aot, aot-unpaired, apo-down"), "{said}");
        let dpo = Method::find("dpo").unwrap();
        let said = dpo.objective(&given(r#"{"betta": 1}"#)).unwrap_err().to_string();
        assert_eq!(said, "betta: method \"dpo\" has no such parameter; it has: beta");
        let said = dpo.objective(&given(r#"{"beta": -1}"#)).unwrap_err().to_string();
        assert_eq!(said, "reverse_kl: beta must be a finite number greater than 0, got -1");
        let said = dpo.objective(&given(r#"{"beta": "x"}"#)).unwrap_err().to_string();
        assert!(said.starts_with("optimality.beta (of \"reverse_kl\")"), "{said}");
        let said = Method::find("f-dpo").unwrap().objective(&given(r#"{"f_divergence_type": "chi"}"#)).unwrap_err();
        assert!(said.to_string().starts_with("unknown optimality \"chi\"; there are: alpha_divergence"), "{said}");
    }

    #[test]
    fn parameters_reach_the_losses_inside_a_loss() {
        let table = |name, text| Method::find(name).unwrap().table(&given(text)).unwrap();
        let simpo = table("simpo", r#"{"simpo_gamma": 1.25}"#);
        assert_eq!(simpo["loss"], json!({"type": "target_margin", "loss": {"type": "logistic"}, "gamma": 1.25}));
        let mpo = table("mpo", r#"{"bco_weight": 0.5}"#);
        assert_eq!(mpo["loss"]["terms"][1], json!({"weight": 0.5, "loss": {"type": "bco"}}));
    }

    #[test]
    fn an_objective_survives_its_own_table() {
        for m in Method::all() {
            let one = m.objective(&Map::new()).unwrap();
            let two = Objective::from_value(&one.to_value()).unwrap();
            assert_eq!(one.to_value(), two.to_value(), "{}", m.name);
        }
    }

    #[test]
    fn names_and_keys_are_distinct_and_everything_is_said() {
        let all = describe().unwrap();
        assert!(all.windows(2).all(|w| w[0].name < w[1].name), "two methods of one name");
        for d in &all {
            assert!(!d.about.is_empty() && !d.formula.is_empty() && !d.paper.is_empty(), "{}", d.name);
            assert!(
                d.parameters.iter().any(|p| p.key == "beta") || d.name == "slic-hf" || d.name == "orpo",
                "{}",
                d.name
            );
            let keys: std::collections::BTreeSet<_> = d.parameters.iter().map(|p| p.key).collect();
            assert_eq!(keys.len(), d.parameters.len(), "{}", d.name);
        }
        let json = serde_json::to_value(&all).unwrap();
        let dpo = json.as_array().unwrap().iter().find(|d| d["name"] == "dpo").unwrap();
        assert_eq!((&dpo["averaging"], &dpo["parameters"][0]["default"]), (&json!("sum"), &json!(0.1)));
    }

    #[test]
    fn an_averaged_method_never_has_the_summed_beta() {
        // An averaged margin is 50–300 times smaller than a summed one: the same β would hardly move the policy.
        for m in Method::all().iter().filter(|m| m.triple.0 == "mean") {
            if let Some(Setting::Number(beta)) = m.parameters.iter().find(|p| p.key == "beta").map(|p| p.default) {
                assert!(beta >= 1.0, "{}: β {beta}", m.name);
            }
        }
    }
}

//! TRL's own keys, with TRL's own meaning (version 1.16).
//!
//! [`objective`] reads the keys of `DPOConfig` that say what is optimised, [`cpo`] those of `CPOConfig`, [`orpo`] those
//! of `ORPOConfig`. They give the number that TRL gives under those keys, also where its name means something else
//! elsewhere:
//!
//! - `ipo` is the averaged form, `averaged-ipo` here; the paper's sum is `ipo` here.
//! - `label_smoothing` is ignored under every `loss_type` but `exo_pair`, `robust`, `aot` and `aot_unpaired`, as it is
//!   there; `cdpo` is what uses it with the logistic loss.
//! - Under another `f_divergence_type`, `ipo` and `sigmoid_norm` divide f′(π/μ) of the whole completion by its length
//!   ([`PerToken`](crate::loss::PerToken)); averaging first, as the formalism has it, is `averaged-f-dpo`.
//! - TRL's `sft` and the NLL of its CPO are means over the chosen tokens of a batch on one device; here that is the
//!   batch of the optimiser step, however it is cut. The NLL of its ORPO is over prompt and completion; here, over the
//!   completion.
//! - TRL refuses to compute `alpha_divergence` in float64; here it is computed. Its exponent is held at 80 in both;
//!   that of `forward_kl` is held here, and overflows there.
//! - TRL's reward metrics are sums, whatever is optimised; here they are those of the objective, which for a single
//!   averaged loss are averaged.
//! - TRL scores the reference under `sft` alone as well, for its metrics; here that has no reference, and another
//!   divergence or an `ld_alpha` beside it, which TRL ignores, is refused.
//! - With `use_weighting`, TRL multiplies the batch's one `sft` value by the batch's mean weight. That isn't a loss of
//!   pairs, and is refused here, as weighting with `aot` is by both.

use serde_json::{Map, Value, json};

use crate::{Error, Objective};

/// The `loss_type`s of `DPOConfig`.
pub const LOSS_TYPES: [&str; 15] = [
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
];

/// The keys of `DPOConfig` that [`objective`] reads.
pub const KEYS: [&str; 9] = [
    "loss_type",
    "loss_weights",
    "beta",
    "label_smoothing",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "ld_alpha",
    "use_weighting",
    "discopop_tau",
];

/// The `loss_type`s that divide by the length.
const AVERAGED: [&str; 2] = ["ipo", "sigmoid_norm"];

/// The `loss_type`s that TRL lets go with another divergence than the reverse KL.
const ANY_DIVERGENCE: [&str; 8] = ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"];

/// A table of TRL's keys, `null` standing for a key left out.
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn new(table: &'a Map<String, Value>, known: &[&str]) -> Result<Self, Error> {
        match table.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(Error::Configuration(format!("{key}: unknown key; there are: {}", known.join(", ")))),
            None => Ok(Self(table)),
        }
    }
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }
    fn read<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(Error::Configuration(format!("{key}: expected {kind}, got {value}"))),
        }
    }
    fn number(&self, key: &str, default: f64) -> Result<f64, Error> {
        Ok(self.read(key, "a number", Value::as_f64)?.unwrap_or(default))
    }
    fn name(&self, key: &str, default: &'a str) -> Result<&'a str, Error> {
        Ok(self.read(key, "a name", Value::as_str)?.unwrap_or(default))
    }
}

/// One or more losses as one table.
fn sum_of(mut losses: Vec<Value>, weights: &[f64]) -> Value {
    if losses.len() == 1 && weights == [1.0] {
        return losses.remove(0);
    }
    let terms = losses.into_iter().zip(weights).map(|(loss, weight)| json!({"weight": weight, "loss": loss}));
    json!({"type": "weighted_sum", "terms": terms.collect::<Vec<_>>()})
}

/// The objective that TRL's `DPOTrainer` optimises under those keys of its `DPOConfig`; see [`KEYS`]. A key that is
/// left out or `null` has TRL's default.
///
/// # Errors
/// Unknown keys and names, ill-typed and out-of-range values, and the combinations that TRL or this module refuses.
pub fn objective(table: &Map<String, Value>) -> Result<Objective, Error> {
    let keys = Keys::new(table, &KEYS)?;
    let beta = keys.number("beta", 0.1)?;
    let smoothing = keys.number("label_smoothing", 0.0)?;
    let tau = keys.number("discopop_tau", 0.05)?;
    let ld_alpha = keys.read("ld_alpha", "a number", Value::as_f64)?;
    let weighting = keys.read("use_weighting", "true or false", Value::as_bool)?.unwrap_or(false);
    let divergence = keys.name("f_divergence_type", "reverse_kl")?;
    let names = |v: &'static str| vec![v];
    let types: Vec<&str> = match keys.get("loss_type") {
        None => names("sigmoid"),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) if !list.is_empty() && list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).collect()
        }
        Some(other) => {
            return Err(Error::Configuration(format!("loss_type: expected a name or a list of names, got {other}")));
        }
    };
    let numbers = |v: &Value| v.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<_>>>();
    let weights = keys.read("loss_weights", "a list of numbers", numbers)?.unwrap_or(vec![1.0; types.len()]);
    if weights.len() != types.len() {
        return Err(Error::Configuration(format!(
            "loss_weights: expected as many as there are in loss_type, {}, got {}",
            types.len(),
            weights.len()
        )));
    }
    if divergence != "reverse_kl"
        && let Some(other) = types.iter().find(|t| !ANY_DIVERGENCE.contains(t))
    {
        return Err(Error::Configuration(format!(
            "f_divergence_type: loss_type \"{other}\" goes with \"reverse_kl\" alone; these go with any: {}",
            ANY_DIVERGENCE.join(", ")
        )));
    }
    if weighting && let Some(other) = types.iter().find(|t| ["aot", "aot_unpaired", "sft"].contains(*t)) {
        return Err(Error::Configuration(format!(
            "use_weighting: loss_type \"{other}\" is not a loss of single pairs, and can't be weighed pair by pair"
        )));
    }

    // Averaging is the operator's where all losses average and the reward is linear; then the rewards are averaged too.
    let mean = divergence == "reverse_kl"
        && types.iter().any(|t| AVERAGED.contains(t))
        && types.iter().all(|t| AVERAGED.contains(t) || *t == "sft");
    let loss = |name: &str| {
        let plain = match name {
            "sigmoid" | "sigmoid_norm" => json!({"type": "logistic"}),
            "hinge" => json!({"type": "hinge"}),
            "ipo" => json!({"type": "squared"}),
            "exo_pair" => json!({"type": "exo", "label_smoothing": smoothing}),
            "nca_pair" => json!({"type": "nca"}),
            "robust" => json!({"type": "robust", "label_smoothing": smoothing}),
            "bco_pair" => json!({"type": "bco"}),
            "sppo_hard" => json!({"type": "sppo"}),
            "aot" | "aot_unpaired" => json!({"type": name, "label_smoothing": smoothing}),
            "apo_zero" | "apo_down" => json!({"type": name}),
            "discopop" => json!({"type": "discopop", "tau": tau}),
            "sft" => json!({"type": "supervised", "over": "batch"}),
            _ => {
                let known = LOSS_TYPES.join(", ");
                return Err(Error::Unknown { kind: "loss_type", name: name.to_owned(), known });
            }
        };
        Ok(if AVERAGED.contains(&name) && !mean { json!({"type": "per_token", "loss": plain}) } else { plain })
    };
    let losses = types.iter().map(|t| loss(t)).collect::<Result<Vec<_>, _>>()?;
    let mut loss = sum_of(losses, &weights);
    if weighting {
        loss = json!({"type": "wpo", "loss": loss});
    }
    let averaging = match ld_alpha {
        Some(alpha) => json!({"type": "length_desensitised", "alpha": alpha, "mean": mean}),
        None if mean => json!({"type": "mean"}),
        None => json!({"type": "sum"}),
    };
    let optimality = match divergence {
        "alpha_divergence" => {
            json!({"type": divergence, "beta": beta, "alpha": keys.number("f_alpha_divergence_coef", 0.5)?})
        }
        // Nothing would read a reference.
        "reverse_kl" if types.iter().all(|t| *t == "sft") => json!({"type": "none", "beta": beta}),
        "reverse_kl" | "forward_kl" | "js_divergence" => json!({"type": divergence, "beta": beta}),
        _ => {
            return Err(Error::Unknown {
                kind: "f_divergence_type",
                name: divergence.to_owned(),
                known: "reverse_kl, forward_kl, js_divergence, alpha_divergence".to_owned(),
            });
        }
    };
    Objective::from_value(&json!({"averaging": averaging, "optimality": optimality, "loss": loss}))
}

/// The objective that TRL's `CPOTrainer` optimises under these keys of its `CPOConfig`: `loss_type` (sigmoid, hinge,
/// ipo, simpo), `beta`, `label_smoothing`, `simpo_gamma`, `alpha`, `cpo_alpha`.
///
/// # Errors
/// Unknown keys and names, ill-typed and out-of-range values.
pub fn cpo(table: &Map<String, Value>) -> Result<Objective, Error> {
    let keys = Keys::new(table, &["loss_type", "beta", "label_smoothing", "simpo_gamma", "alpha", "cpo_alpha"])?;
    let name = keys.name("loss_type", "sigmoid")?;
    let logistic = json!({"type": "cdpo", "label_smoothing": keys.number("label_smoothing", 0.0)?});
    let (averaging, loss) = match name {
        "sigmoid" => ("sum", logistic),
        "hinge" => ("sum", json!({"type": "hinge"})),
        "ipo" => ("mean", json!({"type": "squared"})),
        "simpo" => {
            ("mean", json!({"type": "target_margin", "gamma": keys.number("simpo_gamma", 0.5)?, "loss": logistic}))
        }
        _ => {
            let known = "sigmoid, hinge, ipo, simpo".to_owned();
            return Err(Error::Unknown { kind: "loss_type", name: name.to_owned(), known });
        }
    };
    let beta = keys.number("beta", 0.1)?;
    let alpha = keys.number("alpha", 0.0)?;
    let optimality = match alpha {
        0.0 => json!({"type": "none", "beta": beta}),
        _ => json!({"type": "alpha_shaped", "beta": beta, "alpha": alpha}),
    };
    let supervised = json!({"type": "supervised", "over": "batch"});
    let loss = match keys.number("cpo_alpha", 1.0)? {
        0.0 => loss,
        weight => sum_of(vec![loss, supervised], &[1.0, weight]),
    };
    Objective::from_value(&json!({"averaging": {"type": averaging}, "optimality": optimality, "loss": loss}))
}

/// The objective that TRL's `ORPOTrainer` optimises under `beta`, which is ORPO's λ.
///
/// # Errors
/// Unknown keys and ill-typed values.
pub fn orpo(table: &Map<String, Value>) -> Result<Objective, Error> {
    let lambda = Keys::new(table, &["beta"])?.number("beta", 0.1)?;
    let losses = vec![json!({"type": "supervised", "over": "batch"}), json!({"type": "logistic"})];
    Objective::from_value(&json!({
        "averaging": {"type": "mean"},
        "optimality": {"type": "odds", "beta": 1.0},
        "loss": sum_of(losses, &[1.0, lambda]),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        objective(&serde_json::from_str(text).unwrap()).map(|o| o.to_value()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_trls() {
        let dpo = json!({
            "averaging": {"type": "sum"}, "optimality": {"type": "reverse_kl", "beta": 0.1}, "loss": {"type": "logistic"}
        });
        assert_eq!(read("{}").unwrap(), dpo);
        assert_eq!(read(r#"{"loss_type": ["sigmoid"], "loss_weights": null, "ld_alpha": null}"#).unwrap(), dpo);
    }

    #[test]
    fn ipo_is_the_averaged_form_and_keeps_it_in_company() {
        let ipo = read(r#"{"loss_type": "ipo"}"#).unwrap();
        assert_eq!((&ipo["averaging"]["type"], &ipo["loss"]["type"]), (&json!("mean"), &json!("squared")));
        let both = read(r#"{"loss_type": ["ipo", "sigmoid"]}"#).unwrap();
        assert_eq!(both["averaging"]["type"], "sum");
        assert_eq!(both["loss"]["terms"][0]["loss"], json!({"type": "per_token", "loss": {"type": "squared"}}));
        assert_eq!(both["loss"]["terms"][1]["loss"], json!({"type": "logistic"}));
        let ld = read(r#"{"loss_type": "sigmoid_norm", "ld_alpha": 0.5}"#).unwrap();
        assert_eq!(ld["averaging"], json!({"type": "length_desensitised", "alpha": 0.5, "mean": true}));
    }

    #[test]
    fn sft_alone_has_no_reference() {
        assert_eq!(read(r#"{"loss_type": "sft"}"#).unwrap()["optimality"]["type"], "none");
        let said = read(r#"{"loss_type": "sft", "f_divergence_type": "forward_kl"}"#).unwrap_err();
        assert!(said.starts_with("optimality \"forward_kl\" would be ignored"), "{said}");
        let said = read(r#"{"loss_type": "sft", "ld_alpha": 0.5}"#).unwrap_err();
        assert!(said.starts_with("averaging \"length_desensitised\" would be ignored"), "{said}");
        assert_eq!(read(r#"{"loss_type": ["sigmoid", "sft"]}"#).unwrap()["optimality"]["type"], "reverse_kl");
    }

    #[test]
    fn every_loss_type_is_read() {
        for name in LOSS_TYPES {
            read(&format!(r#"{{"loss_type": "{name}", "label_smoothing": 0.1}}"#)).unwrap();
        }
    }

    #[test]
    fn faults_are_named() {
        let said = |text| read(text).unwrap_err();
        assert_eq!(
            said(r#"{"loss_typ": "sigmoid"}"#),
            format!("loss_typ: unknown key; there are: {}", KEYS.join(", "))
        );
        assert!(said(r#"{"loss_type": "dpo"}"#).starts_with("unknown loss_type \"dpo\"; there are: sigmoid, hinge"));
        assert_eq!(said(r#"{"loss_type": 3}"#), "loss_type: expected a name or a list of names, got 3");
        assert_eq!(
            said(r#"{"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}"#),
            "loss_weights: expected as many as there are in loss_type, 2, got 1"
        );
        assert_eq!(said(r#"{"beta": "x"}"#), "beta: expected a number, got \"x\"");
        assert!(said(r#"{"loss_type": "exo_pair"}"#).starts_with("exo: label_smoothing must be above 0"));
        assert!(said(r#"{"loss_type": "bco_pair", "f_divergence_type": "forward_kl"}"#).contains("\"bco_pair\" goes"));
        assert!(said(r#"{"f_divergence_type": "chi"}"#).starts_with("unknown f_divergence_type \"chi\""));
        assert!(said(r#"{"loss_type": "aot", "use_weighting": true}"#).contains("can't be weighed pair by pair"));
    }

    #[test]
    fn cpo_and_orpo_refuse_what_they_lack() {
        let table = |text| serde_json::from_str(text).unwrap();
        assert!(cpo(&table(r#"{"loss_type": "exo"}"#)).unwrap_err().to_string().contains("sigmoid, hinge, ipo, simpo"));
        assert!(orpo(&table(r#"{"alpha": 1}"#)).unwrap_err().to_string().starts_with("alpha: unknown key"));
    }
}

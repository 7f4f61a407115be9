//! Adapters of low rank (LoRA), as PEFT configures, places, initialises and names them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor};
use fancy_regex::Regex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use crate::arch::targets;
use crate::blocks::Adapter;
use crate::config::{HeadKind, ModelConfig};
use crate::error::Error;
use crate::files::{SETTINGS_BYTES, read_at_most};
use crate::params::{Adapted, Inventory, ParamId, Role, Tensors, normal};

/// The file that makes a folder one of an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// Its weights.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before every name.
pub(crate) const PREFIX: &str = "base_model.model.";
/// What the name of a copy has, here and inside PEFT, and not in the file.
const COPY: &str = ".modules_to_save";

/// Which linear maps get an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Those of these names, or whose names end with one of them behind a dot.
    Names(Vec<String>),
    /// All but the head, for "all-linear"; otherwise those whose whole name a regular expression matches.
    Pattern(String),
}

/// What adapters begin as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// A as a linear layer begins, uniform in ±1/√in; B = 0.
    #[default]
    True,
    /// A normal with deviation 1/r; B = 0.
    Gaussian,
    /// A and B as linear layers begin: not the model that they are put beside.
    False,
}

/// What `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The rank.
    pub r: usize,
    /// α.
    pub alpha: f64,
    /// The share of inputs that adapters don't see while training, below 1.
    pub dropout: f64,
    /// Which linear maps; none: those that PEFT takes for the architecture.
    pub target_modules: Option<Targets>,
    /// Modules that are trained in full, in a copy.
    pub modules_to_save: Vec<String>,
    /// α/√r in place of α/r.
    pub use_rslora: bool,
    /// A magnitude for each row.
    pub use_dora: bool,
    /// What they begin as.
    pub init: Init,
}

/// Keys of adapter_config.json that change nothing in what is computed here.
const HARMLESS: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "loftq_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

impl Lora {
    /// s.
    pub fn scale(&self) -> f64 {
        self.alpha / if self.use_rslora { (self.r as f64).sqrt() } else { self.r as f64 }
    }

    /// Whether a new adapter leaves the model as it is.
    pub fn begins_as_base(&self) -> bool {
        self.init != Init::False
    }

    /// Checks every value against its rule, under the names that TRL gives them.
    ///
    /// # Errors
    /// Names the key, its rule and what was given.
    pub fn validate(&self) -> Result<(), Error> {
        let fault = |why: String| Err(Error::Part(why));
        match self {
            Self { r: 0, .. } => fault("lora_r must be at least 1, got 0".into()),
            Self { r, .. } if *r > 1 << 16 => fault(format!("lora_r must be at most 65536, got {r}")),
            Self { alpha, .. } if !(*alpha > 0.0 && alpha.is_finite()) => {
                fault(format!("lora_alpha must be above 0, got {alpha}"))
            }
            Self { dropout, .. } if !(0.0..1.0).contains(dropout) => {
                fault(format!("lora_dropout must be at least 0 and below 1, got {dropout}"))
            }
            Self { use_dora: true, dropout, .. } if *dropout > 0.0 => fault(format!(
                "use_dora with lora_dropout {dropout}: dropout beside a magnitude is not implemented; set lora_dropout = 0"
            )),
            _ => Ok(()),
        }
    }

    /// Reads `adapter_config.json`, with the base that it names and whether it is of a reward model.
    ///
    /// # Errors
    /// A key that asks for what is not there, by its name.
    pub(crate) fn read(folder: &Path) -> Result<(Self, Option<String>, bool), Error> {
        let path = folder.join(CONFIG);
        let bytes = read_at_most(&path, SETTINGS_BYTES).map_err(Error::io(&path))?;
        let table: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|e| Error::Json { path: path.clone(), why: e.to_string() })?;
        let fault = |key: &str, why: String| Error::Config { path: path.clone(), key: key.to_owned(), why };
        let get = |key: &str| table.get(key).filter(|v| !v.is_null());
        let mut read: Vec<&str> = HARMLESS.to_vec();
        match get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            other => return Err(fault("peft_type", format!("expected \"LORA\", got {other:?}"))),
        }
        let value_head = match get("task_type").and_then(Value::as_str) {
            None | Some("CAUSAL_LM") => false,
            Some("SEQ_CLS") => true,
            Some(other) => return Err(fault("task_type", format!("expected CAUSAL_LM or SEQ_CLS, got {other:?}"))),
        };
        let mut number = |key: &'static str, default: f64| {
            read.push(key);
            let given = get(key).map(|v| v.as_f64().ok_or_else(|| fault(key, format!("expected a number, got {v}"))));
            given.transpose().map(|v| v.unwrap_or(default))
        };
        let (r, alpha, dropout) = (number("r", 8.0)?, number("lora_alpha", 8.0)?, number("lora_dropout", 0.0)?);
        let mut flag = |key: &'static str| {
            read.push(key);
            let given =
                get(key).map(|v| v.as_bool().ok_or_else(|| fault(key, format!("expected true or false, got {v}"))));
            given.transpose().map(Option::unwrap_or_default)
        };
        let (use_rslora, use_dora) = (flag("use_rslora")?, flag("use_dora")?);
        let names = |key: &str, v: &Value| -> Result<Vec<String>, Error> {
            let all = v.as_array().map(|list| list.iter().map(|n| n.as_str().map(str::to_owned)).collect());
            all.flatten().ok_or_else(|| fault(key, format!("expected names, got {v}")))
        };
        let target_modules = match get("target_modules") {
            None => None,
            Some(Value::String(pattern)) => Some(Targets::Pattern(pattern.clone())),
            Some(v) => Some(Targets::Names(names("target_modules", v)?)),
        };
        let modules_to_save = get("modules_to_save").map_or(Ok(Vec::new()), |v| names("modules_to_save", v))?;
        if let Some(bias) = get("bias").filter(|b| **b != "none") {
            return Err(fault("bias", format!("trained biases are not implemented; expected \"none\", got {bias}")));
        }
        // What these make of the base's own weights is not in the adapter.
        if let Some(Value::String(init)) = get("init_lora_weights")
            && !["gaussian", "true", "false"].contains(&init.as_str())
        {
            let why = "expected true, false or \"gaussian\"; others change the base's own weights, which an adapter doesn't hold";
            return Err(fault("init_lora_weights", format!("{why}, got {init:?}")));
        }
        read.extend(["target_modules", "modules_to_save", "bias"]);
        for (key, v) in &table {
            let off = matches!(v, Value::Null | Value::Bool(false))
                || v.as_array().is_some_and(Vec::is_empty)
                || v.as_object().is_some_and(Map::is_empty);
            if !read.contains(&key.as_str()) && !off && key != "megatron_config" {
                return Err(fault(key, format!("is not implemented (value {v}); expected it off")));
            }
        }
        let base = get("base_model_name_or_path").and_then(Value::as_str).filter(|b| !b.is_empty()).map(str::to_owned);
        let (init, r) = (Init::True, r as usize);
        let new = Self { r, alpha, dropout, target_modules, modules_to_save, use_rslora, use_dora, init };
        new.validate().map_err(|e| fault("r, lora_alpha, lora_dropout, use_dora", e.to_string()))?;
        Ok((new, base, value_head))
    }

    /// `adapter_config.json`, as PEFT writes it.
    pub(crate) fn to_json(&self, inventory: &Inventory, base: &Path, value_head: bool) -> Value {
        let adapted = inventory.adapted.as_ref().expect("an adapted inventory");
        let targets = match &self.target_modules {
            Some(Targets::Pattern(p)) if !all_linear(p) && !plain(p) => json!(p),
            _ => {
                let module = |id: ParamId| module_of(&inventory.specs[id.index()].name).to_owned();
                let all: BTreeSet<String> = adapted.linear.iter().map(|(w, _)| module(*w)).collect();
                let last = |m: &String| m.rsplit('.').next().unwrap_or_default().to_owned();
                let short: BTreeSet<String> = all.iter().map(last).collect();
                let same = |spec: &crate::params::Spec| {
                    let m = module_of(&spec.name).to_owned();
                    spec.role != Role::Weight || short.contains(&last(&m)) == all.contains(&m)
                };
                json!(if inventory.specs[..adapted.first].iter().all(same) { short } else { all })
            }
        };
        let init = match self.init {
            Init::True => json!(true),
            Init::Gaussian => json!("gaussian"),
            Init::False => json!(false),
        };
        // Whole, where it can be: PEFT's own reader takes r and α for whole numbers.
        let alpha = if self.alpha.fract() == 0.0 { json!(self.alpha as u64) } else { json!(self.alpha) };
        json!({
            "auto_mapping": null,
            "base_model_name_or_path": base.display().to_string(),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": init,
            "lora_alpha": alpha,
            "lora_dropout": self.dropout,
            "modules_to_save": if self.modules_to_save.is_empty() { Value::Null } else { json!(self.modules_to_save) },
            "peft_type": "LORA",
            "r": self.r,
            "revision": null,
            "target_modules": targets,
            "task_type": if value_head { "SEQ_CLS" } else { "CAUSAL_LM" },
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        })
    }

    /// Puts adapters beside the linear maps of a configuration: their parameters stand behind all others.
    ///
    /// # Errors
    /// A name that names no linear map, one that adapters can't stand beside, or a pattern that is none.
    pub(crate) fn attach(&self, config: &mut ModelConfig, strict: bool) -> Result<(), Error> {
        let head = config.network.head;
        let inventory = &mut config.inventory;
        let first = inventory.specs.len();
        let modules: Vec<(ParamId, String)> = (0..first)
            .map(ParamId)
            .filter(|id| inventory.specs[id.0].role == Role::Weight && *id != head)
            .map(|id| (id, module_of(&inventory.specs[id.0].name).to_owned()))
            .collect();
        let ends = |module: &str, name: &str| {
            module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
        };
        // Where PEFT puts adapters beside routers and stacked experts too, what names them is refused.
        let experts: Vec<&str> = match targets::stacked(&config.model_type) {
            true => {
                inventory.specs[..first].iter().filter(|s| s.role == Role::Routed).map(|s| module_of(&s.name)).collect()
            }
            false => Vec::new(),
        };
        let beside_experts = |what: String| {
            let why = "beside which adapters are not implemented; name the other maps, as in";
            let names = "[\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\"]";
            Err(Error::Part(format!("lora_target_modules: {what} also names routers or experts, {why} {names}")))
        };
        let saved = |module: &str| {
            let (module, parts) = (format!(".{module}."), &self.modules_to_save);
            parts.iter().any(|m| module.contains(&format!(".{m}.")))
        };
        let default;
        let targets = match &self.target_modules {
            Some(targets) => targets,
            None => {
                let known = targets::of(&config.model_type).ok_or_else(|| {
                    Error::Part(format!(
                        "lora_target_modules is missing: PEFT has no default for model_type {:?}; \"all-linear\" names \
                         every linear map",
                        config.model_type
                    ))
                })?;
                default = Targets::Names(known.iter().map(ToString::to_string).collect());
                &default
            }
        };
        let chosen: Vec<&(ParamId, String)> = match targets {
            Targets::Pattern(p) if all_linear(p) => {
                if !experts.is_empty() {
                    return beside_experts("\"all-linear\"".into());
                }
                modules.iter().filter(|(_, m)| !saved(m)).collect()
            }
            Targets::Pattern(p) if plain(p) => {
                if experts.iter().any(|m| ends(m, p)) {
                    return beside_experts(format!("{p:?}"));
                }
                modules.iter().filter(|(_, m)| ends(m, p) && !saved(m)).collect()
            }
            Targets::Pattern(p) => {
                let whole = Regex::new(&format!("^(?:{p})$"))
                    .map_err(|e| Error::Part(format!("lora_target_modules: {p:?} is no regular expression: {e}")))?;
                let of =
                    |m: &str| whole.is_match(m).map_err(|e| Error::Part(format!("lora_target_modules: {p:?}: {e}")));
                for module in &experts {
                    if of(module)? {
                        return beside_experts(format!("{p:?}"));
                    }
                }
                let mut all = Vec::new();
                for one in &modules {
                    if of(&one.1)? && !saved(&one.1) {
                        all.push(one);
                    }
                }
                all
            }
            Targets::Names(names) => {
                if let Some(name) = names.iter().find(|n| experts.iter().any(|m| ends(m, n))) {
                    return beside_experts(format!("{name:?}"));
                }
                if let Some(name) = names.iter().find(|n| strict && !modules.iter().any(|(_, m)| ends(m, n))) {
                    let there = inventory.specs[..first].iter().any(|s| ends(module_of(&s.name), name));
                    let why = match there {
                        true => {
                            "is no linear map that an adapter may stand beside (the head, embeddings and norms are \
                                 trained by lora_modules_to_save)"
                        }
                        false => "names no module of the model",
                    };
                    return Err(Error::Part(format!("lora_target_modules: {name:?} {why}; {}", known(&modules))));
                }
                modules.iter().filter(|(_, m)| names.iter().any(|n| ends(m, n)) && !saved(m)).collect()
            }
        };
        if chosen.is_empty() {
            let said = match targets {
                Targets::Pattern(p) => format!("{p:?} names"),
                Targets::Names(names) => format!("{names:?} name"),
            };
            return Err(Error::Part(format!("lora_target_modules: {said} no linear map; {}", known(&modules))));
        }
        let mut adapted = Adapted { first, ..Adapted::default() };
        for (weight, module) in chosen {
            let [out, inp] = inventory.specs[weight.0].dims();
            let a = inventory.add(format!("{module}.lora_A.weight"), &[self.r, inp], Role::Weight);
            let b = inventory.add(format!("{module}.lora_B.weight"), &[out, self.r], Role::Weight);
            let magnitude =
                self.use_dora.then(|| inventory.add(format!("{module}.lora_magnitude_vector"), &[out], Role::Weight));
            let (scale, dropout) = (self.scale(), self.dropout);
            adapted.linear.push((*weight, Adapter { a, b, magnitude, scale, dropout }));
        }
        for name in &self.modules_to_save {
            // As PEFT finds them: by how the name of the module ends.
            let found: Vec<usize> =
                (0..first).filter(|i| module_of(&inventory.specs[*i].name).ends_with(name)).collect();
            let tied = config.tie_word_embeddings && config.head == HeadKind::Vocabulary;
            if tied && (name.ends_with("lm_head") || found.contains(&head.0)) {
                return Err(Error::Part(format!(
                    "lora_modules_to_save: {name:?}: head and embedding are tied here, and a copy of one is not \
                     implemented; leave it out"
                )));
            }
            if found.is_empty() {
                return Err(Error::Part(format!("lora_modules_to_save: {name:?} names no module of the model")));
            }
            for i in found {
                if adapted.replaced.iter().any(|(old, _)| old.0 == i) {
                    continue;
                }
                let spec = inventory.specs[i].clone();
                let (module, last) = spec.name.rsplit_once('.').unwrap_or((&spec.name, "weight"));
                let copy = inventory.add(format!("{module}{COPY}.{last}"), &spec.shape, spec.role);
                adapted.replaced.push((ParamId(i), copy));
            }
        }
        inventory.adapted = Some(adapted);
        Ok(())
    }

    /// The parameters of new adapters beside those of a base, drawn from `seed`.
    pub(crate) fn begin(&self, inventory: &Inventory, mut base: Vec<Tensor<2>>, seed: u64, device: &Device) -> Tensors {
        let adapted = inventory.adapted.as_ref().expect("an adapted inventory");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut gaussian = normal(seed, 1.0 / self.r as f64);
        let mut uniform = |n: usize, inp: usize| {
            let bound = 1.0 / (inp as f32).sqrt();
            (0..n).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect::<Vec<_>>()
        };
        for (weight, adapter) in &adapted.linear {
            let (a, b) = (&inventory.specs[adapter.a.0], &inventory.specs[adapter.b.0]);
            let host_a = match self.init {
                Init::Gaussian => gaussian.by_ref().take(a.len()).collect(),
                Init::True | Init::False => uniform(a.len(), a.shape[1]),
            };
            let host_b = match self.init {
                Init::False => uniform(b.len(), b.shape[1]),
                Init::True | Init::Gaussian => vec![0.0; b.len()],
            };
            let [a, b] = [a.tensor(host_a, device), b.tensor(host_b, device)];
            let made = adapter
                .magnitude
                .map(|_| row_norms(composed(base[weight.0].clone(), a.clone(), b.clone(), self.scale())).transpose());
            base.extend([a, b]);
            base.extend(made);
        }
        for (old, _) in &adapted.replaced {
            let copy = base[old.0].clone();
            base.push(copy);
        }
        Tensors(base)
    }
}

/// The base's own parameters, with all that adapters say made a part of them; f32.
pub(crate) fn merged(inventory: &Inventory, values: &Tensors) -> Tensors {
    let Some(adapted) = &inventory.adapted else { return values.clone() };
    let wide = |id: ParamId| values.0[id.0].clone().cast(DType::F32);
    let mut base: Vec<_> = (0..adapted.first).map(|i| wide(ParamId(i))).collect();
    for (weight, adapter) in &adapted.linear {
        let whole = composed(base[weight.0].clone(), wide(adapter.a), wide(adapter.b), adapter.scale);
        base[weight.0] = match adapter.magnitude {
            Some(m) => whole.clone() * (wide(m).transpose() / row_norms(whole)),
            None => whole,
        };
    }
    adapted.replaced.iter().for_each(|(old, new)| base[old.0] = wide(*new));
    Tensors(base)
}

/// W + sBA.
fn composed(w: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    w + b.matmul(a) * scale
}

/// ‖·‖ of each row, `[rows, 1]`.
fn row_norms(w: Tensor<2>) -> Tensor<2> {
    (w.clone() * w).sum_dim(1).sqrt()
}

/// The name of an adapter's parameter in PEFT's file.
pub(crate) fn name_in_file(name: &str) -> String {
    format!("{PREFIX}{}", name.replace(COPY, ""))
}

/// The base of an adapter folder, from what its configuration names: a folder, as it is or beside the adapter.
pub(crate) fn find_base(folder: &Path, named: Option<&str>) -> Result<PathBuf, Error> {
    let missing = |why: String| Error::NotACheckpoint { path: folder.to_owned(), why };
    let Some(named) = named else {
        let why = format!(
            "it is an adapter, and its {CONFIG} names no base_model_name_or_path; base_model says where that is"
        );
        return Err(missing(why));
    };
    let tried = [folder.join(named), PathBuf::from(named)];
    tried.iter().find(|p| p.join("config.json").is_file()).cloned().ok_or_else(|| {
        missing(format!(
            "it is an adapter of {named}, which is no checkpoint folder here; base_model says where that is"
        ))
    })
}

/// The module that a parameter is of.
fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

fn all_linear(pattern: &str) -> bool {
    pattern.eq_ignore_ascii_case("all-linear")
}

/// Whether a text is a name as it stands, and no regular expression.
fn plain(pattern: &str) -> bool {
    pattern.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn known(modules: &[(ParamId, String)]) -> String {
    let last: BTreeSet<&str> = modules.iter().filter_map(|(_, m)| m.rsplit('.').next()).collect();
    format!("there are {}", last.into_iter().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_adapt_experts_is_refused_by_name() {
        let table = json!({
            "model_type": "qwen3_moe", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
            "num_hidden_layers": 2, "vocab_size": 20, "num_experts": 3, "num_experts_per_tok": 2, "mlp_only_layers": [0]
        });
        let attach = |model_type: &str, target_modules: Targets| {
            let mut table = table.clone();
            table["model_type"] = model_type.into();
            let mut config = ModelConfig::from_value(&table, Path::new("config.json")).unwrap();
            let (modules_to_save, init) = (Vec::new(), Init::True);
            let (use_rslora, use_dora, target_modules) = (false, false, Some(target_modules));
            let lora =
                Lora { r: 2, alpha: 4.0, dropout: 0.0, target_modules, modules_to_save, use_rslora, use_dora, init };
            lora.attach(&mut config, true).map(|()| config.inventory.adapted.unwrap().linear.len())
        };
        let names = |all: &[&str]| Targets::Names(all.iter().map(ToString::to_string).collect());
        let pattern = |p: &str| Targets::Pattern(p.into());
        for (targets, said) in [
            (pattern("all-linear"), "\"all-linear\""),
            (pattern("gate_proj"), "\"gate_proj\""),
            (pattern(r".*\.1\..*up_proj"), "up_proj\""),
            (names(&["q_proj", "down_proj"]), "\"down_proj\""),
            (names(&["gate"]), "\"gate\""),
        ] {
            let got = attach("qwen3_moe", targets).unwrap_err().to_string();
            assert!(got.contains(&format!("{said} also names routers or experts")), "{got}");
        }
        assert_eq!(attach("qwen3_moe", names(&["q_proj", "v_proj"])).unwrap(), 4);
        // The dense layer's alone.
        assert_eq!(attach("qwen3_moe", pattern(r".*\.0\.mlp\.up_proj")).unwrap(), 1);
        // PEFT takes such a name for the shared expert's there: one layer has it, and the other a dense one.
        assert_eq!(attach("qwen2_moe", names(&["gate_proj"])).unwrap(), 2);
    }
}

//! The configuration of a run: keys, where they come from, and what they become.
//!
//! A run is described by one flat table of keys, from a TOML file, from flags of the same names, or both (flags win).
//! Keys that TRL also has are spelt as TRL spells them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use collimate_core::Objective;
use collimate_core::objective::Method;
use collimate_core::trl;
use collimate_data::{Options as DataOptions, Source, hub, template_path};
use collimate_model::files::read_settings;
use collimate_model::{Init, Lora, Targets};
use collimate_train::Settings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::generations::Generations;

/// A command that trains, and what is its own among the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Direct alignment from preference pairs.
    Align,
    /// Supervised fine-tuning.
    Sft,
    /// A reward model from preference pairs.
    Reward,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Align, Self::Sft, Self::Reward];

    /// The command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Align => "align",
            Self::Sft => "sft",
            Self::Reward => "reward",
        }
    }

    /// Whether it has that key.
    pub fn has(self, key: &str) -> bool {
        let own: &[Self] = match key {
            "method" | "objective" | "ref_model" => &[Self::Align],
            "completion_only_loss" => &[Self::Sft],
            "center_rewards_coefficient" => &[Self::Reward],
            "eval_generations" => &[Self::Align, Self::Sft],
            // What is read of a completion is its last token.
            "assistant_only_loss" => &[Self::Align, Self::Sft],
            // What compares two completions.
            "prefix_sharing" | "identical_pair" | "identical_after_truncation" => &[Self::Align, Self::Reward],
            _ => &Self::ALL,
        };
        own.contains(&self)
    }

    /// The peak learning rate where none is given: TRL's for the task.
    pub fn learning_rate(self) -> f64 {
        match self {
            Self::Align => 1e-6,
            Self::Sft => 2e-5,
            Self::Reward => 1e-4,
        }
    }

    /// The command that has a key which this one lacks.
    pub(crate) fn elsewhere(self, key: &str) -> Option<Self> {
        let parameter = || method_parameters().iter().any(|p| p == key);
        if self != Self::Align && parameter() {
            return Some(Self::Align);
        }
        let known = KEYS.iter().any(|k| k.name == key);
        Self::ALL.into_iter().find(|other| known && !self.has(key) && other.has(key))
    }

    /// Its keys, and with [`Align`](Self::Align) the parameters of all methods, and TRL's.
    fn known(self) -> Vec<String> {
        let mut all: Vec<_> = KEYS.iter().filter(|k| self.has(k.name)).map(|k| k.name.to_owned()).collect();
        if self == Self::Align {
            all.extend(method_parameters());
        }
        all.sort();
        all.dedup();
        all
    }
}

/// A configuration key: its name, the heading it stands under, and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name in TOML; the flag is `--name`, dashes accepted for underscores.
    pub name: &'static str,
    /// The heading in `--help`.
    pub heading: &'static str,
    /// What it does, its default and its choices.
    pub help: &'static str,
    /// Whether the flag's value is text even where it looks like a number.
    pub text: bool,
}

const fn key(heading: &'static str, name: &'static str, help: &'static str) -> Key {
    Key { name, heading, help, text: false }
}

const fn text(heading: &'static str, name: &'static str, help: &'static str) -> Key {
    Key { name, heading, help, text: true }
}

const RUN: &str = "What to run";
const METHOD: &str = "Method";
const TRAIN: &str = "Training";
pub(crate) const DATA: &str = "Data";
/// `max_length` where it is not given.
pub(crate) const MAX_LENGTH: usize = 1024;
const ENGINE: &str = "Engine";
const PART: &str = "Part of the network";
/// Keys that say what adapters are like.
const LORA: [&str; 8] = [
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_modules_to_save",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
];

/// All keys but the parameters of methods, which the methods themselves declare.
pub const KEYS: &[Key] = &[
    text(RUN, "model", "The checkpoint to train: a Hugging Face folder"),
    text(
        RUN,
        "data",
        "The data: a file or folder, or in TOML a list of them or of {path, weight, columns, format, split, name}",
    ),
    text(RUN, "output_dir", "Where the trained checkpoint, metrics.jsonl and collimate.toml go"),
    key(RUN, "overwrite_output_dir", "Replace an earlier run in output_dir [default: false]"),
    text(RUN, "ref_model", "The reference; default: the model as it is before training"),
    text(RUN, "eval_data", "Data to evaluate on"),
    key(RUN, "eval_split", "Share of data kept for evaluation instead, 0 to 1 [default: 0]"),
    text(
        RUN,
        "resume_from_checkpoint",
        "Go on from a checkpoint folder that an earlier run of the same configuration saved, or from the latest (also: true) \
         of output_dir; max_steps may say more",
    ),
    text(RUN, "backend", "Tensors: see `collimate backends` [default: the first that is usable]"),
    text(METHOD, "method", "The method by name: see `collimate methods` [default: averaged-dpo]"),
    key(
        METHOD,
        "objective",
        "In place of method, the triple spelt out: {averaging = {type = …}, optimality = {…}, loss = {…}}",
    ),
    key(
        METHOD,
        "center_rewards_coefficient",
        "c of the term c (r_chosen + r_rejected)² that keeps rewards around 0 [default: 0]",
    ),
    key(TRAIN, "learning_rate", "Peak learning rate of AdamW [default: 1e-6 in align, 2e-5 in sft, 1e-4 in reward]"),
    text(TRAIN, "lr_scheduler_type", "constant, constant_with_warmup, linear or cosine [default: linear]"),
    key(
        TRAIN,
        "warmup_steps",
        "Optimiser steps over which the learning rate rises from 0; below 1, a share of all steps [default: 0]",
    ),
    key(TRAIN, "warmup_ratio", "The same as a share of all steps [default: 0]"),
    key(TRAIN, "per_device_train_batch_size", "Pairs or texts per micro-batch [default: 8]"),
    key(TRAIN, "gradient_accumulation_steps", "Micro-batches per optimiser step [default: 1]"),
    key(TRAIN, "num_train_epochs", "Passes over the data [default: 3]"),
    key(TRAIN, "max_steps", "Optimiser steps; above 0 it overrides num_train_epochs [default: 0]"),
    key(TRAIN, "adam_beta1", "Decay of the mean of gradients [default: 0.9]"),
    key(TRAIN, "adam_beta2", "Decay of the mean of squared gradients [default: 0.999]"),
    key(TRAIN, "adam_epsilon", "The small number beside AdamW's root [default: 1e-8]"),
    key(TRAIN, "weight_decay", "Decoupled weight decay [default: 0]"),
    key(TRAIN, "max_grad_norm", "The gradient is scaled down to this norm; 0: never [default: 1]"),
    key(
        TRAIN,
        "router_aux_loss_coef",
        "Weight of the loss that balances the experts of a mixture, refused where there are none; 0: none [default: the model's config.json]",
    ),
    key(TRAIN, "logging_steps", "Optimiser steps per line of metrics [default: 10]"),
    key(TRAIN, "eval_steps", "Optimiser steps between evaluations; 0: at the end [default: 0]"),
    key(
        TRAIN,
        "per_device_eval_batch_size",
        "Pairs or texts per batch in evaluation and under the reference [default: 8]",
    ),
    key(
        TRAIN,
        "eval_generations",
        "Texts written while the run goes: {prompts = \"file\", steps = n (0: at both ends), reward = {type = …}, max_new_tokens, temperature, num_return_sequences, …} [default: none]",
    ),
    key(TRAIN, "save_steps", "Optimiser steps between checkpoints to go on from; 0: none [default: 0]"),
    key(
        TRAIN,
        "save_total_limit",
        "Checkpoints kept, the best and the one gone on from in any case; 0: all [default: 0]",
    ),
    key(
        TRAIN,
        "load_best_model_at_end",
        "The result is the best of the checkpoints; save_steps is then a multiple of eval_steps [default: false]",
    ),
    text(
        TRAIN,
        "metric_for_best_model",
        "What says which is the best: a metric of evaluations, with or without eval_ [default: loss]",
    ),
    key(
        TRAIN,
        "greater_is_better",
        "Whether more of that metric is better [default: unless its name ends with \"loss\"]",
    ),
    key(
        TRAIN,
        "early_stopping_patience",
        "Evaluations in a row without a better one after which the run ends; 0: none end it [default: 0]",
    ),
    key(TRAIN, "early_stopping_threshold", "By how much one must be better to count [default: 0]"),
    key(TRAIN, "report_to", "Where else metrics go: none or tensorboard (output_dir/runs) [default: none]"),
    key(TRAIN, "seed", "What the order of the data and all else that is random is drawn from [default: 42]"),
    key(TRAIN, "shuffle", "Whether the data is shuffled, anew for each epoch [default: true]"),
    key(PART, "trainable", "What is trained, by names or patterns: [\"norm\", \"layers.1*\"] [default: all]"),
    key(PART, "freeze", "What is not trained, by names or patterns [default: nothing]"),
    key(PART, "use_peft", "Train adapters (LoRA) beside the model's weights, and these not [default: false]"),
    key(PART, "lora_r", "The rank of adapters [default: 16]"),
    key(PART, "lora_alpha", "α: adapters are scaled by α/r [default: 32]"),
    key(
        PART,
        "lora_dropout",
        "The share of inputs that adapters don't see while training [default: 0.05 in sft, else 0]",
    ),
    key(
        PART,
        "lora_target_modules",
        "Which linear maps: [names], \"all-linear\" or a regular expression [default: PEFT's for the architecture]",
    ),
    key(PART, "lora_modules_to_save", "Modules that are trained in full beside the adapters [default: none]"),
    key(PART, "use_rslora", "Scale adapters by α/√r [default: false]"),
    key(PART, "use_dora", "Adapters with a magnitude for each row [default: false]"),
    key(PART, "init_lora_weights", "true (A uniform, B = 0), gaussian or false (A and B uniform) [default: true]"),
    text(PART, "base_model", "Where the base of an adapter is, if not where the adapter says"),
    key(ENGINE, "prefix_sharing", "Whether a pair's prompt is computed once for both completions [default: true]"),
    key(
        ENGINE,
        "max_tokens_per_batch",
        "Bound on input tokens per micro-batch; 0: none [default: 1024 on flex, where a step is the same however it is cut]",
    ),
    key(
        ENGINE,
        "gradient_checkpointing",
        "Recompute layers in the backward pass instead of storing them [default: false]",
    ),
    key(
        ENGINE,
        "max_memory_mib",
        "Most memory of the process, in MiB: micro-batches, logits and recomputed layers follow; 0: no bound [default: 0]",
    ),
    key(
        ENGINE,
        "zero_stage",
        "Of several workers: 1 splits the optimiser's state over them, 0 leaves it whole on each [default: 0]",
    ),
    key(ENGINE, "logits_chunk", "Logits held at a time, in numbers [default: 16777216]"),
    key(ENGINE, "bf16", "Compute in bfloat16 with a copy of weights kept in float32 [default: false]"),
    key(ENGINE, "fp16", "Compute in float16 with a copy of weights kept in float32 [default: false]"),
    text(ENGINE, "dtype", "What weights are kept in: float32 or bfloat16 [default: float32]"),
    key(DATA, "max_length", "Most tokens in prompt + completion [default: 1024]"),
    text(
        DATA,
        "overlong",
        "A longer pair: error, drop, truncate-prompt, truncate-completion, truncate-completion-keep-eos [default: error]",
    ),
    text(
        DATA,
        "boundary",
        "Tokens that merge across prompt and completion: error, drop, separate or merge [default: error]",
    ),
    text(
        DATA,
        "format",
        "standard, conversational, implicit-standard, implicit-conversational, alpaca, sharegpt, llamafactory-v1, axolotl, ms-swift, openai or nemo-rl [default: recognised]",
    ),
    key(DATA, "columns", "Renamed columns: {question = \"prompt\"}"),
    text(DATA, "split", "The split read from a folder that has several [default: train]"),
    text(
        DATA,
        "dataset_config",
        "The configuration read from a folder whose README declares several [default: its default one]",
    ),
    text(
        DATA,
        "implicit_prompt",
        "Where the prompt stands inside the completions only: auto, turn or common-prefix [default: auto]",
    ),
    text(
        DATA,
        "dirty_rows",
        "drop leaves out every row that one of the keys below would stop at, and counts it [default: error]",
    ),
    text(DATA, "malformed_row", "No JSON, a key twice, half a character, too large: error or drop [default: error]"),
    text(DATA, "missing_field", "error or drop [default: error]"),
    text(
        DATA,
        "assistant_prompt",
        "A prompt that ends in the assistant's turn: error, drop, or continue with the completion [default: error]",
    ),
    text(DATA, "refused_by_template", "error or drop [default: error]"),
    text(DATA, "unknown_id", "A token beyond the model's vocabulary: error or drop [default: error]"),
    text(DATA, "inner_bos", "error or drop [default: error]"),
    text(DATA, "inner_special", "Other special tokens spelled out in texts: keep, drop or error [default: keep]"),
    text(DATA, "empty_completion", "error or drop [default: error]"),
    text(DATA, "empty_prompt", "error or drop [default: error]"),
    text(DATA, "identical_pair", "error or drop [default: error]"),
    text(DATA, "differing_prompts", "error or drop [default: error]"),
    text(DATA, "wrong_type", "error or drop [default: error]"),
    text(DATA, "duplicate_row", "keep, drop or error [default: keep]"),
    text(DATA, "identical_after_truncation", "error or drop [default: error]"),
    text(DATA, "untruncatable", "error or drop [default: error]"),
    text(DATA, "inner_eos", "error or drop [default: error]"),
    text(DATA, "chat_template", "A chat template, or a path to one, in place of the checkpoint's"),
    key(DATA, "chat_template_kwargs", "Variables for the chat template: {enable_thinking = false}"),
    text(DATA, "template_date", "The date that a chat template sees as today, YYYY-MM-DD [default: today]"),
    key(
        DATA,
        "completion_only_loss",
        "Learn the completion alone, or the prompt too [default: the completion alone where a row has both]",
    ),
    key(DATA, "assistant_only_loss", "Score only what the template marks as generated [default: false]"),
    text(DATA, "cache_dir", "Folder for tokenised data and reference scores, reused by later runs [default: none]"),
];

/// What a run optimises.
#[derive(Debug)]
pub enum What {
    /// A method on preference pairs.
    Align(Box<Objective>),
    /// The cross-entropy of texts.
    Sft,
    /// The likelihood of preferences.
    Reward(collimate_train::Reward),
}

/// Where a run goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The last checkpoint of its output folder.
    Latest,
    /// A checkpoint.
    At(PathBuf),
}

/// What `resume_from_checkpoint` may say that is no folder: whether to go on from the last checkpoint.
fn latest(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(s) => match s.to_lowercase().as_str() {
            "latest" | "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Whether `report_to` has TensorBoard in it.
fn tensorboard(value: Value) -> Result<bool> {
    let all = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let mut asked = false;
    for one in all {
        match one.as_str() {
            Some("none") => {}
            Some("tensorboard") => asked = true,
            _ => bail!(
                "report_to: {one} is not there; expected \"none\" or \"tensorboard\" (metrics.jsonl has all figures)"
            ),
        }
    }
    Ok(asked)
}

/// A run, read and checked as far as that goes without its files.
#[derive(Debug)]
pub struct Run {
    /// The command.
    pub kind: Kind,
    /// The checkpoint to train.
    pub model: PathBuf,
    /// The reference, if it is another than the model.
    pub ref_model: Option<PathBuf>,
    /// The base of the model, if that is an adapter.
    pub base_model: Option<PathBuf>,
    /// What is trained, by patterns; empty: all.
    pub trainable: Vec<String>,
    /// What is not.
    pub freeze: Vec<String>,
    /// New adapters.
    pub lora: Option<Lora>,
    /// The data.
    pub data: Vec<Source>,
    /// The data for evaluation.
    pub eval_data: Vec<Source>,
    /// Share of `data` kept for evaluation.
    pub eval_split: f64,
    /// The backend by name, if one was chosen.
    pub backend: Option<String>,
    /// Where the output goes.
    pub output_dir: PathBuf,
    /// Whether an earlier run there may be replaced.
    pub overwrite: bool,
    /// A checkpoint of an earlier run, to go on from.
    pub resume: Option<Resume>,
    /// Whether events for TensorBoard are written.
    pub tensorboard: bool,
    /// What is optimised.
    pub what: What,
    /// Texts that are written while the run goes.
    pub generations: Option<Generations>,
    /// The trainer's settings.
    pub settings: Settings,
    /// How data is read.
    pub data_options: DataOptions,
    /// All keys as they take effect, defaults included.
    pub effective: Map<String, Value>,
}

/// The names of the keys of a settings type, from its defaults.
fn names<T: serde::Serialize + Default>() -> Vec<String> {
    match serde_json::to_value(T::default()) {
        Ok(Value::Object(table)) => table.into_iter().map(|(k, _)| k).collect(),
        _ => unreachable!("settings are a table"),
    }
}

/// The parameters of all methods, and TRL's.
fn method_parameters() -> Vec<String> {
    let parameters = Method::all().into_iter().flat_map(|m| m.parameters.iter().map(|p| p.key.to_owned()));
    parameters.chain(trl::KEYS.map(String::from)).collect()
}

/// The known key nearest to `name`, if one is near.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let (distance, best) = known.iter().map(|k| (strsim::levenshtein(name, k), k)).min_by_key(|(d, _)| *d)?;
    (distance <= 1 + name.len() / 4).then_some(best)
}

pub(crate) fn section<T: DeserializeOwned>(table: Map<String, Value>, from: &str) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(table)).map_err(|e| {
        let path = e.path().to_string();
        anyhow!("{from}{path}: {}", e.into_inner())
    })
}

/// A list of sources from a path, a list of paths, or a list of [`Source`]s.
fn sources(key: &str, value: Value) -> Result<Vec<Source>> {
    let one = |key: &str, v: Value| match v {
        Value::String(path) => Ok(Source::from(path)),
        Value::Object(table) => section(table, &format!("{key}: ")),
        other => bail!("{key}: expected a path or {{path, weight, columns, format, split, name}}, got {other}"),
    };
    match value {
        Value::Array(list) => list.into_iter().enumerate().map(|(i, v)| one(&format!("{key}[{i}]"), v)).collect(),
        v => Ok(vec![one(key, v)?]),
    }
}

/// `warmup_steps` below 1 is a share of all steps, as TRL has it.
fn share_of_steps(train: &mut Map<String, Value>) -> Result<()> {
    let Some(given) = train.get("warmup_steps").and_then(Value::as_f64) else { return Ok(()) };
    if given > 0.0 && given < 1.0 {
        if train.contains_key("warmup_ratio") {
            bail!("warmup_steps below 1 and warmup_ratio both say a share of all steps: give one");
        }
        train.remove("warmup_steps");
        train.insert("warmup_ratio".into(), given.into());
    } else if given >= 1.0 && given.fract() == 0.0 && given < 1e15 {
        train.insert("warmup_steps".into(), (given as u64).into());
    } else if given != 0.0 {
        bail!("warmup_steps: expected a whole number, or a share below 1, got {given}");
    } else {
        train.insert("warmup_steps".into(), 0.into());
    }
    Ok(())
}

/// Names, one or several.
fn names_of(key: &str, value: Value) -> Result<Vec<String>> {
    let said = format!("{key}: expected names, got {value}");
    let one = |v: Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let all = match value {
        Value::Array(list) if !list.is_empty() => list.into_iter().map(one).collect(),
        v => one(v).map(|n| vec![n]),
    };
    all.ok_or_else(|| anyhow!(said))
}

/// The adapters that `use_peft` and the keys of LoRA say.
fn lora(kind: Kind, table: &mut Map<String, Value>) -> Result<Option<Lora>> {
    let flag = |key: &str, v: Option<Value>| match v {
        None => Ok(false),
        Some(v) => v.as_bool().ok_or_else(|| anyhow!("{key}: expected true or false, got {v}")),
    };
    if !flag("use_peft", table.remove("use_peft"))? {
        if let Some(key) = LORA.into_iter().find(|k| table.contains_key(*k)) {
            bail!("{key}: does nothing without use_peft = true");
        }
        return Ok(None);
    }
    let mut take = |key: &str| table.remove(key);
    let number = |key: &str, v: Option<Value>, default: f64| match v {
        None => Ok(default),
        Some(v) => v.as_f64().ok_or_else(|| anyhow!("{key}: expected a number, got {v}")),
    };
    let r = match take("lora_r") {
        None => 16,
        Some(v) => v.as_u64().ok_or_else(|| anyhow!("lora_r: expected a whole number, got {v}"))? as usize,
    };
    let init = match take("init_lora_weights") {
        None | Some(Value::Bool(true)) => Init::True,
        Some(Value::Bool(false)) => Init::False,
        Some(Value::String(s)) if s == "gaussian" => Init::Gaussian,
        Some(v) => bail!("init_lora_weights: expected true, false or \"gaussian\", got {v}"),
    };
    let target_modules = match take("lora_target_modules") {
        None => None,
        Some(Value::String(pattern)) => Some(Targets::Pattern(pattern)),
        Some(list) => Some(Targets::Names(names_of("lora_target_modules", list)?)),
    };
    let new = Lora {
        r,
        alpha: number("lora_alpha", take("lora_alpha"), 32.0)?,
        // TRL's is 0.05 everywhere, and its `disable_dropout` makes that 0 but in supervised fine-tuning.
        dropout: number("lora_dropout", take("lora_dropout"), if kind == Kind::Sft { 0.05 } else { 0.0 })?,
        target_modules,
        modules_to_save: take("lora_modules_to_save")
            .map_or(Ok(Vec::new()), |v| names_of("lora_modules_to_save", v))?,
        use_rslora: flag("use_rslora", take("use_rslora"))?,
        use_dora: flag("use_dora", take("use_dora"))?,
        init,
    };
    new.validate()?;
    Ok(Some(new))
}

fn string(key: &str, value: Value) -> Result<String> {
    match value {
        Value::String(s) if !s.is_empty() => Ok(s),
        other => bail!("{key}: expected text, got {other}"),
    }
}

/// Keys that are paths to read from, to write to, and those that are paths or lists of paths or of tables with one.
const PATHS: [&str; 4] = ["model", "ref_model", "base_model", "resume_from_checkpoint"];
const PATHS_OUT: [&str; 2] = ["output_dir", "cache_dir"];
const PATH_LISTS: [&str; 2] = ["data", "eval_data"];

/// Applies `to` to every path of a table, with whether it is read from; URLs are none, nor are names on the Hub where there is no
/// such folder.
fn each_path(table: &mut Map<String, Value>, to: &dyn Fn(&Path, bool) -> PathBuf) {
    let table_says_folder = table.get("resume_from_checkpoint").is_none_or(|v| latest(v).is_none());
    let set_as = |value: &mut Value, input: bool| {
        if let Value::String(path) = value
            && !path.is_empty()
            && !path.contains("://")
        {
            let new = to(Path::new(path), input);
            if !hub::is_name(path) || new.exists() {
                *path = new.display().to_string();
            }
        }
    };
    let set = |value: &mut Value| set_as(value, true);
    let folder = |k: &&&str| **k != "resume_from_checkpoint" || table_says_folder;
    PATHS.iter().filter(folder).filter_map(|k| table.get_mut(*k).map(set)).for_each(drop);
    PATHS_OUT.iter().filter_map(|k| table.get_mut(*k).map(|v| set_as(v, false))).for_each(drop);
    for key in PATH_LISTS {
        let Some(value) = table.get_mut(key) else { continue };
        let all = match value {
            Value::Array(list) => list.iter_mut().collect(),
            one => vec![one],
        };
        for one in all {
            match one {
                Value::Object(source) => source.get_mut("path").map(set).unwrap_or_default(),
                path => set(path),
            }
        }
    }
    if let Some(Value::Object(generations)) = table.get_mut("eval_generations") {
        generations.get_mut("prompts").map(set);
        // A reward model's folder, or a world's.
        if let Some(Value::Object(reward)) = generations.get_mut("reward") {
            ["model", "folder"].iter().filter_map(|k| reward.get_mut(*k).map(set)).for_each(drop);
        }
    }
    if let Some(Value::String(template)) = table.get_mut("chat_template")
        && template_path(template).is_some()
    {
        *template = to(Path::new(template), true).display().to_string();
    }
}

/// Reads a TOML file as a flat table of keys; relative paths in it are relative to the file. What is to be read, and is
/// not there but in the working folder, is taken from there, with a line that says so.
///
/// # Errors
/// A file that can't be read or is not TOML; the message names the line.
pub fn read_file(path: &Path) -> Result<Map<String, Value>> {
    let mut map = read_table(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    each_path(&mut map, &|p, input| {
        let beside = folder.join(p);
        if input && !beside.exists() && p.exists() && beside != p {
            say!("{} is not beside {}; taken from the working folder", p.display(), path.display());
            return p.to_owned();
        }
        beside
    });
    Ok(map)
}

/// Reads a TOML file as it is.
///
/// # Errors
/// As [`read_file`].
pub(crate) fn read_table(path: &Path) -> Result<Map<String, Value>> {
    let text = read_settings(path).with_context(|| format!("{} can't be read", path.display()))?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|e| anyhow!("{}: {}", path.display(), e.to_string().trim_end()))?;
    if let Some((key, number)) = table.iter().find_map(|(key, v)| Some((key, not_finite(v)?))) {
        bail!("{}: {key} has the number {number}; expected finite numbers", path.display());
    }
    match serde_json::to_value(table)? {
        Value::Object(map) => Ok(map),
        _ => unreachable!("a TOML document is a table"),
    }
}

/// The first number in `value` that is none, or infinite: no key takes it, and JSON does not have it.
fn not_finite(value: &toml::Value) -> Option<f64> {
    match value {
        toml::Value::Float(x) => Some(*x).filter(|x| !x.is_finite()),
        toml::Value::Array(list) => list.iter().find_map(not_finite),
        toml::Value::Table(table) => table.values().find_map(not_finite),
        _ => None,
    }
}

/// The value of a flag: TOML where it reads as TOML, text otherwise.
pub fn flag_value(key: &Key, given: &str) -> Value {
    if key.text {
        return Value::String(given.to_owned());
    }
    let parsed = toml::from_str::<toml::Table>(&format!("v = {given}")).ok().and_then(|mut t| t.remove("v"));
    let parsed = parsed.filter(|v| not_finite(v).is_none());
    parsed.and_then(|v| serde_json::to_value(v).ok()).unwrap_or_else(|| Value::String(given.to_owned()))
}

/// The objective that a method by name, a triple, or TRL's keys say.
fn objective(method: Option<String>, triple: Option<Value>, parameters: &Map<String, Value>) -> Result<Objective> {
    Ok(match (&method, triple) {
        (Some(_), Some(_)) => bail!("method and objective both say what to optimise: give one"),
        (None, Some(triple)) => {
            if let Some(key) = parameters.keys().next() {
                bail!("{key}: with `objective`, parameters belong inside its tables");
            }
            Objective::from_value(&triple)?
        }
        (Some(_), None) if parameters.contains_key("loss_type") => {
            bail!("method and loss_type both say what to optimise: give one (loss_type has TRL's meaning)")
        }
        (None, None) if parameters.contains_key("loss_type") => {
            crate::from_trl::refuse_unused(parameters)?;
            trl::objective(parameters)?
        }
        (name, None) => Method::find(name.as_deref().unwrap_or("averaged-dpo"))?.objective(parameters)?,
    })
}

impl Run {
    /// Reads a flat table of keys.
    ///
    /// # Errors
    /// Names the first key that is missing, unknown, of the wrong type or out of range.
    pub fn new(kind: Kind, mut table: Map<String, Value>) -> Result<Self> {
        let known = kind.known();
        if let Some(odd) = table.keys().find(|k| !known.contains(k)) {
            if let Some(instead) = crate::from_trl::instead(odd) {
                bail!("`{odd}` is TRL's, and not a key here: {instead}");
            }
            if let Some(other) = kind.elsewhere(odd) {
                bail!("`{odd}` is a key of `collimate {}`, and not of `collimate {}`", other.name(), kind.name());
            }
            let hint = nearest(odd, &known).map_or_else(String::new, |k| format!("; did you mean `{k}`?"));
            bail!("unknown key `{odd}`{hint} (`collimate {} --help` lists all keys)", kind.name());
        }
        let lora = lora(kind, &mut table)?;
        let mut take = |key: &str| table.remove(key);
        let [trainable, freeze] =
            ["trainable", "freeze"].map(|key| take(key).map_or(Ok(Vec::new()), |v| names_of(key, v)));
        let (trainable, freeze) = (trainable?, freeze?);
        if let Some(key) = [("trainable", &trainable), ("freeze", &freeze)].iter().find(|(_, l)| !l.is_empty())
            && lora.is_some()
        {
            bail!("{}: with use_peft the adapters are trained, and what lora_modules_to_save names", key.0);
        }
        let base_model = take("base_model").map(|v| string("base_model", v)).transpose()?.map(PathBuf::from);
        let required = |key: &str, v: Option<Value>| {
            v.ok_or_else(|| anyhow!("`{key}` is missing: give --{key} or set it in the file"))
        };
        let model = PathBuf::from(string("model", required("model", take("model"))?)?);
        let ref_model = take("ref_model").map(|v| string("ref_model", v)).transpose()?.map(PathBuf::from);
        let data_value = required("data", take("data"))?;
        let data = sources("data", data_value.clone())?;
        let eval_value = take("eval_data");
        let eval_data = eval_value.clone().map_or(Ok(Vec::new()), |v| sources("eval_data", v))?;
        let eval_split = match take("eval_split") {
            None => 0.0,
            Some(v) => v
                .as_f64()
                .filter(|s| (0.0..1.0).contains(s))
                .ok_or_else(|| anyhow!("eval_split: expected a number from 0 to below 1, got {v}"))?,
        };
        if eval_split > 0.0 && !eval_data.is_empty() {
            bail!("eval_split and eval_data both say what to evaluate on: give one");
        }
        let backend = take("backend").map(|v| string("backend", v)).transpose()?;
        let output_dir = PathBuf::from(string("output_dir", required("output_dir", take("output_dir"))?)?);
        let overwrite = match take("overwrite_output_dir") {
            None => false,
            Some(v) => v.as_bool().ok_or_else(|| anyhow!("overwrite_output_dir: expected true or false, got {v}"))?,
        };
        let resume = match take("resume_from_checkpoint") {
            None => None,
            Some(v) => match latest(&v) {
                Some(on) => on.then_some(Resume::Latest),
                None => Some(Resume::At(PathBuf::from(string("resume_from_checkpoint", v)?))),
            },
        };
        let tensorboard = take("report_to").map_or(Ok(false), tensorboard)?;
        let method = take("method").map(|v| string("method", v)).transpose()?;
        let triple = take("objective");

        let generations = take("eval_generations").map(Generations::new).transpose()?;
        let mut pick = |names: Vec<String>| -> Map<String, Value> {
            names.into_iter().filter_map(|k| table.remove(&k).map(|v| (k, v))).collect()
        };
        let mut given: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        given.insert("train", pick(names::<Settings>()));
        given.insert("data", pick(names::<DataOptions>().into_iter().filter(|k| k != "seed").collect()));
        // What is left are parameters of methods.
        let parameters = table;
        let what = match kind {
            Kind::Align => What::Align(Box::new(objective(method, triple, &parameters)?)),
            Kind::Sft => What::Sft,
            Kind::Reward => {
                let task: collimate_train::Reward = section(parameters, "")?;
                let c = task.center_rewards_coefficient;
                if !(c >= 0.0 && c.is_finite()) {
                    bail!("center_rewards_coefficient must be 0 or more, got {c}");
                }
                What::Reward(task)
            }
        };
        let mut train = given.remove("train").expect("it was put there");
        share_of_steps(&mut train)?;
        train.entry("learning_rate").or_insert(kind.learning_rate().into());
        let settings: Settings = section(train, "")?;
        settings.validate()?;
        let referred = matches!(&what, What::Align(objective) if objective.uses_reference());
        let evaluated = eval_split > 0.0 || !eval_data.is_empty();
        if settings.eval_steps > 0 && !evaluated {
            bail!("eval_steps: there is nothing to evaluate on; eval_data or eval_split says on what");
        }
        for (key, given) in [
            ("metric_for_best_model", settings.metric_for_best_model.is_some()),
            ("greater_is_better", settings.greater_is_better.is_some()),
        ] {
            if given && !evaluated {
                bail!("{key}: there is nothing to evaluate on; eval_data or eval_split says on what");
            }
        }
        if settings.per_device_eval_batch_size != Settings::default().per_device_eval_batch_size
            && !evaluated
            && !referred
        {
            bail!("per_device_eval_batch_size: this run has neither an evaluation nor a reference to score");
        }
        if ref_model.is_some() && !referred {
            bail!("ref_model: this method has no reference, and would not look at it");
        }
        let mut data_table = given.remove("data").expect("it was put there");
        data_table.entry("max_length").or_insert(MAX_LENGTH.into());
        let data_options = DataOptions { seed: settings.seed, ..section(data_table, "")? };
        data_options.validate()?;

        let mut run = Self {
            kind,
            model,
            ref_model,
            base_model,
            trainable,
            freeze,
            lora,
            data,
            eval_data,
            eval_split,
            backend,
            output_dir,
            overwrite,
            resume,
            tensorboard,
            what,
            generations,
            settings,
            data_options,
            effective: Map::new(),
        };
        run.effective = run.effective_table(data_value, eval_value)?;
        Ok(run)
    }

    fn effective_table(&self, data: Value, eval: Option<Value>) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        let path = |p: &Path| Value::String(p.display().to_string());
        all.insert("model".into(), path(&self.model));
        if let Some(r) = &self.ref_model {
            all.insert("ref_model".into(), path(r));
        }
        if let Some(base) = &self.base_model {
            all.insert("base_model".into(), path(base));
        }
        for (key, list) in [("trainable", &self.trainable), ("freeze", &self.freeze)] {
            if !list.is_empty() {
                all.insert(key.into(), list.clone().into());
            }
        }
        if let Some(lora) = &self.lora {
            let number = |x: f64| if x.fract() == 0.0 { Value::from(x as u64) } else { Value::from(x) };
            let targets = match &lora.target_modules {
                None => None,
                Some(Targets::Names(names)) => Some(Value::from(names.clone())),
                Some(Targets::Pattern(p)) => Some(Value::from(p.clone())),
            };
            let saved = Some(&lora.modules_to_save).filter(|m| !m.is_empty()).map(|m| Value::from(m.clone()));
            let init = match lora.init {
                Init::True => Value::from(true),
                Init::Gaussian => Value::from("gaussian"),
                Init::False => Value::from(false),
            };
            let keys = [
                ("use_peft", Some(true.into())),
                ("lora_r", Some(lora.r.into())),
                ("lora_alpha", Some(number(lora.alpha))),
                ("lora_dropout", Some(lora.dropout.into())),
                ("lora_target_modules", targets),
                ("lora_modules_to_save", saved),
                ("use_rslora", Some(lora.use_rslora.into())),
                ("use_dora", Some(lora.use_dora.into())),
                ("init_lora_weights", Some(init)),
            ];
            all.extend(keys.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))));
        }
        all.insert("data".into(), data);
        if let Some(eval) = eval {
            all.insert("eval_data".into(), eval);
        }
        all.insert("eval_split".into(), self.eval_split.into());
        if let Some(b) = &self.backend {
            all.insert("backend".into(), b.clone().into());
        }
        all.insert("output_dir".into(), path(&self.output_dir));
        all.insert("report_to".into(), if self.tensorboard { "tensorboard" } else { "none" }.into());
        let tables = [serde_json::to_value(&self.settings)?, serde_json::to_value(&self.data_options)?];
        for table in tables {
            let Value::Object(table) = table else { unreachable!("settings are a table") };
            let said = table.into_iter().filter(|(k, v)| !v.is_null() && (k == "seed" || self.kind.has(k)));
            all.extend(said.filter(|(_, v)| v.as_object().is_none_or(|o| !o.is_empty())));
        }
        if let Some(generations) = &self.generations {
            all.insert("eval_generations".into(), serde_json::to_value(generations)?);
        }
        match &self.what {
            What::Align(objective) => drop(all.insert("objective".into(), objective.to_value())),
            What::Sft => {}
            What::Reward(task) => {
                let Value::Object(table) = serde_json::to_value(task)? else { unreachable!("settings are a table") };
                all.extend(table);
            }
        }
        // The file that this becomes lies elsewhere.
        each_path(&mut all, &|p, _| std::path::absolute(p).unwrap_or_else(|_| p.to_owned()));
        Ok(all)
    }

    /// The text of the chat template that stands in place of the checkpoint's, if one does.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn chat_template(&self) -> Result<Option<String>> {
        let read = |path: &String| read_settings(Path::new(path)).with_context(|| format!("chat_template: {path}"));
        match &self.data_options.chat_template {
            Some(path) if template_path(path).is_some() => read(path).map(Some),
            text => Ok(text.clone()),
        }
    }

    /// Settles what chat templates see as today.
    pub fn set_template_date(&mut self, date: String) {
        self.effective.insert("template_date".into(), date.clone().into());
        self.data_options.template_date = Some(date);
    }

    /// The effective configuration as a TOML file that reruns this run.
    ///
    /// # Errors
    /// A value that TOML can't hold.
    pub fn to_toml(&self) -> Result<String> {
        let text = toml::to_string(&Value::Object(self.effective.clone())).context("writing the configuration")?;
        Ok(format!(
            "# The configuration of this run as it took effect: `collimate {} collimate.toml` repeats it.\n{text}",
            self.kind.name()
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn table(text: &str) -> Map<String, Value> {
        match serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap() {
            Value::Object(map) => map,
            _ => unreachable!(),
        }
    }

    fn align(table: Map<String, Value>) -> Result<Run> {
        Run::new(Kind::Align, table)
    }

    const LEAST: &str = "model = 'm'\ndata = 'd.jsonl'\noutput_dir = 'o'\n";

    fn refused(more: &str) -> String {
        align(table(&format!("{LEAST}{more}"))).unwrap_err().to_string()
    }

    #[test]
    fn every_setting_has_a_key_and_every_key_a_setting() {
        let mut settings: Vec<String> = names::<Settings>();
        settings.extend(names::<DataOptions>());
        settings.extend(
            ["model", "ref_model", "data", "eval_data", "eval_split", "backend", "output_dir", "overwrite_output_dir"]
                .map(String::from),
        );
        settings.extend(["method", "objective", "resume_from_checkpoint", "report_to"].map(String::from));
        settings.extend(["center_rewards_coefficient", "eval_generations"].map(String::from));
        settings.extend(["trainable", "freeze", "use_peft", "base_model"].into_iter().chain(LORA).map(String::from));
        settings.sort();
        settings.dedup();
        let mut keys: Vec<String> = KEYS.iter().map(|k| k.name.to_owned()).collect();
        keys.sort();
        assert_eq!(keys, settings);
    }

    #[test]
    fn the_effective_configuration_is_the_same_run() {
        let run =
            align(table(&format!("{LEAST}method = 'averaged-ipo'\nbeta = 0.7\nmax_steps = 3\noverlong = 'drop'")))
                .unwrap();
        let again = align(table(&run.to_toml().unwrap())).unwrap();
        assert_eq!(again.effective, run.effective);
        assert_eq!(again.settings, run.settings);
        assert_eq!(again.data_options, run.data_options);
        assert_eq!(again.effective["objective"], run.effective["objective"]);
    }

    #[test]
    fn each_data_set_may_have_its_own_keys() {
        let text = "model = 'm'\noutput_dir = 'o'\nsplit = 'test'\ndata = ['a.jsonl', \
                    {path = 'b', weight = 0.5, columns = {question = 'prompt'}, format = 'standard', split = 'dev', \
                    name = 'english'}]\n[chat_template_kwargs]\ndepth = 1\n";
        let run = align(table(text)).unwrap();
        let [a, b] = &run.data[..] else { panic!("{:?}", run.data) };
        assert_eq!(*a, Source::from("a.jsonl"));
        assert_eq!((b.weight, b.split.as_deref(), b.name.as_deref()), (0.5, Some("dev"), Some("english")));
        assert_eq!(b.columns.as_ref().unwrap()["question"], "prompt");
        let again = align(table(&run.to_toml().unwrap())).unwrap();
        let path = |p: &str| std::path::absolute(p).unwrap();
        assert_eq!(again.data[0].path, path("a.jsonl"));
        assert_eq!(again.data[1], Source { path: path("b"), ..run.data[1].clone() });
        assert_eq!(again.data_options, run.data_options);
        assert_eq!(again.effective, run.effective);
    }

    #[test]
    fn paths_of_eval_generations_are_relative_to_their_file() {
        let desk = tempfile::tempdir().unwrap();
        let file = desk.path().join("run.toml");
        for (key, kind) in [("folder", "world"), ("model", "model")] {
            let reward = format!("{{type = '{kind}', {key} = 'judge'}}");
            std::fs::write(&file, format!("eval_generations = {{prompts = 'p.jsonl', reward = {reward}}}")).unwrap();
            let read = read_file(&file).unwrap();
            let at = |p: &str| Value::from(desk.path().join(p).display().to_string());
            assert_eq!(read["eval_generations"]["prompts"], at("p.jsonl"));
            assert_eq!(read["eval_generations"]["reward"][key], at("judge"));
        }
        let reward = "{type = 'command', command = ['sh', 'judge.sh']}";
        std::fs::write(&file, format!("eval_generations = {{prompts = 'p.jsonl', reward = {reward}}}")).unwrap();
        let read = read_file(&file).unwrap();
        assert_eq!(read["eval_generations"]["reward"]["command"], serde_json::json!(["sh", "judge.sh"]));
    }

    #[test]
    fn faults_name_their_key() {
        let said = refused("bta = 1");
        assert!(said.starts_with("unknown key `bta`; did you mean `beta`?"), "{said}");
        let said = refused("learning_rate = 'fast'");
        assert!(said.starts_with("learning_rate: invalid type: string"), "{said}");
        let said = refused("learning_rate = 0");
        assert_eq!(said, "learning_rate must be above 0, got 0");
        let said = refused("overlong = 'cut'");
        assert!(said.starts_with("overlong: unknown variant `cut`, expected one of"), "{said}");
        let said = refused("beta = 0");
        assert!(said.ends_with("beta must be a finite number greater than 0, got 0"), "{said}");
        let said = align(table("model = 'm'\noutput_dir = 'o'\ndata = ['a', {path = 'b', colums = {}}]"));
        let said = said.unwrap_err().to_string();
        assert!(
            said.starts_with("data[1]: ") && said.contains("unknown field `colums`, expected one of `path`"),
            "{said}"
        );
        let said = refused("method = 'dpo'\nloss_type = 'sigmoid'");
        assert!(said.contains("give one"), "{said}");
        let said = refused("method = 'dpoo'");
        assert!(said.starts_with("unknown method \"dpoo\"; there are:"), "{said}");
        let said = refused("eval_data = 'e'\neval_split = 0.5");
        assert!(said.contains("give one"), "{said}");
        let said = align(table("model = 'm'")).unwrap_err().to_string();
        assert!(said.starts_with("`data` is missing"), "{said}");
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        for (more, part) in [
            ("eval_steps = 5", "eval_steps: there is nothing to evaluate on"),
            ("method = 'simpo'\nper_device_eval_batch_size = 4", "neither an evaluation nor a reference"),
            ("method = 'simpo'\nref_model = 'r'", "ref_model: this method has no reference"),
            ("lr_scheduler_type = 'constant'\nwarmup_steps = 5", "\"constant_with_warmup\" has one"),
            ("lr_scheduler_type = 'constant'\nwarmup_steps = 0.1", "\"constant_with_warmup\" has one"),
            ("metric_for_best_model = 'loss'", "metric_for_best_model: there is nothing to evaluate on"),
            ("greater_is_better = true", "greater_is_better: there is nothing to evaluate on"),
            ("save_total_limit = 2", "save_total_limit: nothing is saved on the way"),
            ("eval_split = 0.1\neval_steps = 2\nsave_steps = 3\nload_best_model_at_end = true", "eval_steps (2) and"),
            ("load_best_model_at_end = true\neval_steps = 2\nsave_steps = 2", "eval_steps: there is nothing"),
            ("eval_split = 0.1\nearly_stopping_patience = 2", "early_stopping_patience: nothing is evaluated"),
            ("eval_split = 0.1\neval_steps = 2\nearly_stopping_threshold = 0.1", "without early_stopping_patience"),
            ("report_to = 'wandb'", "report_to: \"wandb\" is not there; expected \"none\" or"),
            ("report_to = ['tensorboard', 3]", "report_to: 3 is not there"),
            ("resume_from_checkpoint = 3", "resume_from_checkpoint: expected text, got 3"),
            ("lora_r = 8", "lora_r: does nothing without use_peft"),
            ("use_peft = true\nfreeze = 'norm'", "freeze: with use_peft the adapters are trained"),
            ("use_peft = true\nuse_dora = true\nlora_dropout = 0.1", "set lora_dropout = 0"),
            ("use_peft = true\ninit_lora_weights = 'pissa'", "init_lora_weights: expected true, false or"),
            ("loss_type = 'sigmoid'\nlabel_smoothing = 0.1", "label_smoothing: loss_type \"sigmoid\" does not use it"),
            ("loss_type = ['ipo', 'sft']\ndiscopop_tau = 0.1", "discopop_tau: loss_type \"ipo\", \"sft\" does not"),
            ("loss_type = 'sigmoid'\nf_alpha_divergence_coef = 0.3", "f_divergence_type = \"alpha_divergence\" does"),
        ] {
            let said = refused(more);
            assert!(said.contains(part), "{said}");
        }
        // TRL's own defaults change nothing, and pass.
        align(table(&format!("{LEAST}loss_type = 'sigmoid'\nlabel_smoothing = 0.0\ndiscopop_tau = 0.05"))).unwrap();
        align(table(&format!("{LEAST}loss_type = 'robust'\nlabel_smoothing = 0.1"))).unwrap();
        align(table(&format!("{LEAST}eval_split = 0.1\neval_steps = 5"))).unwrap();
    }

    #[test]
    fn a_run_goes_on_from_the_latest_as_trl_spells_it_too() {
        let of = |said: &str| align(table(&format!("{LEAST}resume_from_checkpoint = {said}"))).unwrap().resume;
        for said in ["'latest'", "true", "'true'", "'True'"] {
            assert_eq!(of(said), Some(Resume::Latest), "{said}");
        }
        assert_eq!(of("false"), None);
        assert_eq!(of("'o/checkpoint-2'"), Some(Resume::At("o/checkpoint-2".into())));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, "resume_from_checkpoint = 'latest'").unwrap();
        assert_eq!(read_file(&file).unwrap()["resume_from_checkpoint"], "latest");
        std::fs::write(&file, "resume_from_checkpoint = 'c'").unwrap();
        let there = folder.path().join("c").display().to_string();
        assert_eq!(read_file(&file).unwrap()["resume_from_checkpoint"], there);
    }

    #[test]
    fn warmup_steps_below_one_are_a_share() {
        let warmup = |said: &str| {
            let s = align(table(&format!("{LEAST}warmup_steps = {said}"))).unwrap().settings;
            (s.warmup_steps, s.warmup_ratio)
        };
        assert_eq!(warmup("0.1"), (0, 0.1));
        assert_eq!(warmup("0.0"), (0, 0.0));
        assert_eq!(warmup("1"), (1, 0.0));
        assert_eq!(warmup("10.0"), (10, 0.0));
        assert!(refused("warmup_steps = 1.5").contains("a whole number, or a share below 1, got 1.5"));
        assert!(refused("warmup_steps = -1").contains("got -1"));
        assert!(refused("warmup_steps = 0.1\nwarmup_ratio = 0.1").contains("give one"));
    }

    #[test]
    fn paths_in_a_file_are_relative_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        let text = "model = 'm'\ndata = ['a.jsonl', {path = 'b.jsonl'}, '/c.jsonl', 'owner/name']\noutput_dir = '../o'\n\
                    chat_template = 't.jinja'\n";
        std::fs::write(&file, text).unwrap();
        let table = read_file(&file).unwrap();
        let path = |p: &str| Value::from(folder.path().join(p).display().to_string());
        assert_eq!(table["model"], path("m"));
        assert_eq!(table["output_dir"], path("../o"));
        assert_eq!(table["chat_template"], path("t.jinja"));
        assert_eq!((&table["data"][0], &table["data"][1]["path"]), (&path("a.jsonl"), &path("b.jsonl")));
        assert_eq!((&table["data"][2], &table["data"][3]), (&"/c.jsonl".into(), &"owner/name".into()));
        std::fs::create_dir_all(folder.path().join("owner/name")).unwrap();
        assert_eq!(read_file(&file).unwrap()["data"][3], path("owner/name"));
        std::fs::write(&file, "chat_template = '{{ messages }}.jinja'").unwrap();
        assert_eq!(read_file(&file).unwrap()["chat_template"], "{{ messages }}.jinja");
    }

    /// A value that a key might be given, sensible or not.
    fn any_value(rng: &mut StdRng, depth: usize) -> Value {
        const WORDS: [&str; 14] = [
            "drop",
            "error",
            "sigmoid",
            "ipo",
            "mean",
            "reverse_kl",
            "logistic",
            "weighted_sum",
            "per_token",
            "cosine",
            "standard",
            "js_divergence",
            "bfloat16",
            "",
        ];
        let numbers = [0.0, 1.0, -1.0, 0.5, 2.0, 1e-9, 1e300, -1e300, 3.7];
        match rng.random_range(0..if depth > 2 { 5 } else { 8 }) {
            0 => WORDS[rng.random_range(0..WORDS.len())].into(),
            1 => numbers[rng.random_range(0..numbers.len())].into(),
            2 => [0, 1, 2, 7, -1, i64::MAX, i64::MIN][rng.random_range(0..7)].into(),
            3 => rng.random::<bool>().into(),
            4 => Method::all()[rng.random_range(0..Method::all().len())].name.into(),
            5 => (0..rng.random_range(0..3)).map(|_| any_value(rng, depth + 1)).collect(),
            _ => {
                const FIELDS: [&str; 14] = [
                    "type",
                    "averaging",
                    "optimality",
                    "loss",
                    "beta",
                    "alpha",
                    "losses",
                    "weight",
                    "path",
                    "columns",
                    "prompt",
                    "gamma",
                    "length",
                    "epsilon",
                ];
                let field = |rng: &mut StdRng| FIELDS[rng.random_range(0..FIELDS.len())].to_owned();
                (0..rng.random_range(0..4)).map(|_| (field(rng), any_value(rng, depth + 1))).collect()
            }
        }
    }

    /// A fixed seed for a moment, or with `COLLIMATE_FUZZ_SECONDS` for that long.
    #[test]
    fn any_table_is_a_run_or_a_named_fault() {
        let known = Kind::Align.known();
        let mut rng = StdRng::seed_from_u64(11);
        let longer = std::env::var("COLLIMATE_FUZZ_SECONDS").map_or(0, |s| s.parse().expect("a number of seconds"));
        let until = Instant::now() + Duration::from_secs(longer);
        let (mut cases, mut runs) = (0, 0);
        while cases < 5_000 || Instant::now() < until {
            cases += 1;
            let mut all = table(LEAST);
            for _ in 0..rng.random_range(0..4) {
                let mut key = known[rng.random_range(0..known.len())].clone();
                if rng.random_range(0..20) == 0 {
                    key.push('x');
                }
                all.insert(key, any_value(&mut rng, 0));
            }
            match align(all.clone()) {
                Err(fault) => assert!(!fault.to_string().is_empty(), "{all:?}"),
                Ok(run) => {
                    runs += 1;
                    let text = run.to_toml().unwrap_or_else(|e| panic!("{all:?}: {e:#}"));
                    let again = align(table(&text)).unwrap_or_else(|e| panic!("{all:?}: {e:#}\n{text}"));
                    assert_eq!(again.effective, run.effective, "{all:?}");
                }
            }
        }
        assert!(runs > cases / 20 && runs < cases, "{runs} of {cases} were runs");
    }

    #[test]
    fn loss_type_has_trls_meaning() {
        let run =
            align(table(&format!("{LEAST}loss_type = ['sigmoid', 'sft']\nloss_weights = [1.0, 0.5]\nbeta = 0.2")))
                .unwrap();
        let same =
            trl::objective(&table("loss_type = ['sigmoid', 'sft']\nloss_weights = [1.0, 0.5]\nbeta = 0.2")).unwrap();
        assert_eq!(run.effective["objective"], same.to_value());
    }

    #[test]
    fn flags_read_as_toml_or_text() {
        let find = |n: &str| KEYS.iter().find(|k| k.name == n).unwrap();
        assert_eq!(flag_value(find("max_steps"), "20"), Value::from(20));
        assert_eq!(flag_value(find("shuffle"), "false"), Value::from(false));
        assert_eq!(flag_value(find("model"), "123"), Value::from("123"));
        assert_eq!(flag_value(find("learning_rate"), "fast"), Value::from("fast"));
        assert_eq!(flag_value(find("learning_rate"), "nan"), Value::from("nan"));
    }

    #[test]
    fn numbers_that_are_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, "model = 'm'\nlearning_rate = nan\n").unwrap();
        let said = read_file(&path).unwrap_err().to_string();
        assert!(said.ends_with("run.toml: learning_rate has the number NaN; expected finite numbers"), "{said}");
        std::fs::write(&path, "[objective.loss]\nbeta = [1.0, -inf]\n").unwrap();
        assert!(read_file(&path).unwrap_err().to_string().contains("objective has the number -inf"));
    }
}

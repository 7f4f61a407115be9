//! A study's file, and what it becomes: stages, and a grid of cells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::Error;
use crate::statistics::Metric;

/// A method, as far as a study has to know it.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its name in configuration.
    pub name: String,
    /// The name of its averaging operator.
    pub averaging: String,
    /// Its loss as a formula.
    pub formula: String,
    /// Its parameters, with their defaults where they are numbers.
    pub parameters: Vec<(String, Option<f64>)>,
}

/// What a study may speak of.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// All methods.
    pub methods: Vec<Method>,
    /// The keys of `collimate align`.
    pub run: Vec<String>,
    /// The keys of `collimate sft`.
    pub sft: Vec<String>,
    /// The keys of `collimate reward`.
    pub reward_model: Vec<String>,
    /// The keys of `collimate world`.
    pub world: Vec<String>,
}

impl Vocabulary {
    pub(crate) fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|m| m.name == name)
    }
}

/// How held-out prompts are answered. Samples are the policy's own, at temperature 1: the KL is estimated from them.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Most tokens of an answer.
    pub max_new_tokens: u64,
    /// Answers for each prompt.
    pub num_return_sequences: u64,
    /// What they are drawn from.
    pub seed: u64,
}

/// What is made of the measurements; it may change between two calls on one folder.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// The columns of the tables.
    pub metrics: Vec<Metric>,
    /// Resamples of a bootstrap.
    pub bootstrap: usize,
    /// Probability of an interval.
    pub confidence: f64,
    /// What resamples are drawn from.
    pub seed: u64,
}

/// One run of the grid, from the study's policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Its name, and that of its folder.
    pub id: String,
    /// Its method.
    pub method: String,
    /// What sets it apart from other cells of its method and condition, but for the seed: `β 0.1`.
    pub setting: String,
    /// β, given or by default.
    pub beta: Option<f64>,
    /// The seed, if the study says one.
    pub seed: Option<Value>,
    /// The values of axes that are neither of the method nor the seed: data, or dials of the world.
    pub condition: Vec<(String, Value)>,
    /// Its keys of `collimate align`; places in braces stand for folders of stages.
    pub keys: Map<String, Value>,
    /// Which of the study's worlds it is of.
    pub world: usize,
}

impl Cell {
    /// Its setting but β: cells that differ in β alone lie on one curve.
    pub fn curve(&self) -> String {
        let rest = self.setting.split(", ").filter(|s| !s.starts_with("β ") && *s != "defaults");
        rest.collect::<Vec<_>>().join(", ")
    }

    /// Its condition in words; empty if the study has but one.
    pub fn condition_text(&self) -> String {
        self.condition.iter().map(|(k, v)| format!("{} = {}", short(k), plain(v))).collect::<Vec<_>>().join(", ")
    }
}

/// A whole study.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The title of its report.
    pub name: String,
    /// Its folder.
    pub output_dir: PathBuf,
    /// The policy that every cell begins from, unless `sft` makes it.
    pub model: Option<String>,
    /// Held-out prompts.
    pub prompts: String,
    /// The reward that scores, as `collimate measure` takes it.
    pub reward: Value,
    /// A file with the exact optimum, if there is one.
    pub optimum: Option<String>,
    /// The dials of each world; empty: there is none.
    pub worlds: Vec<Map<String, Value>>,
    /// Keys of `collimate sft`.
    pub sft: Option<Map<String, Value>>,
    /// Keys of `collimate reward`.
    pub reward_model: Option<Map<String, Value>>,
    /// How prompts are answered.
    pub generation: Generation,
    /// What is made of it.
    pub analysis: Analysis,
    /// Cells that run at a time, if the study says how many.
    pub jobs: Option<usize>,
    /// MiB that a run takes, if the study says so.
    pub memory: Option<u64>,
    /// The grid.
    pub cells: Vec<Cell>,
    /// All that decides the measurements, as it took effect.
    pub effective: Map<String, Value>,
}

const KEYS: [&str; 18] = [
    "name",
    "output_dir",
    "model",
    "data",
    "prompts",
    "reward",
    "optimum",
    "world",
    "sft",
    "reward_model",
    "run",
    "grid",
    "cells",
    "generation",
    "analysis",
    "jobs",
    "memory",
    "backend",
];
/// Keys that the study gives to each run.
const OWN: [&str; 5] = ["model", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "ref_model"];
/// Keys whose text is a path to read.
const PATHS: [&str; 10] = [
    "model",
    "data",
    "eval_data",
    "prompts",
    "optimum",
    "chat_template",
    "path",
    "folder",
    "reward_model",
    "ref_model",
];

fn fault<T>(said: impl Into<String>) -> Result<T, Error> {
    Err(Error::Key(said.into()))
}

/// Refuses a key that is none of `known`, with the nearest of them.
fn unknown(at: &str, key: &str, known: &[&str]) -> Error {
    let near = known.iter().map(|k| (strsim::levenshtein(key, k), *k)).min().filter(|(d, _)| *d <= 1 + key.len() / 4);
    let said = match near {
        Some((_, near)) => format!("unknown key `{at}{key}`; did you mean `{at}{near}`?"),
        None => format!("unknown key `{at}{key}`; there are: {}", known.join(", ")),
    };
    Error::Key(said)
}

fn known(at: &str, table: &Map<String, Value>, keys: &[&str]) -> Result<(), Error> {
    match table.keys().find(|k| !keys.contains(&k.as_str())) {
        Some(odd) => Err(unknown(at, odd, keys)),
        None => Ok(()),
    }
}

/// A value as a name or a title has it.
pub(crate) fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => Path::new(s).file_name().map_or_else(|| s.clone(), |n| n.to_string_lossy().into_owned()),
        other => other.to_string(),
    }
}

/// An axis without the table that it is of.
pub(crate) fn short(axis: &str) -> &str {
    axis.strip_prefix("world.").unwrap_or(axis)
}

fn text(table: &mut Map<String, Value>, key: &str) -> Result<Option<String>, Error> {
    match table.remove(key) {
        None => Ok(None),
        Some(Value::String(s)) if !s.is_empty() => Ok(Some(s)),
        Some(other) => fault(format!("{key}: expected text, got {other}")),
    }
}

fn object(table: &mut Map<String, Value>, key: &str) -> Result<Option<Map<String, Value>>, Error> {
    match table.remove(key) {
        None => Ok(None),
        Some(Value::Object(t)) => Ok(Some(t)),
        Some(other) => fault(format!("{key}: expected a table, got {other}")),
    }
}

fn whole(table: &Map<String, Value>, at: &str, key: &str, default: u64, least: u64) -> Result<u64, Error> {
    match table.get(key) {
        None => Ok(default),
        Some(v) => match v.as_u64() {
            Some(n) if n >= least => Ok(n),
            _ => fault(format!("{at}{key}: expected a whole number of at least {least}, got {v}")),
        },
    }
}

/// Makes paths of a study's file relative to its folder; what is not there but in the working folder is taken from there.
fn paths(table: &mut Map<String, Value>, folder: &Path) {
    fn at(v: &mut Value, folder: &Path) {
        match v {
            Value::String(s) if !s.is_empty() && !s.starts_with('{') && !s.contains("://") => {
                let beside = folder.join(&*s);
                if beside.exists() || !Path::new(&*s).exists() {
                    *s = std::path::absolute(&beside).unwrap_or(beside).display().to_string();
                } else if let Ok(path) = std::path::absolute(&*s) {
                    *s = path.display().to_string();
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|v| at(v, folder)),
            Value::Object(table) => paths(table, folder),
            _ => {}
        }
    }
    for (key, value) in table.iter_mut() {
        match value {
            // Dials and names of columns are no paths; of a reward's command line no word is known to be one.
            Value::Object(_) if key == "world" || key == "columns" => {}
            Value::Object(inner) => paths(inner, folder),
            Value::Array(list) if key == "cells" => {
                list.iter_mut().filter_map(Value::as_object_mut).for_each(|t| paths(t, folder));
            }
            v if PATHS.contains(&key.as_str()) => at(v, folder),
            _ => {}
        }
    }
}

/// The values of an axis, for each method that has it.
enum Axis {
    All(Vec<Value>),
    By(BTreeMap<String, Vec<Value>>),
}

impl Axis {
    fn read(key: &str, value: Value) -> Result<Self, Error> {
        let list = |key: &str, v: Value| match v {
            Value::Array(list) if list.is_empty() => fault(format!("{key}: the list is empty; the grid has no cell")),
            Value::Array(list) => {
                for (i, v) in list.iter().enumerate() {
                    if list[..i].contains(v) {
                        return fault(format!("{key}: {v} is there twice"));
                    }
                }
                Ok(list)
            }
            Value::Object(_) | Value::Null => fault(format!("{key}: expected a list of values")),
            one => Ok(vec![one]),
        };
        match value {
            Value::Object(by) if key != "data" => {
                let each = by.into_iter().map(|(m, v)| Ok((m.clone(), list(&format!("grid.{key}.{m}"), v)?)));
                Ok(Self::By(each.collect::<Result<_, Error>>()?))
            }
            v => Ok(Self::All(list(&format!("grid.{key}"), v)?)),
        }
    }

    fn of(&self, method: &str) -> &[Value] {
        match self {
            Self::All(list) => list,
            Self::By(by) => by.get(method).map_or(&[], Vec::as_slice),
        }
    }
}

/// Every combination of one value an axis, the last axis fastest. An axis without values is left out.
fn product(axes: &[(String, Vec<Value>)]) -> Vec<Vec<(String, Value)>> {
    axes.iter().filter(|(_, values)| !values.is_empty()).fold(vec![Vec::new()], |all, (key, values)| {
        all.iter()
            .flat_map(|had| values.iter().map(|v| [had.clone(), vec![(key.clone(), v.clone())]].concat()))
            .collect()
    })
}

/// A name of a folder from text.
fn name(of: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
    of.chars().map(fit).collect::<String>().trim_matches('_').to_owned()
}

impl Plan {
    /// Reads the table of a study's file, which lies in `folder`.
    ///
    /// # Errors
    /// The first key that is missing, unknown, of the wrong type or out of range; a grid without cells.
    pub fn new(mut table: Map<String, Value>, folder: &Path, vocabulary: &Vocabulary) -> Result<Self, Error> {
        known("", &table, &KEYS)?;
        paths(&mut table, folder);
        let all = table.clone();
        let name_ = text(&mut table, "name")?.unwrap_or_else(|| "study".into());
        let Some(output_dir) = text(&mut table, "output_dir")? else {
            return fault("`output_dir` is missing: give --output_dir or set it in the file");
        };
        let output_dir = folder.join(output_dir);
        let model = text(&mut table, "model")?;
        let mut data = table.remove("data");
        let mut prompts = text(&mut table, "prompts")?;
        let backend = text(&mut table, "backend")?;
        let optimum = text(&mut table, "optimum")?;
        let mut reward = table.remove("reward");
        let world = object(&mut table, "world")?;
        let mut sft = object(&mut table, "sft")?;
        let mut reward_model = object(&mut table, "reward_model")?;
        let mut run = object(&mut table, "run")?.unwrap_or_default();
        let Value::Array(fixed) = table.remove("cells").unwrap_or_else(|| json!([])) else {
            return fault("cells: expected [[cells]], a list of tables");
        };
        let mut grid = object(&mut table, "grid")?.unwrap_or_default();

        // What a world has is the default of what the study reads.
        let mut optimum = optimum;
        if world.is_some() {
            data = data.or_else(|| Some("{world}/pairs.jsonl".into()));
            prompts = prompts.or_else(|| Some("{world}/prompts.jsonl".into()));
            reward = reward.or_else(|| Some(json!({"type": "world", "folder": "{world}"})));
            optimum = optimum.or_else(|| Some("{world}/optimum.json".into()));
            if model.is_none() {
                let sft = sft.get_or_insert_default();
                sft.entry("model").or_insert("{world}/base".into());
                sft.entry("data").or_insert("{world}/sft.jsonl".into());
            }
        }
        if reward_model.is_some() {
            reward = reward.or_else(|| Some(json!({"type": "model", "model": "{reward_model}"})));
        }
        let Some(reward) = reward else {
            return fault("`reward` is missing: reward = {type = …} says what scores the answers");
        };
        let named = reward.as_object().is_some_and(|r| r.get("type").is_some_and(Value::is_string));
        if !(named || reward.is_string()) {
            return fault(format!("reward: expected {{type = \"…\", …}} or a name, got {reward}"));
        }
        let Some(prompts) = prompts else {
            return fault("`prompts` is missing: the file of held-out prompts that every policy answers");
        };
        if model.is_some() == sft.is_some() {
            return fault(match model {
                Some(_) => "`model` and `[sft]` both say what the cells begin from: give one",
                None => "`model` is missing: the SFT policy that every cell begins from; or [sft] makes it",
            });
        }
        for (at, table, keys) in [
            ("sft.", &sft, &vocabulary.sft),
            ("reward_model.", &reward_model, &vocabulary.reward_model),
            ("world.", &world, &vocabulary.world),
        ] {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            if let (Some(table), false) = (table, keys.is_empty()) {
                known(at, table, &keys)?;
            }
            if table.as_ref().is_some_and(|t| t.contains_key("output_dir")) {
                return fault(format!("{at}output_dir: the study itself says where this goes"));
            }
        }
        let parameters = vocabulary.methods.iter().flat_map(|m| m.parameters.iter().map(|p| p.0.as_str()));
        let mut run_keys: Vec<&str> = vocabulary.run.iter().map(String::as_str).chain(parameters).collect();
        run_keys.sort_unstable();
        run_keys.dedup();
        run_keys.retain(|k| !OWN.contains(k));
        known("run.", &run, &run_keys)?;
        if let Some(data) = data {
            if run.contains_key("data") || grid.contains_key("data") {
                if all.contains_key("data") {
                    return fault("`data` is said twice, at the top and in [run] or [grid]: give one");
                }
            } else {
                run.insert("data".into(), data);
            }
        }
        if let Some(backend) = &backend {
            run.insert("backend".into(), backend.clone().into());
            for stage in [&mut sft, &mut reward_model].into_iter().flatten() {
                stage.entry("backend").or_insert(backend.clone().into());
            }
        }

        let methods = match grid.remove("method").or_else(|| run.remove("method")) {
            Some(list) => Axis::read("method", list)?.of("").to_vec(),
            None => Vec::new(),
        };
        if methods.is_empty() && fixed.is_empty() {
            return fault(
                "the grid is empty: [grid] needs method = [\"dpo\", \"averaged-dpo\", …], or there are [[cells]]",
            );
        }
        let find = |at: &str, v: &Value| -> Result<String, Error> {
            let Value::String(name) = v else { return fault(format!("{at}: expected a name of a method, got {v}")) };
            if vocabulary.method(name).is_none() {
                let names: Vec<&str> = vocabulary.methods.iter().map(|m| m.name.as_str()).collect();
                let near = names.iter().map(|k| (strsim::levenshtein(name, k), *k)).min();
                let hint = near.filter(|(d, _)| *d <= 1 + name.len() / 4);
                let hint = hint.map_or_else(String::new, |(_, k)| format!("; did you mean \"{k}\"?"));
                return fault(format!("{at}: unknown method \"{name}\"{hint} (`collimate methods` lists them)"));
            }
            Ok(name.clone())
        };
        let methods = methods.iter().map(|m| find("grid.method", m)).collect::<Result<Vec<_>, _>>()?;
        let mut axes = Vec::new();
        for (key, value) in grid {
            let of_world = key.strip_prefix("world.");
            if let Some(dial) = of_world {
                if world.is_none() {
                    return fault(format!("grid.\"{key}\": there is no [world] in this study"));
                }
                let dials: Vec<&str> = vocabulary.world.iter().map(String::as_str).collect();
                if !dials.is_empty() && !dials.contains(&dial) {
                    return Err(unknown("world.", dial, &dials));
                }
            } else if !run_keys.contains(&key.as_str()) {
                return Err(unknown("grid.", &key, &run_keys));
            }
            let axis = Axis::read(&key, value)?;
            if let Axis::By(by) = &axis {
                if of_world.is_some() || key == "seed" {
                    return fault(format!("grid.{key}: expected a list; it can't differ between methods"));
                }
                if let Some(odd) = by.keys().find(|m| !methods.contains(m)) {
                    return fault(format!("grid.{key}.{odd}: grid.method has no \"{odd}\""));
                }
            }
            axes.push((key, axis));
        }

        let is_parameter = |key: &str| vocabulary.methods.iter().any(|m| m.parameters.iter().any(|p| p.0 == key));
        let seeds = axes.iter().find(|(k, _)| k == "seed").map(|(_, a)| a.of("").to_vec()).unwrap_or_default();
        let conditions: Vec<(String, Vec<Value>)> = axes
            .iter()
            .filter(|(k, _)| k == "data" || k.starts_with("world."))
            .map(|(k, a)| (k.clone(), a.of("").to_vec()))
            .collect();
        let mut worlds: Vec<Map<String, Value>> = Vec::new();
        let mut cells: Vec<Cell> = Vec::new();
        let mut add = |method: &str, own: Map<String, Value>, choice: Vec<(String, Value)>| -> Result<(), Error> {
            let mut keys = run.clone();
            keys.extend(own.clone());
            let mut dials = world.clone();
            let mut cell = Cell {
                id: method.to_owned(),
                method: method.to_owned(),
                setting: String::new(),
                beta: None,
                seed: None,
                condition: Vec::new(),
                keys: Map::new(),
                world: 0,
            };
            let mut setting: Vec<String> = Vec::new();
            let said = |k: &str, v: &Value| format!("{} {}", if k == "beta" { "β" } else { k }, plain(v));
            for (key, value) in own.iter().filter(|(k, _)| *k != "method") {
                cell.id += &format!("-{key}{}", plain(value));
                setting.push(said(key, value));
            }
            for (key, value) in choice {
                cell.id += &format!("-{}{}", short(&key), plain(&value));
                match (key.strip_prefix("world."), &mut dials) {
                    (Some(dial), Some(dials)) => {
                        dials.insert(dial.to_owned(), value.clone());
                        cell.condition.push((key, value));
                    }
                    _ if key == "data" => {
                        keys.insert(key.clone(), value.clone());
                        cell.condition.push((key, value));
                    }
                    _ => {
                        keys.insert(key.clone(), value.clone());
                        if key != "seed" {
                            setting.push(said(&key, &value));
                        }
                    }
                }
            }
            keys.insert("method".into(), method.into());
            if !keys.contains_key("data") {
                return fault("`data` is missing: the preference pairs that every cell is trained on");
            }
            let info = vocabulary.method(method).expect("it was found");
            let default = info.parameters.iter().find(|p| p.0 == "beta").and_then(|p| p.1);
            cell.beta = keys.get("beta").and_then(Value::as_f64).or(default);
            cell.seed = keys.get("seed").cloned();
            cell.setting = if setting.is_empty() { "defaults".into() } else { setting.join(", ") };
            cell.keys = keys;
            if let Some(dials) = dials {
                cell.world = worlds.iter().position(|w| *w == dials).unwrap_or_else(|| {
                    worlds.push(dials);
                    worlds.len() - 1
                });
            }
            cell.id = name(&cell.id);
            if let Some(other) = cells.iter().find(|c| c.id == cell.id) {
                return fault(format!(
                    "two cells are called {}; the grid has a cell twice, or [[cells]] repeat one",
                    other.id
                ));
            }
            cells.push(cell);
            Ok(())
        };
        for condition in product(&conditions) {
            for method in &methods {
                let mut own: Vec<(String, Vec<Value>)> = axes
                    .iter()
                    .filter(|(k, _)| k != "seed" && k != "data" && !k.starts_with("world."))
                    .map(|(k, a)| (k.clone(), a.of(method).to_vec()))
                    .collect();
                // Parameters first: they are what a curve runs along.
                own.sort_by_key(|(k, _)| (k != "beta", !is_parameter(k)));
                own.push(("seed".into(), seeds.clone()));
                for choice in product(&own) {
                    add(method, Map::new(), [choice, condition.clone()].concat())?;
                }
            }
            for (i, fixed) in fixed.iter().enumerate() {
                let at = format!("cells[{i}].");
                let Value::Object(fixed) = fixed else { return fault(format!("cells[{i}]: expected a table")) };
                known(&at, fixed, &run_keys)?;
                let Some(method) = fixed.get("method") else { return fault(format!("{at}method is missing")) };
                let method = find(&format!("{at}method"), method)?;
                if let Some(key) = ["seed", "data"].into_iter().find(|k| fixed.contains_key(*k)) {
                    return fault(format!("{at}{key}: a cell takes this from [grid] or [run], as all cells do"));
                }
                for choice in product(&[("seed".to_owned(), seeds.clone())]) {
                    add(&method, fixed.clone(), [choice, condition.clone()].concat())?;
                }
            }
        }

        let generation = object(&mut table, "generation")?.unwrap_or_default();
        known("generation.", &generation, &["max_new_tokens", "num_return_sequences", "temperature", "seed"])?;
        if let Some(t) = generation.get("temperature")
            && t.as_f64() != Some(1.0)
        {
            return fault(format!(
                "generation.temperature: expected 1, got {t}: the KL is estimated from the answers, which must be draws from \
                 the policy itself"
            ));
        }
        let generation = Generation {
            max_new_tokens: whole(&generation, "generation.", "max_new_tokens", 256, 1)?,
            num_return_sequences: whole(&generation, "generation.", "num_return_sequences", 4, 1)?,
            seed: whole(&generation, "generation.", "seed", 42, 0)?,
        };
        let analysis = object(&mut table, "analysis")?.unwrap_or_default();
        known("analysis.", &analysis, &["metrics", "bootstrap", "confidence", "seed"])?;
        let metrics = match analysis.get("metrics") {
            None => Metric::ALL.to_vec(),
            Some(Value::Array(list)) if !list.is_empty() => list.iter().map(metric).collect::<Result<_, _>>()?,
            Some(v) => return fault(format!("analysis.metrics: expected a list of names, got {v}")),
        };
        let confidence = match analysis.get("confidence") {
            None => 0.95,
            Some(v) => match v.as_f64() {
                Some(c) if c > 0.0 && c < 1.0 => c,
                _ => return fault(format!("analysis.confidence: expected a number between 0 and 1, got {v}")),
            },
        };
        let analysis = Analysis {
            metrics,
            confidence,
            bootstrap: whole(&analysis, "analysis.", "bootstrap", 1000, 20)? as usize,
            seed: whole(&analysis, "analysis.", "seed", 42, 0)?,
        };
        let some = |key: &str| table.contains_key(key).then(|| whole(&table, "", key, 1, 1)).transpose();
        let (jobs, memory) = (some("jobs")?.map(|n| n as usize), some("memory")?);

        let mut effective = all;
        for free in ["name", "output_dir", "analysis", "jobs", "memory"] {
            effective.remove(free);
        }
        effective.insert(
            "generation".into(),
            json!({
                "max_new_tokens": generation.max_new_tokens, "num_return_sequences": generation.num_return_sequences,
                "seed": generation.seed,
            }),
        );
        Ok(Self {
            name: name_,
            output_dir,
            model,
            prompts,
            reward,
            optimum,
            worlds,
            sft,
            reward_model,
            generation,
            analysis,
            jobs,
            memory,
            cells,
            effective,
        })
    }

    /// The first key, dotted, whose value differs between two configurations, with both values.
    pub fn difference(a: &Value, b: &Value) -> Option<(String, String, String)> {
        let said = |v: Option<&Value>| v.map_or("not set".to_owned(), ToString::to_string);
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => x.keys().chain(y.keys()).find_map(|k| match (x.get(k), y.get(k)) {
                (Some(v), Some(w)) => Self::difference(v, w)
                    .map(|(at, v, w)| (if at.is_empty() { k.clone() } else { format!("{k}.{at}") }, v, w)),
                (v, w) => Some((k.clone(), said(v), said(w))),
            }),
            _ if a == b => None,
            _ => Some((String::new(), a.to_string(), b.to_string())),
        }
    }
}

fn metric(v: &Value) -> Result<Metric, Error> {
    let names: Vec<&str> = Metric::ALL.iter().map(|m| m.name()).collect();
    match Metric::ALL.into_iter().find(|m| v.as_str() == Some(m.name())) {
        Some(m) => Ok(m),
        None => fault(format!("analysis.metrics: unknown metric {v}; there are: {}", names.join(", "))),
    }
}

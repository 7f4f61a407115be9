//! `collimate score`: what generations are worth, by a reward.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Arg, ArgMatches, Command};
use collimate_data::Tokenizer;
use collimate_reward::{AnyReward, Sample};
use serde_json::{Map, Value};

use crate::say::print;

pub(crate) fn command() -> Command {
    Command::new("score")
        .about("Score generations by a reward")
        .long_about(
            "Score generations by a reward. A file of generations has a JSON object a line, with `prompt` and \
             `completion`; each line is written again with a `score`.\n\nExample:\n  collimate score generations.jsonl \
             --reward '{type = \"command\", command = [\"python\", \"score.py\"]}' --output scored.jsonl",
        )
        .args([
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Generations, as JSONL"),
            output("Where scored lines go [default: standard output]"),
        ])
        .args(reward())
}

pub(super) fn output(help: &'static str) -> Arg {
    Arg::new("output").long("output").value_name("FILE").value_parser(clap::value_parser!(PathBuf)).help(help)
}

/// What scores, and what counts tokens for it.
pub(super) fn reward() -> [Arg; 2] {
    let names = collimate_reward::names().join(", ");
    [
        Arg::new("reward")
            .long("reward")
            .value_name("REWARD")
            .required(true)
            .help(format!("A reward: its name, or a table in TOML such as {{type = \"repetition\", n = 3}}: {names}")),
        Arg::new("model")
            .long("model")
            .value_name("FOLDER")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Count tokens of lines that have no `tokens` with this checkpoint's tokenizer"),
    ]
}

/// A reward as it is given on the command line.
pub(super) fn read_reward(given: &str) -> Result<Box<dyn AnyReward>> {
    let value = match given.trim_start().starts_with('{') {
        true => {
            let mut table: toml::Table =
                toml::from_str(&format!("reward = {given}")).map_err(|e| anyhow!("--reward: {}", e.message()))?;
            serde_json::to_value(table.remove("reward")).context("--reward")?
        }
        false => given.into(),
    };
    Ok(collimate_reward::read(&value)?)
}

/// A line of a file of generations.
pub(super) struct Generated {
    pub line: Map<String, Value>,
    pub prompt: String,
    pub completion: String,
    tokens: Vec<u32>,
    pub score: f64,
}

/// The generations of a file, scored.
pub(super) fn scored(path: &Path, m: &ArgMatches, reward: &dyn AnyReward) -> Result<Vec<Generated>> {
    let tokenizer = m.get_one::<PathBuf>("model").map(|folder| Tokenizer::from_folder(folder)).transpose()?;
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut all = Vec::new();
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, row {}", path.display(), i + 1);
        all.push(generated(line, tokenizer.as_ref()).with_context(place)?);
        rows.push(i + 1);
    }
    if all.is_empty() {
        bail!("{}: no generations; expected a JSON object a line, with `prompt` and `completion`", path.display());
    }
    let samples: Vec<_> = all
        .iter()
        .zip(&rows)
        .map(|(g, row)| Sample { prompt: &g.prompt, completion: &g.completion, tokens: &g.tokens, row: *row })
        .collect();
    let scores = collimate_reward::scores(reward, &samples).with_context(|| path.display().to_string())?;
    for (generated, score) in all.iter_mut().zip(scores) {
        generated.score = score;
    }
    Ok(all)
}

fn generated(line: &str, tokenizer: Option<&Tokenizer>) -> Result<Generated> {
    let line: Map<String, Value> = serde_json::from_str(line).context("not a JSON object")?;
    let text = |field: &str| match line.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => bail!("field `{field}`: expected text, got {other}"),
        None => bail!("no field `{field}`; expected `prompt` and `completion`"),
    };
    let (prompt, completion) = (text("prompt")?, text("completion")?);
    let tokens = match (line.get("tokens"), tokenizer) {
        (Some(tokens @ Value::Array(_)), _) => {
            serde_json::from_value(tokens.clone()).context("field `tokens`: expected token ids")?
        }
        (_, Some(tokenizer)) => {
            let mut ids = tokenizer.encode(&completion, false)?;
            ids.extend(tokenizer.eos_id());
            ids
        }
        (_, None) => Vec::new(),
    };
    Ok(Generated { line, prompt, completion, tokens, score: f64::NAN })
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let path = m.get_one::<PathBuf>("file").expect("required");
    let reward = read_reward(m.get_one::<String>("reward").expect("required"))?;
    let mut all = scored(path, m, &*reward)?;
    let mean = all.iter().map(|g| g.score).sum::<f64>() / all.len() as f64;
    let mut text = String::new();
    for generated in &mut all {
        generated.line.insert("score".into(), generated.score.into());
        text += &format!("{}\n", serde_json::to_string(&generated.line)?);
    }
    say!("{} generations, mean score {mean:.4}", all.len());
    match m.get_one::<PathBuf>("output") {
        Some(output) => Ok(collimate_model::write_whole(output, text.as_bytes())?),
        None => print(text.trim_end()),
    }
}

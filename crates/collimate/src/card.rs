//! The model card of a run: README.md in its output folder.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use collimate_core::methods::describe;
use collimate_data::hub;
use collimate_model::files::read_settings;
use collimate_model::write_whole;
use collimate_study::curves::{self, Run as Curves};
use collimate_train::content;
use serde_json::{Map, Value};

use crate::config::Kind;
use crate::output::METRICS;

const README: &str = "README.md";
const CURVES: &str = "curves.svg";
/// What stands before the hash of a card, in a line of its own: a card that somebody has changed is theirs.
const MARK: &str = "<!-- written by collimate, ";

/// What a card tells of.
pub(crate) struct Card<'a> {
    pub kind: Kind,
    /// The folder, or the name on the Hub, of what was trained.
    pub model: &'a Path,
    /// The folder of its weights, of an adapter the base's.
    pub base: &'a Path,
    pub adapter: bool,
    pub datasets: Vec<String>,
    /// The effective configuration.
    pub config: &'a Map<String, Value>,
    /// `data_report.json`.
    pub data: &'a Value,
    pub backend: &'a str,
    /// The step whose weights these are, if it is not the last.
    pub best: Option<usize>,
}

fn hashed(text: &str) -> Option<bool> {
    let line = text.lines().find(|l| l.starts_with(MARK))?;
    let hash = line.strip_prefix(MARK)?.strip_suffix(" -->")?;
    Some(content::words(&text.replacen(&format!("{line}\n"), "", 1)) == hash)
}

/// Whether the card of a folder is there, and somebody else's.
fn theirs(path: &Path) -> Result<bool> {
    match fs::read(path) {
        Ok(bytes) => Ok(hashed(&String::from_utf8_lossy(&bytes)) != Some(true)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// Removes the card of an earlier run, if it is still as that wrote it.
pub(crate) fn clear(folder: &Path) -> Result<()> {
    let path = folder.join(README);
    if path.exists() && !theirs(&path)? {
        for file in [path, folder.join(CURVES)] {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).with_context(|| file.display().to_string()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The lines of a README's metadata that say what its licence is.
fn licence(folder: &Path) -> Vec<String> {
    let text = read_settings(&folder.join(README)).unwrap_or_default().replace("\r\n", "\n");
    let Some((front, _)) = text.strip_prefix("---\n").and_then(|t| t.split_once("\n---")) else { return Vec::new() };
    let keys = ["license:", "license_name:", "license_link:"];
    let says = |l: &&str| keys.iter().any(|k| l.strip_prefix(k).is_some_and(|v| !v.trim().is_empty()));
    front.lines().filter(says).map(str::to_owned).collect()
}

/// Where the model comes from on the Hub, if it is known.
fn origin(card: &Card<'_>) -> Option<String> {
    let given = card.model.to_string_lossy().into_owned();
    if hub::is_name(&given) && !card.model.exists() {
        return Some(given);
    }
    let config: Value = serde_json::from_str(&read_settings(&card.base.join("config.json")).ok()?).ok()?;
    config["_name_or_path"].as_str().filter(|n| hub::is_name(n)).map(str::to_owned)
}

/// The name of a folder.
fn named(folder: &Path) -> String {
    folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// A number, short.
fn short(v: &Value) -> String {
    match v.as_f64() {
        Some(x) if x.fract() == 0.0 && x.abs() < 1e15 => format!("{x}"),
        Some(x) if x.abs() < 1e-3 => format!("{x:e}"),
        Some(x) => format!("{x:.4}"),
        None => v.as_str().map_or_else(|| v.to_string(), str::to_owned),
    }
}

impl Card<'_> {
    /// Writes the card and its curves, unless there is a README.md that is not a card as a run wrote it; whether it did.
    pub fn write(&self, folder: &Path) -> Result<bool> {
        let path = folder.join(README);
        if theirs(&path)? {
            return Ok(false);
        }
        // A run that went on from its last step elsewhere has no line of its own.
        let empty = fs::metadata(folder.join(METRICS)).is_ok_and(|m| m.len() == 0);
        let curves = match empty {
            true => Curves { name: named(folder), lines: Vec::new() },
            false => Curves::read(folder)?,
        };
        let figures = curves::figures(std::slice::from_ref(&curves))?;
        if let Some(first) = figures.first() {
            write_whole(&folder.join(CURVES), first.file().as_bytes())?;
        }
        let (front, text) = self.text(&curves, !figures.is_empty())?;
        let hash = content::words(&format!("{front}{text}"));
        write_whole(&path, format!("{front}{MARK}{hash} -->\n{text}").as_bytes())?;
        Ok(true)
    }

    fn text(&self, curves: &Curves, drawn: bool) -> Result<(String, String)> {
        let quoted = |s: &str| serde_json::to_string(s).expect("a text serialises");
        let (origin, licence) = (origin(self), licence(self.base));
        let task = match self.kind {
            Kind::Align => "preference-alignment",
            Kind::Sft => "sft",
            Kind::Reward => "reward-model",
        };
        let mut front = String::from("---\n");
        if let Some(origin) = &origin {
            let _ = writeln!(front, "base_model: {}", quoted(origin));
        }
        if !self.datasets.is_empty() {
            front += "datasets:\n";
            self.datasets.iter().for_each(|d| front += &format!("- {}\n", quoted(d)));
        }
        licence.iter().for_each(|line| front += &format!("{line}\n"));
        let library = if self.adapter { "peft" } else { "transformers" };
        let pipeline = if self.kind == Kind::Reward { "text-classification" } else { "text-generation" };
        let _ = write!(front, "library_name: {library}\npipeline_tag: {pipeline}\ntags:\n- collimate\n- {task}\n---\n");

        let from = origin.unwrap_or_else(|| named(self.model));
        let mut t = format!("\n# {}\n\n", curves.name);
        let _ = match self.kind {
            Kind::Align => writeln!(t, "`{from}`, aligned on preference pairs.\n\n## Method\n\n{}", self.method()?),
            Kind::Sft => writeln!(
                t,
                "`{from}`, fine-tuned on texts.\n\n## Method\n\nThe cross-entropy averaged over tokens: \
                 L = −(1/N) Σ_i Σ_t ln π(y_t | x, y_<t)."
            ),
            Kind::Reward => writeln!(
                t,
                "`{from}` as a reward model.\n\n## Method\n\nBradley and Terry's likelihood: \
                 L = (1/N) Σ_i [−ln σ(r_chosen − r_rejected − m) + c (r_chosen + r_rejected)²]."
            ),
        };
        t += "\n## Data\n\n| | rows read | kept | in an epoch |\n|---|---|---|---|\n";
        for side in ["train", "eval"] {
            let report = &self.data[side];
            if !report.is_null() {
                let [rows, kept, epoch] = ["rows", "pairs", "pairs_per_epoch"].map(|k| short(&report[k]));
                let _ = writeln!(t, "| {side} | {rows} | {kept} | {epoch} |");
            }
        }
        if let Some(share) = self.config["eval_split"].as_f64().filter(|s| *s > 0.0) {
            let _ = writeln!(t, "\nA share of {share} of the prompts is kept for evaluation.");
        }
        t += "\n## Training\n\n";
        if let Some(step) = self.best {
            let _ = writeln!(t, "These are the weights of step {step}, the best on the evaluation data.\n");
        }
        t += "| figure | at the end |\n|---|---|\n";
        let mut last = Map::new();
        curves.lines.iter().for_each(|line| last.extend(line.clone()));
        for (key, value) in last.iter().filter(|(_, v)| v.is_number()) {
            let _ = writeln!(t, "| `{key}` | {} |", short(value));
        }
        if drawn {
            let _ = write!(t, "\n![Curves of training]({CURVES})\n");
        }
        let _ = write!(
            t,
            "\n## To repeat it\n\n`collimate.toml` is the configuration as it took effect:\n\n```sh\ncollimate {} \
             collimate.toml --output_dir again\n```\n\n| key | value |\n|---|---|\n",
            self.kind.name()
        );
        let keys = ["learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "gradient_accumulation_steps"];
        for key in
            keys.into_iter().chain(["num_train_epochs", "max_steps", "max_length", "dtype", "bf16", "fp16", "seed"])
        {
            if let Some(value) = self.config.get(key) {
                let _ = writeln!(t, "| `{key}` | {} |", short(value));
            }
        }
        let _ = write!(t, "\nCollimate {}, backend {}.\n", env!("CARGO_PKG_VERSION"), self.backend);
        if licence.is_empty() {
            t += "\nThe model that this one is made of does not say its licence in a README.md.\n";
        }
        Ok((front, t))
    }

    /// The objective, and the method by name where it is one's triple.
    fn method(&self) -> Result<String> {
        let objective = &self.config["objective"];
        let of = |part: &str| objective[part]["type"].as_str().unwrap_or_default().to_owned();
        let triple = ["averaging", "optimality", "loss"].map(of);
        let mut text = String::new();
        if let Some(m) = describe()?.into_iter().find(|m| [m.averaging, m.optimality, m.loss] == triple) {
            let _ = write!(text, "`{}`, {}: {}\n\n{}\n\n", m.name, m.about, m.formula, m.paper);
        }
        text += "| part | name | parameters |\n|---|---|---|\n";
        for (part, name) in ["averaging", "optimality", "loss"].iter().zip(&triple) {
            let given = objective[*part].as_object().into_iter().flatten().filter(|(k, _)| *k != "type");
            let given: Vec<_> = given.map(|(k, v)| format!("{k} = {}", short(v).replace('|', "\\|"))).collect();
            let _ = writeln!(text, "| {part} | `{name}` | {} |", given.join(", "));
        }
        Ok(text.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_what_the_metadata_says() {
        let folder = tempfile::tempdir().unwrap();
        let said = |text: &str| {
            fs::write(folder.path().join(README), text).unwrap();
            licence(folder.path())
        };
        assert_eq!(said("---\nlicense: apache-2.0\ntags:\n- x\n---\nlicense: no\n"), ["license: apache-2.0"]);
        let own = ["license: other", "license_name: own", "license_link: LICENSE"];
        assert_eq!(said(&format!("---\r\n{}\r\n---\r\n", own.join("\r\n"))), own);
        assert!(said("license: mit\n").is_empty() && said("---\nlicense:\n- mit\n---\n").is_empty());
    }

    #[test]
    fn a_card_that_was_changed_is_not_ours() {
        let card = format!("a\n{MARK}{} -->\nb\n", content::words("a\nb\n"));
        assert_eq!(hashed(&card), Some(true));
        assert_eq!((hashed(&card.replace("\nb\n", "\nc\n")), hashed("a\n")), (Some(false), None));
    }
}

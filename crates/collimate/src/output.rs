//! The output folder of a run.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use collimate_model::{Checkpoint, Decoder, Moments, write_whole};
use collimate_train::{Progress, State, StepInfo};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

const CONFIG: &str = "collimate.toml";
const METRICS: &str = "metrics.jsonl";
const TIMING: &str = "timing.jsonl";
const STATE: &str = "trainer_state.json";
const MOMENTS: &str = "optimizer.safetensors";

/// An output folder; nothing is written before [`begin`](Self::begin).
pub(crate) struct Output {
    folder: PathBuf,
    metrics: Option<File>,
    /// Apart from the metrics, which are the same bits each time.
    timing: Option<File>,
}

/// What a saved checkpoint holds beside the model and the moments.
#[derive(Serialize, Deserialize)]
struct Saved {
    progress: Progress,
    config: Map<String, Value>,
}

/// Keys that may differ between a run and its continuation.
const FREE: [&str; 4] = ["output_dir", "save_steps", "eval_steps", "cache_dir"];

impl Output {
    /// Checks that a run may write to `folder`: it is new, empty, or holds an earlier run, and is not one of `inputs`.
    pub fn check(folder: &Path, inputs: &[&Path]) -> Result<Self> {
        if folder.exists() {
            if !folder.is_dir() {
                bail!("output_dir {} is a file; expected a folder or a new name", folder.display());
            }
            let same = |p: &&&Path| matches!((p.canonicalize(), folder.canonicalize()), (Ok(a), Ok(b)) if a == b);
            if let Some(input) = inputs.iter().find(same) {
                bail!("output_dir {} is also an input of the run; choose another folder", input.display());
            }
            let empty =
                fs::read_dir(folder).with_context(|| format!("output_dir {}", folder.display()))?.next().is_none();
            if !empty && !folder.join(CONFIG).is_file() {
                bail!(
                    "output_dir {} holds files that are not of an earlier run; choose another folder",
                    folder.display()
                );
            }
        }
        Ok(Self { folder: folder.to_owned(), metrics: None, timing: None })
    }

    /// Makes the folder, writes the configuration and opens the metrics; lines of an earlier run of the same folder are
    /// kept up to step `from`.
    pub fn begin(&mut self, config: &str, from: usize) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("output_dir {}", self.folder.display()))?;
        write_whole(&self.folder.join(CONFIG), config.as_bytes())?;
        let open = |name: &str| {
            let path = self.folder.join(name);
            let earlier = if from > 0 { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
            let step = |line: &str| serde_json::from_str::<Value>(line).ok().and_then(|v| v["step"].as_u64());
            let kept = earlier.lines().filter(|l| step(l).is_some_and(|s| s <= from as u64));
            let kept: String = kept.map(|l| format!("{l}\n")).collect();
            write_whole(&path, kept.as_bytes())?;
            File::options().append(true).open(&path).with_context(|| path.display().to_string())
        };
        self.metrics = Some(open(METRICS)?);
        self.timing = Some(open(TIMING)?);
        Ok(())
    }

    /// Writes how long a step took.
    pub fn timing(&mut self, s: &StepInfo) -> std::io::Result<()> {
        let line = json!({"step": s.step, "seconds": s.seconds, "tokens": s.tokens}).to_string() + "\n";
        self.timing.as_mut().expect("begun before steps come").write_all(line.as_bytes())
    }

    /// Saves all that a continuation needs, under `checkpoint-STEP`.
    pub fn save(&self, checkpoint: &Checkpoint, state: &State<'_>, config: &Map<String, Value>) -> Result<()> {
        let folder = self.folder.join(format!("checkpoint-{}", state.progress.step));
        checkpoint.save(state.policy.parameters(), &folder)?;
        checkpoint.save_moments(state.moments, &folder.join(MOMENTS))?;
        let saved = Saved { progress: state.progress.clone(), config: config.clone() };
        Ok(write_whole(&folder.join(STATE), serde_json::to_string_pretty(&saved)?.as_bytes())?)
    }

    /// Writes a line of metrics.
    pub fn metrics(&mut self, line: &Map<String, Value>) -> std::io::Result<()> {
        let text = serde_json::to_string(line).expect("numbers serialise") + "\n";
        self.metrics.as_mut().expect("begun before metrics come").write_all(text.as_bytes())
    }

    /// Writes a report beside the metrics.
    pub fn report(&self, name: &str, report: &impl serde::Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(report)? + "\n";
        Ok(write_whole(&self.folder.join(name), text.as_bytes())?)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Reads what [`Output::save`] wrote, if the run is the same.
pub(crate) fn resume(
    folder: &Path,
    config: &Map<String, Value>,
    device: &Device,
) -> Result<(Decoder, Moments, Progress)> {
    let path = folder.join(STATE);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("resume_from_checkpoint: {} can't be read", path.display()))?;
    let saved: Saved = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let keys = config.keys().chain(saved.config.keys());
    if let Some(key) = keys.into_iter().find(|k| !FREE.contains(&k.as_str()) && config.get(*k) != saved.config.get(*k))
    {
        let said = |v: Option<&Value>| v.map_or("not set".to_owned(), ToString::to_string);
        bail!(
            "resume_from_checkpoint: `{key}` is {}, but {} was saved with {}; a run goes on only as it was",
            said(config.get(key)),
            folder.display(),
            said(saved.config.get(key))
        );
    }
    let checkpoint = Checkpoint::open(folder)?;
    let moments = checkpoint.load_moments(&folder.join(MOMENTS), device)?;
    Ok((Decoder::load(&checkpoint, device)?, moments, saved.progress))
}

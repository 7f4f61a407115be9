//! The output folder of a run.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use collimate_model::write_whole;
use serde_json::{Map, Value};

const CONFIG: &str = "collimate.toml";
const METRICS: &str = "metrics.jsonl";

/// An output folder; nothing is written before [`begin`](Self::begin).
pub(crate) struct Output {
    folder: PathBuf,
    metrics: Option<File>,
}

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
        Ok(Self { folder: folder.to_owned(), metrics: None })
    }

    /// Makes the folder, writes the configuration and opens the metrics.
    pub fn begin(&mut self, config: &str) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("output_dir {}", self.folder.display()))?;
        write_whole(&self.folder.join(CONFIG), config.as_bytes())?;
        let path = self.folder.join(METRICS);
        self.metrics = Some(File::create(&path).with_context(|| path.display().to_string())?);
        Ok(())
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

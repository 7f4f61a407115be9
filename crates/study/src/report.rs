//! What a study writes: predictions before the first cell; tables, figures and a report after the last.

use std::path::Path;

use serde::Serialize;

use crate::plan::Vocabulary;
use crate::predictions;
use crate::{Error, Host, Plan, Results};

/// What the study expected; never written twice.
const PREDICTIONS: &str = "predictions.json";

fn put(host: &Host<'_>, path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    (host.write)(path, text.as_bytes()).map_err(Error::io(path))
}

fn json(of: &impl Serialize) -> String {
    serde_json::to_string_pretty(of).expect("results serialise") + "\n"
}

/// Writes what the study expects, before it is measured.
///
/// # Errors
/// A file that can't be read or written.
pub fn predict(plan: &Plan, host: &Host<'_>) -> Result<(), Error> {
    let root = &plan.output_dir;
    let file = root.join(PREDICTIONS);
    if !file.exists() {
        let all = predictions::of(plan)?;
        put(host, &root.join("predictions.md"), &predictions::markdown(&all))?;
        put(host, &file, &json(&all))?;
    }
    Ok(())
}

/// Writes tables, figures and the report of what is finished; returns what to say of it.
///
/// # Errors
/// A file that can't be read or written.
pub fn write(plan: &Plan, vocabulary: &Vocabulary, host: &Host<'_>) -> Result<String, Error> {
    let results = Results::new(plan, vocabulary)?;
    let root = &plan.output_dir;
    put(host, &root.join("results.json"), &json(&results))?;
    put(host, &root.join("results.csv"), &results.csv(&plan.analysis.metrics))?;
    Ok(format!("{} cells: {}", results.cells.len(), root.join("results.csv").display()))
}

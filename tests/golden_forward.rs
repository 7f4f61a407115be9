//! The logits and greedy tokens of transformers, for every architecture, rope type and variant that config.json can ask
//! for: tests/fixtures/forward, on every backend.

#[path = "common/forward.rs"]
mod forward;
#[path = "common/golden.rs"]
mod golden;

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use forward::Case;
use libtest_mimic::{Arguments, Failed};

type Kind = fn(&Case, &Device) -> Result<(), Failed>;
const KINDS: [(&str, Kind); 2] =
    [("logits", |case, device| case.logits(device).map(drop)), ("greedy tokens", Case::tokens)];

fn main() {
    let arguments = Arguments::from_args();
    let folder = golden::fixture("forward");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    assert!(!files.is_empty(), "tests/fixtures/forward has no cases");
    let mut trials = Vec::new();
    for file in &files {
        let name = file.file_stem().unwrap().to_string_lossy();
        let case = Arc::new(std::sync::LazyLock::new({
            let file = file.clone();
            move || Case::read(&file)
        }));
        for place in golden::places() {
            for (what, run) in KINDS {
                let case = case.clone();
                trials.push(place.trial(&format!("{name}::{what}"), move |device| run(&case, device)));
            }
        }
    }
    golden::run(&arguments, trials, &format!("golden forward tests, of {} models,", files.len()));
}

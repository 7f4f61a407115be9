//! TensorBoard reads what `report_to = "tensorboard"` writes, across a run that was gone on with.
//!
//! Where no Python has the package, this is reported as ignored; `PYTHON` names one.

#[path = "common/command.rs"]
mod command;
mod common;

use std::process::Command;

use command::{collimate, scalars, text};
use common::{small_checkpoint, small_pairs};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

const READ: &str = "import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0}).Reload()
print(json.dumps([[e.step, tag, e.value] for tag in events.Tags()['scalars'] for e in events.Scalars(tag)]))";

fn reads_what_was_written(python: &str) {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).display().to_string();
    small_checkpoint(&root.path().join("model"), 3);
    std::fs::write(path("pairs.jsonl"), small_pairs(24)).unwrap();
    let train = |more: &[&str]| {
        let (model, data, out) = (path("model"), path("pairs.jsonl"), path("out"));
        let usual = ["align", "--model", &model, "--data", &data, "--output_dir", &out, "--learning_rate", "1e-3"];
        let steps = ["--max_steps", "8", "--logging_steps", "1", "--eval_split", "0.25", "--eval_steps", "3"];
        let saved = ["--save_steps", "3", "--report_to", "tensorboard", "--backend", "flex"];
        let run = collimate(&[&usual[..], &steps, &saved, more].concat());
        assert!(run.status.success(), "{}", text(&run.stderr));
    };
    train(&[]);
    train(&["--resume_from_checkpoint", &path("out/checkpoint-3")]);
    let run = Command::new(python).args(["-c", READ, &path("out/runs")]).output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let mut read: Vec<(u64, String, f32)> = serde_json::from_slice(&run.stdout).unwrap();
    let mut all = scalars(&root.path().join("out"));
    assert!(all.iter().any(|(_, tag, _)| tag == "eval/loss"));
    for list in [&mut read, &mut all] {
        list.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
    }
    assert_eq!(read, all);
}

fn main() {
    let arguments = Arguments::from_args();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import tensorboard"]).output();
    let trial = match has.is_ok_and(|o| o.status.success()) {
        true => Trial::test("reads_what_was_written", move || -> Result<(), Failed> {
            reads_what_was_written(&python);
            Ok(())
        }),
        false => Trial::ignorable_test("reads_what_was_written", || {
            Ok(Completion::ignored_with("tensorboard: no Python here has it; PYTHON names one that does"))
        }),
    };
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

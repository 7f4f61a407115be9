//! `collimate study` as a program: killed, stopped and run again, and what it refuses.

#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

const SMALL: &str = r#"
name = "a small study"
[world]
sft = 64
pairs = 32
prompts = 6
[sft]
learning_rate = 3e-3
max_steps = 8
[run]
max_steps = 3
per_device_train_batch_size = 4
[grid]
method = ["dpo", "averaged-dpo"]
beta = {dpo = [0.1, 1.0], averaged-dpo = [2.0, 20.0]}
[generation]
max_new_tokens = 12
num_return_sequences = 2
[analysis]
bootstrap = 40
"#;

fn desk(study: &str) -> TempDir {
    let desk = tempfile::tempdir().unwrap();
    fs::write(desk.path().join("study.toml"), study).unwrap();
    desk
}

fn study(desk: &TempDir, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collimate"));
    command.args(["study", "study.toml", "--output_dir", out]).current_dir(desk);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a study to its end; what it said on standard error.
fn to_the_end(desk: &TempDir, out: &str) -> String {
    let run = study(desk, out).output().unwrap();
    assert!(run.status.success(), "{}", said(&run));
    assert!(String::from_utf8_lossy(&run.stdout).contains("report.html"), "{run:?}");
    said(&run)
}

fn results(desk: &TempDir, out: &str) -> [Vec<u8>; 3] {
    ["results.json", "results.csv", "report.html"].map(|f| fs::read(desk.path().join(out).join(f)).unwrap())
}

/// When each file that a command of the study wrote was written.
fn written(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            all.extend(written(&path));
        } else if path.extension().is_some_and(|e| e == "jsonl" || e == "safetensors" || e == "log") {
            all.insert(path.clone(), entry.metadata().unwrap().modified().unwrap());
        }
    }
    all
}

/// A moment below `most`, another one each time.
fn moment(most: Duration) -> Duration {
    most.mul_f64((RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64)
}

fn send(signal: &str, to: &str) {
    assert!(Command::new("kill").args([signal, "--", to]).status().unwrap().success());
}

fn start(desk: &TempDir, out: &str) -> Child {
    study(desk, out).process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_study_killed_at_any_point_ends_as_an_undisturbed_one() {
    let desk = desk(SMALL);
    let begin = Instant::now();
    to_the_end(&desk, "whole");
    let took = begin.elapsed();
    let whole = results(&desk, "whole");

    // Again: nothing is run, and the bytes are the same.
    let before = written(&desk.path().join("whole"));
    assert!(before.len() > 10, "{before:?}");
    let told = to_the_end(&desk, "whole");
    assert!(!told.contains("to run"), "{told}");
    assert_eq!(written(&desk.path().join("whole")), before);
    assert!(results(&desk, "whole") == whole, "the second call wrote other results");

    // With all its children, and alone, so that they go on without it.
    for (out, alone) in [("killed", false), ("orphans", true)] {
        let mut kills = 0;
        let mut at = Vec::new();
        for _ in 0..3 {
            let mut child = start(&desk, out);
            at.push(moment(took.div_f64(2.0)));
            std::thread::sleep(at[at.len() - 1]);
            if child.try_wait().unwrap().is_none() {
                let id = child.id();
                send("-KILL", &if alone { id.to_string() } else { format!("-{id}") });
                kills += 1;
            }
            child.wait().unwrap();
        }
        assert!(kills > 0, "it was never killed: {at:?} of {took:?}");
        to_the_end(&desk, out);
        let [json, csv, _] = results(&desk, out);
        assert!([json, csv] == whole[..2], "{out}: other results than undisturbed; killed after {at:?}");
    }
}

#[test]
fn a_signal_stops_a_study_which_says_how_to_go_on() {
    let desk = desk(SMALL);
    let child = start(&desk, "out");
    let trained = desk.path().join("out/stages/sft.json");
    let begin = Instant::now();
    while !trained.exists() {
        assert!(begin.elapsed() < Duration::from_secs(120), "no SFT policy in two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    send("-TERM", &child.id().to_string());
    let run = child.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(143), "{}", said(&run));
    assert!(said(&run).contains("of 4 cells are finished; the same command goes on from there"), "{}", said(&run));
    assert!(!desk.path().join("out/results.json").exists());
    let told = to_the_end(&desk, "out");
    assert!(!told.contains("sft: "), "the SFT policy was trained again: {told}");
    to_the_end(&desk, "whole");
    assert!(results(&desk, "out")[..2] == results(&desk, "whole")[..2]);
}

/// A study of what lies on the desk: a model, pairs and prompts.
fn given(reward: &str, more: &str) -> String {
    format!(
        "model = \"sft\"\ndata = \"pairs.jsonl\"\nprompts = \"prompts.jsonl\"\nreward = {reward}\n[run]\nmax_steps = \
         2\n[generation]\nmax_new_tokens = 3\nnum_return_sequences = 1\n{more}"
    )
}

const GRID: &str = "[grid]\nmethod = [\"dpo\", \"averaged-dpo\"]\n";
const LENGTH: &str = "{type = \"length\"}";

fn refused(desk: &TempDir, study_text: &str, parts: &[&str]) {
    fs::write(desk.path().join("study.toml"), study_text).unwrap();
    let run = study(desk, "out").output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{study_text}\n{}", said(&run));
    for part in parts {
        assert!(said(&run).contains(part), "{part:?} is not in: {}", said(&run));
    }
    assert!(!desk.path().join("out/cells").exists(), "a cell was begun: {study_text}");
}

#[test]
fn bad_input_is_refused_before_a_cell_is_trained() {
    let desk = desk("");
    common::small_checkpoint(&desk.path().join("sft"), 1);
    fs::write(desk.path().join("pairs.jsonl"), common::small_pairs(8)).unwrap();
    fs::write(desk.path().join("prompts.jsonl"), "{\"prompt\": \"a b\"}\n{\"prompt\": \"c d e\"}\n").unwrap();
    let long = format!("{{\"prompt\": \"a b\"}}\n{{\"prompt\": \"{}\"}}\n", "a ".repeat(40));
    fs::write(desk.path().join("long.jsonl"), long).unwrap();

    refused(
        &desk,
        &given(LENGTH, "[grid]\nmethod = []\n"),
        &["grid.method", "the list is empty; the grid has no cell"],
    );
    refused(&desk, &given(LENGTH, ""), &["the grid is empty"]);
    refused(
        &desk,
        &given(LENGTH, "[grid]\nmethod = [\"dpoo\"]\n"),
        &["grid.method: unknown method \"dpoo\"", "\"dpo\""],
    );
    let metric = format!("{GRID}[analysis]\nmetrics = [\"beauty\"]\n");
    refused(&desk, &given(LENGTH, &metric), &["analysis.metrics: unknown metric \"beauty\"; there are: "]);
    refused(&desk, &given("{type = \"lenght\"}", GRID), &["study.toml: ", "lenght", "length"]);
    let long = given(LENGTH, GRID).replace("prompts.jsonl", "long.jsonl");
    refused(&desk, &long, &["long.jsonl: row 2 has 41 tokens, and the model takes 32"]);
    assert!(!desk.path().join("out").exists(), "a study was begun");

    let command =
        |script: &str| given(&format!("{{type = \"command\", command = [\"sh\", \"-c\", '{script}']}}"), GRID);
    let dies = command("echo out of paper >&2; exit 3");
    refused(&desk, &dies, &["the SFT policy's answers: ", "sh", "out of paper", "3"]);
    // The folder is of that study now.
    let other = dies.replace("max_steps = 2", "max_steps = 5");
    refused(&desk, &other, &["holds a study of another configuration: `run.max_steps` is 5, and was 2"]);
    fs::remove_dir_all(desk.path().join("out")).unwrap();
    refused(&desk, &command("while read line; do echo nice; done"), &["the SFT policy's answers: ", "nice"]);
}

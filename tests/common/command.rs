//! The command, as the integration tests run it.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the command.
pub fn collimate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_collimate")).args(args).output().unwrap()
}

/// What a command printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines of metrics of a run.
pub fn metrics(folder: &Path) -> Vec<Value> {
    let lines = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// What `metrics.jsonl` says, as events have it.
pub fn scalars(folder: &Path) -> Vec<(u64, String, f32)> {
    let tag = |name: &str| match name.strip_prefix("eval_") {
        Some(name) => format!("eval/{name}"),
        None => format!("train/{name}"),
    };
    let all = metrics(folder).into_iter().flat_map(|line| {
        let step = line["step"].as_u64().unwrap();
        let line = line.as_object().unwrap().clone();
        line.into_iter().filter(|(k, _)| k != "step").map(move |(k, v)| (step, tag(&k), v.as_f64().unwrap() as f32))
    });
    all.collect()
}

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

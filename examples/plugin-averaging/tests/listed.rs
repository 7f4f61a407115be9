//! The averaging operator is there in a program that links it, by its name alone.

use assert_cmd::Command;
use collimate_core::{Method, Pair};
use discounted_averaging as _;
use serde_json::{Map, Value};

#[test]
fn the_program_lists_operator_and_method() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collimate-with-averaging"));
    let out = command.args(["methods", "--json"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let listing: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(listing["registered"]["averaging"].as_array().unwrap().contains(&"discounted".into()));
    assert!(listing["methods"].as_array().unwrap().iter().any(|m| m["name"] == "discounted-dpo"));
}

#[test]
fn weights_by_hand() {
    let given: Map<String, Value> = serde_json::from_str(r#"{"half_life": 1}"#).unwrap();
    let objective = Method::find("discounted-dpo").unwrap().objective(&given).unwrap();
    // 1, 1/2, 1/4 over 7/4
    let w = objective.weights(Pair::new(3, 1), 0).unwrap();
    assert!(w.chosen.iter().zip([4.0, 2.0, 1.0]).all(|(w, k)| (w - k / 7.0).abs() < 1e-15));
    assert_eq!(w.rejected, [1.0]);
}

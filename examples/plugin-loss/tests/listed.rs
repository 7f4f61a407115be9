//! The loss is there in a program that links it, by its name alone.

use assert_cmd::Command;
use collimate_core::{Method, Objective, Pair, Totals, objective::Completion};
use exponential_loss as _;
use serde_json::Value;

fn listing() -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_collimate-with-loss")).args(["methods", "--json"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn the_program_lists_loss_and_method() {
    let listing = listing();
    let names =
        |list: &Value| list.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert!(names(&listing["registered"]["loss"]).contains(&"exponential".to_owned()));
    assert!(listing["methods"].as_array().unwrap().iter().any(|m| m["name"] == "exponential-dpo"));
}

#[test]
fn the_command_knows_its_method_and_parameter() {
    // The method is found, and its parameter's rule is what stops the run, before any checkpoint is read.
    let mut command = Command::new(env!("CARGO_BIN_EXE_collimate-with-loss"));
    let out = command
        .args(["align", "--model", "none", "--data", "none", "--output_dir", "none"])
        .args(["--method", "exponential-dpo", "--scale", "-1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("scale must be greater than 0"), "{said}");
}

#[test]
fn a_triple_spelt_out_in_toml_is_read() {
    let text = r#"
        averaging = { type = "mean" }
        optimality = { type = "reverse_kl", beta = 2.0 }
        loss = { type = "exponential", scale = 0.5 }
    "#;
    let table = serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();
    let objective = Objective::from_value(&table).unwrap();
    // z = 2 · ((−1) − (−2)) − 0 = 2: e^(−2/0.5)
    let pair = |chosen: f64| Pair::new(Completion::new(chosen, chosen, 1.0), Completion::new(-1.0, -1.0, 1.0));
    let found = objective.evaluate(&pair(-1.0), &pair(-2.0), Totals { pairs: 1, chosen_tokens: 1 });
    assert!((found.loss - (-4f64).exp()).abs() < 1e-15);
    assert_eq!(Method::find("exponential-dpo").unwrap().triple.2, "exponential");
}

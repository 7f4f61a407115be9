//! What a program doesn't link, it doesn't list; `examples/plugin-*` prove the other half.

use assert_cmd::Command;
use collimate::core::Method;

#[test]
fn the_plain_command_lists_no_plugin() {
    let out = Command::new(env!("CARGO_BIN_EXE_collimate")).args(["methods", "--json"]).output().unwrap();
    assert!(out.status.success());
    let listing: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let methods: Vec<_> = listing["methods"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert!(methods.contains(&"averaged-dpo"));
    for absent in ["exponential-dpo", "discounted-dpo"] {
        assert!(!methods.contains(&absent), "{absent} is listed");
        assert!(Method::find(absent).is_err());
    }
    let registered = listing["registered"].to_string();
    assert!(!registered.contains("exponential") && !registered.contains("discounted"), "{registered}");
}

#[test]
fn the_loss_of_the_example_is_within_thirty_lines() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/plugin-loss/src/lib.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("// ANCHOR: loss\n").unwrap();
    let (loss, _) = rest.split_once("// ANCHOR_END: loss").unwrap();
    assert!(loss.contains("impl AnyLoss for Exponential") && loss.lines().count() <= 30, "{}", loss.lines().count());
}

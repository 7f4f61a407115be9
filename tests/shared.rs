//! Tests of reference material that is not part of this repository: ignored, by name, where COLLIMATE_SHARED lacks it.

#[path = "common/command.rs"]
mod command;
#[path = "common/golden.rs"]
mod golden;

use std::fs;
use std::path::PathBuf;

use command::{collimate, metrics, text};
use golden::shared_or_ignored;
use libtest_mimic::Arguments;
use serde_json::Value;

fn a_real_checkpoint_learns_real_preferences_and_still_tells_a_story([data]: [PathBuf; 1]) {
    let model = golden::fixture("stories260k-hf");
    let desk = tempfile::tempdir().unwrap();
    let out = desk.path().join("out");
    let (model, data, out_arg) = (model.display().to_string(), data.display().to_string(), out.display().to_string());
    let run = collimate(&[
        "align",
        "--model",
        &model,
        "--data",
        &data,
        "--method",
        "averaged-dpo",
        "--beta",
        "2",
        "--max_steps",
        "20",
        "--logging_steps",
        "1",
        "--output_dir",
        &out_arg,
    ]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let losses: Vec<f64> = metrics(&out).iter().map(|l| l["loss"].as_f64().unwrap()).collect();
    assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-6, "{losses:?}");
    let late: f64 = losses[15..].iter().sum::<f64>() / 5.0;
    assert!(late < std::f64::consts::LN_2 - 1e-6, "the loss does not fall: {losses:?}");
    let run = collimate(&["generate", "--model", &out_arg, "--prompt", "Once upon a time", "--max_new_tokens", "60"]);
    let story = text(&run.stdout);
    assert!(story.starts_with("Once upon a time, there was a little girl named Lily."), "{story}");
}

fn a_tokenizer_that_merges_across_the_boundary_trains_under_each_policy([model, data]: [PathBuf; 2]) {
    let desk = tempfile::tempdir().unwrap();
    let (model, data) = (model.display().to_string(), data.display().to_string());
    let align = |policy: &str| {
        let out = desk.path().join(policy).display().to_string();
        collimate(&[
            "align",
            "--model",
            &model,
            "--data",
            &data,
            "--boundary",
            policy,
            "--max_steps",
            "2",
            "--logging_steps",
            "1",
            "--output_dir",
            &out,
        ])
    };
    let run = align("error");
    assert!(!run.status.success());
    let said = text(&run.stderr);
    assert!(said.contains("row 1") && said.contains("`boundary` may be"), "{said}");
    for (policy, count) in [("separate", "boundary_separate"), ("merge", "boundary_merged")] {
        let run = align(policy);
        assert!(run.status.success(), "{}", text(&run.stderr));
        let report = fs::read_to_string(desk.path().join(policy).join("data_report.json")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert!(report["train"][count].as_u64().unwrap() > 290, "{report}");
        let first = &metrics(&desk.path().join(policy))[0];
        assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6, "{first}");
    }
}

fn main() {
    let pairs = "data/hh-rlhf/derived/helpful_standard_short300.jsonl";
    let bf16 = "data/tinystories-656k-bf16";
    let trials = vec![
        shared_or_ignored("what_is_saved_is_what_was_read", [bf16], |[folder]| golden::assert_saved_as_read(&folder)),
        shared_or_ignored(
            "a_real_checkpoint_learns_real_preferences_and_still_tells_a_story",
            [pairs],
            a_real_checkpoint_learns_real_preferences_and_still_tells_a_story,
        ),
        shared_or_ignored(
            "a_tokenizer_that_merges_across_the_boundary_trains_under_each_policy",
            [bf16, pairs],
            a_tokenizer_that_merges_across_the_boundary_trains_under_each_policy,
        ),
    ];
    golden::run(&Arguments::from_args(), trials, "tests of what COLLIMATE_SHARED holds");
}

//! The command as a user meets it: what it does, and what it says of bad input.

#[path = "common/command.rs"]
mod command;
mod common;
#[path = "common/golden.rs"]
mod golden;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use collimate::backend::Backend;
use collimate::backend::kernels::Kernels;
use command::{collimate, metrics, text};
use common::{small_checkpoint, small_pairs};
use serde_json::{Value, json};

/// A checkpoint, pairs, and a place for output, in a folder of their own.
struct Desk {
    root: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        small_checkpoint(&root.path().join("model"), 3);
        fs::write(root.path().join("pairs.jsonl"), small_pairs(24)).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// `collimate align` on this desk, with `more` behind the usual flags (the last of a kind wins).
    fn align(&self, out: &str, more: &[&str]) -> Output {
        let (model, data, out) = (self.arg("model"), self.arg("pairs.jsonl"), self.arg(out));
        let mut flags: Vec<(&str, &str)> = vec![
            ("--model", &model),
            ("--data", &data),
            ("--output_dir", &out),
            ("--max_steps", "4"),
            ("--learning_rate", "1e-3"),
            ("--per_device_train_batch_size", "4"),
            ("--logging_steps", "1"),
        ];
        flags.retain(|(flag, _)| !more.contains(flag));
        let mut args = vec!["align"];
        args.extend(flags.iter().flat_map(|(k, v)| [*k, *v]));
        args.extend(more);
        collimate(&args)
    }

    /// Asserts that a run is refused with one paragraph that has all of `parts`, and leaves nothing behind.
    fn refused(&self, more: &[&str], parts: &[&str]) {
        let run = self.align("refused", more);
        let said = text(&run.stderr);
        assert!(!run.status.success(), "{more:?} was accepted");
        assert_eq!(run.status.code(), Some(1), "{said}");
        for part in parts {
            assert!(said.contains(part), "{more:?}: no {part:?} in: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
        let paragraph = said.trim_end().lines().filter(|l| l.starts_with("error:")).count();
        assert_eq!(paragraph, 1, "{said}");
        assert!(!self.path("refused").exists(), "{more:?} left output behind");
    }
}

#[test]
fn align_writes_a_checkpoint_that_generates() {
    let desk = Desk::new();
    let run = desk.align("out", &["--method", "averaged-dpo", "--beta", "2", "--eval_split", "0.25"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let lines = metrics(&desk.path("out"));
    assert_eq!(lines.len(), 5, "four steps and an evaluation");
    assert!((lines[0]["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6);
    for key in [
        "grad_norm",
        "learning_rate",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "logps_per_token/chosen",
        "num_tokens",
        "epoch",
        "step",
    ] {
        assert!(lines[0][key].is_number(), "{key}");
    }
    assert!(lines[4]["eval_loss"].is_number() && lines[4]["eval_rewards/margins"].is_number());
    for file in ["model.safetensors", "config.json", "tokenizer.json", "collimate.toml", "data_report.json"] {
        assert!(desk.path("out").join(file).is_file(), "{file}");
    }
    let run = collimate(&["generate", "--model", &desk.arg("out"), "--prompt", "a b", "--max_new_tokens", "5"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert!(text(&run.stdout).starts_with("a b"));
}

#[test]
fn two_runs_are_bit_identical() {
    for (backend, _) in common::devices() {
        if !Backend::find(backend).unwrap().capabilities.deterministic {
            eprintln!("skipped: {backend} doesn't promise the same bits each time");
            continue;
        }
        let desk = Desk::new();
        for out in ["one", "two"] {
            let run =
                desk.align(out, &["--backend", backend, "--gradient_accumulation_steps", "2", "--eval_split", "0.2"]);
            assert!(run.status.success(), "{}", text(&run.stderr));
        }
        for file in ["model.safetensors", "metrics.jsonl"] {
            let read = |out: &str| fs::read(desk.path(out).join(file)).unwrap();
            assert!(read("one") == read("two"), "{file} differs on {backend}");
        }
    }
}

#[test]
fn the_effective_configuration_repeats_the_run() {
    let desk = Desk::new();
    let run = desk.align("one", &["--method", "averaged-ipo", "--beta", "1.5", "--seed", "5", "--warmup_steps", "2"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let config = desk.path("one").join("collimate.toml").display().to_string();
    let run = collimate(&["align", &config, "--output-dir", &desk.arg("two")]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(metrics(&desk.path("one")), metrics(&desk.path("two")));
}

#[test]
fn a_resumed_run_continues_as_if_it_had_never_stopped() {
    let desk = Desk::new();
    // Saved in the middle of a line of metrics and of an epoch.
    let usual = ["--max_steps", "8", "--logging_steps", "3", "--eval_split", "0.2", "--lr_scheduler_type", "cosine"];
    let saved = desk.arg("whole/checkpoint-5");
    let read = |out: &str| fs::read(desk.path(out).join("model.safetensors")).unwrap();
    // The last way is the one that the rest of this test goes on with.
    for way in [&["--bf16", "true"][..], &["--dtype", "bfloat16"], &[]] {
        let way = [&usual[..], &["--backend", "flex"], way].concat();
        for (out, more) in [("whole", ["--save_steps", "5"]), ("rest", ["--resume_from_checkpoint", &saved])] {
            let run = desk.align(out, &[&way[..], &more, &["--overwrite_output_dir", "true"]].concat());
            assert!(run.status.success(), "{way:?}: {}", text(&run.stderr));
        }
        assert!(read("whole") == read("rest"), "{way:?}: the weights differ");
    }
    let usual = [&usual[..], &["--backend", "flex"]].concat();
    let rest = metrics(&desk.path("rest"));
    let whole = metrics(&desk.path("whole"));
    assert_eq!(rest, whole[1..], "all but the line of step 3");
    // In the folder of the run itself, the lines before the checkpoint stay.
    let run = desk.align("whole", &[&usual[..], &["--resume_from_checkpoint", &saved]].concat());
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(metrics(&desk.path("whole")), whole);
    let run = desk.align("other", &[&usual[..], &["--resume_from_checkpoint", &saved, "--seed", "1"]].concat());
    assert!(!run.status.success());
    assert!(text(&run.stderr).contains("`seed` is 1"), "{}", text(&run.stderr));
}

/// The steps of the checkpoints in a folder.
fn checkpoints(folder: &std::path::Path) -> Vec<u64> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<_> = names.filter_map(|n| n.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort();
    steps
}

#[test]
fn the_best_checkpoint_is_kept_and_loaded() {
    let desk = Desk::new();
    let ran = |out: &str, more: &[&str]| {
        let usual = ["--eval_split", "0.25", "--eval_steps", "2", "--save_steps", "4", "--learning_rate", "3e-2"];
        let best = ["--load_best_model_at_end", "true", "--backend", "flex"];
        let steps = if more.contains(&"--max_steps") { &[][..] } else { &["--max_steps", "22"] };
        desk.align(out, &[&usual[..], &best, steps, more].concat())
    };
    let done = |out: &str, more: &[&str]| {
        let run = ran(out, more);
        assert!(run.status.success(), "{out}, {more:?}: {}", text(&run.stderr));
        text(&run.stderr)
    };
    let weights = |name: &str| fs::read(desk.path(name).join("model.safetensors")).unwrap();
    let state = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(desk.path(name).join("trainer_state.json")).unwrap()).unwrap()
    };
    let said = done("all", &[]);
    // The last step is saved too, though no multiple of 4: it may be the best.
    assert_eq!(checkpoints(&desk.path("all")), [4, 8, 12, 16, 20, 22]);
    let lines = metrics(&desk.path("all"));
    let saved = lines
        .iter()
        .filter(|l| l["eval_loss"].is_number() && (l["step"] == 22 || l["step"].as_u64().unwrap() % 4 == 0));
    let loss = |l: &&Value| l["eval_loss"].as_f64().unwrap();
    let best = saved.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap()["step"].as_u64().unwrap();
    assert_ne!(best, 22, "the loss does not rise again: {lines:?}");
    let folder = format!("all/checkpoint-{best}");
    assert!(said.contains(&format!("the result is {}, the best: eval_loss ", desk.arg(&folder))), "{said}");
    assert!(weights("all") == weights(&folder) && weights("all") != weights("all/checkpoint-22"));
    // As transformers has it, with all that was measured.
    let end = state("all/checkpoint-22");
    let keys: Vec<_> = end.as_object().unwrap().keys().map(String::as_str).collect();
    let theirs = [
        "best_global_step",
        "best_metric",
        "best_model_checkpoint",
        "epoch",
        "eval_steps",
        "global_step",
        "is_hyper_param_search",
        "is_local_process_zero",
        "is_world_process_zero",
        "log_history",
        "logging_steps",
        "max_steps",
        "num_input_tokens_seen",
        "num_train_epochs",
        "save_steps",
        "stateful_callbacks",
        "total_flos",
        "train_batch_size",
        "trial_name",
        "trial_params",
    ];
    assert_eq!(keys, theirs);
    assert_eq!(end["best_model_checkpoint"], desk.arg(&folder));
    assert_eq!((&end["global_step"], &end["max_steps"]), (&22.into(), &22.into()));
    assert_eq!(end["log_history"], Value::from(lines.clone()));
    assert_eq!(
        (&end["epoch"], &end["num_input_tokens_seen"]),
        (&lines.last().unwrap()["epoch"], &lines.last().unwrap()["num_tokens"])
    );
    let evaluated = lines.iter().filter_map(|l| l["eval_loss"].as_f64());
    assert_eq!(end["best_metric"].as_f64(), evaluated.min_by(f64::total_cmp));

    // However few may stay, the best and the last do; else those that are the latest.
    done("few", &["--save_total_limit", "1"]);
    assert_eq!(checkpoints(&desk.path("few")), [best, 22]);
    assert!(weights("few") == weights("all"));
    done("three", &["--save_total_limit", "4"]);
    let mut stay = vec![best, 16, 20, 22];
    stay.sort();
    assert_eq!(checkpoints(&desk.path("three")), if best == 16 || best == 20 { vec![12, 16, 20, 22] } else { stay });
    // More steps, in the folder itself from the latest, and in another one, where the best lies in the first.
    let more = ["--max_steps", "30", "--save_total_limit", "1"];
    for (out, from) in [("few", "latest".to_owned()), ("few", "True".to_owned()), ("on", desk.arg("all/checkpoint-22"))]
    {
        done(out, &[&more[..], &["--resume_from_checkpoint", &from]].concat());
        let state = state(&format!("{out}/checkpoint-30"));
        let known = state["best_model_checkpoint"].as_str().unwrap();
        assert!(weights(out) == fs::read(format!("{known}/model.safetensors")).unwrap(), "{out}: {known}");
        assert_eq!(state["log_history"].as_array().unwrap()[..lines.len()], lines[..], "{out}");
        let mut stay = vec![30];
        stay.extend((out == "few").then_some([best, 22]).into_iter().flatten());
        stay.sort();
        assert_eq!(checkpoints(&desk.path(out)), stay, "{out} from {from}");
    }
    assert!(weights("on") == weights("few"));
    // From the last step there is nothing more to train: the result is written, elsewhere too.
    done("end", &["--resume_from_checkpoint", &desk.arg("all/checkpoint-22")]);
    assert!(weights("end") == weights("all") && desk.path("end/README.md").is_file());
    fs::remove_dir_all(desk.path(&folder)).unwrap();
    let from = desk.arg("all/checkpoint-22");
    let gone = ran("gone", &[&more[..], &["--resume_from_checkpoint", &from]].concat());
    let said = text(&gone.stderr);
    assert!(!gone.status.success() && said.contains(&format!("checkpoint-{best}, is not there any more")), "{said}");
    assert!(!desk.path("gone").exists());
    desk.refused(&["--resume_from_checkpoint", "latest"], &["refused holds no checkpoint-N to go on from"]);
    desk.refused(
        &["--eval_split", "0.25", "--metric_for_best_model", "accuracy"],
        &[
            "metric_for_best_model: evaluations of this run have no \"accuracy\"; they have eval_loss, ",
            "eval_rewards/accuracies",
        ],
    );
}

#[test]
fn a_run_stops_when_nothing_gets_better() {
    let desk = Desk::new();
    let usual = ["--eval_split", "0.25", "--eval_steps", "1", "--learning_rate", "3e-2", "--max_steps", "60"];
    let more = ["--early_stopping_patience", "3", "--metric_for_best_model", "eval_loss", "--backend", "flex"];
    let run = desk.align("out", &[&usual[..], &more].concat());
    assert!(run.status.success(), "{}", text(&run.stderr));
    let lines = metrics(&desk.path("out"));
    let losses: Vec<f64> = lines.iter().filter_map(|l| l["eval_loss"].as_f64()).collect();
    let least = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap();
    assert_eq!(losses.len(), least + 1 + 3, "{losses:?}");
    let said = text(&run.stderr);
    assert!(said.contains(&format!("stopped after step {} of 60: 3 evaluations in a row", losses.len())), "{said}");
    assert!(desk.path("out/model.safetensors").is_file());
}

#[test]
fn fewer_bits_train_and_say_what_they_keep() {
    let desk = Desk::new();
    let kept = |out: &str| {
        let bytes = fs::read(desk.path(out).join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        file.tensor("model.norm.weight").unwrap().dtype()
    };
    for (out, key, value, dtype) in [
        ("bf16", "--bf16", "true", safetensors::Dtype::F32),
        ("fp16", "--fp16", "true", safetensors::Dtype::F32),
        ("pure", "--dtype", "bfloat16", safetensors::Dtype::BF16),
    ] {
        let done = desk.align(out, &["--backend", "flex", key, value, "--max_steps", "3"]);
        assert!(done.status.success(), "{out}: {}", text(&done.stderr));
        let unit = Kernels::on(&Backend::device("flex").unwrap()).linear.half_unit();
        let said =
            unit.map_or("bf16 saves memory, not time".to_owned(), |u| format!("bfloat16 by this processor's {u}"));
        assert_eq!(text(&done.stderr).contains(&said), key != "--fp16", "{out}: {}", text(&done.stderr));
        assert_eq!(kept(out), dtype, "{out}");
        let config: Value = serde_json::from_slice(&fs::read(desk.path(out).join("config.json")).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"] == "bfloat16", dtype == safetensors::Dtype::BF16, "{out}");
        let first = metrics(&desk.path(out))[0]["loss"].as_f64().unwrap();
        assert!((first - std::f64::consts::LN_2).abs() < 0.02, "{out}: {first}");
        let written = collimate(&["generate", "--model", &desk.arg(out), "--prompt", "a b", "--max_new_tokens", "3"]);
        assert!(written.status.success(), "{out}: {}", text(&written.stderr));
    }
    desk.refused(
        &["--backend", "ndarray", "--bf16", "true"],
        &["backend ndarray: the device has no bfloat16 numbers; it has: float32"],
    );
    desk.refused(&["--bf16", "true", "--fp16", "true"], &["bf16 and fp16 both say what to compute in"]);
    desk.refused(&["--dtype", "float16"], &["dtype: unknown variant `float16`", "float32", "bfloat16"]);
}

#[test]
fn reference_scores_are_reused_by_other_methods() {
    let desk = Desk::new();
    let cache = desk.arg("cache");
    let plain = desk.align("plain", &["--method", "ipo", "--beta", "0.5"]);
    assert!(plain.status.success(), "{}", text(&plain.stderr));
    let scores = || {
        let files = fs::read_dir(desk.path("cache")).unwrap().map(|f| f.unwrap().path());
        let files = files.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("reference-"));
        files.map(|p| (fs::metadata(&p).unwrap().modified().unwrap(), p)).collect::<Vec<_>>()
    };
    let run = desk.align("first", &["--cache_dir", &cache, "--method", "averaged-dpo"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let first = scores();
    assert_eq!(first.len(), 1);
    // Another method and another β read the same scores, and end where a run without the cache does.
    let run = desk.align("second", &["--cache_dir", &cache, "--method", "ipo", "--beta", "0.5"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(scores(), first);
    assert_eq!(metrics(&desk.path("second")), metrics(&desk.path("plain")));
    // Another model has scores of its own.
    small_checkpoint(&desk.path("model"), 8);
    let run = desk.align("third", &["--cache_dir", &cache]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(scores().len(), 2);
}

#[test]
fn bad_flags_are_named() {
    let desk = Desk::new();
    desk.refused(&["--method", "dpoo"], &["unknown method \"dpoo\"", "averaged-dpo"]);
    desk.refused(&["--beta", "0"], &["beta", "greater than 0", "got 0"]);
    desk.refused(&["--beta", "-1"], &["beta", "greater than 0", "got -1"]);
    desk.refused(&["--learning_rate", "fast"], &["learning_rate", "invalid type", "fast"]);
    desk.refused(&["--per_device_train_batch_size", "0"], &["per_device_train_batch_size", "at least 1"]);
    desk.refused(&["--lr_scheduler_type", "wavy"], &["lr_scheduler_type", "wavy", "cosine"]);
    desk.refused(&["--backend", "abacus"], &["unknown backend \"abacus\"", "flex"]);
    // The parser of flags refuses what is no flag at all, with its own exit code.
    let run = desk.align("refused", &["--betta", "1"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(text(&run.stderr).contains("--beta"), "{}", text(&run.stderr));
}

/// The number behind `before` in what a run said.
fn said(run: &Output, before: &str) -> usize {
    let all = text(&run.stderr);
    let rest = all.split_once(before).unwrap_or_else(|| panic!("no {before:?} in: {all}")).1;
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn a_run_keeps_to_its_memory_and_stays_the_same_run() {
    let desk = Desk::new();
    let story = |what: &str, n: usize| format!(" The {what} sat on a mat and saw a big red sun.").repeat(n);
    let row = |i: usize| {
        let (chosen, rejected) = (story("cat", 8 + i % 7), story("dog", 6 + i % 5));
        json!({"prompt": story("bird", 4 + i % 3).trim(), "chosen": chosen, "rejected": rejected})
    };
    let pairs: String = (0..48).map(|i| format!("{}\n", row(i))).collect();
    fs::write(desk.path("pairs.jsonl"), pairs).unwrap();
    let model = golden::fixture("stories260k-hf").display().to_string();
    let run = |out: &str, more: &[&str]| {
        let usual = [
            "--model",
            &model,
            "--max_steps",
            "2",
            "--per_device_train_batch_size",
            "24",
            "--backend",
            "flex",
            "--max_tokens_per_batch",
            "0",
        ];
        desk.align(out, &[&usual, more].concat())
    };
    let losses = |out: &str| metrics(&desk.path(out)).iter().filter_map(|l| l["loss"].as_f64()).collect::<Vec<_>>();
    let free = run("free", &[]);
    assert!(free.status.success(), "{}", text(&free.stderr));
    assert!(!text(&free.stderr).contains("max_memory_mib"));
    let all = said(&free, "predicted peak memory ");
    let rest = said(&free, "program and data ");
    // Room for a third of what a step would hold.
    let bound = (rest + (all - rest) / 3 + 5).to_string();
    let kept = run("kept", &["--max_memory_mib", &bound]);
    assert!(kept.status.success(), "{}", text(&kept.stderr));
    let tokens = said(&kept, &format!("max_memory_mib {bound}: at most "));
    assert!((1024..10_000).contains(&tokens), "{tokens}");
    assert!(said(&kept, "predicted peak memory ") <= bound.parse().unwrap());
    let (free, kept) = (losses("free"), losses("kept"));
    assert!(free.len() == 2 && kept.len() == 2);
    for (a, b) in free.iter().zip(&kept) {
        assert!((a - b).abs() < 1e-6, "{free:?} {kept:?}");
    }
    let enough = run("enough", &["--max_memory_mib", &(all + 50).to_string()]);
    assert!(text(&enough.stderr).contains("any number of tokens and 32768 rows of logits at a time, 0 of 5 layers"));
    // What can't be kept is said before anything is written.
    let (backend, model) = (["--backend", "flex"], ["--model", &model[..]]);
    let refused = |mib: &str, parts: &[&str]| {
        desk.refused(&[&backend[..], &model, &["--max_memory_mib", mib]].concat(), parts);
    };
    refused("1", &["max_memory_mib 1: ", "alone take "]);
    refused(
        &(rest + 4).to_string(),
        &["max_memory_mib ", "the smallest micro-batch", "parameters, gradients and moments"],
    );
}

#[test]
fn a_misspelt_key_in_a_file_is_named() {
    let desk = Desk::new();
    let file = desk.path("run.toml");
    fs::write(&file, "lerning_rate = 1e-5\n").unwrap();
    desk.refused(&[&file.display().to_string()], &["unknown key `lerning_rate`", "learning_rate"]);
    fs::write(&file, "learning_rate = \n").unwrap();
    desk.refused(&[&file.display().to_string()], &["run.toml", "line 1"]);
    desk.refused(&[&desk.arg("absent.toml")], &["absent.toml", "can't be read"]);
}

#[test]
fn bad_data_names_file_row_and_field() {
    let desk = Desk::new();
    let bad = |row: &str| {
        fs::write(desk.path("bad.jsonl"), format!("{}{row}\n", small_pairs(2))).unwrap();
        desk.arg("bad.jsonl")
    };
    let path = desk.arg("absent.jsonl");
    desk.refused(&["--data", &path], &["absent.jsonl"]);
    let path = bad(r#"{"prompt": "a", "chosen": " b"}"#);
    desk.refused(&["--data", &path], &["bad.jsonl", "row 3", "rejected"]);
    let path = bad(r#"{"prompt": "a", "chosen": " b", "rejected": ""}"#);
    desk.refused(&["--data", &path], &["bad.jsonl", "row 3", "rejected", "empty"]);
    let path = bad(r#"{"prompt": "a", "chosen": " b", "rejected": 7}"#);
    desk.refused(&["--data", &path], &["bad.jsonl", "row 3", "rejected", "7"]);
    let path = bad(r#"{"prompt": "a", "chosen": " b", "#);
    desk.refused(&["--data", &path], &["bad.jsonl", "row 3"]);
    let long = "a ".repeat(40);
    let path = bad(&format!(r#"{{"prompt": "{}", "chosen": " b", "rejected": " c"}}"#, long.trim()));
    desk.refused(&["--data", &path, "--max_length", "32"], &["bad.jsonl", "row 3", "prompt", "max_length is 32"]);
}

#[test]
fn bad_checkpoints_are_named() {
    let desk = Desk::new();
    let model = desk.path("model");
    desk.refused(&["--model", &desk.arg("nowhere")], &["nowhere", "not a checkpoint folder"]);
    fs::create_dir(desk.path("empty")).unwrap();
    desk.refused(&["--model", &desk.arg("empty")], &["empty", "config.json"]);

    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    desk.refused(&[], &["model.safetensors", "not a whole safetensors file", "bytes"]);
    fs::write(&weights, &whole[..5]).unwrap();
    desk.refused(&[], &["model.safetensors", "too few"]);
    fs::write(&weights, &whole).unwrap();

    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(model.join("config.json"), config.replace("\"intermediate_size\": 24", "\"intermediate_size\": 20"))
        .unwrap();
    desk.refused(&[], &["mlp.", "[20, 16]", "[24, 16]"]);
    fs::write(model.join("config.json"), config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"))
        .unwrap();
    desk.refused(&[], &["model.layers.1.", "not part of this architecture"]);
    fs::write(model.join("config.json"), config.replace("\"silu\"", "\"gelu\"")).unwrap();
    desk.refused(&[], &["config.json", "hidden_act", "gelu"]);
    fs::write(model.join("config.json"), &config).unwrap();
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    desk.refused(&[], &["tokenizer.json"]);
}

#[test]
fn output_is_never_written_over_what_is_not_a_run() {
    let desk = Desk::new();
    let run = desk.align("model", &[]);
    assert!(!run.status.success());
    assert!(text(&run.stderr).contains("also an input"), "{}", text(&run.stderr));
    fs::create_dir(desk.path("mine")).unwrap();
    fs::write(desk.path("mine").join("thesis.tex"), "x").unwrap();
    let run = desk.align("mine", &[]);
    assert!(!run.status.success());
    assert!(text(&run.stderr).contains("not of an earlier run"), "{}", text(&run.stderr));
}

#[test]
fn methods_and_backends_are_listed() {
    let run = collimate(&["methods"]);
    let said = text(&run.stdout);
    for name in ["dpo", "averaged-dpo", "ipo", "averaged-ipo", "slic", "averaged-slic", "arXiv:2406.19188"] {
        assert!(said.contains(name), "{name} is not in {said}");
    }
    let run = collimate(&["methods", "--json"]);
    let all: Value = serde_json::from_slice(&run.stdout).unwrap();
    let averaged = all["methods"].as_array().unwrap().iter().find(|m| m["name"] == "averaged-dpo").unwrap();
    assert_eq!(averaged["averaging"], "mean");
    let run = collimate(&["backends", "--json"]);
    let all: Value = serde_json::from_slice(&run.stdout).unwrap();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["flex", "ndarray"]);
    assert_eq!(all[0]["default"], true);
}

#[test]
fn data_is_inspected() {
    let desk = Desk::new();
    let (pairs, model, svg) = (desk.arg("pairs.jsonl"), desk.arg("model"), desk.arg("lengths.svg"));
    let run = collimate(&["data", "inspect", &pairs, "--model", &model, "--json", "--svg", &svg]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let found: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(found["report"]["rows"], 24, "{found}");
    assert!(fs::read_to_string(svg).unwrap().starts_with("<svg"));
    let run = collimate(&["data", "inspect", &pairs, "--empty_completion", "sometimes"]);
    assert!(!run.status.success());
    assert!(text(&run.stderr).contains("empty_completion"), "{}", text(&run.stderr));
}

#[test]
fn help_teaches_and_keys_take_dashes() {
    let run = collimate(&["align", "--help"]);
    let said = text(&run.stdout);
    for part in ["--learning_rate", "Example:", "--max_length", "averaged-dpo", "--gradient_accumulation_steps"] {
        assert!(said.contains(part), "{part}");
    }
    let desk = Desk::new();
    let run = desk.align("out", &["--warmup-steps", "1"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
}

#[test]
fn greedy_text_is_that_of_the_original() {
    let model = golden::fixture("stories260k-hf");
    let doc = fs::read_to_string(golden::fixture("stories260k-hf/stories260K.upstream.md")).unwrap();
    let start = doc.find("Once upon a time, there was a little girl").unwrap();
    let expected: String = doc[start..].chars().take(200).collect();
    for backend in ["flex", "ndarray"] {
        let run = collimate(&[
            "generate",
            "--model",
            &model.display().to_string(),
            "--prompt",
            "Once upon a time",
            "--max_new_tokens",
            "150",
            "--backend",
            backend,
        ]);
        let got: String = text(&run.stdout).chars().take(200).collect();
        assert_eq!(got, expected, "on {backend}");
    }
}

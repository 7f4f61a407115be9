//! The commands that train, and what they train, as a user meets them: `sft`, `reward`, what is written while a run goes,
//! and `measure` and `score` behind it. What every run does whatever it trains is held to in `cli` and `faults`.

#[path = "common/command.rs"]
mod command;
mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use collimate::data::{Options as DataOptions, Source, Tokenizer, prompts};
use collimate::model::{Checkpoint, Decoder, Layout, Options, Text};
use command::{collimate, metrics, scalars, text};
use common::{WORDS, any_device, small_checkpoint, small_pairs};
use serde_json::{Value, json};

/// A small model, data, and a place for output.
struct Desk {
    root: tempfile::TempDir,
}

fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|r| format!("{r}\n")).collect()
}

fn words(from: usize, n: usize) -> String {
    (0..n).map(|k| format!(" {}", WORDS[3 + (from * 5 + k * k) % 8])).collect()
}

/// Pairs whose chosen completion ends in `i`, a word that no other text has.
fn marked_pairs(rows: usize) -> Vec<Value> {
    let row = |i: usize| {
        let (chosen, rejected) = (words(i + 1, 1 + i % 3) + " i", words(i + 2, 2 + i % 4));
        json!({"prompt": words(i, 1 + i % 4).trim(), "chosen": chosen, "rejected": rejected})
    };
    (0..rows).map(row).collect()
}

impl Desk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        small_checkpoint(&root.path().join("model"), 3);
        let desk = Self { root };
        desk.write("pairs.jsonl", &small_pairs(24));
        desk.write("marked.jsonl", &lines(marked_pairs(40)));
        desk.write("prompts.jsonl", &lines((0..5).map(|i| json!({"prompt": words(i, 1 + i % 3).trim()}))));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.arg(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        text(&self.read(name)).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// A command that trains, on `data`, with `more` behind the usual flags (which it may replace).
    fn train(&self, kind: &str, data: &str, out: &str, more: &[&str]) -> Output {
        let (model, data, out) = (self.arg("model"), self.arg(data), self.arg(out));
        let usual = [
            ("--model", &model[..]),
            ("--data", &data),
            ("--output_dir", &out),
            ("--max_steps", "4"),
            ("--learning_rate", "1e-3"),
            ("--per_device_train_batch_size", "4"),
            ("--logging_steps", "1"),
        ];
        let mut args = vec![kind];
        args.extend(usual.iter().filter(|(flag, _)| !more.contains(flag)).flat_map(|(k, v)| [*k, *v]));
        args.extend(more);
        collimate(&args)
    }

    fn trained(&self, kind: &str, data: &str, out: &str, more: &[&str]) -> Output {
        let run = self.train(kind, data, out, more);
        assert!(run.status.success(), "{kind} on {data}, {more:?}: {}", text(&run.stderr));
        run
    }

    /// A reward model of the marked pairs, in `rm`.
    fn reward_model(&self) -> Vec<Value> {
        let more = ["--max_steps", "60", "--learning_rate", "1e-2", "--eval_data", &self.arg("marked.jsonl")];
        self.trained("reward", "marked.jsonl", "rm", &more);
        metrics(&self.path("rm"))
    }
}

/// One paragraph of refusal that has all of `parts`.
fn refusal(run: &Output, parts: &[&str]) {
    let said = text(&run.stderr);
    assert!(!run.status.success(), "accepted, and not refused with {parts:?}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("error:")).count(), 1, "{said}");
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {line}"))
}

const TEMPLATE: &str =
    "<s>{% for m in messages %} {{ m.content }}{% if m.role == 'assistant' %} </s>{% endif %}{% endfor %}";

#[test]
fn sft_learns_texts_in_every_layout() {
    let desk = Desk::new();
    let completion = |i: usize| words(i + 1, 2 + i % 4);
    let prompt = |i: usize| words(i, 1 + i % 3).trim().to_owned();
    let rows = 24;
    desk.write(
        "completions.jsonl",
        &lines((0..rows).map(|i| json!({"prompt": prompt(i), "completion": completion(i)}))),
    );
    desk.write("texts.jsonl", &lines((0..rows).map(|i| json!({"text": prompt(i) + &completion(i)}))));
    let turn = |role: &str, content: String| json!({"role": role, "content": content.trim()});
    let chat = |i: usize| json!({"messages": [turn("user", prompt(i)), turn("assistant", completion(i))]});
    desk.write("chats.jsonl", &lines((0..rows).map(chat)));
    refusal(&desk.train("sft", "chats.jsonl", "out", &[]), &["chat template"]);
    for (data, more) in [
        ("completions.jsonl", &[][..]),
        ("texts.jsonl", &[]),
        ("chats.jsonl", &["--chat_template", TEMPLATE]),
        ("pairs.jsonl", &[]),
    ] {
        let usual = ["--max_steps", "40", "--learning_rate", "1e-2", "--overwrite_output_dir", "true"];
        desk.trained("sft", data, "out", &[&usual[..], &["--eval_split", "0.2"], more].concat());
        let lines = metrics(&desk.path("out"));
        assert_eq!(lines.len(), 41, "{data}: a line a step and an evaluation");
        for key in ["loss", "grad_norm", "learning_rate", "logps", "completion_tokens", "num_tokens", "epoch", "step"] {
            assert!(lines[0][key].is_number(), "{data}: {key} in {}", lines[0]);
        }
        assert!(lines[40]["eval_loss"].is_number() && lines[40]["eval_logps"].is_number(), "{}", lines[40]);
        let mean = |of: &[Value]| of.iter().map(|l| number(l, "loss")).sum::<f64>() / of.len() as f64;
        let (first, last) = (mean(&lines[..5]), mean(&lines[35..40]));
        assert!(last < 0.9 * first, "{data}: loss {first} → {last}");
        for file in ["model.safetensors", "config.json", "tokenizer.json", "collimate.toml", "timing.jsonl"] {
            assert!(desk.path("out").join(file).is_file(), "{data}: {file}");
        }
        let report: Value = serde_json::from_slice(&desk.read("out/data_report.json")).unwrap();
        assert_eq!(report["train"]["rows"], 24, "{data}: {report}");
        // The file repeats the run.
        let config = desk.arg("out/collimate.toml");
        let run = collimate(&["sft", &config, "--output_dir", &desk.arg("again"), "--overwrite_output_dir", "true"]);
        assert!(run.status.success(), "{data}: {}", text(&run.stderr));
        for file in ["model.safetensors", "metrics.jsonl"] {
            assert!(desk.read(&format!("out/{file}")) == desk.read(&format!("again/{file}")), "{data}: {file}");
        }
        let run = collimate(&["generate", "--model", &desk.arg("out"), "--prompt", "a b", "--max_new_tokens", "4"]);
        assert!(run.status.success(), "{data}: {}", text(&run.stderr));
        assert!(text(&run.stdout).starts_with("a b"));
    }
    // What is aligned is what was tuned.
    let run = desk.trained("align", "pairs.jsonl", "aligned", &["--model", &desk.arg("out"), "--max_steps", "1"]);
    assert!(!text(&run.stderr).contains("ALARM"), "{}", text(&run.stderr));
}

#[test]
fn prompts_are_learnt_where_that_is_asked() {
    let desk = Desk::new();
    let loss = |out: &str, only: &str| {
        desk.trained("sft", "pairs.jsonl", out, &["--completion_only_loss", only, "--max_steps", "1"]);
        let line = metrics(&desk.path(out)).remove(0);
        (number(&line, "loss"), number(&line, "completion_tokens"), number(&line, "num_tokens"))
    };
    let (only, both) = (loss("only", "true"), loss("both", "false"));
    assert!(only.0 != both.0 && only.1 < both.1, "{only:?} {both:?}");
    assert_eq!(only.2, both.2);
}

#[test]
fn sft_and_reward_go_on_as_if_they_had_never_stopped() {
    let desk = Desk::new();
    let usual = ["--max_steps", "8", "--logging_steps", "3", "--eval_split", "0.2", "--backend", "flex"];
    for kind in ["sft", "reward"] {
        let (whole, rest) = (format!("{kind}-whole"), format!("{kind}-rest"));
        desk.trained(kind, "pairs.jsonl", &whole, &[&usual[..], &["--save_steps", "5"]].concat());
        let saved = desk.arg(&format!("{whole}/checkpoint-5"));
        let go_on = [&usual[..], &["--resume_from_checkpoint", &saved]].concat();
        desk.trained(kind, "pairs.jsonl", &rest, &go_on);
        let weights = |out: &str| desk.read(&format!("{out}/model.safetensors"));
        assert!(weights(&whole) == weights(&rest), "{kind}: the weights differ");
        assert_eq!(metrics(&desk.path(&rest)), metrics(&desk.path(&whole))[1..], "{kind}: all but the line of step 3");
        // A checkpoint is of one command.
        let other = if kind == "sft" { "reward" } else { "sft" };
        refusal(&desk.train(other, "pairs.jsonl", "other", &go_on), &["resume_from_checkpoint", "only as it was"]);
        assert!(!desk.path("other").exists());
    }
}

#[test]
fn a_reward_model_learns_what_is_preferred() {
    let desk = Desk::new();
    let lines = desk.reward_model();
    let (first, last) = (&lines[0], &lines[59]);
    for key in ["loss", "mean_reward", "min_reward", "max_reward", "accuracy", "margin", "grad_norm", "num_tokens"] {
        assert!(first[key].is_number(), "{key} in {first}");
    }
    assert!((number(first, "loss") - std::f64::consts::LN_2).abs() < 0.5, "{first}");
    assert!(number(last, "loss") < 0.2 && number(last, "accuracy") == 1.0, "{last}");
    assert!(number(last, "margin") > number(first, "margin") + 1.0, "{first} {last}");
    assert_eq!(number(&lines[60], "eval_accuracy"), 1.0, "{}", lines[60]);
    let config: Value = serde_json::from_slice(&desk.read("rm/config.json")).unwrap();
    assert_eq!(config["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!(config["id2label"], json!({"0": "LABEL_0"}));
    // A pad token that ends no text: transformers reads a text at the last token that is another.
    let named: Value = serde_json::from_slice(&desk.read("rm/tokenizer_config.json")).unwrap();
    assert_eq!((&config["pad_token_id"], &named["pad_token"]), (&json!(1), &json!("<s>")));
    // From there it goes on: the head is the one that was learnt.
    desk.trained("reward", "marked.jsonl", "more", &["--model", &desk.arg("rm"), "--max_steps", "1"]);
    let line = metrics(&desk.path("more")).remove(0);
    assert!(number(&line, "loss") < 0.3 && number(&line, "accuracy") == 1.0, "{line}");
    // And its configuration repeats it, to the bit.
    let run = collimate(&["reward", &desk.arg("rm/collimate.toml"), "--output_dir", &desk.arg("again")]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert!(desk.read("rm/model.safetensors") == desk.read("again/model.safetensors"));
}

#[test]
fn margins_and_centring_are_part_of_the_loss() {
    let desk = Desk::new();
    let with = |margin: Value| {
        let rows = marked_pairs(8).into_iter().map(|mut row| {
            row["margin"] = margin.clone();
            row
        });
        desk.write("margins.jsonl", &lines(rows));
    };
    let first = |out: &str, more: &[&str]| {
        let usual = ["--max_steps", "1", "--per_device_train_batch_size", "8"];
        desk.trained("reward", "margins.jsonl", out, &[&usual[..], more].concat());
        metrics(&desk.path(out)).remove(0)
    };
    with(Value::Null);
    let (plain, centred) = (first("plain", &[]), first("centred", &["--center_rewards_coefficient", "10"]));
    with(json!(2.5));
    let far = first("far", &[]);
    with(json!(0));
    assert_eq!(first("none", &[]), plain);
    assert!(number(&far, "loss") > number(&plain, "loss") + 1.0, "{far} {plain}");
    assert!(number(&centred, "loss") > number(&plain, "loss"), "{centred} {plain}");
    // Neither changes what is said of the texts.
    for key in ["mean_reward", "margin", "accuracy"] {
        assert!(far[key] == plain[key] && centred[key] == plain[key], "{key}");
    }
    let refused = |more: &[&str], parts: &[&str]| {
        refusal(&desk.train("reward", "margins.jsonl", "refused", more), parts);
        assert!(!desk.path("refused").exists());
    };
    refused(&["--center_rewards_coefficient", "-1"], &["center_rewards_coefficient must be 0 or more, got -1"]);
    refused(&["--center_rewards_coefficient", "much"], &["center_rewards_coefficient", "much"]);
    let mut rows = marked_pairs(3);
    for odd in [json!("big"), json!([1]), json!(true)] {
        rows[2]["margin"] = odd;
        desk.write("margins.jsonl", &lines(rows.clone()));
        refused(&[], &["margins.jsonl", "row 3", "`margin`", "expected a finite number, found"]);
    }
    // Whoever doesn't read margins doesn't mind.
    desk.trained("align", "margins.jsonl", "aligned", &["--max_steps", "1"]);
}

#[test]
fn keys_of_another_command_are_refused_with_its_name() {
    let desk = Desk::new();
    for (kind, key, value, other) in [
        ("align", "center_rewards_coefficient", "0.1", "reward"),
        ("align", "completion_only_loss", "true", "sft"),
        ("sft", "center_rewards_coefficient", "0.1", "reward"),
        ("sft", "method", "'dpo'", "align"),
        ("sft", "beta", "0.1", "align"),
        ("sft", "prefix_sharing", "true", "align"),
        ("reward", "loss_type", "'sigmoid'", "align"),
        ("reward", "ref_model", "'model'", "align"),
        ("reward", "eval_generations", "{prompts = 'prompts.jsonl'}", "align"),
    ] {
        let run = desk.train(kind, "pairs.jsonl", "refused", &[&format!("--{key}"), value]);
        refusal(&run, &[&format!("--{key} is a flag of `collimate {other}`, and not of `collimate {kind}`")]);
        let file = desk.write("run.toml", &format!("{key} = {value}\n"));
        let run = desk.train(kind, "pairs.jsonl", "refused", &[&file]);
        refusal(&run, &[&format!("`{key}` is a key of `collimate {other}`, and not of `collimate {kind}`")]);
        assert!(!desk.path("refused").exists());
    }
}

#[test]
fn a_reward_model_writes_no_texts_and_a_writer_scores_none() {
    let desk = Desk::new();
    desk.trained("reward", "marked.jsonl", "rm", &["--max_steps", "1"]);
    let (rm, prompts) = (desk.arg("rm"), desk.arg("prompts.jsonl"));
    let said = ["rm", "it is a reward model"];
    for kind in ["align", "sft"] {
        refusal(&desk.train(kind, "pairs.jsonl", "refused", &["--model", &rm]), &said);
    }
    refusal(&desk.train("align", "pairs.jsonl", "refused", &["--ref_model", &rm]), &said);
    refusal(&collimate(&["generate", "--model", &rm, "--prompt", "a"]), &said);
    let (model, out) = (desk.arg("model"), desk.arg("refused"));
    refusal(&collimate(&["measure", "--model", &rm, "--prompts", &prompts, "--output", &out]), &said);
    let as_reference = ["measure", "--model", &model, "--reference", &rm, "--prompts", &prompts, "--output", &out];
    refusal(&collimate(&as_reference), &said);
    let texts = desk.write("texts.jsonl", &lines([json!({"prompt": "a", "completion": " b"})]));
    let reward = format!("{{type = 'model', model = '{model}'}}");
    refusal(&collimate(&["score", &texts, "--reward", &reward]), &["model is no reward model", "`collimate reward`"]);
    let reward = format!("{{type = 'model', model = '{}'}}", desk.arg("absent"));
    refusal(&collimate(&["score", &texts, "--reward", &reward]), &["absent"]);
    refusal(&collimate(&["score", &texts, "--reward", "model"]), &["model"]);
    assert!(!desk.path("refused").exists());
}

#[test]
fn a_reward_model_says_the_same_wherever_it_is_asked() {
    let desk = Desk::new();
    let evaluated = desk.reward_model().pop().unwrap();
    let reward = format!("{{type = \"model\", model = \"{}\"}}", desk.arg("rm"));
    let side = |key: &str| {
        let text = |r: Value| json!({"prompt": r["prompt"], "completion": r[key]});
        let file = desk.write("texts.jsonl", &lines(marked_pairs(40).into_iter().map(text)));
        let run = collimate(&["score", &file, "--reward", &reward, "--output", &desk.arg("scored.jsonl")]);
        assert!(run.status.success(), "{}", text_of(&run));
        desk.rows("scored.jsonl").iter().map(|r| number(r, "score")).collect::<Vec<_>>()
    };
    let (chosen, rejected) = (side("chosen"), side("rejected"));
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let all = [&chosen[..], &rejected].concat();
    let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
    for (key, got) in [
        ("eval_mean_reward", mean(&all)),
        ("eval_margin", mean(&chosen) - mean(&rejected)),
        ("eval_min_reward", low),
        ("eval_max_reward", high),
    ] {
        let expected = number(&evaluated, key);
        assert!((got - expected).abs() < 1e-4 * expected.abs().max(1.0), "{key}: {got} is not {expected}");
    }
    let (model, data, out) = (desk.arg("model"), desk.arg("marked.jsonl"), desk.arg("measured.jsonl"));
    let args = ["measure", "--model", &model, "--prompts", &data, "--reward", &reward, "--output", &out];
    let run = collimate(&[&args[..], &["--max_new_tokens", "5"]].concat());
    assert!(run.status.success(), "{}", text_of(&run));
    let measured = desk.rows("measured.jsonl");
    assert_eq!(measured.len(), 40);
    for (line, expected) in measured.iter().zip(&chosen) {
        let got = number(line, "chosen_score");
        assert!((got - expected).abs() < 1e-4 * expected.abs().max(1.0), "{line}: not {expected}");
    }
    // Its own texts are scored as a file of them would be.
    let ended = measured.iter().filter(|m| m["ended"] == true);
    let known = |m: &&Value| !m["completion"].as_str().unwrap().trim().is_empty();
    let ended: Vec<_> = ended.filter(known).collect();
    let prompt = |m: &Value| marked_pairs(40)[m["prompt"].as_u64().unwrap() as usize - 1]["prompt"].clone();
    let file = lines(ended.iter().map(|m| json!({"prompt": prompt(m), "completion": m["completion"]})));
    let file = desk.write("texts.jsonl", &file);
    let run = collimate(&["score", &file, "--reward", &reward, "--output", &desk.arg("scored.jsonl")]);
    assert!(run.status.success() && !ended.is_empty(), "{}", text_of(&run));
    for (m, scored) in ended.iter().zip(desk.rows("scored.jsonl")) {
        assert!((number(m, "score") - number(&scored, "score")).abs() < 1e-4, "{m} {scored}");
    }
}

fn text_of(run: &Output) -> String {
    text(&run.stderr)
}

/// `eval_generations` on this desk's prompts.
fn watched(desk: &Desk, more: &str) -> String {
    format!("{{prompts = \"{}\", max_new_tokens = 6{more}}}", desk.arg("prompts.jsonl"))
}

#[test]
fn texts_are_written_while_a_run_goes() {
    let desk = Desk::new();
    let table = watched(&desk, ", num_return_sequences = 2, steps = 3, reward = {type = \"length\"}");
    let run = desk.trained(
        "align",
        "pairs.jsonl",
        "out",
        &["--max_steps", "7", "--learning_rate", "1e-2", "--eval_generations", &table],
    );
    assert!(text_of(&run).contains("texts at step 0: "), "{}", text_of(&run));
    let all = metrics(&desk.path("out"));
    let looks: Vec<_> = all.iter().filter(|l| l.get("generations/tokens").is_some()).collect();
    let steps: Vec<_> = looks.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 3, 6, 7]);
    let texts = desk.rows("out/generations.jsonl");
    assert_eq!(texts.len(), 4 * 5 * 2);
    for (look, texts) in looks.iter().zip(texts.chunks(10)) {
        let mean = |of: &dyn Fn(&Value) -> f64| texts.iter().map(of).sum::<f64>() / 10.0;
        for (key, expected) in [
            ("tokens", mean(&|t| number(t, "tokens"))),
            ("score", mean(&|t| number(t, "tokens"))),
            ("ended", mean(&|t| f64::from(u8::from(t["ended"] == true)))),
            ("repetition", mean(&|t| number(t, "repetition"))),
            ("kl", mean(&|t| number(t, "log_prob") - number(t, "log_reference"))),
        ] {
            let got = number(look, &format!("generations/{key}"));
            assert!((got - expected).abs() < 1e-9, "{key} at step {}: {got} is not {expected}", look["step"]);
        }
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(text["step"], look["step"]);
            assert_eq!(
                (text["prompt"].as_u64(), text["sample"].as_u64()),
                (Some(i as u64 / 2 + 1), Some(i as u64 % 2))
            );
            assert!(text["completion"].is_string() && number(text, "tokens") <= 6.0, "{text}");
        }
    }
    assert!(number(looks[0], "generations/kl").abs() < 1e-5, "{}", looks[0]);
    assert!(number(looks[3], "generations/kl").abs() > 1e-3, "{}", looks[3]);
    // Looking changes nothing in what is trained, and without it there is no such file.
    desk.trained("align", "pairs.jsonl", "blind", &["--max_steps", "7", "--learning_rate", "1e-2"]);
    assert!(desk.read("out/model.safetensors") == desk.read("blind/model.safetensors"));
    assert!(!desk.path("blind/generations.jsonl").exists());
    // Fewer bits are no divergence.
    let bf16 = ["--eval_generations", &table, "--bf16", "true", "--backend", "flex"];
    desk.trained("align", "pairs.jsonl", "bf16", &bf16);
    let first = metrics(&desk.path("bf16")).remove(0);
    assert!(number(&first, "generations/kl").abs() < 1e-5, "{first}");
    // Under sft the reference is the model that the run began with.
    let table = watched(&desk, ", temperature = 0");
    desk.trained("sft", "pairs.jsonl", "tuned", &["--eval_generations", &table, "--learning_rate", "1e-2"]);
    let all = metrics(&desk.path("tuned"));
    let looks: Vec<_> = all.iter().filter(|l| l.get("generations/kl").is_some()).collect();
    assert_eq!(looks.len(), 2, "at both ends");
    assert!(looks.iter().all(|l| l.get("generations/score").is_none()));
    assert!(number(looks[0], "generations/kl").abs() < 1e-5 && number(looks[1], "generations/kl").abs() > 1e-3);
    assert_eq!(desk.rows("tuned/generations.jsonl").len(), 10);
}

#[test]
fn texts_of_a_run_that_goes_on_are_those_of_an_undisturbed_one() {
    let desk = Desk::new();
    let table = watched(
        &desk,
        ", num_return_sequences = 2, steps = 2, length_bound = 1.0001, reward = {type = \"repetition\", n = 2}",
    );
    let usual = ["--max_steps", "7", "--learning_rate", "1e-2", "--backend", "flex", "--eval_generations", &table];
    for kind in ["align", "sft"] {
        let out = format!("{kind}-whole");
        let first = desk.trained(kind, "pairs.jsonl", &out, &[&usual[..], &["--save_steps", "4"]].concat());
        let files = ["generations.jsonl", "metrics.jsonl", "model.safetensors"].map(|f| format!("{out}/{f}"));
        let whole = files.each_ref().map(|f| desk.read(f));
        let saved = desk.arg(&format!("{out}/checkpoint-4"));
        let go_on = [&usual[..], &["--resume_from_checkpoint", &saved]].concat();
        // Elsewhere, what comes behind the checkpoint; in the folder of the run itself, all.
        let rest = format!("{kind}-rest");
        let then = desk.trained(kind, "pairs.jsonl", &rest, &go_on);
        let tail = text(&desk.read(&format!("{rest}/generations.jsonl")));
        assert!(text(&whole[0]).ends_with(&tail) && tail.lines().count() == 20, "{kind}: {tail}");
        // Lengths keep the bound of the first look.
        let told = |run: &Output| {
            let said = text_of(run);
            let behind = said.split_once("texts at step 6").unwrap().1.to_owned();
            behind.lines().filter(|l| l.starts_with("ALARM: texts have")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(told(&then), told(&first), "{kind}");
        assert!(!told(&first).is_empty(), "{kind}: {}", text_of(&first));
        desk.trained(kind, "pairs.jsonl", &out, &go_on);
        for (file, before) in files.iter().zip(&whole) {
            assert!(desk.read(file) == *before, "{file} is another");
        }
        // The file of the run repeats it, texts included.
        let again = format!("{kind}-again");
        let run = collimate(&[kind, &desk.arg(&format!("{out}/collimate.toml")), "--output_dir", &desk.arg(&again)]);
        assert!(run.status.success(), "{}", text_of(&run));
        assert!(desk.read(&format!("{again}/generations.jsonl")) == whole[0], "{kind}: the texts differ");
    }
}

#[test]
fn texts_that_cannot_be_written_are_refused_before_anything_is() {
    let desk = Desk::new();
    let long = format!("{}\n{}\n", json!({"prompt": "a"}), json!({"prompt": "a ".repeat(40).trim()}));
    let long = desk.write("long.jsonl", &long);
    let prompts = desk.arg("prompts.jsonl");
    for (table, parts) in [
        (format!("{{prompts = \"{long}\"}}"), &["eval_generations.prompts", "long.jsonl", "row 2", "41 tokens"][..]),
        (format!("{{prompts = \"{}\"}}", desk.arg("absent.jsonl")), &["eval_generations.prompts", "absent.jsonl"]),
        (format!("{{prompts = \"{prompts}\", reward = \"fame\"}}"), &["eval_generations", "fame", "length"]),
        (format!("{{prompts = \"{prompts}\", reward = {{type = \"repetition\", n = 0}}}}"), &["eval_generations", "n"]),
        (format!("{{prompts = \"{prompts}\", stebs = 3}}"), &["eval_generations", "stebs", "steps"]),
        (format!("{{prompts = \"{prompts}\", temperature = -1}}"), &["eval_generations", "temperature"]),
        (format!("{{prompts = \"{prompts}\", max_new_tokens = 0}}"), &["eval_generations", "max_new_tokens"]),
        (
            format!("{{prompts = \"{prompts}\", num_return_sequences = 0}}"),
            &["eval_generations", "num_return_sequences"],
        ),
        (
            format!("{{prompts = \"{prompts}\", temperature = 0, num_return_sequences = 2}}"),
            &["num_return_sequences is 2"],
        ),
        (format!("{{prompts = \"{prompts}\", length_bound = 1}}"), &["eval_generations.length_bound", "above 1"]),
        ("{steps = 3}".to_owned(), &["eval_generations", "prompts"]),
        ("often".to_owned(), &["eval_generations", "expected a table", "often"]),
    ] {
        refusal(&desk.train("align", "pairs.jsonl", "refused", &["--eval_generations", &table]), parts);
        assert!(!desk.path("refused").exists(), "{table} left output behind");
    }
    let args = ["measure", "--model", &desk.arg("model"), "--prompts", &long, "--output", &desk.arg("refused")];
    refusal(&collimate(&args), &["long.jsonl", "row 2", "41 tokens"]);
    refusal(&collimate(&[&args[..], &["--temperature=-1"]].concat()), &["temperature", "got -1"]);
    assert!(!desk.path("refused").exists());
}

#[test]
fn what_is_measured_is_what_the_model_says() {
    let desk = Desk::new();
    desk.trained("align", "pairs.jsonl", "out", &["--learning_rate", "1e-2", "--method", "averaged-dpo"]);
    let [model, out, data, config] = ["model", "out", "pairs.jsonl", "out/collimate.toml"].map(|n| desk.arg(n));
    let measure = |to: &str, more: &[&str]| {
        let to = desk.arg(to);
        let args = ["measure", "--model", &out, "--reference", &model, "--prompts", &data, "--output", &to];
        let usual = ["--max_new_tokens", "8", "--num_return_sequences", "3", "--reward", "length"];
        let run = collimate(&[&args[..], &usual, &["--objective_from", &config], more].concat());
        assert!(run.status.success(), "{}", text_of(&run));
    };
    measure("one.jsonl", &[]);
    for (to, more) in
        [("two.jsonl", &[][..]), ("apart.jsonl", &["--batch_size", "1"]), ("few.jsonl", &["--batch_size", "5"])]
    {
        measure(to, more);
        assert!(desk.read("one.jsonl") == desk.read(to), "{to}: {more:?}");
    }
    measure("other.jsonl", &["--seed", "7"]);
    assert!(desk.read("one.jsonl") != desk.read("other.jsonl"));
    measure("first.jsonl", &["--most", "2"]);
    let (measured, first) = (desk.rows("one.jsonl"), desk.rows("first.jsonl"));
    assert_eq!(first.len(), 6);
    for (one, other) in first.iter().zip(&measured) {
        assert!(["prompt", "sample", "completion", "tokens"].iter().all(|k| one[k] == other[k]), "{one} {other}");
    }
    assert_eq!(measured.len(), 24 * 3);

    let device = any_device();
    let load = |folder: &str| Decoder::load(&Checkpoint::open(&desk.path(folder)).unwrap(), &device).unwrap();
    let (policy, reference) = (load("out"), load("model"));
    let tokenizer = Tokenizer::from_folder(&desk.path("out")).unwrap();
    let rows = prompts(&Source::from(desk.path("pairs.jsonl")), &tokenizer, &DataOptions::default()).unwrap();
    let mut compared = 0;
    for line in &measured {
        for key in ["log_prob", "log_reference"] {
            assert!(number(line, key).is_finite() && number(line, key) <= 0.0, "{line}");
        }
        assert!(
            number(line, "implicit_reward").is_finite() && number(line, "score") == number(line, "tokens"),
            "{line}"
        );
        let prompt = &rows[line["prompt"].as_u64().unwrap() as usize - 1];
        assert_eq!(line["chosen_tokens"], prompt.answer.as_ref().unwrap().ids.len());
        let mut ids = tokenizer.encode(line["completion"].as_str().unwrap(), false).unwrap();
        ids.extend((line["ended"] == true).then_some(2));
        // The text shows no special tokens, which a model of random weights writes now and then.
        if ids.len() as u64 != line["tokens"].as_u64().unwrap() || ids.contains(&0) {
            continue;
        }
        compared += 1;
        let mut layout = Layout::default();
        layout.push(&prompt.ids, &[Text::whole(&ids)], true).unwrap();
        for (key, model) in [("log_prob", &policy), ("log_reference", &reference)] {
            let said = model.score(&layout, Options::default()).unwrap().log_probs;
            let expected: f64 = said.iter().copied().map(f64::from).sum();
            assert!((number(line, key) - expected).abs() < 1e-4, "{key} of {line} is not {expected}");
        }
        // Under the averaged objective, the mean log-ratio times β.
        let ratio = number(line, "log_prob") - number(line, "log_reference");
        let reward = number(line, "implicit_reward") * number(line, "tokens");
        assert!(ratio.abs() < 1e-4 || (reward / ratio - 2.0).abs() < 1e-2, "{line}: {reward} of {ratio}");
    }
    assert!(compared > 20, "{compared} texts were compared");
}

#[test]
fn an_alarm_is_raised_when_chosen_texts_lose_their_probability() {
    let desk = Desk::new();
    let alarmed = |out: &str, more: &[&str]| {
        let run = desk.trained("align", "pairs.jsonl", out, more);
        let ratios = metrics(&desk.path(out)).iter().map(|l| number(l, "logratios/chosen")).collect::<Vec<_>>();
        (text_of(&run).matches("ALARM: in every step since the last line").count(), ratios)
    };
    let (alarms, ratios) = alarmed("wild", &["--max_steps", "12", "--method", "dpo", "--learning_rate", "5e-2"]);
    assert!(ratios.last().unwrap() < &-1.0, "not provoked: {ratios:?}");
    assert!(alarms >= 1, "{ratios:?}");
    // Where the likelihood of what is chosen is learnt too, it rises.
    let sane = ["--max_steps", "12", "--loss_type", "['sigmoid', 'sft']", "--loss_weights", "[1.0, 1.0]"];
    let (alarms, ratios) = alarmed("sane", &sane);
    assert!(ratios[1..].iter().all(|r| *r > 0.0), "{ratios:?}");
    assert_eq!(alarms, 0, "{ratios:?}");
    // A window with a step in it that was none of these is no whole one.
    let (alarms, _) = alarmed("short", &["--method", "dpo", "--max_steps", "3", "--logging_steps", "10"]);
    assert_eq!(alarms, 0);
}

/// The fields of a message in protocol buffers' form: the number of each, and its value as bytes (numbers in 8 of them).
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(from: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = from[0];
            *from = &from[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut all = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                all.push((tag >> 3, varint(&mut message).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut message) as usize,
            5 => 4,
            kind => panic!("a field of kind {kind}"),
        };
        all.push((tag >> 3, message[..length].to_vec()));
        message = &message[length..];
    }
    all
}

/// The check of TFRecord, bit by bit.
fn check(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The numbers in the files of events of a run: step, tag, value; a session that starts voids what it says.
fn events(folder: &std::path::Path) -> Vec<(u64, String, f32)> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut all: Vec<(u64, String, f32)> = Vec::new();
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let (mut rest, mut first) = (&bytes[..], true);
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(check(&rest[..8]), word(8));
            assert_eq!(check(&rest[12..12 + length]), word(12 + length));
            let event = fields(&rest[12..12 + length]);
            let of = |field| event.iter().find(|(f, _)| *f == field).map(|(_, v)| v.clone());
            let step = u64::from_le_bytes(of(2).unwrap().try_into().unwrap());
            let time = f64::from_le_bytes(of(1).unwrap().try_into().unwrap());
            assert!(time > 1.7e9, "{time}");
            if std::mem::take(&mut first) {
                assert_eq!(of(3).unwrap(), b"brain.Event:2");
            }
            if of(7).is_some() {
                all.retain(|(s, ..)| *s < step);
            }
            for (_, value) in of(5).map(|summary| fields(&summary)).unwrap_or_default() {
                let [(1, tag), (2, number)] = &fields(&value)[..] else { panic!("{value:?}") };
                all.push((step, text(tag), f32::from_le_bytes(number[..].try_into().unwrap())));
            }
            rest = &rest[16 + length..];
        }
    }
    all
}

/// That TensorBoard reads them too: tests/tensorboard.rs.
#[test]
fn events_are_the_lines_of_metrics() {
    let desk = Desk::new();
    let usual = ["--max_steps", "8", "--eval_split", "0.25", "--eval_steps", "3", "--report_to", "tensorboard"];
    let saved = ["--save_steps", "3", "--backend", "flex"];
    let more = [&usual[..], &saved].concat();
    desk.trained("align", "pairs.jsonl", "out", &more);
    let (runs, all) = (desk.path("out/runs"), scalars(&desk.path("out")));
    assert!(all.iter().any(|(_, t, _)| t == "train/rewards/margins") && all.iter().any(|(_, t, _)| t == "eval/loss"));
    assert_eq!(events(&runs), all);
    // What was beyond the checkpoint that the run goes on from counts no more.
    desk.trained(
        "align",
        "pairs.jsonl",
        "out",
        &[&more[..], &["--resume_from_checkpoint", &desk.arg("out/checkpoint-3")]].concat(),
    );
    assert_eq!(fs::read_dir(&runs).unwrap().count(), 2);
    assert_eq!(scalars(&desk.path("out")), all);
    assert_eq!(events(&runs), all);
    // A run that writes none leaves none of an earlier one.
    desk.trained("align", "pairs.jsonl", "out", &["--overwrite_output_dir", "true"]);
    assert!(!runs.exists());
}

#[test]
fn curves_are_drawn_of_one_run_or_several() {
    let desk = Desk::new();
    desk.trained("align", "pairs.jsonl", "one", &["--max_steps", "6", "--eval_split", "0.25", "--eval_steps", "2"]);
    desk.trained("align", "pairs.jsonl", "two<3", &["--max_steps", "6", "--method", "dpo"]);
    let (one, two, curves) = (desk.arg("one"), desk.arg("two<3"), desk.arg("curves"));
    let run = collimate(&["plot", &one, &two, "--output", &curves]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let page = text(&desk.read("curves/index.html"));
    assert!(page.contains("two&lt;3") && !page.contains("two<3") && page.contains("Accuracy"), "{page}");
    assert!(!page.contains("src=") && !page.contains("@import") && !page.contains("url("), "{page}");
    for file in ["learning.svg", "probability.svg", "lengths.svg", "optimiser.svg"] {
        let svg = text(&desk.read(&format!("curves/{file}")));
        assert!(
            svg.starts_with("<svg xmlns=") && svg.contains("class=\"c0\"") && svg.contains("class=\"c1\""),
            "{file}"
        );
    }
    assert!(!desk.path("curves/texts.svg").exists(), "no texts were written");
    // Again, over its own page; over another's not.
    let again = || collimate(&["plot", &one, "--output", &curves]);
    assert!(again().status.success());
    desk.write("curves/index.html", "mine");
    refusal(&again(), &["index.html is not a page of this command"]);
    assert_eq!(desk.read("curves/index.html"), b"mine");
    refusal(&collimate(&["plot", &desk.arg("model"), "--output", &curves]), &["model/metrics.jsonl"]);
}

#[test]
fn a_card_says_what_was_done_and_is_nobody_elses() {
    let desk = Desk::new();
    desk.write("model/README.md", "---\nlicense: apache-2.0\n---\n# Base\n");
    let more = ["--eval_split", "0.25", "--method", "averaged-dpo", "--beta", "2"];
    desk.trained("align", "pairs.jsonl", "out", &more);
    let card = text(&desk.read("out/README.md"));
    assert!(
        card.starts_with("---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: text-generation\n"),
        "{card}"
    );
    for part in [
        "\n# out\n",
        "`averaged-dpo`, ",
        "| averaging | `mean` |",
        "| optimality | `reverse_kl` | beta = 2 |",
        "| train | 24 | 24 | 24 |",
        "| `eval_loss` |",
        "![Curves of training](curves.svg)",
        "| `learning_rate` | 0.0010 |",
    ] {
        assert!(card.contains(part), "no {part:?} in {card}");
    }
    assert!(text(&desk.read("out/curves.svg")).starts_with("<svg"));
    assert!(!card.contains(&desk.root.path().display().to_string()), "{card}");
    // A run over it writes its own; what somebody has changed is left, and that is said.
    desk.trained("sft", "pairs.jsonl", "out", &["--overwrite_output_dir", "true"]);
    assert!(text(&desk.read("out/README.md")).contains("fine-tuned on texts"));
    desk.write("out/README.md", &text(&desk.read("out/README.md")).replace("# out", "# Mine"));
    let mine = desk.read("out/README.md");
    let run = desk.trained("reward", "pairs.jsonl", "out", &["--overwrite_output_dir", "true"]);
    assert_eq!(desk.read("out/README.md"), mine);
    assert!(text(&run.stderr).contains("README.md is not this program's, or was changed"), "{}", text(&run.stderr));
}

#[test]
fn shells_and_manuals_know_every_command() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let run = collimate(&["completions", shell]);
        assert!(run.status.success(), "{}", text(&run.stderr));
        let said = text(&run.stdout);
        assert!(said.contains("resume_from_checkpoint") && said.contains("plot"), "{shell}");
    }
    assert!(text(&collimate(&["man"]).stdout).contains(".TH collimate 1"));
    let run = collimate(&["man", "--output", &desk.arg("man")]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    for (page, part) in
        [("collimate.1", "align"), ("collimate-align.1", "save_total_limit"), ("collimate-plot.1", "RUN")]
    {
        assert!(text(&desk.read(&format!("man/{page}"))).contains(part), "{page}");
    }
}

#[test]
fn rewards_are_listed_beside_methods() {
    let said = text(&collimate(&["methods"]).stdout);
    let all: Value = serde_json::from_slice(&collimate(&["methods", "--json"]).stdout).unwrap();
    let names: Vec<_> = all["rewards"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert_eq!(names, collimate::reward::names());
    for name in ["command", "length", "model", "repetition", "world"] {
        assert!(names.contains(&name) && said.contains(name), "{name}: {names:?}");
    }
}

/// What a folder's weights are.
fn weights(folder: &std::path::Path) -> Vec<Vec<f32>> {
    let values = Checkpoint::open(folder).unwrap().load(&any_device()).unwrap();
    values.0.iter().map(|t| t.to_data().try_to_vec().unwrap()).collect()
}

#[test]
fn adapters_go_on_with_the_same_bits_and_merge() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).display().to_string();
    fs::create_dir(root.path().join("model")).unwrap();
    small_checkpoint(&root.path().join("model"), 4);
    fs::write(path("pairs.jsonl"), lines(marked_pairs(8))).unwrap();
    let align = |out: &str, more: &[&str]| {
        let (model, data, out) = (path("model"), path("pairs.jsonl"), path(out));
        let args = ["align", "--model", &model, "--data", &data, "--output_dir", &out, "--max_steps", "4"];
        let args = [&args[..], &["--per_device_train_batch_size", "4", "--learning_rate", "1e-2"], more].concat();
        collimate(&args)
    };
    let lora = ["--use_peft", "true", "--lora_r", "2", "--lora_target_modules", "all-linear", "--lora_dropout", "0.1"];
    let ran = align("a", &[&lora[..], &["--save_steps", "2", "--lora_modules_to_save", "input_layernorm"]].concat());
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let said = text(&ran.stderr);
    assert!(said.contains("adapters of rank 2 on ") && said.contains("parameters are trained"), "{said}");
    let from = path("a/checkpoint-2");
    let more = ["--resume_from_checkpoint", &from, "--save_steps", "2", "--lora_modules_to_save", "input_layernorm"];
    let ran = align("b", &[&lora[..], &more].concat());
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let bytes = |folder: &str| fs::read(root.path().join(folder).join("adapter_model.safetensors")).unwrap();
    assert_eq!(bytes("a"), bytes("b"));
    assert!(!root.path().join("a/config.json").exists() && !root.path().join("a/model.safetensors").exists());

    let ran = collimate(&["merge", "--model", &path("a"), "--output_dir", &path("whole")]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let scores = |folder: &str| {
        let decoder = Decoder::load(&Checkpoint::open(&root.path().join(folder)).unwrap(), &any_device()).unwrap();
        let mut layout = Layout::default();
        layout.push(&[1, 4, 5], &[Text::whole(&[6, 7, 2])], true).unwrap();
        decoder.score(&layout, Options::default()).unwrap().log_probs
    };
    let (adapted, merged, base) = (scores("a"), scores("whole"), scores("model"));
    assert!(adapted.iter().zip(&merged).all(|(a, b)| (a - b).abs() < 1e-5), "{adapted:?} {merged:?}");
    assert!(adapted.iter().zip(&base).any(|(a, b)| (a - b).abs() > 1e-3), "{adapted:?} {base:?}");

    // Where the base has gone, the command says what is missing; `base_model` says where it is.
    fs::rename(path("model"), path("elsewhere")).unwrap();
    let generate = |more: &[&str]| {
        collimate(&[&["generate", "--model", &path("a"), "--prompt", "a", "--max_new_tokens", "3"], more].concat())
    };
    let said = text(&generate(&[]).stderr);
    assert!(said.contains("is an adapter of") && said.contains("base_model says where that is"), "{said}");
    let ran = generate(&["--base_model", &path("elsewhere")]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
}

#[test]
fn what_is_frozen_stays_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).display().to_string();
    fs::create_dir(root.path().join("model")).unwrap();
    small_checkpoint(&root.path().join("model"), 4);
    fs::write(path("texts.jsonl"), lines(marked_pairs(8))).unwrap();
    let (model, data, out) = (path("model"), path("texts.jsonl"), path("out"));
    let args = ["sft", "--model", &model, "--data", &data, "--output_dir", &out, "--max_steps", "2"];
    let ran = collimate(&[&args[..], &["--trainable", "*norm", "--freeze", "model.norm"]].concat());
    let said = text(&ran.stderr);
    assert!(
        ran.status.success() && said.contains("trainable \"*norm\":") && said.contains("frozen \"model.norm\":"),
        "{said}"
    );
    let specs = Checkpoint::open(&root.path().join("model")).unwrap().inventory.specs;
    for ((spec, new), old) in
        specs.iter().zip(weights(&root.path().join("out"))).zip(weights(&root.path().join("model")))
    {
        assert_eq!(new != old, spec.name.contains("layernorm"), "{}", spec.name);
    }
}

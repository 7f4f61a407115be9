//! `collimate generate` as a user meets it.

#[path = "common/command.rs"]
mod command;
mod common;
#[path = "common/golden.rs"]
mod golden;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use command::{collimate, text};
use common::small_checkpoint;
use serde_json::{Value, json};

struct Desk {
    root: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        small_checkpoint(&root.path().join("model"), 3);
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Texts behind `rows`, with `more` flags; or what is said of them.
    fn texts(&self, model: &Path, rows: &[Value], more: &[&str]) -> Result<Vec<Value>, String> {
        let lines: String = rows.iter().map(|r| format!("{r}\n")).collect();
        fs::write(self.path("prompts.jsonl"), lines).unwrap();
        let (model, prompts, out) = (model.display().to_string(), self.arg("prompts.jsonl"), self.arg("out.jsonl"));
        let mut args = vec!["generate", "--model", &model, "--prompts", &prompts, "--output", &out];
        args.extend(more);
        let run = collimate(&args);
        if !run.status.success() {
            return Err(text(&run.stderr));
        }
        assert!(text(&run.stderr).contains("ended by themselves") && text(&run.stderr).contains("tokens/s"));
        let lines = fs::read_to_string(self.path("out.jsonl")).unwrap();
        Ok(lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
    }
}

fn stories() -> PathBuf {
    golden::fixture("stories260k-hf")
}

fn prompts() -> Vec<Value> {
    ["Once upon a time", "Lily and Tom went to the park.", "The", "One day, a big dog saw a cat and"]
        .map(|p| json!({ "prompt": p }))
        .to_vec()
}

#[test]
fn a_file_of_prompts_gives_what_each_gives_alone_in_any_batch() {
    let desk = Desk::new();
    for more in [&["--max_new_tokens", "40"][..], &["--max_new_tokens", "40", "--temperature", "0.8", "--top_p", "0.9"]]
    {
        let all = desk.texts(&stories(), &prompts(), more).unwrap();
        assert_eq!(all.len(), 4);
        let one = desk.texts(&stories(), &prompts(), &[more, &["--batch_size", "1"]].concat()).unwrap();
        assert_eq!(all, one);
        for line in &all {
            assert!(line["tokens"] == 40 && line["ended"] == false || line["ended"] == true, "{line}");
            let model = stories().display().to_string();
            let prompt = line["prompt"].as_str().unwrap();
            let alone = collimate(&[&["generate", "--model", &model, "--prompt", prompt], more].concat());
            let completion = line["completion"].as_str().unwrap();
            assert_eq!(text(&alone.stdout), format!("{prompt}{completion}\n"));
        }
    }
}

#[test]
fn samples_have_a_line_each() {
    let desk = Desk::new();
    let more = ["--do_sample", "--num_return_sequences", "3", "--max_new_tokens", "20"];
    let all = desk.texts(&stories(), &prompts(), &more).unwrap();
    let samples: Vec<_> = all.iter().map(|l| l["sample"].as_u64().unwrap()).collect();
    assert_eq!(samples, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    assert_ne!(all[0]["completion"], all[1]["completion"]);
    let first = desk.texts(&stories(), &prompts()[..1], &["--temperature", "1", "--max_new_tokens", "20"]).unwrap();
    assert_eq!(first[0]["completion"], all[0]["completion"], "whatever else is written");
    let other = desk.texts(&stories(), &prompts(), &[&more[..], &["--seed", "7"]].concat()).unwrap();
    assert_ne!(all, other);
}

#[test]
fn a_text_ends_where_the_checkpoint_says() {
    let desk = Desk::new();
    // Without an end: 16 positions of 32 are the prompt's.
    let model = desk.path("model");
    let prompt = vec!["a"; 15].join(" ");
    let free = |desk: &Desk| desk.texts(&desk.path("model"), &[json!({"prompt": prompt})], &[]).unwrap().remove(0);
    let long = free(&desk);
    let word = long["completion"].as_str().unwrap().split_whitespace().next().map(str::to_owned);
    let Some(word) = word else { panic!("{long}") };
    // The first token becomes one that ends: as a number, and in a list.
    let id = common::WORDS.iter().position(|w| *w == word).unwrap();
    for end in [json!(id), json!([2, id])] {
        fs::write(model.join("generation_config.json"), json!({"eos_token_id": end}).to_string()).unwrap();
        let line = free(&desk);
        assert_eq!((&line["tokens"], &line["ended"], &line["completion"]), (&json!(1), &json!(true), &json!("")));
    }
    fs::remove_file(model.join("generation_config.json")).unwrap();
    assert_eq!(free(&desk), long);
    assert!(long["ended"] == true || long["tokens"] == 16, "{long}");
}

const TEMPLATE: &str = "{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }} {% endfor %}\
    {% if add_generation_prompt %}i {% endif %}";

#[test]
fn a_chat_goes_by_the_template() {
    let desk = Desk::new();
    let model = desk.path("model");
    let arg = desk.arg("model");
    let none = collimate(&["generate", "--model", &arg, "--chat", "--prompt", "a b"]);
    assert!(!none.status.success());
    assert!(
        text(&none.stderr).contains("has no chat template; expected chat_template.jinja"),
        "{}",
        text(&none.stderr)
    );
    fs::write(model.join("chat_template.jinja"), TEMPLATE).unwrap();
    // A turn from the command line, from standard input, and in a file; and the same prompt by hand.
    let most = ["--max_new_tokens", "6"];
    let given = collimate(&[&["generate", "--model", &arg, "--chat", "--prompt", "a b"], &most[..]].concat());
    assert!(given.status.success(), "{}", text(&given.stderr));
    let mut piped = Command::new(env!("CARGO_BIN_EXE_collimate"))
        .args([&["generate", "--model", &arg, "--chat"], &most[..]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    piped.stdin.take().unwrap().write_all(b"a b\n").unwrap();
    let piped = piped.wait_with_output().unwrap();
    assert_eq!(piped.stdout, given.stdout);
    let turn = json!([{"role": "user", "content": "a b"}]);
    let line = desk.texts(&model, &[json!({"prompt": turn})], &most).unwrap().remove(0);
    assert_eq!(line["prompt"], turn);
    assert_eq!(text(&given.stdout).trim_end(), line["completion"].as_str().unwrap().trim_end());
}

#[test]
fn bad_rows_are_named_by_file_row_and_field() {
    let desk = Desk::new();
    let model = desk.path("model");
    let good = json!({"prompt": "a b"});
    let said = |second: Value| {
        let said = desk.texts(&model, &[good.clone(), second], &[]).unwrap_err();
        assert!(!desk.path("out.jsonl").exists());
        assert!(said.starts_with(&format!("error: {}, row 2: field `prompt`: ", desk.arg("prompts.jsonl"))), "{said}");
        said
    };
    assert!(said(json!({"text": "a"})).contains("is missing; expected a string, or a list of messages"));
    assert!(said(json!({"prompt": 7})).contains("expected a string"));
    assert!(said(json!({"prompt": []})).contains("no messages"));
    assert!(said(json!({"prompt": [{"content": "a"}]})).contains("message 1 has no `role`"));
    assert!(said(json!({"prompt": [{"role": "assistant", "content": "a"}]})).contains("the assistant's own"));
    assert!(said(json!("a b")).contains("not a JSON object"));
    let long = said(json!({"prompt": vec!["a"; 40].join(" ")}));
    assert!(long.contains("41 tokens; the model takes 32"), "{long}");
    let chat = desk.texts(&model, &[json!({"prompt": [{"role": "user", "content": "a"}]})], &[]).unwrap_err();
    assert!(chat.contains("has no chat template"), "{chat}");
    let none = desk.texts(&model, &[], &[]).unwrap_err();
    assert!(none.contains("the file is empty"), "{none}");
}

#[test]
fn options_without_effect_or_meaning_are_refused() {
    let desk = Desk::new();
    let model = desk.arg("model");
    let said = |more: &[&str]| {
        let run = collimate(&[&["generate", "--model", &model, "--prompt", "a"], more].concat());
        assert!(!run.status.success(), "{more:?}");
        text(&run.stderr)
    };
    assert!(said(&["--top_p", "0.9"]).contains("top_p has no effect where the likeliest token is taken"));
    assert!(said(&["--top_k", "4", "--temperature", "0"]).contains("top_k has no effect"));
    assert!(said(&["--do_sample", "--temperature", "0"]).contains("temperature 0 takes the likeliest token"));
    assert!(said(&["--temperature=-1"]).contains("temperature must be 0 or more, got -1"));
    assert!(said(&["--do_sample", "--top_p", "1.5"]).contains("top_p must be above 0 and at most 1, got 1.5"));
    assert!(said(&["--do_sample", "--min_p", "2"]).contains("min_p must be 0 to 1"));
    assert!(said(&["--repetition_penalty", "0"]).contains("repetition_penalty must be above 0"));
    assert!(said(&["--max_new_tokens", "0"]).contains("max_new_tokens must be at least 1"));
    assert!(said(&["--do_sample", "--num_return_sequences", "2"]).contains("without --prompts"));
    assert!(said(&["--prompts", "x.jsonl"]).contains("cannot be used with"));
    assert!(said(&["--output", "x.jsonl"]).contains("--prompts"));
    assert!(said(&["--dtype", "float8"]).contains("bfloat16"));
}

#[test]
fn narrow_types_write_too() {
    let desk = Desk::new();
    for dtype in ["bfloat16", "float16"] {
        let all = desk.texts(&stories(), &prompts()[..1], &["--max_new_tokens", "30", "--dtype", dtype]).unwrap();
        assert!(all[0]["completion"].as_str().unwrap().starts_with(", there was a little girl named Lily."), "{all:?}");
    }
}

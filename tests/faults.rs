//! What goes wrong around a run: kills, full disks, signals, two runs at once, files that changed, folders used again.
//! On Linux, tests/faults.c lets operations on files end the process or fail.
#![cfg(unix)]

#[path = "common/command.rs"]
mod command;
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use command::text;
use common::{WORDS, small_checkpoint, small_pairs};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

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

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// `collimate` with these words, in this folder.
    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_collimate"));
        command.args(words.split_whitespace()).current_dir(self.root.path()).env("RAYON_NUM_THREADS", "1");
        command
    }

    /// `collimate align` on this desk, quietly, with `more` behind the usual flags.
    fn align_command(&self, more: &str) -> Command {
        let usual =
            [("--model", "model"), ("--data", "pairs.jsonl"), ("--max_steps", "4"), ("--learning_rate", "1e-3")];
        let rest = [("--per_device_train_batch_size", "4"), ("--logging_steps", "1"), ("--output_dir", "out")];
        let flags = usual.into_iter().chain(rest).filter(|(flag, _)| !more.split_whitespace().any(|m| m == *flag));
        let flags: String = flags.map(|(k, v)| format!("{k} {v} ")).collect();
        self.command(&format!("align -q {flags} {more}"))
    }

    fn align(&self, more: &str) -> Output {
        self.align_command(more).output().unwrap()
    }

    #[track_caller]
    fn aligned(&self, more: &str) -> String {
        let run = self.align(more);
        assert!(run.status.success(), "{more}: {}", text(&run.stderr));
        text(&run.stderr)
    }

    /// Asserts that a run fails with all of `parts` in one line, and without a backtrace.
    #[track_caller]
    fn refused(&self, more: &str, parts: &[&str]) {
        let run = self.align_command(more).env("RUST_BACKTRACE", "1").output().unwrap();
        let said = text(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{more}: {said}");
        for part in parts {
            assert!(said.contains(part), "{more}: no {part:?} in: {said}");
        }
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let all = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn no_leftovers(&self, folder: &str) {
        let hidden: Vec<_> = self
            .names(folder)
            .into_iter()
            .filter(|n| n != ".collimate.lock" || folder != "cache")
            .filter(|n| n.starts_with('.') || n.contains("part"))
            .collect();
        assert!(hidden.is_empty(), "{folder} has {hidden:?}");
    }
}

/// The library that lies over the C library's.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("faults.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/faults.c");
        let cc = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).args([source, "-ldl"]).output();
        let cc = cc.expect("building needs a C compiler, `cc`");
        assert!(cc.status.success(), "{}", text(&cc.stderr));
        (folder, path)
    });
    path
}

/// What kills are tried on: evaluation, a cache, a checkpoint each step.
const KILLED: &str = "--backend flex --save_steps 1 --eval_split 0.25 --eval_steps 2 --cache_dir cache";

/// Ends a run by `kill`, goes on as the message says one can, and compares with the run that was never stopped.
fn goes_on(desk: &Desk, whole: &[Vec<u8>; 2], how: &str, kill: impl FnOnce(Command)) {
    for folder in ["out", "cache"] {
        let _ = fs::remove_dir_all(desk.path(folder));
    }
    kill(desk.align_command(KILLED));
    let checkpoints = if desk.path("out").exists() { desk.names("out") } else { Vec::new() };
    let last = checkpoints.iter().filter_map(|n| n.strip_prefix("checkpoint-")?.parse::<usize>().ok()).max();
    let more = last.map_or(String::new(), |n| format!("--resume_from_checkpoint out/checkpoint-{n}"));
    let run = desk.align(&format!("{KILLED} {more}"));
    assert!(run.status.success(), "{how}, then {more}: {}", text(&run.stderr));
    assert!(
        [desk.read("out/model.safetensors"), desk.read("out/metrics.jsonl")] == *whole,
        "{how}, then {more}: differs"
    );
    desk.no_leftovers("out");
    desk.no_leftovers("cache");
}

fn whole(desk: &Desk) -> [Vec<u8>; 2] {
    desk.aligned(KILLED);
    [desk.read("out/model.safetensors"), desk.read("out/metrics.jsonl")]
}

/// Every kind of operation, 20 times each or as often as it comes; `COLLIMATE_KILLS` says another number.
#[test]
#[cfg(target_os = "linux")]
fn a_run_killed_at_any_operation_on_files_goes_on_to_the_same_bits() {
    let desk = Desk::new();
    let whole = whole(&desk);
    fs::remove_dir_all(desk.path("out")).unwrap();
    fs::remove_dir_all(desk.path("cache")).unwrap();
    let run = desk.align_command(KILLED).env("LD_PRELOAD", shim()).env("FAULT_COUNTS", desk.path("counts")).output();
    assert!(run.unwrap().status.success());
    let counts = text(&desk.read("counts"));
    let counts: BTreeMap<&str, usize> =
        counts.lines().map(|l| l.split_once(' ').map(|(kind, n)| (kind, n.parse().unwrap())).unwrap()).collect();
    assert_eq!(counts.len(), 6, "{counts:?}");
    for (kind, all) in counts {
        assert!(all > 0, "no {kind} was seen");
        let tries = std::env::var("COLLIMATE_KILLS").map_or(20, |n| n.parse().unwrap()).min(all);
        for i in 0..tries {
            let n = 1 + i * all / tries;
            goes_on(&desk, &whole, &format!("killed at {kind} {n} of {all}"), |mut command| {
                let run = command.env("LD_PRELOAD", shim()).env("FAULT_KILL", format!("{kind}:{n}")).output().unwrap();
                assert_eq!(run.status.code(), None, "it was not killed: {}", text(&run.stderr));
            });
        }
    }
}

#[test]
fn a_run_killed_at_any_time_goes_on_to_the_same_bits() {
    let desk = Desk::new();
    let begun = Instant::now();
    let whole = whole(&desk);
    let long = begun.elapsed();
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..std::env::var("COLLIMATE_KILLS").map_or(20, |n| n.parse().unwrap()) {
        let after = long.mul_f64(rng.random::<f64>());
        goes_on(&desk, &whole, &format!("killed after {after:?}"), |mut command| {
            let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(after);
            child.kill().unwrap();
            child.wait().unwrap();
        });
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_report_on_a_full_disk_loses_no_weights() {
    let desk = Desk::new();
    desk.aligned("--output_dir whole");
    let full = |what: &str| {
        let mut command = desk.align_command(&format!("--output_dir {what}"));
        let run = command.env("LD_PRELOAD", shim()).env("FAULT_FULL", what.replace('-', ":")).output().unwrap();
        (run.status.code(), text(&run.stderr), fs::read(desk.path(what).join("model.safetensors")).ok())
    };
    let weights = Some(desk.read("whole/model.safetensors"));
    let (code, said, saved) = full("rename-data_report.json");
    assert_eq!((code, &saved), (Some(1), &weights), "{said}");
    assert!(said.contains("the trained checkpoint is saved to") && said.contains("data_report.json"), "{said}");
    // Lines that are lost are told of once, and the run goes on.
    let (code, said, saved) = full("write-metrics.jsonl");
    assert_eq!((code, &saved), (Some(1), &weights), "{said}");
    assert_eq!(said.matches("the run goes on").count(), 1, "{said}");
    let (code, said, saved) = full("write-.part");
    assert_eq!((code, saved), (Some(1), None), "{said}");
    assert!(said.contains("disk full, 1 MiB wanted"), "{said}");
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let desk = Desk::new();
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let mut run = desk.command("align --model model --data pairs.jsonl --max_steps 2 --output_dir out");
    let status = run.stdout(full()).stderr(full()).status().unwrap();
    assert!(status.success() && desk.path("out/model.safetensors").is_file(), "{status}");
    // A pipe that nobody reads any more ends a list quietly; a full disk is an error.
    for words in ["methods", "methods --json", "backends", "backends --json"] {
        let mut child = desk.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let run = child.wait_with_output().unwrap();
        assert!(run.status.success() && run.stderr.is_empty(), "{words}: {}", text(&run.stderr));
        let run = desk.command(words).stdout(full()).output().unwrap();
        assert_eq!(run.status.code(), Some(1));
        assert!(text(&run.stderr).starts_with("error: standard output can't be written"), "{}", text(&run.stderr));
    }
}

#[test]
fn files_follow_the_umask() {
    let desk = Desk::new();
    let line = format!(
        "umask 027; exec {} align -q --model model --data pairs.jsonl --max_steps 2 --save_steps 1 --output_dir out --cache_dir cache",
        env!("CARGO_BIN_EXE_collimate")
    );
    let run = Command::new("sh").args(["-c", &line]).current_dir(desk.root.path()).output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    for folder in ["out", "out/checkpoint-1", "cache"] {
        for name in desk.names(folder) {
            let meta = fs::metadata(desk.path(folder).join(&name)).unwrap();
            let expected = if meta.is_dir() { 0o750 } else { 0o640 };
            assert_eq!(meta.permissions().mode() & 0o777, expected, "{folder}/{name}");
        }
    }
}

#[test]
fn one_run_a_folder_at_a_time() {
    let desk = Desk::new();
    fs::create_dir(desk.path("out")).unwrap();
    let lock = fs::File::create(desk.path("out/.collimate.lock")).unwrap();
    lock.lock().unwrap();
    desk.refused("", &["another run", "writes to output_dir out"]);
    // The file alone, of a process that is gone, holds nothing; nor do leftovers of this version or an earlier one.
    lock.unlock().unwrap();
    for name in ["collimate.toml.part", ".tmpA1b2C3", ".model.safetensors.99-1.part"] {
        desk.write(&format!("out/{name}"), "x");
    }
    fs::create_dir(desk.path("out/.checkpoint-2.99-0.part")).unwrap();
    desk.write("out/.checkpoint-2.99-0.part/model.safetensors", "x");
    desk.aligned("");
    desk.no_leftovers("out");
    // Two at once: one of them runs.
    let both =
        [1, 2].map(|_| desk.align_command("--max_steps 40 --output_dir both").stderr(Stdio::piped()).spawn().unwrap());
    let codes = both.map(|child| child.wait_with_output().unwrap()).map(|o| (o.status.success(), text(&o.stderr)));
    assert!(codes.iter().any(|(ok, _)| *ok), "{codes:?}");
    assert_eq!(fs::read_to_string(desk.path("both/metrics.jsonl")).unwrap().lines().count(), 40);
}

#[test]
fn what_cannot_be_written_is_told_before_any_work() {
    let desk = Desk::new();
    desk.refused("--output_dir /proc/nope/o --model none --data none", &["output_dir /proc/nope/o can't be made"]);
    desk.write("file", "x");
    desk.refused("--cache_dir file/c --model none --data none", &["cache_dir file/c"]);
    desk.refused("--output_dir file/o --model none --data none", &["output_dir file/o can't be made"]);
    assert!(!desk.path("out").exists());
}

#[test]
fn a_folder_used_again_holds_one_run() {
    let desk = Desk::new();
    fs::create_dir(desk.path("chat")).unwrap();
    for name in desk.names("model") {
        fs::copy(desk.path("model").join(&name), desk.path("chat").join(&name)).unwrap();
    }
    desk.write("chat/chat_template.jinja", "{% for m in messages %} {{ m.content }}{% endfor %}");
    desk.aligned("--model chat --save_steps 1");
    let old = desk.read("out/model.safetensors");
    let (replace, go_on) = ("overwrite_output_dir = true", "resume_from_checkpoint = \"out/checkpoint-4\"");
    desk.refused("", &["output_dir out holds an earlier run", replace, go_on]);
    assert_eq!(desk.read("out/model.safetensors"), old, "a run that was refused changes nothing");
    // A checkpoint of another folder doesn't go on with this one.
    desk.aligned("--output_dir other --save_steps 2");
    desk.refused("--resume_from_checkpoint other/checkpoint-2", &["output_dir out holds an earlier run"]);
    desk.refused("--model out", &["also an input"]);
    desk.refused("--model out/checkpoint-1 --overwrite_output_dir true", &["holds an input of the run"]);
    desk.write("out/notes.txt", "mine");
    desk.aligned("--overwrite_output_dir true");
    let names = desk.names("out");
    assert!(!names.iter().any(|n| n.starts_with("checkpoint-") || n == "chat_template.jinja"), "{names:?}");
    assert!(names.iter().any(|n| n == "notes.txt"), "what is not a run's stays");
    assert_eq!(text(&desk.read("out/metrics.jsonl")).lines().count(), 4);
    // A run that fails leaves no model of another beside its configuration, and does not lock itself out.
    desk.refused("--overwrite_output_dir true --learning_rate 1e38 --max_steps 3", &["lower learning_rate"]);
    assert_eq!(desk.names("out"), ["collimate.toml", "metrics.jsonl", "notes.txt", "timing.jsonl"]);
    desk.aligned("");
}

#[test]
fn what_is_not_finite_is_no_result() {
    let desk = Desk::new();
    desk.refused("--max_steps 1 --learning_rate 1e38", &["the trained model can't be saved", "not finite"]);
    assert!(!desk.path("out/model.safetensors").exists());
    desk.refused(
        "--max_steps 1 --learning_rate 1e38 --eval_split 0.25",
        &["evaluation at step 1", "not a finite number"],
    );
    assert!(!desk.path("out/model.safetensors").exists());
    assert!(!text(&desk.read("out/metrics.jsonl")).contains("eval_"));
    desk.refused("--eval_split 0.01", &["eval_split 0.01 of", "distinct prompts leaves no row to evaluate on"]);
}

#[test]
fn a_run_goes_on_only_with_the_same_content() {
    let desk = Desk::new();
    let (pairs, usual) = (small_pairs(24), "--max_steps 6 --save_steps 3 --cache_dir cache --eval_split 0.25");
    desk.aligned(usual);
    let whole = desk.read("out/model.safetensors");
    let on = |more: &str| format!("{usual} --resume_from_checkpoint out/checkpoint-3 {more}");
    let refused = |more: &str, what: &str| {
        desk.refused(
            &on(&format!("--output_dir rest {more}")),
            &[&format!("{what} is not what out/checkpoint-3 was saved with")],
        );
        assert!(!desk.path("rest").exists());
    };
    for changed in [
        small_pairs(20),
        pairs.replace("chosen", "x").replace("rejected", "chosen").replace("\"x\"", "\"rejected\""),
        pairs.lines().rev().map(|l| format!("{l}\n")).collect(),
    ] {
        desk.write("pairs.jsonl", &changed);
        refused("", "the data");
    }
    desk.write("pairs.jsonl", &pairs);

    let tokenizer = text(&desk.read("model/tokenizer.json"));
    desk.write("model/tokenizer.json", &tokenizer.replace("\"version\":\"1.0\"", "\"version\": \"1.0\""));
    refused("", "the tokenizer");
    desk.write("model/tokenizer.json", &tokenizer);
    desk.write("model/chat_template.jinja", "{{ messages }}");
    refused("", "the chat template");
    fs::remove_file(desk.path("model/chat_template.jinja")).unwrap();
    small_checkpoint(&desk.path("second"), 9);
    refused("--ref_model second", "the reference model");
    refused("--model second", "the model");

    // The same by other paths goes on.
    for (from, to) in [("model", "moved"), ("pairs.jsonl", "moved.jsonl")] {
        fs::rename(desk.path(from), desk.path(to)).unwrap();
    }
    desk.aligned(&on("--model moved --data moved.jsonl --output_dir rest"));
    assert!(desk.read("rest/model.safetensors") == whole);
    desk.refused(
        &on("--model moved --data moved.jsonl --output_dir less").replace("--max_steps 6", "--max_steps 3"),
        &["3 steps are taken, and the run ends at step 3"],
    );
}

#[test]
fn a_run_goes_on_for_longer() {
    let desk = Desk::new();
    let usual = "--lr_scheduler_type constant --save_steps 3 --max_steps";
    desk.aligned(&format!("{usual} 9 --output_dir whole"));
    desk.aligned(&format!("{usual} 6"));
    desk.aligned(&format!("{usual} 9 --resume_from_checkpoint out/checkpoint-3"));
    assert!(desk.read("out/model.safetensors") == desk.read("whole/model.safetensors"));
    assert_eq!(text(&desk.read("out/metrics.jsonl")), text(&desk.read("whole/metrics.jsonl")));
    assert_eq!(desk.names("out"), desk.names("whole"));
    // In epochs: 24 pairs are 6 steps.
    let usual = "--lr_scheduler_type constant --save_steps 3 --max_steps 0 --num_train_epochs";
    desk.aligned(&format!("{usual} 1 --output_dir epochs"));
    desk.aligned(&format!("{usual} 1.5 --output_dir epochs --resume_from_checkpoint epochs/checkpoint-3"));
    assert!(desk.read("epochs/model.safetensors") == desk.read("whole/model.safetensors"));
}

#[test]
fn a_checkpoint_of_two_runs_is_refused() {
    let desk = Desk::new();
    desk.aligned("--save_steps 2");
    desk.aligned("--save_steps 2 --learning_rate 1e-2 --output_dir other");
    let resume = "--resume_from_checkpoint out/checkpoint-2 --output_dir rest";
    for name in ["model.safetensors", "optimizer.safetensors", "config.json"] {
        let own = desk.read(&format!("out/checkpoint-2/{name}"));
        let path = format!("out/checkpoint-2/{name}");
        let mut bytes = desk.read(&format!("other/checkpoint-2/{name}"));
        if bytes == own {
            bytes.push(b'\n');
        }
        fs::write(desk.path(&path), bytes).unwrap();
        desk.refused(resume, &[&format!("{path} is not the file that was saved with")]);
        fs::remove_file(desk.path(&path)).unwrap();
        desk.refused(resume, &[&path, "can't be read"]);
        fs::write(desk.path(&path), own).unwrap();
    }
    desk.aligned(resume);
}

#[test]
fn the_date_is_that_of_the_run() {
    let desk = Desk::new();
    let template = "{% for m in messages %} {{ m.content }}{% endfor %}{# {{ strftime_now('%Y') }} #}";
    desk.write("model/chat_template.jinja", template);
    desk.aligned("--save_steps 2");
    let config = text(&desk.read("out/collimate.toml"));
    let date = config.lines().find_map(|l| l.strip_prefix("template_date = ")).expect(&config).trim_matches('"');
    assert_eq!(date.len(), "2026-01-31".len(), "{date}");
    // As if it were another day: the state says which day it was.
    let state = text(&desk.read("out/checkpoint-2/collimate_state.json"));
    assert!(state.contains(date), "{state}");
    desk.write("out/checkpoint-2/collimate_state.json", &state.replace(date, "1999-12-31"));
    desk.aligned("--resume_from_checkpoint out/checkpoint-2 --output_dir rest");
    assert!(text(&desk.read("rest/collimate.toml")).contains("template_date = \"1999-12-31\""));
}

#[test]
fn the_template_and_the_end_that_were_trained_are_saved() {
    let desk = Desk::new();
    // The tokenizer ends texts with "i", config.json with 2; the template ends turns with "h" and a space.
    let with_end = |end: usize| {
        let mut tokenizer = desk.json("model/tokenizer.json");
        let token = serde_json::json!({"id": end, "content": WORDS[end], "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
        desk.write("model/tokenizer.json", &tokenizer.to_string());
    };
    let pairs: String = small_pairs(24).replace(" i", " a").replace(" h", " b");
    desk.write("pairs.jsonl", &pairs);
    with_end(11);
    desk.write("model/tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "i", "unk_token": "<unk>"}"#);
    desk.aligned("--max_steps 1");
    assert_eq!(desk.json("out/generation_config.json")["eos_token_id"], serde_json::json!([11, 2]));

    with_end(10);
    let row = |p: &str, c: &str, r: &str| {
        let say = |role: &str, s: &str| serde_json::json!([{"role": role, "content": s}]);
        let (c, r) = (say("assistant", c), say("assistant", r));
        format!("{}\n", serde_json::json!({"prompt": say("user", p), "chosen": c, "rejected": r}))
    };
    desk.write("chat.jsonl", &(row("a b", "c", "d") + &row("b b", "c d", "d e")));
    let template = "{% for m in messages %} {{ m.content }} h {% endfor %}";
    desk.write("turns.jinja", template);
    desk.write("run.toml", "chat_template = 'turns.jinja'");
    let said = desk.aligned("run.toml --data chat.jsonl --max_steps 2 --save_steps 1 --output_dir chat");
    assert!(said.is_empty(), "{said}");
    for folder in ["chat", "chat/checkpoint-1"] {
        assert_eq!(text(&desk.read(&format!("{folder}/chat_template.jinja"))), template);
        let stops = desk.json(&format!("{folder}/generation_config.json"))["eos_token_id"].clone();
        assert!(stops.as_array().unwrap().contains(&10.into()), "{stops}");
    }
}

#[test]
fn runs_that_share_a_cache_keep_each_others_scores() {
    let desk = Desk::new();
    let all = small_pairs(24);
    let part = |from: usize, n: usize| all.lines().skip(from).take(n).map(|l| format!("{l}\n")).collect::<String>();
    desk.write("a.jsonl", &part(0, 12));
    desk.write("b.jsonl", &part(12, 12));
    let two = ["a", "b"].map(|name| {
        let more =
            format!("--data {name}.jsonl --num_train_epochs 1 --max_steps 0 --cache_dir cache --output_dir {name}");
        desk.align_command(&more).stderr(Stdio::piped()).spawn().unwrap()
    });
    for child in two {
        let run = child.wait_with_output().unwrap();
        assert!(run.status.success(), "{}", text(&run.stderr));
    }
    let scores = || {
        let names: Vec<_> = desk.names("cache").into_iter().filter(|n| n.starts_with("reference-")).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        (names[0].clone(), desk.read(&format!("cache/{}", names[0])))
    };
    let (name, before) = scores();
    desk.aligned("--num_train_epochs 1 --max_steps 0 --cache_dir cache --output_dir both");
    assert!(scores().1 == before, "both runs' scores were there: nothing was added");
    // A byte of one record is another: that record is scored anew, and the run is what it was.
    let mut bytes = before.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(desk.path("cache").join(&name), bytes).unwrap();
    desk.aligned("--num_train_epochs 1 --max_steps 0 --cache_dir cache --output_dir again");
    assert!(desk.read("again/model.safetensors") == desk.read("both/model.safetensors"));
    assert_eq!(scores().1.len(), before.len());
}

/// The scores that go with the version in the name of the file: where they are others, `SCORING` in
/// crates/train/src/reference.rs has to change with these.
#[test]
fn reference_scores_are_those_of_their_version() {
    let desk = Desk::new();
    desk.write("pairs.jsonl", "{\"prompt\": \"a b\", \"chosen\": \" c d e\", \"rejected\": \" f\"}\n");
    desk.aligned("--max_steps 1 --backend flex --cache_dir cache");
    let name = desk.names("cache").into_iter().find(|n| n.starts_with("reference-")).unwrap();
    assert!(name.starts_with("reference-v1-"), "{name}");
    let bytes = desk.read(&format!("cache/{name}"));
    let scores: Vec<f32> =
        // Behind the head of the file, that of the record, and the two lengths.
        bytes[8 + 32 + 8..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let expected: [f32; 6] = [-2.5686026, -2.3787012, -2.5102487, -2.511691, -2.5781412, -2.6268852];
    assert_eq!(scores.len(), expected.len());
    for (got, expected) in scores.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-4, "{scores:?}");
    }
}

/// Sends a signal.
fn send(child: &std::process::Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until a file has lines.
fn wait_for(path: &Path, lines: usize) {
    let begun = Instant::now();
    while fs::read_to_string(path).unwrap_or_default().lines().count() < lines {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} doesn't come", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_signal_lets_the_step_finish_and_saves_it() {
    let desk = Desk::new();
    let usual = "--backend flex --max_steps 400 --lr_scheduler_type cosine";
    desk.aligned(&format!("{usual} --output_dir whole"));
    for (signal, name, code) in [("-INT", "SIGINT", 130), ("-TERM", "SIGTERM", 143)] {
        let _ = fs::remove_dir_all(desk.path("out"));
        let child = desk.align_command(usual).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        wait_for(&desk.path("out/metrics.jsonl"), 3);
        send(&child, signal);
        let run = child.wait_with_output().unwrap();
        let said = text(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{said}");
        let names = desk.names("out");
        let saved = names.iter().find(|n| n.starts_with("checkpoint-")).unwrap_or_else(|| panic!("{names:?} {said}"));
        assert!(!names.iter().any(|n| n == "model.safetensors"));
        let (stopped, resume) = (format!("stopped by {name}"), format!("--resume_from_checkpoint out/{saved}"));
        assert!(said.contains(&stopped) && said.contains(&resume), "{said}");
        desk.aligned(&format!("{usual} {resume}"));
        assert!(desk.read("out/model.safetensors") == desk.read("whole/model.safetensors"));
        assert!(desk.read("out/metrics.jsonl") == desk.read("whole/metrics.jsonl"));
        desk.no_leftovers("out");
    }
}

#[test]
fn a_run_interrupted_five_times_ends_as_an_undisturbed_one() {
    let desk = Desk::new();
    let usual = "--backend flex --max_steps 400 --learning_rate 1e-2 --lr_scheduler_type cosine --eval_split 0.25 \
                 --eval_steps 3 --save_steps 6 --save_total_limit 2 --load_best_model_at_end true \
                 --early_stopping_patience 1000 --report_to tensorboard";
    desk.aligned(&format!("{usual} --output_dir whole"));
    for n in 1..=5 {
        let resume = if n > 1 { "--resume_from_checkpoint latest" } else { "" };
        let child = desk.align_command(&format!("{usual} {resume}")).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&desk.path("out/metrics.jsonl"), n * 80);
        send(&child, if n % 2 == 0 { "-TERM" } else { "-INT" });
        let run = child.wait_with_output().unwrap();
        assert!([130, 143].map(Some).contains(&run.status.code()), "{n}: {}", text(&run.stderr));
    }
    desk.aligned(&format!("{usual} --resume_from_checkpoint true"));
    for file in ["model.safetensors", "metrics.jsonl", "checkpoint-400/model.safetensors"] {
        assert!(desk.read(&format!("out/{file}")) == desk.read(&format!("whole/{file}")), "{file} is another");
    }
    let state = |out: &str| desk.json(&format!("{out}/checkpoint-400/trainer_state.json"));
    let (mut one, other) = (state("out"), state("whole"));
    let best = one["best_model_checkpoint"].as_str().unwrap().replace("out/", "whole/");
    one["best_model_checkpoint"] = best.into();
    assert_eq!(one, other);
    assert!(other["best_global_step"].as_u64().unwrap() < 400, "the last is the best: {}", other["best_global_step"]);
    desk.no_leftovers("out");
}

#[test]
fn a_second_signal_stops_at_once() {
    let desk = Desk::new();
    // One step takes long: it has many micro-batches.
    desk.write("pairs.jsonl", &small_pairs(60_000));
    let more = "--max_steps 1 --per_device_train_batch_size 1 --gradient_accumulation_steps 60000 --method simpo";
    let child = desk.align_command(more).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !desk.path("out/timing.jsonl").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    send(&child, "-INT");
    std::thread::sleep(Duration::from_millis(100));
    send(&child, "-INT");
    let begun = Instant::now();
    let run = child.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(130), "{}", text(&run.stderr));
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    assert!(desk.names("out").iter().all(|n| !n.starts_with("checkpoint-")));
}

#[test]
fn keys_come_as_trl_has_them_or_say_what_to_write() {
    let desk = Desk::new();
    desk.aligned("--warmup_steps 0.5 --output_dir share");
    desk.aligned("--warmup_ratio 0.5 --output_dir ratio");
    assert!(desk.read("share/metrics.jsonl") == desk.read("ratio/metrics.jsonl"));
    let run = desk.align("--eval_strategy steps");
    assert_eq!(run.status.code(), Some(2));
    assert!(text(&run.stderr).contains("--eval_strategy is TRL's") && text(&run.stderr).contains("`eval_steps`"));
    desk.write("run.toml", "dataset_name = 'x'");
    desk.refused("run.toml", &["`dataset_name` is TRL's", "`data`"]);
    desk.refused("--loss_type sigmoid --label_smoothing 0.1", &["label_smoothing", "does not use it", "cdpo"]);
    desk.refused("--eval_steps 2", &["eval_steps", "eval_data or eval_split"]);
    desk.refused("--method simpo --ref_model model", &["ref_model", "no reference"]);
    desk.refused("--lr_scheduler_type constant --warmup_steps 2", &["constant_with_warmup"]);
    let wraps = "--per_device_train_batch_size 4294967296 --gradient_accumulation_steps 4294967296";
    desk.refused(wraps, &["per_device_train_batch_size × gradient_accumulation_steps must be at most 2^31"]);
    desk.refused("--num_train_epochs 1e18 --max_steps 0", &["num_train_epochs must be above 0 and at most"]);
    let config = text(&desk.read("model/config.json"));
    desk.write(
        "model/config.json",
        &config.replacen('{', "{\"unsloth_fixed\": true, \"unsloth_version\": \"2025.6.2\", ", 1),
    );
    desk.aligned("");
}

#[test]
fn data_may_be_given_several_times_and_paths_are_relative_to_their_file() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("runs/one")).unwrap();
    fs::rename(desk.path("pairs.jsonl"), desk.path("runs/pairs.jsonl")).unwrap();
    desk.write("more.jsonl", &small_pairs(30).lines().skip(24).map(|l| format!("{l}\n")).collect::<String>());
    let toml =
        "model = \"../../model\"\ndata = \"../pairs.jsonl\"\noutput_dir = \"out\"\nmax_steps = 4\nlogging_steps = 1\n";
    desk.write("runs/one/run.toml", toml);
    let run = desk.command("align -q runs/one/run.toml").output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    // The configuration that was written repeats the run from wherever it lies.
    let repeat = "align -q runs/one/out/collimate.toml --output_dir again";
    let run = desk.command(repeat).output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert!(desk.read("again/metrics.jsonl") == desk.read("runs/one/out/metrics.jsonl"));
    // What is only in the working folder is taken from there, which is said.
    desk.write("runs/one/other.toml", &toml.replace("../pairs", "more").replace("out\"", "out2\""));
    let run = desk.command("align -q runs/one/other.toml").output().unwrap();
    let said = text(&run.stderr);
    assert!(run.status.success() && desk.path("runs/one/out2").exists(), "{said}");
    assert_eq!(said.trim(), "more.jsonl is not beside runs/one/other.toml; taken from the working folder");
    // A flag's path is relative to where the command runs.
    let run =
        desk.command("align -q runs/one/run.toml --data runs/pairs.jsonl --data more.jsonl --output_dir two").output();
    assert!(run.unwrap().status.success());
    assert_eq!(desk.json("two/data_report.json")["train"]["pairs"], 30);
}

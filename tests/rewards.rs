//! Rewards, labels and the built-in world as a user meets them.

#[path = "common/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use collimate::core::averaging::{Mean, Sum};
use collimate::reward::World;
use command::{collimate, metrics, text};
use serde_json::{Value, json};

/// Runs a command that must succeed; what it printed.
fn done(args: &[&str]) -> String {
    let run = collimate(args);
    assert!(run.status.success(), "{args:?}: {}", text(&run.stderr));
    text(&run.stdout)
}

/// Asserts that a command is refused with one paragraph that has all of `parts`.
fn refused(args: &[&str], parts: &[&str]) {
    let run = collimate(args);
    let said = text(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?}: no {part:?} in: {said}");
    }
    assert_eq!(said.lines().filter(|l| l.starts_with("error:")).count(), 1, "{said}");
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// A small world in a folder.
fn world(folder: &Path) {
    let dials = ["--sft", "40", "--pairs", "40", "--prompts", "6", "--length-bias", "-0.1"];
    done(&[&["world", "--output_dir", &name(folder)], &dials[..]].concat());
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn the_same_dials_give_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    world(&one);
    world(&two);
    let files =
        ["sft.jsonl", "pairs.jsonl", "prompts.jsonl", "world.json", "base/model.safetensors", "base/config.json"];
    for file in files.into_iter().chain(["base/tokenizer.json", "base/tokenizer_config.json"]) {
        assert!(fs::read(one.join(file)).unwrap() == fs::read(two.join(file)).unwrap(), "{file}");
    }
    let dials = World::open(&one).unwrap();
    assert_eq!((dials.sft, dials.length_bias, dials.seed), (40, -0.1, World::default().seed));
    refused(&["world", "--output_dir", &name(&one)], &["holds a world", "--overwrite_output_dir"]);
    done(&["world", "--output_dir", &name(&one), "--overwrite_output_dir", "--wrong", "1", "--seed", "7"]);
    let other = World::open(&one).unwrap();
    assert_eq!((other.quality.wrong, other.quality.padding, other.seed), (1.0, World::default().quality.padding, 7));
    assert!(
        fs::read(one.join("base/model.safetensors")).unwrap() != fs::read(two.join("base/model.safetensors")).unwrap()
    );
}

#[test]
fn a_world_is_trained_on_and_scored() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("world");
    world(&folder);
    let (model, pairs, out) = (folder.join("base"), folder.join("pairs.jsonl"), root.path().join("out"));
    let (model, out) = (name(&model), name(&out));
    done(&["align", "--model", &model, "--data", &name(&pairs), "--output_dir", &out, "--max_steps", "2", "-q"]);
    assert_eq!(metrics(Path::new(&out)).last().unwrap()["step"], 2);
    let inspected: Value =
        serde_json::from_str(&done(&["data", "inspect", &name(&pairs), "--model", &model, "--json"])).unwrap();
    assert_eq!(inspected.to_string().matches("<unk>").count(), 0);

    // What the command scores is what the files say.
    let texts = rows(&fs::read_to_string(&pairs).unwrap());
    let generations = root.path().join("generations.jsonl");
    let line = |r: &Value| json!({"prompt": r["prompt"], "completion": r["chosen"], "more": [1]}).to_string() + "\n";
    fs::write(&generations, texts.iter().map(line).collect::<String>()).unwrap();
    let reward = format!("{{type = \"world\", folder = '{}'}}", folder.display());
    let scored = rows(&done(&["score", &name(&generations), "--reward", &reward]));
    assert_eq!(scored.len(), 40);
    for (scored, row) in scored.iter().zip(&texts) {
        assert_eq!((&scored["score"], &scored["more"]), (&row["chosen_score"], &json!([1])));
    }
    let counted = rows(&done(&["score", &name(&generations), "--reward", "length", "--model", &model]));
    let words = |row: &Value| row["completion"].as_str().unwrap().split_whitespace().count();
    assert!(counted.iter().all(|row| row["score"] == words(row) as f64 + 1.0));
}

/// Three prompts of three completions each; the length in characters is the score that the tests' command gives.
fn generations(root: &Path) -> String {
    let mut text = String::new();
    for length in [3, 1, 2] {
        for prompt in ["p", "q", "r"] {
            text += &format!("{}\n", json!({"prompt": prompt, "completion": format!(" {}", "x".repeat(length))}));
        }
    }
    let path = root.join("generations.jsonl");
    fs::write(&path, text).unwrap();
    name(&path)
}

#[cfg(unix)]
const COUNT: &str =
    r#"{type = "command", command = ["sed", "-u", 's/.*: *" xxx".*/3/; s/.*: *" xx".*/2/; s/.*: *" x".*/1/']}"#;

#[cfg(unix)]
#[test]
fn generations_become_pairs() {
    let root = tempfile::tempdir().unwrap();
    let (file, out) = (generations(root.path()), name(&root.path().join("pairs.jsonl")));
    let label = |file: &str, more: &[&str]| {
        done(&[&["label", file, "--reward", COUNT, "--output", &out], more].concat());
        fs::read_to_string(&out).unwrap()
    };
    let all = rows(&label(&file, &["--noise", "0"]));
    assert_eq!(all.len(), 9);
    let score = |row: &Value, side: &str| row[format!("{side}_score")].as_f64().unwrap();
    assert!(all.iter().all(|r| score(r, "chosen") > score(r, "rejected")));
    let best = rows(&label(&file, &["--noise", "0", "--pairs", "best-worst"]));
    assert_eq!(best.len(), 3);
    assert_eq!(
        best[0],
        json!({"prompt": "p", "chosen": " xxx", "rejected": " x", "chosen_score": 3.0, "rejected_score": 1.0})
    );
    assert_eq!(rows(&label(&file, &["--pairs", "random"])).len(), 3);
    // The order of lines changes the order of pairs, and no label.
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let noisy = sorted(label(&file, &["--noise", "3", "--seed", "1"]));
    let turned = root.path().join("turned.jsonl");
    let lines = fs::read_to_string(&file).unwrap();
    fs::write(&turned, lines.lines().rev().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    assert_eq!(noisy, sorted(label(&name(&turned), &["--noise", "3", "--seed", "1"])));
    assert_ne!(noisy, sorted(label(&file, &["--noise", "3", "--seed", "2"])));
}

#[cfg(unix)]
#[test]
fn bad_input_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let file = generations(root.path());
    let score = |reward: &str, parts: &[&str]| refused(&["score", &file, "--reward", reward], parts);
    score("lenght", &["unknown reward \"lenght\"; there are: command, length, "]);
    score("{type = }", &["--reward: "]);
    score("{type = 'repetition', n = 2, m = 3}", &["unknown field `m`"]);
    score("length", &["generations.jsonl", "row 1", "nobody counted them"]);
    score("{type = 'command', command = []}", &["reward.command (of \"command\")"]);
    score("{type = 'command', command = ['/nowhere']}", &["reward command `/nowhere`: can't be started"]);
    score(
        "{type = 'command', command = ['sh', '-c', 'echo 1; echo broken >&2; exit 4']}",
        &["sample 2 of 9 (row 2)", "exit status: 4", "broken"],
    );
    score("{type = 'command', command = ['sh', '-c', 'echo no; cat']}", &["sample 1 of 9 (row 1), got \"no\""]);
    let nowhere = format!("{{type = 'world', folder = '{}'}}", root.path().display());
    score(&nowhere, &["world.json", "expected a folder of a world"]);
    fs::write(root.path().join("world.json"), "{\"world\": \"things-1\"}").unwrap();
    score(&nowhere, &["row 1", "the prompt \"p\" is no question of the world"]);
    fs::write(root.path().join("world.json"), "{\"world\": \"other\"}").unwrap();
    score(&nowhere, &["expected the world \"things-1\", got \"other\""]);

    let odd = name(&root.path().join("odd.jsonl"));
    for (lines, part) in [
        ("", "no generations"),
        ("{\"prompt\": \"p\"}\n", "row 1: no field `completion`"),
        ("\n{\"prompt\": 1, \"completion\": \"\"}\n", "row 2: field `prompt`: expected text, got 1"),
        ("[1]\n", "row 1: not a JSON object"),
        (
            "{\"prompt\": \"p\", \"completion\": \" a\", \"tokens\": [-1]}\n",
            "row 1: field `tokens`: expected token ids",
        ),
    ] {
        fs::write(&odd, lines).unwrap();
        refused(&["score", &odd, "--reward", "length"], &["odd.jsonl", part]);
    }
    fs::write(&odd, "{\"prompt\": \"p\", \"completion\": \" a\", \"tokens\": [1]}\n".repeat(2)).unwrap();
    let out = root.path().join("out.jsonl");
    let label = |more: &[&str], parts: &[&str]| {
        refused(&[&["label", &odd, "--reward", "length", "--output", &name(&out)], more].concat(), parts);
        assert!(!out.exists());
    };
    label(&[], &["no pairs: none of the 1 prompts has two completions that differ"]);
    label(&["--noise", "-1"], &["noise must be 0 or more, got -1"]);

    let folder = name(&root.path().join("world"));
    for (flag, value, part) in [
        ("--sentences", "0.5", "world: sentences must be 1 or more, got 0.5"),
        ("--label_noise", "0", "world: label_noise must be above 0, got 0"),
        ("--prompts", "1000", "world: prompts must be 1 to 288, got 1000"),
        ("--pairs", "many", "pairs: invalid type: string \"many\""),
        ("--padding", "-1", "world: padding must be 0 or more, got -1"),
    ] {
        refused(&["world", "--output_dir", &folder, flag, value], &[part]);
        assert!(!Path::new(&folder).exists());
    }
}

#[test]
fn every_reward_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/src/rewards.md")).unwrap();
    for name in collimate::reward::names() {
        assert!(page.contains(&format!("\n| `{name}` |")), "docs/src/rewards.md has no row for {name}");
    }
    let files: Vec<_> = page.split('`').filter(|s| s.starts_with("crates/") && s.ends_with(".rs")).collect();
    assert!(files.len() > 6, "{files:?}");
    assert!(files.iter().all(|f| root.join(f).is_file()), "{files:?}");
}

#[test]
fn the_optima_in_the_documentation_are_those_of_the_world() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/rewards.md")).unwrap();
    for (c, name) in [(-0.1, "−0.1"), (0.0, "0"), (0.05, "0.05"), (0.1, "0.1")] {
        let world = World { length_bias: c, ..World::default() };
        let exact = world.exact();
        let rewards = world.label_rewards(&exact);
        for kl in [0.2, 0.5] {
            let sum = exact.at_kl(&Sum {}, kl, &rewards).unwrap();
            let mean = exact.at_kl(&Mean {}, kl, &rewards).unwrap();
            let [sum, mean] = [sum, mean].map(|p| format!("{:.2}, {:.3}", p.length, p.quality));
            let row = format!("| {name} | {kl} | {sum} | {mean} |");
            assert!(page.contains(&row), "docs/src/rewards.md lacks the row {row}");
        }
    }
}

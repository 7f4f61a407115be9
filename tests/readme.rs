//! Every command of the README is run: those of the set-up by the gate, the others here.

mod common;

use std::process::Command;

/// The lines of the README's shell blocks, each with whether the gate runs it.
fn commands() -> Vec<(String, bool)> {
    let readme = include_str!("../README.md");
    let mut commands = Vec::new();
    let (mut inside, mut gate) = (false, false);
    for line in readme.lines() {
        match line {
            "```sh" => inside = true,
            "```" => (inside, gate) = (false, false),
            _ if inside => commands.push((line.to_owned(), gate)),
            _ if line.starts_with("<!-- ci: ") => gate = true,
            _ => {}
        }
    }
    commands
}

#[test]
fn every_command_works() {
    let desk = tempfile::tempdir().unwrap();
    common::small_checkpoint(&desk.path().join("my-model"), 1);
    std::fs::write(desk.path().join("pairs.jsonl"), common::small_pairs(16)).unwrap();
    let mut ran = 0;
    for (line, gate) in commands() {
        if gate {
            assert!(line.starts_with("cargo "), "{line}");
            continue;
        }
        let Some(args) = line.strip_prefix("collimate ") else { panic!("nothing runs this command: {line}") };
        // Words as a shell cuts them: only double quotes are used.
        let words = args.split('"').enumerate().flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        });
        let mut words: Vec<String> = words.collect();
        // The small model has never seen the prompt's words: they are unknown, which is fine, but text is bounded.
        if words[0] == "generate" {
            words.extend(["--max_new_tokens".into(), "4".into()]);
        }
        let run = Command::new(env!("CARGO_BIN_EXE_collimate")).args(&words).current_dir(&desk).output().unwrap();
        assert!(run.status.success(), "{line}: {}", String::from_utf8_lossy(&run.stderr));
        ran += 1;
    }
    assert!(ran >= 3, "the README shows how to align, generate and repeat");
    let gates = commands().iter().filter(|(_, gate)| *gate).count();
    assert_eq!(gates, 2, "exactly two set-up commands");
}

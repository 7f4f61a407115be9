//! Every command of the README and of the book's first page is run: those of the set-up by the gate, the others here.

mod common;

use std::process::Command;

const PAGES: [&str; 2] = [include_str!("../README.md"), include_str!("../docs/src/start.md")];

/// The lines of a page's shell blocks, each with whether the gate runs it; without those that say why nothing does.
fn commands(page: &str) -> Vec<(String, bool)> {
    let mut commands = Vec::new();
    let (mut inside, mut gate, mut exempt) = (false, false, false);
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => (inside, gate, exempt) = (false, false, false),
            _ if line.starts_with("<!-- not run: ") => exempt = true,
            _ if inside && exempt => {}
            _ if inside => commands.push((line.to_owned(), gate)),
            _ if line.starts_with("<!-- ci: ") => gate = true,
            _ => {}
        }
    }
    commands
}

/// Runs them in order in one folder; how many ran.
fn run(page: &str) -> usize {
    let desk = tempfile::tempdir().unwrap();
    common::small_checkpoint(&desk.path().join("my-model"), 1);
    std::fs::write(desk.path().join("pairs.jsonl"), common::small_pairs(16)).unwrap();
    let mut ran = 0;
    for (line, gate) in commands(page) {
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
        if ["generate", "measure"].contains(&words[0].as_str()) {
            words.extend(["--max_new_tokens".into(), "4".into()]);
        }
        let run = Command::new(env!("CARGO_BIN_EXE_collimate")).args(&words).current_dir(&desk).output().unwrap();
        assert!(run.status.success(), "{line}: {}", String::from_utf8_lossy(&run.stderr));
        ran += 1;
    }
    ran
}

#[test]
fn every_command_of_the_readme_works() {
    assert!(run(PAGES[0]) >= 3, "it shows how to align, generate and repeat");
    let gates = commands(PAGES[0]).iter().filter(|(_, gate)| *gate).count();
    assert_eq!(gates, 2, "exactly two set-up commands");
}

#[test]
fn every_command_of_the_books_first_page_works() {
    assert!(run(PAGES[1]) >= 9, "from inspecting the data to another run");
}

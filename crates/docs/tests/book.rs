//! The book is what the code says: equations have items and tests, made parts are as they would be made, and every block
//! of code is run, read or exempt with a reason.

use std::fs;
use std::path::Path;

use collimate::config::{Kind, Run};
use collimate_docs::equations::Equations;
use collimate_docs::{generate, root};

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_equation_has_an_item_a_test_and_an_anchor() {
    let faults = Equations::read(&root()).unwrap().faults(&root()).unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_is_made_is_as_it_would_be_made() {
    let outputs = generate::outputs(&root()).unwrap();
    let stale: Vec<_> = outputs
        .iter()
        .filter(|(path, text)| fs::read_to_string(root().join(path)).ok().as_ref() != Some(*text))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(stale.is_empty(), "run `cargo run --release --bin collimate-docs`: {}", stale.join(", "));
    let extra: Vec<_> = generate::pages(&root())
        .unwrap()
        .into_iter()
        .filter(|p| p.starts_with("docs/src/methods") && !outputs.contains_key(p))
        .collect();
    assert!(extra.is_empty(), "no method has these pages: {extra:?}");
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = read(Path::new("docs/src/SUMMARY.md"));
    let missing: Vec<_> = generate::pages(&root())
        .unwrap()
        .into_iter()
        .map(|p| p.strip_prefix("docs/src").unwrap().display().to_string())
        .filter(|p| p != "SUMMARY.md" && !summary.contains(&format!("({p})")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The fenced blocks of a text: what stands behind the fence, the lines inside, and the line before.
fn blocks(text: &str) -> Vec<(String, Vec<String>, String)> {
    let mut all: Vec<(String, Vec<String>, String)> = Vec::new();
    let (mut inside, mut before) = (false, String::new());
    for line in text.lines() {
        match line.trim_start().strip_prefix("```") {
            Some(language) if !inside => {
                inside = true;
                all.push((language.to_owned(), Vec::new(), before.clone()));
            }
            Some(_) => inside = false,
            None if inside => all.last_mut().unwrap().1.push(line.to_owned()),
            None => {}
        }
        if !line.trim().is_empty() {
            before = line.to_owned();
        }
    }
    assert!(!inside, "a block that doesn't end");
    all
}

/// Words as a shell cuts them.
fn words(line: &str) -> Vec<String> {
    let cut = line.split('"').enumerate().flat_map(|(i, part)| match i % 2 {
        0 => part.split_whitespace().map(|w| w.trim_matches('\'').to_owned()).collect::<Vec<_>>(),
        _ => vec![part.to_owned()],
    });
    cut.collect()
}

/// What is wrong with a block that is not exempt.
fn fault(language: &str, lines: &[String]) -> Option<String> {
    match language {
        // Run by the tests of this crate's documentation.
        "rust" | "rust,no_run" | "rust,should_panic" => None,
        "toml" => configuration(&lines.join("\n")),
        "sh" => {
            let joined = lines.join("\n").replace("\\\n", " ");
            joined.lines().filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')).find_map(command)
        }
        "text" | "json" | "jsonl" | "" => None,
        other => Some(format!("nothing runs a block of {other:?}")),
    }
}

fn configuration(text: &str) -> Option<String> {
    let first = text.lines().next().unwrap_or_default();
    let table: serde_json::Map<String, serde_json::Value> = match toml::from_str(text) {
        Ok(table) => table,
        Err(e) => return Some(e.to_string()),
    };
    let kind = first.strip_prefix("# collimate ").map_or("align", |k| k.split_whitespace().next().unwrap_or_default());
    let Some(kind) = Kind::ALL.into_iter().find(|k| k.name() == kind) else {
        // Of another command: it is TOML, at least.
        return None;
    };
    let mut whole = table;
    for key in ["model", "data", "output_dir"] {
        whole.entry(key).or_insert_with(|| "somewhere".into());
    }
    // What is checked here is the configuration, not the files that it names.
    Run::new(kind, whole).err().map(|e| format!("{e:#}")).filter(|e| !e.contains("No such file"))
}

fn command(line: &str) -> Option<String> {
    let line = line.trim().trim_start_matches("$ ");
    // What the shell makes of the rest is not the command's.
    let line = [" # ", "  #", " | ", " > "].iter().fold(line, |line, end| line.split(end).next().unwrap_or_default());
    let words = words(line);
    let program = words.first().map(String::as_str);
    if program != Some("collimate") {
        let known = [
            "cargo",
            "cd",
            "pip",
            "mkdir",
            "export",
            "scripts/setup-libtorch.sh",
            "scripts/docs.sh",
            "scripts/release.sh",
        ];
        return (!program.is_some_and(|p| known.contains(&p))).then(|| format!("nothing runs {line}"));
    }
    collimate::cli::command().try_get_matches_from(words).err().and_then(|e| {
        use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
        (!matches!(e.kind(), DisplayHelp | DisplayVersion)).then(|| format!("{line}: {e}"))
    })
}

#[test]
fn every_block_of_code_is_run_or_read_or_says_why_not() {
    let mut faults = Vec::new();
    let mut checked = 0;
    for page in generate::pages(&root()).unwrap().into_iter().chain(["README.md".into()]) {
        for (language, lines, before) in blocks(&read(&page)) {
            let exempt = before.starts_with("<!-- not run: ") || before.starts_with("<!-- ci: ");
            let included = language == "rs" && lines.iter().any(|l| l.starts_with("{{#include "));
            if exempt || included {
                continue;
            }
            checked += 1;
            faults.extend(fault(&language, &lines).map(|f| format!("{}: {f}", page.display())));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked > 60, "{checked}");
}

#[test]
fn every_file_that_a_page_includes_or_names_exists() {
    let (mut missing, mut seen) = (Vec::new(), 0);
    for page in generate::pages(&root()).unwrap() {
        let text = read(&page);
        for include in text.split("{{#include ").skip(1) {
            let named = include.split("}}").next().unwrap();
            let (file, anchor) = named.split_once(':').unwrap_or((named, ""));
            let path = root().join(page.parent().unwrap()).join(file);
            let code = match fs::read_to_string(&path) {
                Err(e) => {
                    missing.push(format!("{}: {named}: {e}", page.display()));
                    continue;
                }
                Ok(code) => code,
            };
            let ends = ["ANCHOR", "ANCHOR_END"].map(|end| format!("{end}: {anchor}"));
            let count = |end: &String| code.lines().filter(|l| l.trim_end().ends_with(end.as_str())).count();
            if !anchor.is_empty() && ends.each_ref().map(count) != [1, 1] {
                missing.push(format!("{}: {file} doesn't have the anchor {anchor} once", page.display()));
            }
            seen += 1;
        }
        let named = text.split('`').filter(|s| !s.contains(char::is_whitespace) && !s.contains(['{', '*', '…']));
        for file in named.filter(|s| s.ends_with(".rs") && s.contains('/')) {
            if !root().join(file.split("::").next().unwrap()).exists() {
                missing.push(format!("{}: there is no {file}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(seen > 8, "{seen}");
}

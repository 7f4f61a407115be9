//! What the book shows and quotes: every point of extension, messages as the program has them, and figures as they were
//! measured. That each `{{#include}}` names what is there is a test of crates/docs.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The path of each include of a page.
fn includes(page: &str) -> Vec<&str> {
    let parts = page.split("{{#include ").skip(1).map(|p| p.split("}}").next().unwrap().trim());
    parts.map(|p| p.split(':').next().unwrap()).collect()
}

#[test]
fn every_point_of_extension_has_a_file_that_is_shown() {
    let page = fs::read_to_string(root().join("docs/src/extending.md")).unwrap();
    let shown = includes(&page);
    let mut files: Vec<_> =
        fs::read_dir(root().join("examples/extending")).unwrap().map(|e| e.unwrap().path()).collect();
    files.extend(
        ["plugin-loss/src/lib.rs", "plugin-averaging/src/lib.rs", "labelled_texts.rs"]
            .map(|f| root().join("examples").join(f)),
    );
    for file in files {
        let file = file.display().to_string();
        let from = file.find("examples/").unwrap();
        let path = format!("../../{}", &file[from..]);
        assert!(shown.contains(&path.as_str()), "docs/src/extending.md doesn't show {path}");
    }
}

/// All sources of the program, with literals that go over several lines put together.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        match entry.is_dir() {
            true => sources(&entry, all),
            false if entry.extension() == Some("rs".as_ref()) => {
                let text = fs::read_to_string(&entry).unwrap();
                let mut parts = text.split("\\\n");
                all.push_str(parts.next().unwrap());
                parts.for_each(|p| all.push_str(p.trim_start()));
            }
            false => {}
        }
    }
}

#[test]
fn messages_are_quoted_as_they_are() {
    let page = fs::read_to_string(root().join("docs/src/troubleshooting.md")).unwrap();
    let mut code = String::new();
    sources(&root().join("crates"), &mut code);
    let code = code.replace("\\\"", "\"");
    let mut seen = 0;
    for block in page.split("```text\n").skip(1) {
        let message = block.split("\n```").next().unwrap();
        // What stands between two values; a word or two may come from anywhere.
        let pieces = message.split(['…', '(', ')']).flat_map(|p| p.split("error: "));
        for piece in pieces.filter(|p| p.trim().len() > 6) {
            assert!(code.contains(piece), "docs/src/troubleshooting.md quotes {piece:?}, which nothing says");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn figures_are_those_that_were_measured() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let page = read("docs/src/performance.md");
    let measured = ["benches/versus_trl/README.md", "benches/generate/README.md", "docs/src/backends.md"].map(read);
    let whole = |text: &str| text.split(|c: char| c.is_whitespace() || "|*()".contains(c)).map(str::to_owned).collect();
    let known: Vec<Vec<String>> = measured.iter().map(|text| whole(text)).collect();
    let mut seen = 0;
    for row in page.lines().filter(|l| l.starts_with('|')) {
        for cell in row.split('|').map(|c| c.trim().trim_matches('*').trim_end_matches(" %")) {
            if !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || ".,".contains(c)) {
                assert!(
                    known.iter().flatten().any(|w| w == cell),
                    "docs/src/performance.md: nobody measured {cell}: {row}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "{seen}");
}

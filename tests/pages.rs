//! What the book shows of the code is there: every `{{#include}}` names a file and, if it names an anchor, both its ends;
//! messages are quoted as the program has them, and figures as they were measured.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Path and anchor of each include of a page.
fn includes(page: &str) -> Vec<(&str, Option<&str>)> {
    let parts = page.split("{{#include ").skip(1).map(|p| p.split("}}").next().unwrap().trim());
    parts.map(|p| p.split_once(':').map_or((p, None), |(path, anchor)| (path, Some(anchor)))).collect()
}

#[test]
fn every_include_names_what_is_there() {
    let pages = root().join("docs/src");
    let mut seen = 0;
    for page in
        fs::read_dir(&pages).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension() == Some("md".as_ref()))
    {
        let text = fs::read_to_string(&page).unwrap();
        for (path, anchor) in includes(&text) {
            let file =
                fs::read_to_string(pages.join(path)).unwrap_or_else(|e| panic!("{}: {path}: {e}", page.display()));
            if let Some(anchor) = anchor {
                let ends = ["ANCHOR", "ANCHOR_END"].map(|end| format!("{end}: {anchor}"));
                let count = |end: &String| file.lines().filter(|l| l.trim_end().ends_with(end.as_str())).count();
                assert_eq!(ends.each_ref().map(count), [1, 1], "{}: {path} has no anchor {anchor}", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 8, "{seen}");
}

#[test]
fn every_point_of_extension_has_a_file_that_is_shown() {
    let page = fs::read_to_string(root().join("docs/src/extending.md")).unwrap();
    let shown: Vec<_> = includes(&page).into_iter().map(|(path, _)| path).collect();
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

//! What the book shows of the code is there: every `{{#include}}` names a file and, if it names an anchor, both its ends.

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

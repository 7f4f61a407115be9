//! The documentation says what the program has.

use std::path::Path;

use collimate::core::methods;

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/formalism.md")).unwrap()
}

#[test]
fn every_registered_name_is_in_the_formalism() {
    let page = page();
    let vocabulary = methods::vocabulary();
    let methods = methods::describe().unwrap();
    let names = methods.iter().map(|m| m.name).chain(vocabulary.averaging).chain(vocabulary.optimality);
    let missing: Vec<_> = names.chain(vocabulary.loss).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/src/formalism.md doesn't mention: {missing:?}");
}

#[test]
fn every_method_is_listed_with_its_triple_and_defaults() {
    let page = page();
    for m in methods::describe().unwrap() {
        let parameters: Vec<_> = m.parameters.iter().map(|p| format!("{} {}", p.key, p.default)).collect();
        let row = format!(
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            m.name,
            m.averaging,
            m.optimality,
            m.loss,
            m.formula.replace('|', "\\|"),
            parameters.join(", "),
            m.paper
        );
        assert!(page.contains(&row), "docs/src/formalism.md lacks the row:\n{row}");
    }
}

#[test]
fn every_file_it_points_to_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = page();
    let paths: Vec<_> = page
        .split('`')
        .filter(|s| !s.contains(char::is_whitespace) && (s.ends_with(".rs") || s.starts_with("examples/")))
        .collect();
    assert!(paths.len() > 20, "{paths:?}");
    let missing: Vec<_> = paths.iter().filter(|p| !root.join(p).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (page, tests) in [("data", "crates/data/tests"), ("running", "tests")] {
        let text = std::fs::read_to_string(root.join(format!("docs/src/{page}.md"))).unwrap();
        let (_, table) = text.split_once("## What holds it to this").unwrap();
        let named: Vec<_> = table.split('`').filter_map(|s| s.split_once("::")).collect();
        assert!(named.len() > 10, "{page}: {named:?}");
        for (file, test) in named {
            let path = if file.contains('/') { root.join(file) } else { root.join(tests).join(file) };
            let source = std::fs::read_to_string(path.with_extension("rs")).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(source.contains(&format!("fn {test}(")), "docs/src/{page}.md: {file} has no test {test}");
        }
    }
}

//! Everything in the book that is made: whole pages, and the blocks between markers in pages that people write.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use collimate_core::Method;

use crate::equations::{Equations, block};
use crate::{figures, methods, reference};

const MADE: &str =
    "<!-- Made by `cargo run --release --bin collimate-docs`; changes belong in what it is made of. -->\n\n";

/// Every made file, from the repository's root, with its text.
///
/// # Errors
/// Equations or facts that lack something, and pages that can't be read.
pub fn outputs(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let equations = Equations::read(root)?;
    let facts = methods::facts(root)?;
    let src = Path::new("docs/src");
    let mut out = BTreeMap::new();

    let groups = [
        ("operators.md", "Operators", ["averaging", "optimality"].as_slice()),
        ("losses.md", "Losses", &["loss"]),
        ("tasks.md", "Tasks", &["task"]),
        ("network.md", "Network and optimiser", &["block"]),
    ];
    for (file, title, groups) in groups {
        let mut s = format!("# {title}\n\n{MADE}");
        for id in groups {
            let group = equations.group.iter().find(|g| g.id == *id).ok_or_else(|| anyhow!("no group {id}"))?;
            writeln!(s, "## {}\n", group.title)?;
            for e in equations.equation.iter().filter(|e| e.group == *id) {
                s += &equations.section(e, "###", "")?;
            }
        }
        out.insert(src.join(file), s);
    }
    let all = Method::all();
    let mut index = format!("# Methods\n\n{MADE}");
    writeln!(index, "| method | what it is | averaging | optimality | loss |\n|---|---|---|---|---|")?;
    for m in &all {
        let (averaging, optimality, loss) = m.triple;
        writeln!(index, "| [`{0}`](methods/{0}.md) | {1} | {averaging} | {optimality} | {loss} |", m.name, m.about)?;
        out.insert(src.join(format!("methods/{}.md", m.name)), methods::page(m, &facts, &equations)?);
    }
    if let Some(odd) = facts.keys().find(|name| !all.iter().any(|m| m.name == name.as_str())) {
        return Err(anyhow!("docs/methods.toml: no method is called {odd}"));
    }
    out.insert(src.join("methods.md"), index);
    out.insert(src.join("keys.md"), reference::keys()?);
    out.insert(src.join("combine.md"), reference::combine()?);

    let list: String = all.iter().map(|m| format!("  - [{0}](methods/{0}.md)\n", m.name)).collect();
    let list = format!("- [Methods](methods.md)\n{list}");
    for page in pages(root)? {
        if out.contains_key(&page) {
            continue;
        }
        let text = fs::read_to_string(root.join(&page)).with_context(|| page.display().to_string())?;
        let text = between(&text, "methods", |_| Ok(list.clone()))?;
        let text = between(&text, "figure", figures::draw)?;
        let text = between(&text, "eq", |id| {
            let e = equations.equation.iter().find(|e| e.id == id).ok_or_else(|| anyhow!("no equation {id}"))?;
            let whole = equations.section(e, "", "")?;
            // The page has the words: the section's heading stays out.
            let start = whole.find(&block(e, &equations.numbers()[id])).unwrap_or_default();
            Ok(whole[start..].to_owned())
        })
        .with_context(|| page.display().to_string())?;
        out.insert(page, text);
    }
    let numbers = equations.numbers();
    for (path, text) in &mut out {
        *text = numbered(text, &numbers).with_context(|| path.display().to_string())?;
        // One line feed at the end.
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let doctests: String = pages_with_doctests(&out)
        .map(|p| format!("page!(\"{}\");\n", p.strip_prefix(src).unwrap_or(p).display()))
        .collect();
    out.insert("crates/docs/src/pages.rs".into(), doctests);
    Ok(out)
}

/// The pages whose Rust is run.
fn pages_with_doctests(out: &BTreeMap<PathBuf, String>) -> impl Iterator<Item = &PathBuf> {
    out.iter()
        .filter(|(_, text)| text.lines().any(|l| l == "```rust" || l.starts_with("```rust,no_run")))
        .map(|(p, _)| p)
}

/// The book's pages, from the repository's root.
///
/// # Errors
/// A folder that can't be read.
pub fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for folder in ["docs/src", "docs/src/methods"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for entry in entries {
            let name = entry?.file_name();
            if name.to_string_lossy().ends_with(".md") {
                all.push(Path::new(folder).join(name));
            }
        }
    }
    all.sort();
    Ok(all)
}

/// The text with what stands between `<!-- kind: id -->` and `<!-- /kind -->` made anew.
fn between(text: &str, kind: &str, make: impl Fn(&str) -> Result<String>) -> Result<String> {
    let (open, close) = (format!("<!-- {kind}: "), format!("<!-- /{kind} -->"));
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&open) {
        let (id, after) = after.split_once(" -->").ok_or_else(|| anyhow!("a marker {open} without its end"))?;
        let (_, after) = after.split_once(&close).ok_or_else(|| anyhow!("{open}{id} --> without {close}"))?;
        write!(out, "{before}{open}{id} -->\n{}{close}", make(id)?)?;
        rest = after;
    }
    Ok(out + rest)
}

/// The text with the numbers of equations that it links to.
fn numbered(text: &str, numbers: &BTreeMap<&str, String>) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("#eq-") {
        let id: String = rest[at + 4..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let end = at + 4 + id.len();
        // A link is `[(T.1)](page.md#eq-id`.
        let link = rest[..at].rfind("](").filter(|open| !rest[*open..at].contains([' ', '\n']));
        let start =
            link.and_then(|open| rest[..open].rfind("[(").filter(|s| open - s < 9 && rest[..open].ends_with(')')));
        match (start, link) {
            (Some(start), Some(open)) => {
                let number = numbers.get(id.as_str()).ok_or_else(|| anyhow!("no equation {id}"))?;
                write!(out, "{}[({number}){}", &rest[..start], &rest[open..end])?;
            }
            _ => out += &rest[..end],
        }
        rest = &rest[end..];
    }
    Ok(out + rest)
}

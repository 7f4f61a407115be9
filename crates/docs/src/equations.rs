//! `docs/equations.toml`: every numbered equation, with the item that computes it and the tests that hold it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use collimate_core::methods;
use serde::Deserialize;

/// All of them, in order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equations {
    /// What they are grouped by.
    pub group: Vec<Group>,
    /// The equations.
    pub equation: Vec<Equation>,
}

/// A kind of equation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name in the file.
    pub id: String,
    /// What numbers begin with.
    pub letter: String,
    /// Its heading.
    pub title: String,
}

/// An equation, and what it is tied to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equation {
    /// Its anchor, behind `eq-`.
    pub id: String,
    /// Its group.
    pub group: String,
    /// The name in configuration of what it defines, as `kind:name`.
    pub registered: Option<String>,
    /// Its heading.
    pub title: String,
    /// It, in TeX.
    pub tex: String,
    /// What its symbols are.
    #[serde(rename = "where")]
    pub symbols: String,
    /// The paper, and the number there.
    pub source: String,
    /// The item of Rust: crate, modules, then rustdoc's `kind.Name`, and its `#fragment` if it is a part of that.
    pub item: String,
    /// Where its code is.
    pub file: String,
    /// The anchor around the code.
    pub anchor: String,
    /// Its tests, `file::function`; the first is shown.
    pub tests: Vec<String>,
}

impl Equation {
    /// Its rustdoc, from the book's root.
    pub fn address(&self) -> String {
        let (path, fragment) = self.item.split_once('#').unwrap_or((&self.item, ""));
        let hash = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
        format!("api/{}.html{hash}", path.replace("::", "/"))
    }

    /// The item's own name.
    pub fn name(&self) -> &str {
        self.item.rsplit(['.', '#']).next().unwrap_or(&self.item)
    }

    /// How a reader writes it.
    fn spoken(&self) -> String {
        let (path, part) = self.item.split_once('#').unwrap_or((&self.item, ""));
        let path = path.rsplit("::").next().and_then(|p| p.split_once('.')).map_or(path, |(_, name)| name);
        match part.split_once('.') {
            Some((_, part)) => format!("{path}::{part}"),
            None => path.to_owned(),
        }
    }

    /// The file that rustdoc includes, from the repository's root.
    pub fn fragment(&self) -> PathBuf {
        let crate_ = self.item.split("::").next().unwrap_or_default().trim_start_matches("collimate_");
        Path::new("crates").join(crate_).join("equations").join(format!("{}.html", self.id))
    }

    /// What stands in [`fragment`](Self::fragment) around the equation.
    pub fn in_rustdoc(&self, number: &str, page: &str, math: &str) -> String {
        let up = "../".repeat(self.item.split('#').next().unwrap_or_default().split("::").count());
        format!(
            "\n\n<div class=\"equation\" style=\"overflow-x: auto; margin: 1em 0\">{math} <a href=\"{up}{page}#eq-{}\">\
             ({number})</a></div>\n\n",
            self.id
        )
    }
}

impl Equations {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that can't be read, or that says something else.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("docs/equations.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The number of each, by its id.
    pub fn numbers(&self) -> BTreeMap<&str, String> {
        let mut counts = BTreeMap::new();
        let number = |e: &'_ Equation| -> String {
            let count = counts.entry(e.group.clone()).and_modify(|n| *n += 1).or_insert(1);
            let letter = self.group.iter().find(|g| g.id == e.group).map_or("?", |g| &g.letter);
            format!("{letter}.{count}")
        };
        let numbers: Vec<String> = self.equation.iter().map(number).collect();
        self.equation.iter().map(|e| e.id.as_str()).zip(numbers).collect()
    }

    /// The page on which an equation stands.
    pub fn page(&self, e: &Equation) -> &'static str {
        page(&e.group)
    }

    /// The equation that `kind:name` claims.
    pub fn of(&self, registered: &str) -> Option<&Equation> {
        self.equation.iter().find(|e| e.registered.as_deref() == Some(registered))
    }

    /// What is not as it should be, against the code: an equation without an item, a test or an anchor, a registered name
    /// without an equation, and what two of them claim.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn faults(&self, root: &Path) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let mut ids = BTreeMap::new();
        let mut claims: BTreeMap<&str, &str> = BTreeMap::new();
        let text = |file: &str| fs::read_to_string(root.join(file)).with_context(|| format!("{file} is named, and"));
        let registered: Vec<String> =
            registered(root)?.into_iter().map(|(kind, name)| format!("{kind}:{name}")).collect();
        // The sources of each crate that an item is in.
        let mut crates = BTreeMap::new();
        for e in &self.equation {
            let id = &e.id;
            if ids.insert(id.as_str(), ()).is_some() {
                faults.push(format!("{id}: two equations have this id"));
            }
            if let Some(other) = e.registered.as_deref().and_then(|r| claims.insert(r, id)) {
                faults.push(format!("{id}: {} is claimed by {other} too", e.registered.as_deref().unwrap_or_default()));
            }
            if !self.group.iter().any(|g| g.id == e.group) {
                faults.push(format!("{id}: there is no group {}", e.group));
            }
            match text(&e.file) {
                Err(error) => faults.push(format!("{id}: {error:#}")),
                Ok(code) if count(&code, &format!("// ANCHOR: {}", e.anchor)) != 1 => {
                    faults.push(format!("{id}: {} doesn't have the anchor {} once", e.file, e.anchor));
                }
                Ok(_) => {}
            }
            if e.tests.is_empty() {
                faults.push(format!("{id}: no test"));
            }
            for (i, test) in e.tests.iter().enumerate() {
                let Some((file, function)) = test.split_once("::") else {
                    faults.push(format!("{id}: {test} is not file::test"));
                    continue;
                };
                match text(file) {
                    Err(error) => faults.push(format!("{id}: {error:#}")),
                    Ok(code) => {
                        if !code.contains(&format!("fn {function}(")) {
                            faults.push(format!("{id}: {file} has no test {function}"));
                        }
                        if i == 0 && function != "main" && count(&code, &format!("// ANCHOR: {function}")) != 1 {
                            faults.push(format!("{id}: {file} doesn't have the anchor {function} once"));
                        }
                    }
                }
            }
            // The item includes the equation: so it exists, and rustdoc shows it.
            let folder = e.fragment().parent().and_then(Path::parent).map(|c| root.join(c)).unwrap_or_default();
            let included = format!("equations/{id}.html\")]");
            let held = match crates.entry(folder) {
                Entry::Occupied(held) => held.into_mut(),
                Entry::Vacant(new) => {
                    let held = sources(&new.key().join("src"))?;
                    new.insert(held)
                }
            };
            let named = held.iter().filter(|(_, code)| code.contains(&included)).filter(|(_, code)| {
                let behind = code.split(&included).nth(1).unwrap_or_default();
                let item = behind.lines().find(|l| {
                    let l = l.trim_start();
                    l.starts_with("pub ") || l.starts_with("fn ")
                });
                item.is_some_and(|l| words(l).any(|w| w == e.name()))
            });
            match named.count() {
                1 => {}
                n => faults.push(format!("{id}: {n} items {} include the equation; expected 1", e.item)),
            }
        }
        let unclaimed = registered.iter().filter(|r| !claims.contains_key(r.as_str()));
        faults.extend(unclaimed.map(|r| format!("{r} has no equation")));
        let unknown = claims.keys().filter(|claim| !registered.iter().any(|r| r == *claim));
        faults.extend(unknown.map(|claim| format!("{claim} is not registered")));
        Ok(faults)
    }

    /// An equation with its code and test, as Markdown; `up` leads from the page to `docs/src`, if it is not there.
    ///
    /// # Errors
    /// A test that isn't `file::function`.
    pub fn section(&self, e: &Equation, level: &str, up: &str) -> Result<String> {
        let mut s = String::new();
        let number = &self.numbers()[e.id.as_str()];
        writeln!(s, "{level} {}\n", e.title)?;
        s += &block(e, number);
        writeln!(s, "{}{}\n", e.symbols, if e.source.is_empty() { ".".into() } else { format!(" ({}).", e.source) })?;
        writeln!(s, "Code: [`{}`]({up}{}), `{}`\n", e.spoken(), e.address(), e.file)?;
        let Some((file, function)) = e.tests.first().and_then(|t| t.split_once("::")) else {
            bail!("{}: no test", e.id);
        };
        let names: Vec<_> = e.tests.iter().map(|t| format!("`{t}`")).collect();
        let shown = |file: &str, anchor: &str| format!("```rs\n{{{{#include ../../{}{file}:{anchor}}}}}\n```\n", up);
        let test = match function {
            "main" => String::new(),
            _ => format!("<div>\n\n{}\n</div>\n", shown(file, function)),
        };
        writeln!(
            s,
            "<!-- not run: compiled where it stands -->\n<details class=\"code\"><summary>The code, and its test</summary><div class=\"side\">\n<div>\n\n{}\n</div>\n{test}</div></details>\n",
            shown(&e.file, &e.anchor)
        )?;
        writeln!(s, "Tests: {}\n", names.join(", "))?;
        Ok(s)
    }
}

/// The equation alone, with its anchor and number.
pub fn block(e: &Equation, number: &str) -> String {
    format!(
        "<div class=\"equation\" id=\"eq-{id}\">\n\n$${tex}$$\n\n<a class=\"number\" href=\"#eq-{id}\">({number})</a>\n\n</div>\n\n",
        id = e.id,
        tex = e.tex.trim()
    )
}

/// The page of a group.
pub fn page(group: &str) -> &'static str {
    match group {
        "theory" => "theory.html",
        "averaging" | "optimality" => "operators.html",
        "loss" => "losses.html",
        "task" => "tasks.html",
        _ => "network.html",
    }
}

fn count(text: &str, line: &str) -> usize {
    text.lines().filter(|l| l.trim() == line).count()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// Each source file under a folder, with its text.
///
/// # Errors
/// A folder or a file that can't be read.
pub fn sources(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            all.extend(sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)?;
            all.push((path, text));
        }
    }
    Ok(all)
}

/// All that must have an equation, as kind and name: what configuration knows, the training commands, and the blocks, each
/// of which is a file.
///
/// # Errors
/// A folder that can't be read.
pub fn registered(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let vocabulary = methods::vocabulary();
    let mut all = Vec::new();
    for (kind, names) in [
        ("averaging", vocabulary.averaging),
        ("optimality", vocabulary.optimality),
        ("loss", vocabulary.loss),
        ("task", collimate::config::Kind::ALL.iter().map(|k| k.name()).collect()),
    ] {
        all.extend(names.into_iter().map(|n| (kind, n.to_owned())));
    }
    for (path, _) in sources(&root.join("crates/model/src/blocks"))? {
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if name != "mod" {
            all.push(("block", name.replace('_', "-")));
        }
    }
    Ok(all)
}

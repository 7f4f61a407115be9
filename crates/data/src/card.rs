//! The configurations that the README of a data set folder declares, as on the Hugging Face Hub.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::folder::{Files, by_name, inside, is_data};
use crate::options::SPLIT;
use crate::{Error, bounded};

pub(crate) const README: &str = "README.md";

/// What stands before the text of a README.
#[derive(Deserialize)]
struct Front {
    #[serde(default)]
    configs: Option<Vec<Config>>,
}

/// Which files are which split, under a name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // some keys are known, and mean nothing for rows of text
pub(crate) struct Config {
    config_name: String,
    #[serde(default)]
    data_files: Option<Value>,
    #[serde(default)]
    data_dir: Option<String>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    description: IgnoredAny,
    #[serde(default)]
    version: IgnoredAny,
    #[serde(default)]
    features: IgnoredAny,
    #[serde(default)]
    drop_labels: IgnoredAny,
    #[serde(default)]
    drop_metadata: IgnoredAny,
}

/// The configurations of `folder`, or None where its README declares none.
pub(crate) fn configs(folder: &Path) -> Result<Option<Vec<Config>>, Error> {
    let path = folder.join(README);
    let text = match bounded::read(&path, bounded::SETTINGS) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&path, "read")(e)),
    };
    // Of a README that says nothing of configurations nothing is asked, its YAML included.
    let Some(yaml) = front(&text).filter(|yaml| yaml.lines().any(|line| line.starts_with("configs"))) else {
        return Ok(None);
    };
    let front: Front = serde_saphyr::from_str_with_options(yaml, serde_saphyr::options! { with_snippet: false })
        .map_err(|e| Error::file(&path, front_error(&e)))?;
    Ok(front.configs.filter(|c| !c.is_empty()))
}

/// The YAML between the first line, `---`, and the next of the same, from the first one's end on: lines count as in the file.
fn front(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_prefix("---")?;
    let start = text.find('\n')?;
    if !text[..start].trim().is_empty() {
        return None;
    }
    let text = &text[start..];
    let mut at = 1;
    for line in text[at..].split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&text[..at]);
        }
        at += line.len();
    }
    None
}

fn front_error(e: &serde_saphyr::Error) -> String {
    format!(
        "its `configs` can't be read: {e}; they are lists of config_name, data_files, data_dir and default, as on the \
         Hugging Face Hub. Name the data files themselves to do without them"
    )
}

/// The files of the configuration `name`, or of the default one, for `split`.
pub(crate) fn files(
    folder: &Path,
    all: Vec<PathBuf>,
    configs: &[Config],
    name: Option<&str>,
    split: &str,
) -> Result<Files, Error> {
    let readme = folder.join(README);
    let bad = |message: String| Err(Error::file(&readme, message));
    let names = || configs.iter().map(|c| format!("`{}`", c.config_name)).collect::<Vec<_>>().join(", ");
    let by_default = |c: &&Config| c.default || c.config_name == "default";
    let config = match (name, configs) {
        (Some(name), _) => match configs.iter().find(|c| c.config_name == name) {
            Some(config) => config,
            None => return bad(format!("no configuration `{name}`; it declares {}", names())),
        },
        (None, [only]) => only,
        (None, _) => match configs.iter().filter(by_default).collect::<Vec<_>>()[..] {
            [one] => one,
            ref found => {
                let how_many = if found.is_empty() { "none" } else { "several" };
                return bad(format!(
                    "declares {} and {how_many} by default; choose one by `dataset_config`, or by `name` of that data set",
                    names()
                ));
            }
        },
    };
    let own = &config.config_name;
    let base = match config.data_dir.as_deref().map(|d| d.trim_start_matches("./").trim_end_matches('/')) {
        None | Some("") | Some(".") => folder.to_owned(),
        Some(dir) => match inside(folder, dir) {
            Some(base) => base,
            None => return bad(format!("`data_dir` of `{own}` is {dir:?}; expected a folder in this one")),
        },
    };
    let Some(listed) = &config.data_files else {
        let (within, mut without): (Vec<_>, Vec<_>) = all.into_iter().partition(|file| file.starts_with(&base));
        let mut files = by_name(&base, within, split)?;
        files.skipped.append(&mut without);
        files.skipped.sort();
        return Ok(files);
    };
    let splits = match splits(listed) {
        Ok(splits) => splits,
        Err(found) => {
            return bad(format!(
                "`data_files` of `{own}` has {found}; expected a path, a list of paths, or a list of {{split, path}}"
            ));
        }
    };
    let patterns: Vec<_> = splits.iter().filter(|(s, _)| *s == split).flat_map(|(_, patterns)| patterns).collect();
    if patterns.is_empty() {
        let mut there: Vec<_> = splits.iter().map(|(s, _)| format!("`{s}`")).collect();
        there.dedup();
        return bad(format!("the configuration `{own}` has no split `{split}`; it has {}", there.join(", ")));
    }
    let mut read = Vec::new();
    for pattern in patterns {
        let found = match find(&base, pattern, &all) {
            Ok(found) => found,
            Err(e) => return bad(format!("`data_files` of `{own}` has {pattern:?}: {e}")),
        };
        for file in found {
            if !read.contains(file) {
                read.push(file.clone());
            }
        }
    }
    let skipped = all.into_iter().filter(|file| !read.contains(file)).collect();
    Ok(Files { read, skipped })
}

/// One path or several.
fn paths(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(path) => Some(vec![path.as_str()]),
        Value::Array(paths) if !paths.is_empty() => paths.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// The splits of `data_files`, each with its paths; what is no such thing is handed back in words.
fn splits(listed: &Value) -> Result<Vec<(&str, Vec<&str>)>, String> {
    if let Some(all) = paths(listed) {
        return Ok(vec![(SPLIT, all)]);
    }
    let entries = listed.as_array().filter(|entries| !entries.is_empty()).ok_or_else(|| listed.to_string())?;
    entries
        .iter()
        .map(|entry| {
            let keys = entry.as_object().is_some_and(|o| o.keys().all(|k| k == "split" || k == "path"));
            match (entry["split"].as_str(), paths(&entry["path"])) {
                (Some(split), Some(paths)) if keys => Ok((split, paths)),
                _ => Err(entry.to_string()),
            }
        })
        .collect()
}

/// The data files that a path stands for, in which `*`, `?`, `[…]` and `**` may stand.
fn find<'f>(base: &Path, pattern: &str, all: &'f [PathBuf]) -> Result<Vec<&'f PathBuf>, String> {
    let pattern = pattern.trim_start_matches("./");
    let within = Path::new(pattern).is_relative() && !pattern.split('/').any(|part| part == "..");
    if !within || pattern.contains("://") {
        return Err("it leads out of the folder; expected files in it".to_owned());
    }
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let glob = Pattern::new(pattern).map_err(|e| format!("not a pattern: {}", e.msg))?;
    // A name with brackets in it stands for itself first.
    let literal = base.join(pattern);
    let matches = |file: &Path| {
        file == literal || file.strip_prefix(base).is_ok_and(|inner| glob.matches_path_with(inner, options))
    };
    let found: Vec<_> = all.iter().filter(|file| matches(file)).collect();
    let data: Vec<_> = found.iter().copied().filter(|file| is_data(file)).collect();
    match (found.first(), data.is_empty()) {
        (_, false) => Ok(data),
        (None, _) => Err("no file is called so".to_owned()),
        (Some(file), _) => Err(format!("{} is not of a kind that is read", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_text() {
        assert_eq!(front("---\na: 1\n---\ntext"), Some("\na: 1\n"));
        assert_eq!(front("---\r\na: 1\r\n---\r\n"), Some("\na: 1\r\n"));
        for none in ["", "text", "---", "---\na: 1\n", "--- text\n---\n", "text\n---\na: 1\n---\n"] {
            assert_eq!(front(none), None, "{none:?}");
        }
    }
}

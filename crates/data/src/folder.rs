//! The files of a data set: which of a folder's are read for the split that is asked for.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::options::{Options, SPLIT};
use crate::{Error, Source, bounded, card, hub};

/// The files of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub read: Vec<PathBuf>,
    pub skipped: Vec<PathBuf>,
}

/// The endings of data files, compressed or not.
const ENDINGS: [&str; 7] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow"];
/// What `save_to_disk` writes beside its Arrow files: about one split, and about all.
const STATE: &str = "state.json";
const DICT: &str = "dataset_dict.json";
/// JSON that Hugging Face puts beside the data.
const BESIDE: [&str; 5] = ["dataset_info.json", "dataset_infos.json", DICT, STATE, "dataset-metadata.json"];
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// What `source` stands for: a file, or those files of a folder that hold the split that is asked for. A folder may say
/// itself which these are, as `save_to_disk` writes it or under `configs` in its README; else they are told by name.
pub(crate) fn files(source: &Source, options: &Options) -> Result<Files, Error> {
    let path = &hub::locate(&source.path, hub::Kind::Dataset)?;
    let split = source.split.as_deref().unwrap_or(&options.split);
    let name = source.name.as_deref().or(options.dataset_config.as_deref());
    let named_by = if source.name.is_some() { "name" } else { "dataset_config" };
    let refuse = |key: &str, value: &str, why: &str| {
        Err(Error::file(path, format!("`{key} = {value:?}` is asked for; {why}; leave it out for this data set")))
    };
    let meta = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
    if !meta.is_dir() {
        if let Some(split) = &source.split {
            return refuse("split", split, "a single file has no splits");
        }
        if let Some(name) = name {
            return refuse(named_by, name, "a single file has no configurations");
        }
        return Ok(Files { read: vec![path.to_owned()], skipped: Vec::new() });
    }
    let mut all = Vec::new();
    walk(path, 0, &mut all)?;
    all.sort();
    let files = if let Some(splits) = json(&path.join(DICT), "splits")? {
        let splits = strings(&splits).ok_or_else(|| Error::file(&path.join(DICT), "`splits` is no list of names"))?;
        if !splits.contains(&split) {
            return Err(no_split(path, split, &splits));
        }
        let folder =
            inside(path, split).ok_or_else(|| Error::file(path, format!("no split can be called {split:?}")))?;
        let state = json(&folder.join(STATE), "")?.ok_or_else(|| {
            Error::file(&folder, format!("no {STATE} here; expected a split that save_to_disk wrote"))
        })?;
        Some(saved(&folder, &state)?)
    } else if let Some(state) = json(&path.join(STATE), "")?.filter(|s| s.get("_data_files").is_some()) {
        // The folder of one split was asked for by its path. Another by name is a mistake.
        let own = state["_split"].as_str().map(|s| s.split('[').next().unwrap_or_default().to_owned());
        if let Some(own) = own
            && (source.split.is_some() || split != SPLIT)
            && own != split
        {
            return Err(no_split(path, split, &[&own]));
        }
        Some(saved(path, &state)?)
    } else if let Some(configs) = card::configs(path)? {
        return card::files(path, all, &configs, name, split);
    } else {
        None
    };
    if let Some(name) = name {
        return refuse(named_by, name, "only a folder whose README lists `configs` has configurations");
    }
    match files {
        Some(read) => {
            let skipped = all.into_iter().filter(|file| !read.contains(file)).collect();
            Ok(Files { read, skipped })
        }
        None => by_name(path, all, split),
    }
}

/// The data files among `all` of `folder`. Where some are named by split, those of `split` are taken.
pub(crate) fn by_name(folder: &Path, all: Vec<PathBuf>, split: &str) -> Result<Files, Error> {
    let (data, mut skipped): (Vec<_>, Vec<_>) = all.into_iter().partition(|file| is_data(file));
    if data.is_empty() {
        let expected = ENDINGS.join(", ");
        return Err(Error::file(
            folder,
            format!("no data files here; expected names that end in {expected}, .gz or .zst after it if compressed"),
        ));
    }
    let named: Vec<_> = data.iter().map(|file| split_of(folder, file)).collect();
    if named.iter().all(Option::is_none) {
        return Ok(Files { read: data, skipped });
    }
    let mut read = Vec::new();
    for (file, name) in data.into_iter().zip(&named) {
        if name.as_deref() == Some(split) { read.push(file) } else { skipped.push(file) }
    }
    if read.is_empty() {
        let mut splits: Vec<_> = named.iter().flatten().map(String::as_str).collect();
        splits.sort_unstable();
        splits.dedup();
        return Err(no_split(folder, split, &splits));
    }
    skipped.sort();
    Ok(Files { read, skipped })
}

fn no_split(folder: &Path, split: &str, there: &[&str]) -> Error {
    Error::file(folder, format!("no files of the split `{split}`; there are {} (`split` chooses)", there.join(", ")))
}

/// The key of a JSON object on disk, all of it for "", or None where there is no such file.
fn json(path: &Path, key: &str) -> Result<Option<Value>, Error> {
    let bytes = match bounded::read(path, bounded::SETTINGS) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, "read")(e)),
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| Error::file(path, format!("not JSON: {e}")))?;
    Ok(Some(if key.is_empty() { value } else { value[key].clone() }))
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// `name` in `folder`, unless it leads out of it.
pub(crate) fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    let within = !name.as_os_str().is_empty() && name.components().all(|c| matches!(c, Component::Normal(_)));
    within.then(|| folder.join(name))
}

/// The Arrow files of one split that `save_to_disk` wrote, in the order of their rows.
fn saved(folder: &Path, state: &Value) -> Result<Vec<PathBuf>, Error> {
    let bad = |message: String| Error::file(&folder.join(STATE), message);
    // Old versions of datasets wrote a selection of rows beside the rows.
    for key in ["_indices_files", "_indices_data_files"] {
        if state[key].as_array().is_some_and(|files| !files.is_empty()) {
            return Err(bad(format!(
                "`{key}` picks rows by a file of indices, which is not read; save the data set anew after \
                 flatten_indices()"
            )));
        }
    }
    let listed = state["_data_files"].as_array().filter(|files| !files.is_empty());
    let listed = listed.ok_or_else(|| bad("`_data_files` lists no files".to_owned()))?;
    let file = |entry: &Value| {
        let name = entry["filename"].as_str().and_then(|name| inside(folder, name));
        name.ok_or_else(|| bad(format!("`_data_files` has {entry}; expected the `filename` of a file beside it")))
    };
    listed.iter().map(file).collect()
}

/// Folders inside each other, at most: a link may lead back up.
const DEPTH: usize = 16;

fn walk(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(Error::file(folder, format!("more than {DEPTH} folders inside each other")));
    }
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        let path = entry.map_err(Error::io(folder, "read"))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
            continue; // .git, .cache, .gitattributes
        }
        if path.is_dir() {
            walk(&path, depth + 1, out)?;
        } else {
            out.push(path);
        }
    }
    Ok(())
}

pub(crate) fn is_data(path: &Path) -> bool {
    let Some(name) = path.file_name().map(|n| n.to_string_lossy().to_lowercase()) else { return false };
    let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    // datasets keeps results of map and filter as cache-….arrow beside the rows.
    let derived = plain.ends_with(".arrow") && plain.starts_with("cache-");
    ENDINGS.iter().any(|e| plain.ends_with(e)) && !BESIDE.contains(&plain) && !derived
}

/// Whether a file, named from the top of its data set, says which the data files are.
#[cfg(feature = "hub")]
pub(crate) fn is_about_data(path: &Path) -> bool {
    path == Path::new(card::README) || path.file_name().is_some_and(|n| n == STATE || n == DICT)
}

/// The split that a file's name has for a word, or a folder on the way to it begins with.
fn split_of(root: &Path, file: &Path) -> Option<String> {
    let inner = file.strip_prefix(root).unwrap_or(file);
    inner.components().rev().enumerate().find_map(|(up, part)| {
        let part = part.as_os_str().to_string_lossy().to_lowercase();
        let mut words = part.split(|c: char| !c.is_alphanumeric());
        let split = |word: &str| SPLITS.iter().find(|(_, names)| names.contains(&word)).map(|(s, _)| (*s).to_owned());
        let word = words.next().unwrap_or_default();
        let known = split(word);
        // trl-lib names splits freely: train_prefs-00000-of-00001.parquet.
        let shard = part.find("-0").filter(|at| part[at + 1..].contains("-of-")).map(|at| part[..at].to_owned());
        match (known, shard) {
            (Some(split), Some(shard)) if shard != word => Some(if shard.is_empty() { split } else { shard }),
            (None, None) if up == 0 => words.find_map(split),
            (known, shard) => known.or(shard),
        }
    })
}

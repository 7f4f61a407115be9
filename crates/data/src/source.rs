//! Files and folders of rows: which there are, what they are, and their rows one after the other.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Place;
use crate::format::{Fault, FaultKind, Row};
use crate::{Error, hub};

/// A data set: a file or a folder, and how much of it makes an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file (JSONL, a JSON array, Parquet; plain, .gz or .zst), or a folder of them.
    pub path: PathBuf,
    /// How often each pair is seen in an epoch: 1 once, 2 twice, 0.5 a seeded half of the pairs.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Self {
        Self { path: path.into(), weight: 1.0 }
    }
}

/// The files of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub read: Vec<PathBuf>,
    pub skipped: Vec<PathBuf>,
}

/// The endings of data files, compressed or not.
const ENDINGS: [&str; 4] = [".jsonl", ".ndjson", ".json", ".parquet"];
/// JSON that Hugging Face puts beside the data.
const BESIDE: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "dataset-metadata.json"];
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// What `path` stands for: itself, or the data files of a folder. Where some files of a folder are named by split,
/// those of `split` are taken.
pub(crate) fn files(path: &Path, split: &str) -> Result<Files, Error> {
    let path = &hub::locate(path, hub::Kind::Dataset)?;
    let meta = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
    if !meta.is_dir() {
        return Ok(Files { read: vec![path.to_owned()], skipped: Vec::new() });
    }
    let mut all = Vec::new();
    walk(path, 0, &mut all)?;
    all.sort();
    let (data, mut skipped): (Vec<_>, Vec<_>) = all.into_iter().partition(|file| is_data(file));
    if data.is_empty() {
        let arrow = skipped.iter().any(|f| f.extension().is_some_and(|e| e == "arrow"));
        return Err(Error::file(
            path,
            if arrow {
                "holds Arrow files, as save_to_disk writes them; export the data set with to_parquet or to_json"
                    .to_owned()
            } else {
                format!(
                    "no data files here; expected names that end in {}, .gz or .zst after it if compressed",
                    ENDINGS.join(", ")
                )
            },
        ));
    }
    let named: Vec<_> = data.iter().map(|file| split_of(path, file)).collect();
    if named.iter().all(Option::is_none) {
        return Ok(Files { read: data, skipped });
    }
    let mut read = Vec::new();
    for (file, name) in data.into_iter().zip(&named) {
        if name.as_deref() == Some(split) { read.push(file) } else { skipped.push(file) }
    }
    if read.is_empty() {
        let mut splits: Vec<_> = named.into_iter().flatten().collect();
        splits.sort();
        splits.dedup();
        return Err(Error::file(path, format!("no files of the split `{split}`; there are {}", splits.join(", "))));
    }
    skipped.sort();
    Ok(Files { read, skipped })
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
    ENDINGS.iter().any(|e| plain.ends_with(e)) && !BESIDE.contains(&plain)
}

/// The split that a file's name, or a folder on the way to it, begins with.
fn split_of(root: &Path, file: &Path) -> Option<String> {
    let inner = file.strip_prefix(root).unwrap_or(file);
    inner.components().rev().find_map(|part| {
        let part = part.as_os_str().to_string_lossy().to_lowercase();
        let word = part.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let known = SPLITS.iter().find(|(_, names)| names.contains(&word)).map(|(split, _)| (*split).to_owned());
        // trl-lib names splits freely: train_prefs-00000-of-00001.parquet.
        let shard = part.find("-0").filter(|at| part[at + 1..].contains("-of-")).map(|at| part[..at].to_owned());
        match (known, shard) {
            (Some(split), Some(shard)) if shard != word => Some(if shard.is_empty() { split } else { shard }),
            (known, shard) => known.or(shard),
        }
    })
}

/// One row, not yet looked into.
#[derive(Debug)]
pub(crate) struct Raw {
    /// 1-based line, element or record.
    pub row: usize,
    pub body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    /// A line of JSON, parsed where the work is spread over threads.
    Line(Vec<u8>),
    Row(Row),
}

impl Body {
    /// Bytes, roughly: for cutting the work into batches.
    pub fn size(&self) -> usize {
        match self {
            Body::Line(line) => line.len(),
            Body::Row(row) => row.values().map(weight).sum(),
        }
    }

    pub fn parse(self) -> Result<Row, Fault> {
        match self {
            Body::Row(row) => Ok(row),
            Body::Line(line) => parse(&line),
        }
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len() + 8,
        Value::Array(a) => a.iter().map(weight).sum(),
        Value::Object(o) => o.values().map(|v| weight(v) + 8).sum(),
        _ => 8,
    }
}

fn parse(line: &[u8]) -> Result<Row, Fault> {
    let bad = |message: String| Fault { field: String::new(), kind: FaultKind::Json(message) };
    let mut json = serde_json::Deserializer::from_slice(line);
    let row = UniqueKeys.deserialize(&mut json).map_err(|e| bad(e.to_string()))?;
    json.end().map_err(|e| bad(format!("{e}; expected one object per line")))?;
    Ok(row)
}

/// An object in which no key stands twice: JSON parsers keep the last and say nothing.
struct UniqueKeys;

impl<'de> DeserializeSeed<'de> for UniqueKeys {
    type Value = Row;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Row;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut row = Row::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if row.contains_key(&key) {
                return Err(serde::de::Error::custom(format!("the key `{key}` stands twice")));
            }
            row.insert(key, value);
        }
        Ok(row)
    }
}

/// What a file's rows are counted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub blank_lines: usize,
}

/// Hands the rows of `path` to `sink`, in order, until it breaks. What the file is, is told from its first bytes.
/// `bytes` grows by what is read from disk.
pub(crate) fn rows(
    path: &Path,
    bytes: &AtomicU64,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<Tally, Error> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut magic = [0; 4];
    let n = read_up_to(&mut file, &mut magic).map_err(Error::io(path, "read"))?;
    file.rewind().map_err(Error::io(path, "read"))?;
    if &magic == b"PAR1" {
        return parquet_rows(path, file, bytes, sink).map(|()| Tally::default());
    }
    let file = Counted { file, bytes };
    match &magic[..n] {
        [0x1f, 0x8b, ..] => {
            json_rows(path, BufReader::with_capacity(1 << 18, flate2::read::MultiGzDecoder::new(file)), sink)
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let zstd = zstd::Decoder::new(file).map_err(Error::io(path, "read"))?;
            json_rows(path, BufReader::with_capacity(1 << 18, zstd), sink)
        }
        [] => Err(Error::file(path, "the file is empty; expected rows")),
        _ => json_rows(path, BufReader::with_capacity(1 << 18, file), sink),
    }
}

struct Counted<'a> {
    file: File,
    bytes: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

fn json_rows(
    path: &Path,
    mut reader: impl BufRead,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).map_err(Error::io(path, "read"))?;
        if n == 0 {
            return Ok(tally);
        }
        number += 1;
        if number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let first = line.iter().find(|b| !b.is_ascii_whitespace());
        match first {
            None => tally.blank_lines += 1,
            Some(b'[') if number == tally.blank_lines + 1 => {
                return array_rows(path, std::io::Cursor::new(line).chain(reader), sink).map(|()| tally);
            }
            Some(_) => {
                let body = Body::Line(std::mem::take(&mut line));
                if sink(Raw { row: number, body }).is_break() {
                    return Ok(tally);
                }
            }
        }
    }
}

fn array_rows(path: &Path, reader: impl Read, sink: &mut dyn FnMut(Raw) -> ControlFlow<()>) -> Result<(), Error> {
    let mut elements = Elements { row: 0, stopped: false, sink };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 18, reader));
    let result = (&mut json).deserialize_seq(&mut elements).and_then(|()| json.end());
    match result {
        _ if elements.stopped => Ok(()),
        Ok(()) => Ok(()),
        Err(e) if e.is_io() => Err(Error::io(path, "read")(e.into())),
        Err(e) => Err(Error::Json { place: Place::new(path, elements.row + 1), message: e.to_string() }),
    }
}

/// Walks a JSON array element by element, so that it never stands in memory as a whole.
struct Elements<'s> {
    row: usize,
    stopped: bool,
    sink: &'s mut dyn FnMut(Raw) -> ControlFlow<()>,
}

impl<'de> Visitor<'de> for &mut Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(row) = seq.next_element_seed(UniqueKeys)? {
            self.row += 1;
            if (self.sink)(Raw { row: self.row, body: Body::Row(row) }).is_break() {
                self.stopped = true;
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

fn parquet_rows(
    path: &Path,
    file: File,
    bytes: &AtomicU64,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<(), Error> {
    let size = file.metadata().map_err(Error::io(path, "read"))?.len();
    // The reader panics on some broken files; that is bad input, not a fault of ours.
    let walk = std::panic::AssertUnwindSafe(|| {
        let bad =
            |e: parquet::errors::ParquetError| Error::file(path, format!("not a Parquet file that can be read: {e}"));
        let reader = SerializedFileReader::new(file).map_err(bad)?;
        let total = reader.metadata().file_metadata().num_rows().max(1) as u64;
        for (i, record) in reader.get_row_iter(None).map_err(bad)?.enumerate() {
            let at = |e: &str| Error::Json { place: Place::new(path, i + 1), message: e.to_owned() };
            let row = group(&record.map_err(bad)?).map_err(|e| at(&e))?;
            // Pages come in any order, so progress goes by rows.
            let (before, now) = (size * i as u64 / total, size * (i as u64 + 1) / total);
            bytes.fetch_add(now - before, Ordering::Relaxed);
            if sink(Raw { row: i + 1, body: Body::Row(row) }).is_break() {
                break;
            }
        }
        Ok(())
    });
    std::panic::catch_unwind(walk)
        .unwrap_or_else(|_| Err(Error::file(path, "not a Parquet file that can be read: its reader gave up on it")))
}

fn group(record: &parquet::record::Row) -> Result<Row, String> {
    record.get_column_iter().map(|(name, field)| Ok((name.clone(), value(name, field)?))).collect()
}

fn value(name: &str, field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(x) => f64::from(*x).into(),
        Field::Float(x) => f64::from(*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(text) => text.as_str().into(),
        // Text without its annotation, as some writers leave it.
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data())
            .map_err(|_| format!("the column `{name}` holds bytes that are not UTF-8"))?
            .into(),
        Field::Group(record) => Value::Object(group(record)?),
        Field::ListInternal(list) => {
            list.elements().iter().map(|e| value(name, e)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Field::MapInternal(map) => {
            let mut out = Row::new();
            for (key, v) in map.entries() {
                let Field::Str(key) = key else {
                    return Err(format!("the column `{name}` has a map without text keys"));
                };
                out.insert(key.clone(), value(name, v)?);
            }
            Value::Object(out)
        }
        // Dates, times and decimals: no format reads them, so text will do for the report.
        other => other.to_string().into(),
    })
}

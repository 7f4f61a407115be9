//! A data set as it is named, and the rows of its files one after the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::columnar::{arrow_file_rows, arrow_stream_rows, parquet_rows};
use crate::error::Place;
use crate::format::{Fault, FaultKind, Row};
use crate::{Error, Format};

/// A data set: a file or a folder, how much of it makes an epoch, and how it differs from the others.
///
/// What is not set here is as [`Options`](crate::Options) has it for all data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file (JSONL, a JSON array; plain, .gz or .zst; Parquet or Arrow), or a folder of them.
    pub path: PathBuf,
    /// How often each pair is seen in an epoch: 1 once, 2 twice, 0.5 a seeded half of the pairs.
    #[serde(default = "one")]
    pub weight: f64,
    /// Renamed columns: `{ question = "prompt" }` reads the file's `question` as `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<BTreeMap<String, String>>,
    /// The format of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The split that is read from a folder that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The configuration that is read from a folder whose README declares several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

fn one() -> f64 {
    1.0
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Self {
        Self { path: path.into(), weight: one(), columns: None, format: None, split: None, name: None }
    }
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
    let mut magic = [0; 6];
    let n = read_up_to(&mut file, &mut magic).map_err(Error::io(path, "read"))?;
    file.rewind().map_err(Error::io(path, "read"))?;
    if magic.starts_with(b"PAR1") {
        return parquet_rows(path, file, bytes, sink).map(|()| Tally::default());
    }
    let file = Counted { file, bytes };
    match &magic[..n] {
        b"ARROW1" => arrow_file_rows(path, file, sink).map(|()| Tally::default()),
        [0xff, 0xff, 0xff, 0xff, ..] => arrow_stream_rows(path, file, sink).map(|()| Tally::default()),
        [0x1f, 0x8b, ..] => {
            json_rows(path, BufReader::with_capacity(1 << 18, flate2::read::MultiGzDecoder::new(file)), sink)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let zstd = zstd::Decoder::new(file).map_err(Error::io(path, "read"))?;
            json_rows(path, BufReader::with_capacity(1 << 18, zstd), sink)
        }
        [] => Err(Error::file(path, "the file is empty; expected rows")),
        _ => json_rows(path, BufReader::with_capacity(1 << 18, file), sink),
    }
}

pub(crate) struct Counted<'a> {
    pub file: File,
    pub bytes: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
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

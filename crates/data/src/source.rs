//! A data set as it is named, and the rows of its files one after the other.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::columnar::{arrow_file_rows, arrow_stream_rows, parquet_rows};
use crate::error::Place;
use crate::format::{self, Fault, FaultKind, Row};
use crate::{Error, Format};

/// A data set: a file or a folder, how much of it makes an epoch, and how it differs from the others.
///
/// What is not set here is as [`Options`](crate::Options) has it for all data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file (JSONL, JSON, CSV; plain, .gz or .zst; Parquet or Arrow), or a folder of them.
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

#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// The JSON of a row, parsed where the work is spread over threads.
    Line(Vec<u8>),
    Row(Row),
    /// What cannot be read as a row of JSON, and why.
    Broken(String),
    /// What cannot be read as a row of another kind of file, and why.
    Malformed(String),
}

impl Body {
    /// Bytes, roughly: for cutting the work into batches.
    pub fn size(&self) -> usize {
        match self {
            Body::Line(line) => line.len(),
            Body::Row(row) => row.values().map(weight).sum(),
            Body::Broken(_) | Body::Malformed(_) => 0,
        }
    }

    pub fn parse(self) -> Result<Row, Fault> {
        let bad = |message: String| Fault { field: String::new(), kind: FaultKind::Json(message) };
        let malformed = |message: String| Fault { field: String::new(), kind: FaultKind::Malformed(message) };
        let (row, of_json) = match self {
            Body::Row(row) => (row, false),
            Body::Broken(message) => return Err(bad(message)),
            Body::Malformed(message) => return Err(malformed(message)),
            Body::Line(line) => match value(&line).map_err(bad)? {
                Value::Object(row) => (row, true),
                other => return Err(bad(format!("{}; expected one object", format::describe(&other)))),
            },
        };
        let size: usize = row.values().map(weight).sum();
        match (size > MAX_ROW, of_json) {
            (false, _) => Ok(row),
            (true, true) => Err(bad(too_large())),
            (true, false) => Err(malformed(format!("a row {}", beyond(size)))),
        }
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len() + 8,
        Value::Array(a) => a.iter().map(weight).sum::<usize>() + 8,
        Value::Object(o) => o.values().map(|v| weight(v) + 8).sum(),
        _ => 8,
    }
}

/// Bytes of one row, at most: tokenising takes some hundred times as much memory.
const MAX_ROW: usize = 8 << 20;

/// What is said of a row of `size` bytes that has too many.
fn beyond(size: usize) -> String {
    format!("of {:.1} MiB; expected at most {} MiB", size as f64 / f64::from(1 << 20), MAX_ROW >> 20)
}

fn too_large() -> String {
    format!("larger than {} MiB, the most that a row may have", MAX_ROW >> 20)
}

/// The value that `json` stands for. As Python writes and reads JSON, numbers may be NaN or infinite: these become
/// [`odd`] values.
///
/// # Errors
/// What is no JSON, a key that stands twice in an object, and half a character (a lone surrogate); with the place in
/// `json`, by its line only where it has several.
pub(crate) fn value(json: &[u8]) -> Result<Value, String> {
    strict(json).or_else(|e| match without_odd_numbers(json) {
        Some(mended) => strict(&mended).map_err(|e| explain(&e, &mended)),
        None => Err(explain(&e, json)),
    })
}

fn strict(json: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = UniqueKeys(&Path::Root).deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

fn explain(e: &serde_json::Error, json: &[u8]) -> String {
    let all = e.to_string();
    let at = format!(" at line {} column {}", e.line(), e.column());
    let reason = all.strip_suffix(&at).unwrap_or(&all);
    let reason = match reason {
        "trailing characters" => "more stands after the object; expected one object per line",
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "half a character (a lone surrogate, `\\ud83d`)"
        }
        other => other,
    };
    let lines = json.trim_ascii().contains(&b'\n');
    match e.line() {
        0 => reason.to_owned(),
        line if lines => format!("{reason}, at line {line} of it, column {}", e.column()),
        _ => format!("{reason}, at column {}", e.column()),
    }
}

/// The key of an object that stands for a number that JSON does not have.
const ODD: &str = "\u{fdd2}";

/// The name of the number that a value stands for, which JSON does not have: NaN, Infinity or -Infinity.
pub(crate) fn odd(value: &Value) -> Option<&str> {
    value.as_object().filter(|o| o.len() == 1)?.get(ODD)?.as_str()
}

/// `json` with an object in place of each NaN, Infinity and -Infinity, or None where it has none.
fn without_odd_numbers(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len() + 64);
    let (mut text, mut escaped, mut found) = (false, false, false);
    let mut at = 0;
    while at < json.len() {
        let b = json[at];
        if text {
            (text, escaped) = (escaped || b != b'"', !escaped && b == b'\\');
        } else if b == b'"' {
            text = true;
        } else if let Some(name) =
            ["NaN", "Infinity", "-Infinity"].iter().find(|n| json[at..].starts_with(n.as_bytes()))
        {
            out.extend(format!("{{\"{ODD}\":\"{name}\"}}").bytes());
            at += name.len();
            found = true;
            continue;
        }
        out.push(b);
        at += 1;
    }
    found.then_some(out)
}

/// Where a value stands in its row.
enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(outer, key) => write!(f, "{outer}.{key}"),
            Path::Index(outer, i) => write!(f, "{outer}[{i}]"),
        }
    }
}

/// Values in whose objects no key stands twice: JSON parsers keep the last and say nothing.
struct UniqueKeys<'p>(&'p Path<'p>);

impl<'de> DeserializeSeed<'de> for UniqueKeys<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(b.into())
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(UniqueKeys(&Path::Index(self.0, list.len())))? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Row::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                let place = match self.0 {
                    Path::Root => String::new(),
                    inner => format!(" in `{inner}`"),
                };
                return Err(serde::de::Error::custom(format!("the key `{key}` stands twice{place}")));
            }
            let value = map.next_value_seed(UniqueKeys(&Path::Key(self.0, &key)))?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

/// What a file's rows are counted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub blank_lines: usize,
}

/// Hands the rows of `file`, which is called `path`, to `sink`, in order, until it breaks. What the file is, is told
/// from its first bytes, and CSV by its name. `bytes` grows by what is read from disk.
pub(crate) fn rows(
    path: &std::path::Path,
    mut file: File,
    bytes: &AtomicU64,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<Tally, Error> {
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
            text_rows(path, BufReader::with_capacity(1 << 18, flate2::read::MultiGzDecoder::new(file)), sink)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let zstd = zstd::Decoder::new(file).map_err(Error::io(path, "read"))?;
            text_rows(path, BufReader::with_capacity(1 << 18, zstd), sink)
        }
        [] => Err(Error::file(path, "the file is empty; expected rows")),
        _ => text_rows(path, BufReader::with_capacity(1 << 18, file), sink),
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

fn text_rows(
    path: &std::path::Path,
    reader: impl BufRead,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<Tally, Error> {
    let name = path.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit('.').next() {
        Some("csv") => csv_rows(path, reader, b',', sink).map(|()| Tally::default()),
        Some("tsv") => csv_rows(path, reader, b'\t', sink).map(|()| Tally::default()),
        _ => json_rows(path, reader, sink),
    }
}

/// The next line into `line`, of which no more than a row's bytes are kept. False at the end.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let buffer = match reader.fill_buf() {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|b| *b == b'\n');
        let n = end.map_or(buffer.len(), |at| at + 1);
        line.extend(&buffer[..n.min((MAX_ROW + 1).saturating_sub(line.len()))]);
        reader.consume(n);
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn first(line: &[u8]) -> Option<u8> {
    line.iter().copied().find(|b| !b.is_ascii_whitespace())
}

fn row_of(json: Vec<u8>) -> Body {
    if json.len() > MAX_ROW { Body::Broken(too_large()) } else { Body::Line(json) }
}

/// Skips white space, and the mark of UTF-8 before it; the lines skipped, and the byte that comes next.
fn begin(reader: &mut impl BufRead) -> std::io::Result<(usize, Option<u8>)> {
    let mut lines = 0;
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    loop {
        let buffer = match reader.fill_buf() {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let n = buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
        lines += buffer[..n].iter().filter(|b| **b == b'\n').count();
        let next = buffer.get(n).copied();
        let end = buffer.is_empty();
        reader.consume(n);
        if end || next.is_some() {
            return Ok((lines, next));
        }
    }
}

/// One object a line; or one array of them, or objects over several lines, where the first rows look like it.
fn json_rows(
    path: &std::path::Path,
    mut reader: impl BufRead,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<Tally, Error> {
    let (mut number, byte) = begin(&mut reader).map_err(Error::io(path, "read"))?;
    let mut tally = Tally { blank_lines: number };
    if byte == Some(b'[') {
        return elements(path, reader, true, sink).map(|()| tally);
    }
    let (mut line, mut next) = (Vec::new(), Vec::new());
    let mut there = next_line(&mut reader, &mut line).map_err(Error::io(path, "read"))?;
    let mut ahead = false;
    if byte == Some(b'{') && line.len() <= MAX_ROW && strict(&line).is_err_and(|e| e.is_eof()) {
        ahead = next_line(&mut reader, &mut next).map_err(Error::io(path, "read"))?;
        if ahead && first(&next).is_some_and(|b| b != b'{') {
            let start = std::io::Cursor::new([line, next].concat());
            return elements(path, start.chain(reader), false, sink).map(|()| tally);
        }
    }
    while there {
        number += 1;
        if first(&line).is_none() {
            tally.blank_lines += 1;
        } else if sink(Raw { row: number, body: row_of(std::mem::take(&mut line)) }).is_break() {
            break;
        }
        there = match std::mem::take(&mut ahead) {
            true => {
                line = std::mem::take(&mut next);
                true
            }
            false => next_line(&mut reader, &mut line).map_err(Error::io(path, "read"))?,
        };
    }
    Ok(tally)
}

/// Where the walk through a text of JSON is.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Before `[`.
    Start,
    /// Before a row, or a comma.
    Between,
    /// In a row that begins with a bracket, and is this deep.
    Inside(usize),
    /// In a row that is no object.
    Bare,
    /// After `]`.
    End,
}

/// Cuts an array of rows, or rows one after the other, into its rows, so that it never stands in memory as a whole.
fn elements(
    path: &std::path::Path,
    mut reader: impl BufRead,
    array: bool,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut at = if array { At::Start } else { At::Between };
    let (mut text, mut escaped) = (false, false);
    let (mut row, mut item) = (0, Vec::new());
    let mut emit = |item: &mut Vec<u8>, row: &mut usize| {
        *row += 1;
        sink(Raw { row: *row, body: row_of(std::mem::take(item)) })
    };
    let refuse =
        |row: usize, message: &str| Err(Error::Json { place: Place::new(path, row + 1), message: message.to_owned() });
    loop {
        let buffer = match reader.fill_buf() {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(Error::io(path, "read"))?,
        };
        let n = buffer.len();
        if n == 0 {
            break;
        }
        for &b in buffer {
            if at == At::Bare && (b.is_ascii_whitespace() || (array && (b == b',' || b == b']'))) {
                at = At::Between;
                if emit(&mut item, &mut row).is_break() {
                    return Ok(());
                }
            }
            match at {
                _ if !text && !matches!(at, At::Inside(_)) && b.is_ascii_whitespace() => {}
                At::Start => at = At::Between,
                At::Between if array && b == b',' => {}
                At::Between if array && b == b']' => at = At::End,
                At::Between => {
                    item.push(b);
                    at = if b == b'{' || b == b'[' { At::Inside(1) } else { At::Bare };
                }
                At::Bare => {
                    if item.len() <= MAX_ROW {
                        item.push(b);
                    }
                }
                At::Inside(depth) => {
                    if item.len() <= MAX_ROW {
                        item.push(b);
                    }
                    if text {
                        (text, escaped) = (escaped || b != b'"', !escaped && b == b'\\');
                        continue;
                    }
                    match b {
                        b'"' => text = true,
                        b'{' | b'[' => at = At::Inside(depth + 1),
                        b'}' | b']' if depth > 1 => at = At::Inside(depth - 1),
                        b'}' | b']' => {
                            at = At::Between;
                            if emit(&mut item, &mut row).is_break() {
                                return Ok(());
                            }
                        }
                        _ => {}
                    }
                }
                At::End => return refuse(row, "more stands after the end of the array; expected one array"),
            }
        }
        reader.consume(n);
    }
    if !item.is_empty() && emit(&mut item, &mut row).is_break() {
        return Ok(());
    }
    if array && at != At::End {
        return refuse(row, "the file ends before its array does: was it cut off?");
    }
    Ok(())
}

/// Ends what is read of a row where it is too much.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.get().checked_sub(n) {
            Some(left) => self.left.set(left),
            None => return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, too_large())),
        }
        Ok(n)
    }
}

/// Columns of text under the names of the first line.
///
/// Of a row beyond what is kept of one, the end is not found, so that it ends the reading.
fn csv_rows(
    path: &std::path::Path,
    reader: impl BufRead,
    delimiter: u8,
    sink: &mut dyn FnMut(Raw) -> ControlFlow<()>,
) -> Result<(), Error> {
    let left = Rc::new(Cell::new(2 * MAX_ROW));
    let bounded = Bounded { inner: reader, left: left.clone() };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bounded);
    let kind = if delimiter == b'\t' { "TSV" } else { "CSV" };
    let bad = |e: csv::Error| Error::file(path, format!("not {kind} that can be read: {e}"));
    let names = reader.headers().map_err(bad)?.clone();
    let names: Vec<_> = names.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(Error::file(path, format!("the column `{}` stands twice", twice.1)));
    }
    let mut record = csv::ByteRecord::new();
    let mut row = 0;
    loop {
        left.set(2 * MAX_ROW);
        row += 1;
        let body = match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let cell = |(name, cell): (&String, &[u8])| match std::str::from_utf8(cell) {
                    Ok(text) => Ok((name.clone(), Value::from(text))),
                    Err(_) => Err(format!("the column `{name}` holds bytes that are not UTF-8")),
                };
                names.iter().zip(record.iter()).map(cell).collect::<Result<Row, _>>().map_or_else(
                    Body::Malformed,
                    |fields| {
                        let row = Body::Row(fields);
                        let size = row.size();
                        if size > MAX_ROW { Body::Malformed(format!("a {kind} row {}", beyond(size))) } else { row }
                    },
                )
            }
            Err(e) => match e.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    Body::Malformed(format!("{len} columns; expected the {expected_len} of the first line"))
                }
                csv::ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::FileTooLarge => {
                    return Err(Error::file(
                        path,
                        format!(
                            "row {row}: a {kind} row of more than {} MiB; expected at most {} MiB; is a quotation mark \
                             left open?",
                            (2 * MAX_ROW) >> 20,
                            MAX_ROW >> 20
                        ),
                    ));
                }
                _ => return Err(Error::file(path, format!("row {row}: not {kind} that can be read: {e}"))),
            },
        };
        if sink(Raw { row, body }).is_break() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_are_found_outside_of_texts() {
        let read = |json: &str| value(json.as_bytes());
        let row = read(r#"{"a": [NaN, -Infinity], "b": "NaN \" Infinity", "c": Infinity}"#).unwrap();
        assert_eq!(
            (odd(&row["a"][0]), odd(&row["a"][1]), odd(&row["c"])),
            (Some("NaN"), Some("-Infinity"), Some("Infinity"))
        );
        assert_eq!(row["b"], "NaN \" Infinity");
        assert!(odd(&row).is_none() && odd(&row["b"]).is_none());
        assert_eq!(read("{\"a\": nan}"), Err("expected ident, at column 8".to_owned()));
    }

    #[test]
    fn keys_twice_and_half_characters_are_named() {
        let said = |json: &str| value(json.as_bytes()).unwrap_err();
        assert_eq!(said(r#"{"a": 1, "a": 2}"#), "the key `a` stands twice, at column 12");
        assert!(said(r#"{"a": [{"b": {"c": 1, "c": 2}}]}"#).starts_with("the key `c` stands twice in `a[0].b`"));
        assert!(said(r#"{"a": "\ud83d"}"#).contains("lone surrogate"), "{}", said(r#"{"a": "\ud83d"}"#));
        assert!(said("{\n\"a\": x}").contains("line 2 of it"));
        assert!(said("{} 7").contains("expected one object"));
    }

    #[test]
    fn texts_of_json_are_cut_into_rows() {
        let cut = |json: &str, array| {
            let mut rows = Vec::new();
            let done = elements(std::path::Path::new("f"), json.as_bytes(), array, &mut |raw| {
                let Body::Line(line) = raw.body else { panic!("{raw:?}") };
                rows.push(String::from_utf8(line).unwrap());
                ControlFlow::Continue(())
            });
            (rows, done.map_err(|e| e.to_string()))
        };
        let rows = [r#"{"a": "}]\" "}"#, "[1]", "3"];
        assert_eq!(
            cut(&format!(" [{}, {},{} ] ", rows[0], rows[1], rows[2]), true),
            (rows.map(String::from).to_vec(), Ok(()))
        );
        assert_eq!(cut("{\n \"a\": 1\n}\n{}", false).0, ["{\n \"a\": 1\n}", "{}"]);
        let (rows, done) = cut("[{}, {\"a\"", true);
        assert_eq!((rows.len(), done.unwrap_err().contains("cut off")), (2, true));
        assert!(cut("[{}] 1", true).1.unwrap_err().contains("after the end"));
    }
}

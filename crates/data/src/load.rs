//! The way from files to tokens: one thread reads, all cores parse and tokenise, and the rows come out in order.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::dataset::{Builder, Dataset};
use crate::encode::{Encoded, Encoder};
use crate::error::{Error, Place};
use crate::folder;
use crate::format::{self, Example, Fault, FaultKind};
use crate::options::{self, Dirt, Format, Options, Verdict};
use crate::report::{FileReport, Report};
use crate::source::{self, Body, Raw, Source};
use crate::tokenizer::Tokenizer;

/// How far loading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the files read, as they lie on disk.
    pub bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Rows tokenised.
    pub rows: usize,
    /// Pairs kept of them.
    pub pairs: usize,
}

/// Reads and tokenises preference data.
///
/// # Errors
/// The first thing that the options do not allow; see [`Error`] for the kinds.
pub fn load(sources: &[Source], tokenizer: &Tokenizer, options: &Options) -> Result<(Dataset, Report), Error> {
    load_with(sources, tokenizer, options, &mut |_| {})
}

/// As [`load`], telling `progress` after every batch of rows; nothing is told when the cache has the tokens already.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    sources: &[Source],
    tokenizer: &Tokenizer,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Dataset, Report), Error> {
    let files = Files::resolve(sources, options)?;
    let encoder = Encoder::new(tokenizer, options)?;
    let cache = match &options.cache_dir {
        None => None,
        Some(folder) => Some(folder.join(format!("{:032x}.pairs", fingerprint(&files, &encoder, options)?))),
    };
    let cached = cache.as_deref().map(Dataset::open).transpose()?.flatten();
    let (mut dataset, mut report) = match cached {
        Some((dataset, report)) => (dataset, Report { from_cache: true, ..report }),
        None => {
            let mut builder = Builder::new(cache)?;
            let mut report = Report { files_not_read: files.skipped.clone(), ..Report::default() };
            run(&files, Some(&encoder), options, &mut report, progress, &mut |item| match item.encoded {
                Some(encoded) => builder.push(&encoded.into_tokens(item.key, item.file, item.row)),
                None => Ok(()),
            })?;
            (builder.finish(&report)?, report)
        }
    };
    if report.pairs == 0 {
        let first = files.read.first().map(|f| f.path.clone()).unwrap_or_default();
        return Err(Error::file(&first, format!("no pair is left of {} rows\n{report}", report.rows)));
    }
    let times: Vec<f64> = files.read.iter().map(|f| f.weight).collect();
    dataset.weigh(&times, options.seed);
    report.pairs_per_epoch = dataset.len();
    Ok((dataset, report))
}

/// Reads preference data and hands every pair that the options keep to `each` with its file and row, as text.
///
/// # Errors
/// As [`load`], as far as it concerns text, and whatever `each` returns.
pub fn read(
    sources: &[Source],
    options: &Options,
    each: &mut dyn FnMut(Place, Example) -> Result<(), Error>,
) -> Result<Report, Error> {
    let files = Files::resolve(sources, options)?;
    let mut report = Report { files_not_read: files.skipped.clone(), ..Report::default() };
    run(&files, None, options, &mut report, &mut |_| {}, &mut |item| {
        each(Place::new(&files.read[item.file].path, item.row), item.example)
    })?;
    report.pairs_per_epoch = report.pairs;
    Ok(report)
}

/// A pair that came through.
pub(crate) struct Item {
    pub file: usize,
    pub row: usize,
    pub key: u64,
    pub example: Example,
    pub encoded: Option<Encoded>,
}

pub(crate) struct SourceFile {
    pub path: PathBuf,
    pub weight: f64,
    pub bytes: u64,
    /// Its source's, or those of all.
    pub columns: BTreeMap<String, String>,
    pub format: Option<Format>,
}

pub(crate) struct Files {
    pub read: Vec<SourceFile>,
    pub skipped: Vec<PathBuf>,
}

/// An epoch is a list of indices: a slip in the weight must not fill the memory with it.
const MAX_WEIGHT: f64 = 1000.0;

impl Files {
    pub fn resolve(sources: &[Source], options: &Options) -> Result<Self, Error> {
        options.validate()?;
        let mut out = Files { read: Vec::new(), skipped: Vec::new() };
        for source in sources {
            if !(source.weight > 0.0 && source.weight <= MAX_WEIGHT) {
                let expected = format!("weight {}; expected a number above 0, at most {MAX_WEIGHT}", source.weight);
                return Err(Error::file(&source.path, expected));
            }
            let columns = source.columns.as_ref().unwrap_or(&options.columns);
            options::columns(columns)
                .map_err(|message| Error::file(&source.path, format!("data option `columns`: {message}")))?;
            let format = source.format.or(options.format);
            let folder::Files { read, skipped } = folder::files(source, options)?;
            for path in read {
                let bytes = std::fs::metadata(&path).map_err(Error::io(&path, "open"))?.len();
                let columns = columns.clone();
                out.read.push(SourceFile { path, weight: source.weight, bytes, columns, format });
            }
            out.skipped.extend(skipped);
        }
        if out.read.is_empty() {
            return Err(Error::Option { key: "data", message: "names no file".to_owned() });
        }
        Ok(out)
    }
}

/// What a worker made of one row.
struct Worked {
    row: usize,
    /// Columns that were renamed, and those that the format does not read.
    renamed: Vec<String>,
    unknown: Vec<String>,
    example: Option<Example>,
    /// Of prompt, chosen and rejected.
    key: u128,
    text_faults: Vec<Fault>,
    encoded: Option<Encoded>,
    token_faults: Vec<Fault>,
}

const BATCH_BYTES: usize = 1 << 20;
const BATCH_ROWS: usize = 2048;

pub(crate) fn run(
    files: &Files,
    encoder: Option<&Encoder>,
    options: &Options,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
    each: &mut dyn FnMut(Item) -> Result<(), Error>,
) -> Result<(), Error> {
    let total_bytes = files.read.iter().map(|f| f.bytes).sum();
    let bytes = AtomicU64::new(0);
    let mut seen = HashSet::new();
    report.columns_not_found = files.read.iter().flat_map(|file| file.columns.keys().cloned()).collect();
    for (index, file) in files.read.iter().enumerate() {
        report.files.push(FileReport { path: file.path.clone(), format: file.format, rows: 0, pairs: 0 });
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel::<Vec<Raw>>(2);
            let bytes = &bytes;
            let reader = scope.spawn(move || {
                let (mut batch, mut size) = (Vec::new(), 0);
                let tally = source::rows(&file.path, bytes, &mut |raw| {
                    size += raw.body.size();
                    batch.push(raw);
                    if size < BATCH_BYTES && batch.len() < BATCH_ROWS {
                        return ControlFlow::Continue(());
                    }
                    size = 0;
                    match send.send(std::mem::take(&mut batch)) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()), // the other end met an error
                    }
                });
                // Rows before a reader's error are still looked at: theirs is the earlier one.
                let _ = send.send(batch);
                tally
            });
            let mut result = Ok(());
            for batch in &receive {
                result = work(index, file, batch, encoder, options, report, &mut seen, each);
                if result.is_err() {
                    break;
                }
                let bytes = bytes.load(Ordering::Relaxed);
                progress(Progress { bytes, total_bytes, rows: report.rows, pairs: report.pairs });
            }
            drop(receive);
            let tally = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result?;
            report.blank_lines += tally?.blank_lines;
            Ok(())
        })?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)] // one caller; a struct would only rename the list
fn work(
    index: usize,
    file: &SourceFile,
    batch: Vec<Raw>,
    encoder: Option<&Encoder>,
    options: &Options,
    report: &mut Report,
    seen: &mut HashSet<u128>,
    each: &mut dyn FnMut(Item) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(first) = batch.first() else { return Ok(()) };
    let format = match report.files[index].format {
        Some(format) => format,
        None => {
            let row = match &first.body {
                Body::Line(line) => Body::Line(line.clone()).parse(),
                Body::Row(row) => Ok(row.clone()),
            };
            let format = row.and_then(|row| format::recognise(&format::rename(row, &file.columns)?));
            *report.files[index].format.insert(format.map_err(|f| f.into_error(Place::new(&file.path, first.row)))?)
        }
    };
    let worked: Vec<Worked> =
        batch.into_par_iter().map(|raw| one(raw, format, &file.columns, encoder, options)).collect();
    for Worked { row, renamed, unknown, example, key, text_faults, encoded, token_faults } in worked {
        let place = || Place::new(&file.path, row);
        report.rows += 1;
        report.files[index].rows += 1;
        for column in renamed {
            report.columns_not_found.remove(&column);
        }
        for column in unknown {
            *report.columns_not_read.entry(column).or_default() += 1;
        }
        let mut dropped = judge(text_faults, options, report, &place, false)?;
        if example.is_some() && !seen.insert(key) {
            let again =
                Fault::dirt(Dirt::DuplicateRow, "prompt", "prompt, chosen and rejected stand in an earlier row");
            dropped = judge(vec![again], options, report, &place, dropped)?;
        }
        if dropped {
            continue;
        }
        let overlong = token_faults.iter().any(|f| matches!(f.kind, FaultKind::Dirt(Dirt::Overlong, _)));
        let dropped = judge(token_faults, options, report, &place, false)?;
        if dropped {
            if let (true, Some(encoded)) = (overlong, &encoded) {
                report.tokens_dropped += encoded.touches.length;
            }
            continue;
        }
        let Some(example) = example else { continue };
        report.pairs += 1;
        report.files[index].pairs += 1;
        if let Some(encoded) = &encoded {
            encoded.count(report);
        }
        each(Item { file: index, row, key: key as u64, example, encoded })?;
    }
    Ok(())
}

/// Counts the faults of a row and says whether the row is left out.
fn judge(
    faults: Vec<Fault>,
    options: &Options,
    report: &mut Report,
    place: &dyn Fn() -> Place,
    mut dropped: bool,
) -> Result<bool, Error> {
    let mut counted = Vec::new();
    for fault in faults {
        let FaultKind::Dirt(dirt, _) = fault.kind else {
            if dropped {
                continue;
            }
            return Err(fault.into_error(place()));
        };
        if counted.contains(&dirt) {
            continue;
        }
        counted.push(dirt);
        let entry = report.dirt.entry(dirt).or_default();
        entry.found += 1;
        if entry.examples.len() < 5 {
            let Place { file, row } = place();
            entry.examples.push((file, row));
        }
        match options.verdict(dirt) {
            _ if dropped => {}
            Verdict::Keep => {}
            Verdict::Refuse => return Err(fault.into_error(place())),
            Verdict::Drop => {
                entry.dropped += 1;
                dropped = true;
            }
        }
    }
    Ok(dropped)
}

fn one(
    raw: Raw,
    format: Format,
    columns: &BTreeMap<String, String>,
    encoder: Option<&Encoder>,
    options: &Options,
) -> Worked {
    let mut worked = Worked {
        row: raw.row,
        renamed: Vec::new(),
        unknown: Vec::new(),
        example: None,
        key: 0,
        text_faults: Vec::new(),
        encoded: None,
        token_faults: Vec::new(),
    };
    let parsed = raw.body.parse().and_then(|row| {
        let renamed = columns.keys().filter(|c| row.contains_key(*c)).cloned().collect();
        Ok((renamed, format::rename(row, columns)?))
    });
    let row = match parsed {
        Ok((renamed, row)) => {
            worked.renamed = renamed;
            row
        }
        Err(fault) => {
            worked.text_faults.push(fault);
            return worked;
        }
    };
    let known = format::fields(format);
    worked.unknown = row.keys().filter(|k| !known.contains(&k.as_str())).cloned().collect();
    (worked.example, worked.text_faults) = format::example(row, format, options);
    if let Some(example) = &worked.example {
        worked.key = key(example);
        let sound = |f: &Fault| matches!(f.kind, FaultKind::Dirt(d, _) if options.verdict(d) == Verdict::Keep);
        if let Some(encoder) = encoder
            && worked.text_faults.iter().all(sound)
        {
            (worked.encoded, worked.token_faults) = encoder.encode(example);
        }
    }
    worked
}

/// A hash of what the pair says, the same whatever file and format it came from.
fn key(example: &Example) -> u128 {
    let mut hash = Xxh3::new();
    let mut part = |text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    match example {
        Example::Plain { prompt, chosen, rejected } => [prompt, chosen, rejected].into_iter().for_each(|t| part(t)),
        Example::Chat { prompt, chosen, rejected, tools, chat_template_kwargs } => {
            for side in [prompt, chosen, rejected] {
                part(&serde_json::Value::Array(side.clone()).to_string());
            }
            if let Some(tools) = tools {
                part(&tools.to_string());
            }
            part(&serde_json::Value::Object(chat_template_kwargs.clone()).to_string());
        }
    }
    hash.digest128()
}

/// Changes when the same input would give other tokens or another report.
const CACHE_VERSION: u32 = 2;

fn fingerprint(files: &Files, encoder: &Encoder, options: &Options) -> Result<u128, Error> {
    let mut facts = CACHE_VERSION.to_le_bytes().to_vec();
    for file in &files.read {
        facts.extend(file.path.to_string_lossy().bytes());
        let mut reader = std::fs::File::open(&file.path).map_err(Error::io(&file.path, "open"))?;
        let mut hash = Xxh3::new();
        std::io::copy(&mut std::io::BufReader::with_capacity(1 << 20, &mut reader), &mut Hashing(&mut hash))
            .map_err(Error::io(&file.path, "read"))?;
        facts.extend(hash.digest128().to_le_bytes());
        // What the source itself says; the rest of `options` goes for all.
        facts.extend(json(&(&file.columns, file.format))?);
    }
    facts.extend(files.skipped.iter().flat_map(|p| p.to_string_lossy().bytes().collect::<Vec<_>>()));
    facts.extend(encoder.fingerprint().to_le_bytes());
    // The seed acts after the cache, on the weights.
    let options = Options { cache_dir: None, seed: 0, ..options.clone() };
    facts.extend(json(&options)?);
    Ok(xxh3_128(&facts))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
        .map_err(|e| Error::Option { key: "chat_template_kwargs", message: format!("not JSON: {e}") })
}

struct Hashing<'h>(&'h mut Xxh3);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

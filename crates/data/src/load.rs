//! The way from files to tokens: one thread reads, all cores parse and tokenise, and the rows come out in order.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, FileType};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use collimate_workers::{Solo, Workers, exchange, share};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::dataset::{Builder, Dataset, Lessons, Record};
use crate::encode::{Encoded, Encoder, Tokens};
use crate::error::{Error, Place};
use crate::folder;
use crate::format::{self, Example, Fault, Row, Said, Text};
use crate::options::{self, Dirt, Format, Options, Task, Verdict};
use crate::report::{FileReport, Report};
use crate::source::{self, Raw, Source};
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
    load_with::<Tokens>(sources, tokenizer, options, &mut |_| {})
}

/// Reads and tokenises supervised data: of pairs the chosen side.
///
/// # Errors
/// The first thing that the options do not allow, and options that are for pairs.
pub fn load_lessons(sources: &[Source], tokenizer: &Tokenizer, options: &Options) -> Result<(Lessons, Report), Error> {
    load_with(sources, tokenizer, options, &mut |_| {})
}

/// As [`load`] or [`load_lessons`], by what a data set of it is wanted, telling `progress` after every batch of rows;
/// nothing is told when the cache has the tokens already.
///
/// # Errors
/// As [`load`].
pub fn load_with<T: Record>(
    sources: &[Source],
    tokenizer: &Tokenizer,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Dataset<T>, Report), Error> {
    load_among(&Solo, sources, tokenizer, options, progress)
}

/// As [`load_with`], together with others that read the same: each tokenises its share of every batch of rows, and has all.
/// The cache is used where all of them see it, and written by the first.
///
/// # Errors
/// As [`load`], and workers that read other rows.
pub fn load_among<T: Record>(
    workers: &dyn Workers,
    sources: &[Source],
    tokenizer: &Tokenizer,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Dataset<T>, Report), Error> {
    let units = T::TASK.units();
    let files = Files::resolve(sources, options, T::TASK)?;
    let encoder = Encoder::new(tokenizer, options)?;
    let cache = match &options.cache_dir {
        None => None,
        Some(folder) => Some(folder.join(format!("{:032x}.{units}", fingerprint(&files, &encoder, options)?))),
    };
    let mut cached = cache.as_deref().map(Dataset::open).transpose()?.flatten();
    if workers.size() > 1 && exchange(workers, &cached.is_some())?.contains(&false) {
        cached = None;
    }
    let (mut dataset, mut report) = match cached {
        Some((dataset, report)) => (dataset, Report { from_cache: true, ..report }),
        None => {
            let mut builder = Builder::new(cache.filter(|_| workers.rank() == 0))?;
            let mut report = files.report();
            let mut each = |item: Item| match item.encoded {
                Some(encoded) => builder.push(&encoded.into_record(item.key, item.file, item.row)),
                None => Ok(()),
            };
            run(&files, (Some(&encoder), workers), options, &mut report, progress, &mut each)?;
            (builder.finish(&report)?, report)
        }
    };
    if report.pairs == 0 {
        let first = files.read.first().map(|f| f.path.clone()).unwrap_or_default();
        return Err(Error::file(
            &first,
            format!("no {} is left of {} rows\n{report}", &units[..units.len() - 1], report.rows),
        ));
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
    let files = Files::resolve(sources, options, Task::Align)?;
    let mut report = files.report();
    run(&files, (None, &Solo), options, &mut report, &mut |_| {}, &mut |item| match item.said.pair() {
        Some(example) => each(Place::new(&files.read[item.file].path, item.row), example),
        None => Ok(()), // no row of a pair is one
    })?;
    report.pairs_per_epoch = report.pairs;
    Ok(report)
}

/// What the rows of `sources` are: pairs, if the first that is read is one, and lessons otherwise.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn recognise(sources: &[Source], options: &Options) -> Result<Task, Error> {
    let files = Files::resolve(sources, options, Task::Sft)?;
    for file in &files.read {
        if let Some(format) = file.format {
            return Ok(if format.is_supervised() { Task::Sft } else { Task::Align });
        }
        let mut found = None;
        source::rows(&file.path, file.open()?, &AtomicU64::new(0), &mut |raw| {
            let row = raw.body.parse().and_then(|row| format::rename(row, &file.columns));
            let Ok(mut row) = row else { return ControlFlow::Continue(()) };
            if format::unpack(&mut row).is_err() {
                return ControlFlow::Continue(());
            }
            found = [Task::Align, Task::Sft].into_iter().find(|task| format::recognise(&row, *task, options).is_ok());
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(task) = found {
            return Ok(task);
        }
    }
    Ok(Task::Align)
}

/// A row that came through.
pub(crate) struct Item {
    pub file: usize,
    pub row: usize,
    pub key: u64,
    pub said: Said,
    pub encoded: Option<Encoded>,
}

#[derive(Debug)]
pub(crate) struct SourceFile {
    pub path: PathBuf,
    pub weight: f64,
    pub bytes: u64,
    /// Its source's, or those of all.
    pub columns: BTreeMap<String, String>,
    pub format: Option<Format>,
    /// What came out of a pipe, which can be read but once.
    piped: Option<File>,
}

impl SourceFile {
    pub fn open(&self) -> Result<File, Error> {
        match &self.piped {
            None => File::open(&self.path).map_err(Error::io(&self.path, "open")),
            Some(copy) => {
                let mut copy = copy.try_clone().map_err(Error::io(&self.path, "open"))?;
                std::io::Seek::rewind(&mut copy).map_err(Error::io(&self.path, "read"))?;
                Ok(copy)
            }
        }
    }
}

/// A copy of what a pipe gives, without a name; None for a file.
fn piped(path: &Path, kind: FileType) -> Result<Option<File>, Error> {
    if kind.is_file() {
        return Ok(None);
    }
    #[cfg(unix)]
    let pipe = std::os::unix::fs::FileTypeExt::is_fifo(&kind);
    #[cfg(not(unix))]
    let pipe = false;
    if !pipe {
        return Err(Error::file(path, "neither a file, a folder nor a pipe"));
    }
    let mut from = File::open(path).map_err(Error::io(path, "open"))?;
    let mut copy = tempfile::tempfile().map_err(Error::io(&std::env::temp_dir(), "create a temporary file in"))?;
    std::io::copy(&mut from, &mut copy).map_err(Error::io(path, "copy the pipe"))?;
    Ok(Some(copy))
}

#[derive(Debug)]
pub(crate) struct Files {
    pub task: Task,
    pub read: Vec<SourceFile>,
    pub skipped: Vec<PathBuf>,
}

/// An epoch is a list of indices: a slip in the weight must not fill the memory with it.
const MAX_WEIGHT: f64 = 1000.0;

impl Files {
    pub fn resolve(sources: &[Source], options: &Options, task: Task) -> Result<Self, Error> {
        options.validate_for(task)?;
        let mut out = Files { task, read: Vec::new(), skipped: Vec::new() };
        for source in sources {
            if !(source.weight > 0.0 && source.weight <= MAX_WEIGHT) {
                let expected = format!("weight {}; expected a number above 0, at most {MAX_WEIGHT}", source.weight);
                return Err(Error::file(&source.path, expected));
            }
            let columns = source.columns.as_ref().unwrap_or(&options.columns);
            options::columns(columns)
                .map_err(|message| Error::file(&source.path, format!("data option `columns`: {message}")))?;
            let format = source.format.or(options.format);
            if let Some(format) = format.filter(|f| task != Task::Sft && f.is_supervised()) {
                let message =
                    format!("data option `format`: {:?} is for supervised training, and has no pairs", format.name());
                return Err(Error::file(&source.path, message));
            }
            let folder::Files { read, skipped } = folder::files(source, options)?;
            for path in read {
                let meta = std::fs::metadata(&path).map_err(Error::io(&path, "open"))?;
                let piped = piped(&path, meta.file_type())?;
                let bytes = match &piped {
                    None => meta.len(),
                    Some(copy) => copy.metadata().map_err(Error::io(&path, "read"))?.len(),
                };
                let columns = columns.clone();
                out.read.push(SourceFile { path, weight: source.weight, bytes, columns, format, piped });
            }
            out.skipped.extend(skipped);
        }
        if out.read.is_empty() {
            return Err(Error::Option { key: "data", message: "names no file".to_owned() });
        }
        Ok(out)
    }

    /// The report that reading them begins with.
    pub fn report(&self) -> Report {
        Report { task: self.task, files_not_read: self.skipped.clone(), ..Report::default() }
    }
}

/// What a worker made of one row.
#[derive(Default)]
struct Worked {
    row: usize,
    /// Columns that were renamed, and those that the format does not read.
    renamed: Vec<String>,
    unknown: Vec<String>,
    said: Option<Said>,
    margin: Option<f32>,
    /// Of the prompt and what is scored.
    key: u128,
    text_faults: Vec<Fault>,
    encoded: Option<Encoded>,
    token_faults: Vec<Fault>,
}

const BATCH_BYTES: usize = 1 << 20;
const BATCH_ROWS: usize = 2048;

/// Starts the threads that rows are spread over, if none have been, so that a number of them that the system does not give
/// is an error.
fn threads() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    const MOST: usize = 1024;
    let start = || {
        let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse::<usize>().ok());
        if asked.is_some_and(|n| n > MOST) {
            return Err(format!("at most {MOST} can"));
        }
        match rayon::ThreadPoolBuilder::new().build_global() {
            Err(e) if std::error::Error::source(&e).is_some() => Err(e.to_string()),
            _ => Ok(()), // there, or started by someone else
        }
    };
    STARTED.get_or_init(start).clone().map_err(|e| Error::Option {
        key: "RAYON_NUM_THREADS",
        message: format!("so many threads cannot be started: {e}; leave the variable out, or ask for fewer"),
    })
}

pub(crate) fn run(
    files: &Files,
    (encoder, workers): (Option<&Encoder>, &dyn Workers),
    options: &Options,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
    each: &mut dyn FnMut(Item) -> Result<(), Error>,
) -> Result<(), Error> {
    threads()?;
    let total_bytes = files.read.iter().map(|f| f.bytes).sum();
    let bytes = AtomicU64::new(0);
    report.columns_not_found = files.read.iter().flat_map(|file| file.columns.keys().cloned()).collect();
    let task = files.task;
    let (seen, refused, nothing_read) = (HashSet::new(), None, None);
    let mut walk = Walk { task, encoder, workers, options, report, seen, refused, nothing_read, each };
    for (index, file) in files.read.iter().enumerate() {
        walk.report.files.push(FileReport { path: file.path.clone(), format: file.format, rows: 0, pairs: 0 });
        let opened = file.open()?;
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel::<Vec<Raw>>(2);
            let bytes = &bytes;
            let reader = scope.spawn(move || {
                let (mut batch, mut size) = (Vec::new(), 0);
                let tally = source::rows(&file.path, opened, bytes, &mut |raw| {
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
                result = walk.batch(index, file, batch);
                if result.is_err() {
                    break;
                }
                let bytes = bytes.load(Ordering::Relaxed);
                progress(Progress { bytes, total_bytes, rows: walk.report.rows, pairs: walk.report.pairs });
            }
            drop(receive);
            let tally = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Some(refused) = walk.refused.take() {
                return Err(refused.into_error(result.is_ok() && tally.is_ok()));
            }
            result?;
            walk.report.blank_lines += tally?.blank_lines;
            // Where no row of a file is like a known one, it is the file that is at fault.
            match walk.nothing_read.take().filter(|_| walk.report.files[index].format.is_none()) {
                None => Ok(()),
                Some(first) => Err(first),
            }
        })?;
    }
    // None has read more than the others.
    walk.share_out(Path::new("the data"), &mut [], 0..0)
}

/// What a worker tells the others of a batch of rows: its share as tokens, and what all of the batch is.
#[derive(Serialize, Deserialize)]
struct Told {
    rows: usize,
    /// A hash of their texts.
    key: u128,
    encoded: Vec<(Option<Encoded>, Vec<Fault>)>,
}

/// The first row that the policies refuse, and what else of its file they would.
struct Refused {
    first: Box<Error>,
    rows: usize,
    dirty: usize,
    found: BTreeMap<Dirt, usize>,
}

impl Refused {
    fn count(&mut self, dirt: impl Iterator<Item = Dirt>) {
        let mut kinds: Vec<_> = dirt.collect();
        kinds.sort_unstable();
        kinds.dedup();
        self.dirty += usize::from(!kinds.is_empty());
        for kind in kinds {
            *self.found.entry(kind).or_default() += 1;
        }
    }

    /// `whole`: the file was read to its end.
    fn into_error(self, whole: bool) -> Error {
        if self.dirty < 2 {
            return *self.first;
        }
        let kinds: Vec<_> = self.found.iter().map(|(dirt, n)| format!("{n} {}", dirt.words())).collect();
        let of = if whole { format!("the {} rows", self.rows) } else { format!("the first {} rows", self.rows) };
        let others = format!(
            "{} of {of} of this file are refused ({}); `dirty_rows = \"drop\"` leaves all of them out",
            self.dirty,
            kinds.join(", ")
        );
        Error::Dirty { first: self.first, others }
    }
}

/// The way through the rows.
struct Walk<'w, 'e> {
    task: Task,
    encoder: Option<&'w Encoder<'e>>,
    workers: &'w dyn Workers,
    options: &'w Options,
    report: &'w mut Report,
    seen: HashSet<u128>,
    /// Once there is one, rows are only counted.
    refused: Option<Refused>,
    /// What was wrong with the first row of the file, where none before it could be read.
    nothing_read: Option<Error>,
    each: &'w mut dyn FnMut(Item) -> Result<(), Error>,
}

impl Walk<'_, '_> {
    fn batch(&mut self, index: usize, file: &SourceFile, batch: Vec<Raw>) -> Result<(), Error> {
        if self.report.files[index].format.is_none() {
            self.report.files[index].format = self.recognise(file, &batch)?;
        }
        let format = self.report.files[index].format;
        let (task, encoder, options) = (self.task, self.encoder, self.options);
        let own = share(batch.len(), self.workers);
        let encoder = |i: usize| encoder.filter(|_| own.contains(&i));
        let rows = batch.into_par_iter().enumerate();
        let mut worked: Vec<Worked> = rows.map(|(i, raw)| one(raw, format, file, task, encoder(i), options)).collect();
        self.share_out(&file.path, &mut worked, own)?;
        for worked in worked {
            self.report.rows += 1;
            self.report.files[index].rows += 1;
            let result = self.row(index, file, worked);
            match (result, &mut self.refused) {
                (Ok(()), _) => {}
                // Only dirt is looked for from here on.
                (Err(Stop::Dirt(error, kinds)), refused) => {
                    let rows = self.report.files[index].rows;
                    let start = || Refused { first: error, rows, dirty: 0, found: BTreeMap::new() };
                    let refused = refused.get_or_insert_with(start);
                    refused.count(kinds.into_iter());
                }
                (Err(Stop::Other(_)), Some(_)) => {}
                (Err(Stop::Other(error)), None) => return Err(*error),
            }
            if let Some(refused) = &mut self.refused {
                refused.rows = self.report.files[index].rows;
            }
        }
        Ok(())
    }

    /// Completes rows of which this worker has tokenised those of `own` by what the others have made of the rest.
    fn share_out(&self, file: &Path, worked: &mut [Worked], own: Range<usize>) -> Result<(), Error> {
        if self.workers.size() == 1 {
            return Ok(());
        }
        let mut hash = Xxh3::new();
        worked.iter().for_each(|w| hash.update(&w.key.to_le_bytes()));
        let encoded = worked[own].iter_mut().map(|w| (w.encoded.take(), std::mem::take(&mut w.token_faults))).collect();
        let (rows, key) = (worked.len(), hash.digest128());
        let told = exchange(self.workers, &Told { rows, key, encoded })?;
        if let Some(rank) = told.iter().position(|t| (t.rows, t.key) != (rows, key)) {
            let message = format!("worker {rank} reads other rows than this one, number {}", self.workers.rank());
            return Err(Error::file(file, message));
        }
        let all = told.into_iter().flat_map(|t| t.encoded);
        worked.iter_mut().zip(all).for_each(|(w, told)| (w.encoded, w.token_faults) = told);
        Ok(())
    }

    /// By the first row that lacks nothing.
    fn recognise(&self, file: &SourceFile, batch: &[Raw]) -> Result<Option<Format>, Error> {
        for raw in batch {
            let Ok(mut row) = raw.body.clone().parse() else { continue };
            if !file.columns.is_empty() {
                row = format::rename(row, &file.columns).map_err(|f| f.into_error(Place::new(&file.path, raw.row)))?;
            }
            if format::unpack(&mut row).is_err() {
                continue;
            }
            match format::recognise(&row, self.task, self.options) {
                Ok(format) => return Ok(Some(format)),
                Err(fault) if fault.dirt().is_some() => {}
                Err(fault) => return Err(fault.into_error(Place::new(&file.path, raw.row))),
            }
        }
        Ok(None)
    }

    fn row(&mut self, index: usize, file: &SourceFile, worked: Worked) -> Result<(), Stop> {
        let Worked { row, renamed, unknown, said, key, text_faults, encoded, token_faults, .. } = worked;
        let place = || Place::new(&file.path, row);
        for column in renamed {
            self.report.columns_not_found.remove(&column);
        }
        for column in unknown {
            *self.report.columns_not_read.entry(column).or_default() += 1;
        }
        let mut faults = text_faults;
        if said.is_some() && !self.seen.insert(key) {
            let again = match self.task {
                Task::Align | Task::Reward => "prompt, chosen and rejected stand in an earlier row",
                Task::Sft => "all that it teaches stands in an earlier row",
            };
            faults.push(Fault::new(Dirt::DuplicateRow, "prompt", again));
        }
        let of_text = faults.len();
        faults.extend(token_faults);
        let refuses = |fault: &Fault| fault.dirt().is_some_and(|d| self.options.verdict(d) == Verdict::Refuse);
        let drops = |fault: &Fault| fault.dirt().is_some_and(|d| self.options.verdict(d) == Verdict::Drop);
        // The first that decides; a row that is left out for its text is not asked for its tokens.
        let dropped = faults.iter().position(drops);
        let stops = faults.iter().position(|f| refuses(f) || f.dirt().is_none());
        if let Some(at) = stops.filter(|at| dropped.is_none_or(|d| *at < d)) {
            let kinds: Vec<_> = faults.iter().filter(|f| refuses(f)).filter_map(Fault::dirt).collect();
            let fault = faults.swap_remove(at);
            return Err(match fault.dirt() {
                Some(_) => Stop::Dirt(Box::new(fault.into_error(place())), kinds),
                None => Stop::Other(Box::new(fault.into_error(place()))),
            });
        }
        if self.refused.is_some() {
            return Ok(());
        }
        let mut counted = Vec::new();
        for (at, fault, dirt) in faults.iter().enumerate().filter_map(|(at, f)| Some((at, f, f.dirt()?))) {
            if counted.contains(&dirt) || dropped.is_some_and(|d| d < of_text && at >= of_text) {
                continue;
            }
            counted.push(dirt);
            let entry = self.report.dirt.entry(dirt).or_default();
            entry.found += 1;
            entry.dropped += usize::from(dropped == Some(at));
            if entry.examples.is_empty() {
                entry.first = fault.message();
            }
            if entry.examples.len() < 5 {
                entry.examples.push((file.path.clone(), row));
            }
        }
        if let Some(at) = dropped {
            if self.report.files[index].format.is_none() && self.nothing_read.is_none() {
                self.nothing_read = Some(faults.swap_remove(at).into_error(place()));
                return Ok(());
            }
            let overlong = at >= of_text && faults.iter().any(|f| f.dirt() == Some(Dirt::Overlong));
            if let (true, Some(encoded)) = (overlong, &encoded) {
                self.report.tokens_dropped += encoded.touches.length;
            }
            return Ok(());
        }
        let Some(said) = said else { return Ok(()) };
        self.report.pairs += 1;
        self.report.files[index].pairs += 1;
        if let Some(encoded) = &encoded {
            encoded.count(self.report);
        }
        (self.each)(Item { file: index, row, key: key as u64, said, encoded }).map_err(|e| Stop::Other(Box::new(e)))
    }
}

/// Why the walk ends at a row.
enum Stop {
    /// Dirt that the policies refuse: the first of it, and all kinds in the row.
    Dirt(Box<Error>, Vec<Dirt>),
    Other(Box<Error>),
}

/// `format` is none where no row before had one.
fn one(
    raw: Raw,
    format: Option<Format>,
    file: &SourceFile,
    task: Task,
    encoder: Option<&Encoder>,
    options: &Options,
) -> Worked {
    let mut worked = Worked { row: raw.row, ..Worked::default() };
    match read_row(raw, format, file, task, options, &mut worked) {
        Err(fault) => worked.text_faults.push(fault),
        Ok((row, format)) => (worked.said, worked.text_faults) = format::said(row, format, task, options),
    }
    if let Some(said) = &worked.said {
        worked.key = key(said);
        let sound = |f: &Fault| f.dirt().is_some_and(|d| options.verdict(d) == Verdict::Keep);
        if let Some(encoder) = encoder
            && worked.text_faults.iter().all(sound)
        {
            (worked.encoded, worked.token_faults) = encoder.encode(said);
            worked.encoded.iter_mut().for_each(|e| e.margin = worked.margin);
        }
    }
    worked
}

/// The row under its format's names.
fn read_row(
    raw: Raw,
    format: Option<Format>,
    file: &SourceFile,
    task: Task,
    options: &Options,
    worked: &mut Worked,
) -> Result<(Row, Format), Fault> {
    let row = raw.body.parse()?;
    worked.renamed = file.columns.keys().filter(|c| row.contains_key(*c)).cloned().collect();
    let mut row = format::rename(row, &file.columns)?;
    format::unpack(&mut row)?;
    let format = match format {
        Some(format) => format,
        None => format::recognise(&row, task, options)?,
    };
    let known = format::fields(format);
    worked.unknown = row.keys().filter(|k| !known.contains(&k.as_str())).cloned().collect();
    if task == Task::Reward {
        worked.margin = format::margin(&row)?;
        worked.unknown.retain(|k| k != format::MARGIN);
    }
    if let Some(fault) = format::odd_number(&row, known) {
        return Err(fault);
    }
    if file.format.is_none()
        && let Some(fault) = format::unread(&row, format, options)
    {
        return Err(fault);
    }
    Ok((row, format))
}

/// A hash of what the row says, the same whatever file and format it came from.
fn key(said: &Said) -> u128 {
    let mut hash = Xxh3::new();
    let mut part = |text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    match &said.text {
        Text::Plain { prompt, sides } => std::iter::once(prompt).chain(sides).for_each(|t| part(t)),
        Text::Chat { prompt, sides, tools, chat_template_kwargs } => {
            for side in std::iter::once(prompt).chain(sides) {
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
const CACHE_VERSION: u32 = 4;

fn fingerprint(files: &Files, encoder: &Encoder, options: &Options) -> Result<u128, Error> {
    let mut facts = CACHE_VERSION.to_le_bytes().to_vec();
    facts.extend(json(&files.task)?);
    for file in &files.read {
        facts.extend(file.path.to_string_lossy().bytes());
        let mut reader = file.open()?;
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

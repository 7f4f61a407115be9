//! Tokenised pairs or lessons, in memory or in a memory-mapped file, found by index.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::Xxh3;

use crate::encode::{Lesson, Rated, Tokens};
use crate::options::Task;
use crate::{Error, Report};

/// Marks a token that is not scored; ids stay below it.
const UNSCORED: u32 = 1 << 31;
/// In memory without a cache: this many tokens (256 MiB), then a temporary file takes over.
const SPILL: usize = 1 << 26;

/// Tokens of a side, and which of them are scored; none: all of them.
pub(crate) type Scored = (Vec<u32>, Option<Vec<bool>>);

/// What a data set is a list of: [`Tokens`], [`Rated`] or [`Lesson`].
pub trait Record: parts::Parts {
    /// Its token counts.
    type Lengths: Copy;
    /// What rows become it for.
    const TASK: Task;
    /// Its token counts, by those of its parts.
    #[doc(hidden)]
    fn lengths(prompt: usize, sides: [usize; 2]) -> Self::Lengths;
}

mod parts {
    use super::Scored;

    /// A record as it is stored: a prompt, and one side or two.
    pub trait Parts: Sized {
        /// Ends a cache file; changes with its layout, and differs on a machine of the other byte order.
        const MAGIC: u64;
        fn new(prompt: Vec<u32>, sides: [Scored; 2], margin: Option<f32>, place: (u64, usize, usize)) -> Self;
        fn prompt(&self) -> &[u32];
        fn sides(&self) -> [(&[u32], Option<&[bool]>); 2];
        fn margin(&self) -> Option<f32> {
            None
        }
        /// Key, file and row.
        fn place(&self) -> (u64, usize, usize);
    }
}
pub(crate) use parts::Parts;

impl Record for Tokens {
    type Lengths = Lengths;
    const TASK: Task = Task::Align;
    fn lengths(prompt: usize, [chosen, rejected]: [usize; 2]) -> Lengths {
        Lengths { prompt, chosen, rejected }
    }
}

impl Parts for Tokens {
    const MAGIC: u64 = u64::from_le_bytes(*b"CLMDATA3");
    fn new(
        prompt: Vec<u32>,
        [chosen, rejected]: [Scored; 2],
        _margin: Option<f32>,
        (key, file, row): (u64, usize, usize),
    ) -> Self {
        let ((chosen, chosen_mask), (rejected, rejected_mask)) = (chosen, rejected);
        Self { prompt, chosen, rejected, chosen_mask, rejected_mask, key, file, row }
    }
    fn prompt(&self) -> &[u32] {
        &self.prompt
    }
    fn sides(&self) -> [(&[u32], Option<&[bool]>); 2] {
        [(&self.chosen, self.chosen_mask.as_deref()), (&self.rejected, self.rejected_mask.as_deref())]
    }
    fn place(&self) -> (u64, usize, usize) {
        (self.key, self.file, self.row)
    }
}

impl Record for Rated {
    type Lengths = Lengths;
    const TASK: Task = Task::Reward;
    fn lengths(prompt: usize, sides: [usize; 2]) -> Lengths {
        Tokens::lengths(prompt, sides)
    }
}

impl Parts for Rated {
    const MAGIC: u64 = u64::from_le_bytes(*b"CLMRATE1");
    fn new(prompt: Vec<u32>, sides: [Scored; 2], margin: Option<f32>, place: (u64, usize, usize)) -> Self {
        Self { pair: Tokens::new(prompt, sides, None, place), margin }
    }
    fn prompt(&self) -> &[u32] {
        &self.pair.prompt
    }
    fn sides(&self) -> [(&[u32], Option<&[bool]>); 2] {
        self.pair.sides()
    }
    fn margin(&self) -> Option<f32> {
        self.margin
    }
    fn place(&self) -> (u64, usize, usize) {
        self.pair.place()
    }
}

impl Record for Lesson {
    type Lengths = LessonLengths;
    const TASK: Task = Task::Sft;
    fn lengths(prompt: usize, [completion, _]: [usize; 2]) -> LessonLengths {
        LessonLengths { prompt, completion }
    }
}

impl Parts for Lesson {
    const MAGIC: u64 = u64::from_le_bytes(*b"CLMSFT_2");
    fn new(
        prompt: Vec<u32>,
        [(completion, mask), _]: [Scored; 2],
        _margin: Option<f32>,
        (key, file, row): (u64, usize, usize),
    ) -> Self {
        Self { prompt, completion, mask, key, file, row }
    }
    fn prompt(&self) -> &[u32] {
        &self.prompt
    }
    fn sides(&self) -> [(&[u32], Option<&[bool]>); 2] {
        [(&self.completion, self.mask.as_deref()), (&[], None)]
    }
    fn place(&self) -> (u64, usize, usize) {
        (self.key, self.file, self.row)
    }
}

/// Where a record stands among the words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Entry {
    offset: u64,
    key: u64,
    row: u64,
    file: u32,
    prompt: u32,
    sides: [u32; 2],
    masked: u32,
    /// Not a number where there is none.
    margin: f32,
}

/// The last bytes of a cache file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Footer {
    words: u64,
    entries: u64,
    report: u64,
    /// Hash of all before it.
    check: u64,
    magic: u64,
}

#[derive(Debug)]
enum Words {
    Memory(Vec<u32>),
    Mapped(memmap2::Mmap),
}

/// Tokenised pairs, or whatever else `T` is.
#[derive(Debug)]
pub struct Dataset<T = Tokens> {
    words: Words,
    entries: Vec<Entry>,
    /// The entries of one epoch, where the weights of the sources make it other than all of them once.
    epoch: Option<Vec<u32>>,
    of: PhantomData<fn() -> T>,
}

/// Tokenised lessons.
pub type Lessons = Dataset<Lesson>;

/// The token counts of one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// In the prompt.
    pub prompt: usize,
    /// In the chosen completion.
    pub chosen: usize,
    /// In the rejected completion.
    pub rejected: usize,
}

/// The token counts of one lesson.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LessonLengths {
    /// In what is read and not learnt.
    pub prompt: usize,
    /// In the rest, masked tokens included.
    pub completion: usize,
}

impl<T: Record> Dataset<T> {
    /// A data set in memory, of pairs made elsewhere.
    ///
    /// # Errors
    /// A temporary file that cannot be written, where the pairs are too many for memory.
    pub fn from_tokens(pairs: impl IntoIterator<Item = T>) -> Result<Self, Error> {
        let mut builder = Builder::new(None)?;
        for pair in pairs {
            builder.push(&pair)?;
        }
        builder.finish(&Report::default())
    }

    /// The pairs of one epoch; repeats by weight are counted as often as they come.
    pub fn len(&self) -> usize {
        self.epoch.as_ref().map_or(self.entries.len(), Vec::len)
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entry(&self, i: usize) -> &Entry {
        &self.entries[self.epoch.as_ref().map_or(i, |e| e[i] as usize)]
    }

    fn words(&self) -> &[u32] {
        match &self.words {
            Words::Memory(words) => words,
            // Checked to be cut and aligned rightly when it was mapped.
            Words::Mapped(map) => bytemuck::cast_slice(&map[..map.len() & !3]),
        }
    }

    /// The token counts of pair `i`, without touching its tokens.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn lengths(&self, i: usize) -> T::Lengths {
        let e = self.entry(i);
        T::lengths(e.prompt as usize, e.sides.map(|n| n as usize))
    }

    /// The key of pair `i`: see [`Tokens::key`].
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn key(&self, i: usize) -> u64 {
        self.entry(i).key
    }

    /// Pair `i`.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    pub fn get(&self, i: usize) -> T {
        let e = self.entry(i);
        let mut at = e.offset as usize;
        let mut take = |n: u32| {
            let slice = &self.words()[at..at + n as usize];
            at += n as usize;
            slice
        };
        let prompt = take(e.prompt).to_vec();
        let sides = e.sides.map(|n| {
            let side = take(n);
            let mask = (e.masked != 0).then(|| side.iter().map(|w| w & UNSCORED == 0).collect());
            (side.iter().map(|w| w & !UNSCORED).collect(), mask)
        });
        let margin = Some(e.margin).filter(|m| !m.is_nan());
        T::new(prompt, sides, margin, (e.key, e.file as usize, e.row as usize))
    }

    /// The pairs, in the order of [`get`](Self::get).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Makes the epoch: `times[f]` is how often the pairs of file `f` are seen.
    pub(crate) fn weigh(&mut self, times: &[f64], seed: u64) {
        if times.iter().all(|t| *t == 1.0) {
            return;
        }
        let mut epoch = Vec::new();
        let mut start = 0;
        while start < self.entries.len() {
            let file = self.entries[start].file;
            let n = self.entries[start..].iter().take_while(|e| e.file == file).count();
            let weight = times[file as usize];
            let all: Vec<u32> = (start as u32..(start + n) as u32).collect();
            for _ in 0..weight as usize {
                epoch.extend(&all);
            }
            let part = (weight.fract() * n as f64).round() as usize;
            // Ranking by a hash is a seeded choice that does not depend on the other files.
            let mut ranked = all;
            ranked.sort_by_key(|i| {
                let e = &self.entries[*i as usize];
                (xxhash_rust::xxh3::xxh3_64_with_seed(&[e.key.to_le_bytes(), e.row.to_le_bytes()].concat(), seed), *i)
            });
            ranked.truncate(part);
            ranked.sort_unstable();
            epoch.extend(ranked);
            start += n;
        }
        self.epoch = Some(epoch);
    }

    /// Opens a cache file. None if there is none, or if it is not whole (it is then written anew).
    pub(crate) fn open(path: &Path) -> Result<Option<(Self, Report)>, Error> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, "open")(e)),
        };
        let map = map(&file).map_err(Error::io(path, "map"))?;
        Ok(Self::parse(map))
    }

    fn parse(map: memmap2::Mmap) -> Option<(Self, Report)> {
        let body = map.len().checked_sub(size_of::<Footer>())?;
        let footer: Footer = bytemuck::pod_read_unaligned(&map[body..]);
        let words = usize::try_from(footer.words).ok()?;
        let entries = usize::try_from(footer.entries).ok()?.checked_mul(size_of::<Entry>())?;
        let index = words.checked_mul(4)?;
        let report = index.checked_add(entries)?;
        if footer.magic != T::MAGIC || report.checked_add(usize::try_from(footer.report).ok()?)? != body {
            return None;
        }
        if xxhash_rust::xxh3::xxh3_64(&map[..body]) != footer.check {
            return None;
        }
        let entries: Vec<Entry> =
            map[index..report].chunks_exact(size_of::<Entry>()).map(bytemuck::pod_read_unaligned).collect();
        let fits = |e: &Entry| {
            let n = [e.prompt, e.sides[0], e.sides[1]].iter().map(|n| u64::from(*n)).sum::<u64>();
            e.offset.checked_add(n).is_some_and(|end| end <= footer.words)
        };
        if !entries.iter().all(fits) {
            return None;
        }
        let report = serde_json::from_slice(&map[report..body]).ok()?;
        Some((Self { words: Words::Mapped(map), entries, epoch: None, of: PhantomData }, report))
    }
}

/// Maps a file of this crate's own making.
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the file is either unlinked and ours alone, or a cache file that is written beside and renamed, never
    // changed afterwards. A user who truncates a cache file under a running program gets SIGBUS, as with any mmap.
    #[allow(unsafe_code)]
    unsafe {
        memmap2::Mmap::map(file)
    }
}

/// Takes records one by one and becomes a [`Dataset`].
pub(crate) struct Builder<T> {
    sink: Sink,
    written: u64,
    entries: Vec<Entry>,
    scratch: Vec<u32>,
    of: PhantomData<fn(T)>,
}

enum Sink {
    Memory(Vec<u32>),
    /// The final name, the name until then, the file, and the hash of what is in it.
    Cache(PathBuf, PathBuf, BufWriter<File>, Box<Xxh3>),
    Spilled(BufWriter<File>),
}

impl<T: Record> Builder<T> {
    /// Into `cache`, or into memory.
    pub fn new(cache: Option<PathBuf>) -> Result<Self, Error> {
        let sink = match cache {
            None => Sink::Memory(Vec::new()),
            Some(path) => {
                let folder = path.parent().unwrap_or(Path::new("."));
                std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
                // Several runs may fill the same cache: each beside the others, the last rename wins with equal bytes.
                static COUNT: AtomicU64 = AtomicU64::new(0);
                let own = format!("{}.{}.partial", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
                let beside = path.with_extension(own);
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&beside)
                    .map_err(Error::io(&beside, "create"))?;
                Sink::Cache(path, beside, BufWriter::with_capacity(1 << 20, file), Box::default())
            }
        };
        Ok(Self { sink, written: 0, entries: Vec::new(), scratch: Vec::new(), of: PhantomData })
    }

    pub fn push(&mut self, record: &T) -> Result<(), Error> {
        let sides = record.sides();
        let masked = sides.iter().any(|(_, mask)| mask.is_some());
        self.scratch.clear();
        self.scratch.extend(record.prompt());
        for (side, mask) in sides {
            match mask {
                None => self.scratch.extend(side),
                Some(mask) => self
                    .scratch
                    .extend(side.iter().zip(mask).map(|(id, scored)| if *scored { *id } else { *id | UNSCORED })),
            }
        }
        let (key, file, row) = record.place();
        self.entries.push(Entry {
            offset: self.written,
            key,
            row: row as u64,
            file: file as u32,
            prompt: record.prompt().len() as u32,
            sides: sides.map(|(side, _)| side.len() as u32),
            masked: u32::from(masked),
            margin: record.margin().unwrap_or(f32::NAN),
        });
        self.written += self.scratch.len() as u64;
        let scratch = std::mem::take(&mut self.scratch);
        self.write(&scratch)?;
        self.scratch = scratch;
        Ok(())
    }

    fn write(&mut self, words: &[u32]) -> Result<(), Error> {
        match &mut self.sink {
            Sink::Memory(all) => {
                all.extend(words);
                if all.len() > SPILL {
                    let folder = std::env::temp_dir();
                    let file = tempfile::tempfile().map_err(Error::io(&folder, "create a temporary file in"))?;
                    let mut file = BufWriter::with_capacity(1 << 20, file);
                    file.write_all(bytemuck::cast_slice(all)).map_err(Error::io(&folder, "write"))?;
                    self.sink = Sink::Spilled(file);
                }
                Ok(())
            }
            Sink::Cache(_, beside, file, hash) => {
                let bytes = bytemuck::cast_slice(words);
                hash.update(bytes);
                file.write_all(bytes).map_err(Error::io(beside, "write"))
            }
            Sink::Spilled(file) => file
                .write_all(bytemuck::cast_slice(words))
                .map_err(Error::io(&std::env::temp_dir(), "write a temporary file in")),
        }
    }

    pub fn finish(mut self, report: &Report) -> Result<Dataset<T>, Error> {
        let entries = std::mem::take(&mut self.entries);
        let words = match &mut self.sink {
            Sink::Memory(words) => Words::Memory(std::mem::take(words)),
            Sink::Spilled(file) => {
                let folder = std::env::temp_dir();
                file.flush().map_err(Error::io(&folder, "write a temporary file in"))?;
                Words::Mapped(map(file.get_ref()).map_err(Error::io(&folder, "map a temporary file in"))?)
            }
            Sink::Cache(path, beside, file, hash) => {
                let report = serde_json::to_vec(report).map_err(|e| Error::file(beside, e.to_string()))?;
                let index: &[u8] = bytemuck::cast_slice(&entries);
                hash.update(index);
                hash.update(&report);
                let footer = Footer {
                    words: self.written,
                    entries: entries.len() as u64,
                    report: report.len() as u64,
                    check: hash.digest(),
                    magic: T::MAGIC,
                };
                let write = |file: &mut BufWriter<File>| {
                    file.write_all(index)?;
                    file.write_all(&report)?;
                    file.write_all(bytemuck::bytes_of(&footer))?;
                    file.flush()?;
                    file.get_ref().sync_all()
                };
                write(file).map_err(Error::io(beside, "write"))?;
                std::fs::rename(&*beside, &*path).map_err(Error::io(path, "rename to"))?;
                Words::Mapped(map(file.get_ref()).map_err(Error::io(path, "map"))?)
            }
        };
        Ok(Dataset { words, entries, epoch: None, of: PhantomData })
    }
}

impl<T> Drop for Builder<T> {
    fn drop(&mut self) {
        // After a finished rename there is nothing under this name any more.
        if let Sink::Cache(_, beside, ..) = &self.sink {
            let _ = std::fs::remove_file(beside);
        }
    }
}

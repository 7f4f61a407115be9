//! What the pages of a Parquet file say of their own sizes, looked at before they are believed: the reader takes as much
//! memory as they ask for.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use parquet::basic::{Compression, Encoding};
use parquet::column::page::Page;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};

/// Bytes, uncompressed, of the pages that are in memory at once: one of each column, and its dictionary.
const MOST: u64 = 512 << 20;
/// What a value of a dictionary takes in memory, beside its bytes.
const ENTRY: u64 = 32;
/// What a length takes.
const LENGTH: u64 = 4;
/// Values of a column that the reader of records has in memory at once.
const BATCH: usize = 1024;

/// Refuses a file whose pages would take too much memory.
///
/// # Errors
/// A column whose pages are too large, with those of the columns before it.
pub(crate) fn check(metadata: &ParquetMetaData, file: &File) -> Result<(), String> {
    for group in metadata.row_groups() {
        let mut all = 0u64;
        for column in group.columns() {
            let (start, size) = column.byte_range();
            let (mut at, end) = (start, start.saturating_add(size));
            let (mut dictionary, mut data) = (0, 0);
            // Where a head can't be read, the reader stops as well, and says why.
            while let Some(page) = (at < end).then(|| Head::read(file, at)).flatten() {
                let bytes = match column.compression() {
                    Compression::UNCOMPRESSED => page.stored,
                    _ => page.whole,
                };
                match page.entries {
                    Some(entries) => dictionary = bytes.saturating_add(entries.saturating_mul(ENTRY)).max(dictionary),
                    None => data = bytes.max(data),
                }
                at = page.end;
            }
            all = all.saturating_add(dictionary).saturating_add(data);
            if all > MOST {
                return Err(format!(
                    "the column `{}` has pages of {} MiB, with those beside it {} MiB; expected at most {} MiB at once",
                    column.column_path().string(),
                    (dictionary.saturating_add(data)).div_ceil(1 << 20),
                    all.div_ceil(1 << 20),
                    MOST >> 20
                ));
            }
        }
    }
    Ok(())
}

/// Refuses pages of deltas, which say for themselves how many values they hold, and of how many bytes. To be asked after
/// [`check`]: the pages are taken into memory one by one.
///
/// # Errors
/// A page that says that it holds more than it can, or more than may be in memory at once.
pub(crate) fn deltas<R: ChunkReader + 'static>(reader: &SerializedFileReader<R>, file: &File) -> Result<(), String> {
    for (g, group) in reader.metadata().row_groups().iter().enumerate() {
        let mut all = 0u64;
        for (c, column) in group.columns().iter().enumerate() {
            if !has_deltas(column, file) {
                continue;
            }
            let place =
                |what: String| format!("the column `{}`, row group {}: {what}", column.column_path().string(), g + 1);
            let mut most = 0;
            // What can't be read, the reader stops at as well, and says why.
            let Ok(mut pages) = reader.get_row_group(g).and_then(|group| group.get_column_page_reader(c)) else {
                continue;
            };
            while let Ok(Some(page)) = pages.get_next_page() {
                most = needed(&page, column).map_err(place)?.max(most);
            }
            all = all.saturating_add(most);
            if all > MOST {
                return Err(place(format!(
                    "the values of a page take {} MiB, with those of the columns before it {} MiB; expected at most {} MiB \
                     at once",
                    most.div_ceil(1 << 20),
                    all.div_ceil(1 << 20),
                    MOST >> 20
                )));
            }
        }
    }
    Ok(())
}

/// Whether a page of the column is encoded as deltas, by its own head: what the footer says of encodings binds nobody.
fn has_deltas(column: &ColumnChunkMetaData, file: &File) -> bool {
    let (mut at, size) = column.byte_range();
    let end = at.saturating_add(size);
    while let Some(page) = (at < end).then(|| Head::read(file, at)).flatten() {
        if DELTAS.iter().any(|encoding| page.encoding == Some(*encoding as u64)) {
            return true;
        }
        at = page.end;
    }
    false
}

const DELTAS: [Encoding; 3] =
    [Encoding::DELTA_BINARY_PACKED, Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY];

/// The bytes that the reader takes for the lengths in a page, and for the texts that it puts together.
fn needed(page: &Page, column: &ColumnChunkMetaData) -> Result<u64, String> {
    let (encoding, buffer, n) = match page {
        Page::DataPage { encoding, buf, num_values, .. } => (*encoding, buf, u64::from(*num_values)),
        Page::DataPageV2 { encoding, buf, num_values, .. } => (*encoding, buf, u64::from(*num_values)),
        Page::DictionaryPage { .. } => return Ok(0),
    };
    if !DELTAS.contains(&encoding) {
        return Ok(0);
    }
    let cut_off = || "a page of deltas is cut off or damaged".to_owned();
    let levels = levels(page, column).ok_or_else(cut_off)?;
    let mut bytes = buffer.get(levels..).ok_or_else(cut_off)?;
    if bytes.is_empty() {
        return Ok(0); // nulls alone
    }
    let mut lists = Vec::new();
    for _ in 0..if encoding == Encoding::DELTA_BYTE_ARRAY { 2 } else { 1 } {
        let mut list = Deltas::begin(bytes).ok_or_else(cut_off)?;
        if list.count > n {
            return Err(format!("a page of {n} values says that it holds {}: it is damaged", list.count));
        }
        if encoding == Encoding::DELTA_BINARY_PACKED {
            return Ok(0); // read as many at a time as the reader asks for
        }
        if list.count > MOST / LENGTH {
            return Err(format!("a page of {} values; expected at most {} of its encoding", list.count, MOST / LENGTH));
        }
        lists.push(list.lengths().ok_or_else(cut_off)?);
        bytes = list.bytes;
    }
    let (suffixes, prefixes) = (lists.pop().unwrap_or_default(), lists.pop().unwrap_or_default());
    let all = suffixes.iter().fold(0u64, |sum, n| sum + u64::from(*n));
    if all > bytes.len() as u64 {
        return Err(format!("the values of a page have {all} bytes, and {} are there: it is damaged", bytes.len()));
    }
    let taken = (suffixes.len() + prefixes.len()) as u64 * LENGTH;
    // Texts without a prefix are not copied.
    let whole = |i: usize| u64::from(prefixes[i]) + u64::from(suffixes[i]);
    let (mut sum, mut at_once) = (0, 0);
    for i in 0..prefixes.len().min(suffixes.len()) {
        sum += whole(i);
        if i >= BATCH {
            sum -= whole(i - BATCH);
        }
        at_once = sum.max(at_once);
    }
    Ok(taken.saturating_add(at_once))
}

/// The bytes of the levels that stand before the values of a page.
fn levels(page: &Page, column: &ColumnChunkMetaData) -> Option<usize> {
    let most = [column.column_descr().max_rep_level(), column.column_descr().max_def_level()];
    match page {
        Page::DataPageV2 { rep_levels_byte_len, def_levels_byte_len, .. } => {
            usize::try_from(u64::from(*rep_levels_byte_len) + u64::from(*def_levels_byte_len)).ok()
        }
        Page::DataPage { buf, num_values, rep_level_encoding, def_level_encoding, .. } => {
            let mut at = 0usize;
            for (most, encoding) in most.into_iter().zip([rep_level_encoding, def_level_encoding]) {
                let bits = u64::from(16 - most.max(0).leading_zeros());
                at = at.checked_add(match encoding {
                    _ if most == 0 => 0,
                    Encoding::RLE => {
                        let length = buf.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))?;
                        usize::try_from(length).ok()?.checked_add(4)?
                    }
                    _ => usize::try_from((bits * u64::from(*num_values)).div_ceil(8)).ok()?,
                })?;
            }
            Some(at)
        }
        Page::DictionaryPage { .. } => None,
    }
}

/// A list of numbers as DELTA_BINARY_PACKED has it.
struct Deltas<'b> {
    /// What comes next.
    bytes: &'b [u8],
    /// Numbers in a block, and blocks in it that are packed apart.
    block: u64,
    parts: u64,
    /// As it says itself.
    count: u64,
    first: i64,
}

impl<'b> Deltas<'b> {
    fn begin(bytes: &'b [u8]) -> Option<Self> {
        let mut list = Self { bytes, block: 0, parts: 0, count: 0, first: 0 };
        (list.block, list.parts, list.count) = (list.varint()?, list.varint()?, list.varint()?);
        list.first = list.zigzag()?;
        let sound = list.parts > 0 && list.block.is_multiple_of(128) && list.block.is_multiple_of(list.parts);
        (sound && list.block > 0 && (list.block / list.parts).is_multiple_of(32)).then_some(list)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut compact = Compact { from: self.bytes, taken: 0 };
        let n = compact.varint()?;
        self.bytes = compact.from;
        Some(n)
    }

    fn zigzag(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// The numbers, as lengths of 32 bits; with them `bytes` is what comes after. None where they are none.
    fn lengths(&mut self) -> Option<Vec<u32>> {
        let mut out = Vec::new();
        if self.count == 0 {
            return Some(out);
        }
        let length = |n: i64| u32::try_from(n).ok().filter(|n| *n <= i32::MAX as u32);
        let mut last = self.first;
        out.push(length(last)?);
        while (out.len() as u64) < self.count {
            let least = self.zigzag()?;
            let (widths, rest) = self.bytes.split_at_checked(usize::try_from(self.parts).ok()?)?;
            self.bytes = rest;
            for width in widths {
                let left = self.count - out.len() as u64;
                if left == 0 {
                    break; // parts after the last number have no bytes
                }
                let here = self.block / self.parts;
                let size = here.checked_mul(u64::from(*width))? / 8;
                // The reader takes a last part that is cut off, if the numbers themselves are there.
                let size = usize::try_from(size).ok()?.min(self.bytes.len());
                let (packed, rest) = self.bytes.split_at(size);
                self.bytes = rest;
                if *width > 32 {
                    return None;
                }
                for i in 0..here.min(left) {
                    let delta = least.wrapping_add(bits(packed, i.checked_mul(u64::from(*width))?, *width)?);
                    // Lengths wrap at 32 bits, as the reader's do.
                    last = i64::from(last.wrapping_add(delta) as i32);
                    out.push(length(last)?);
                }
            }
        }
        Some(out)
    }
}

/// `width` bits at bit `at`, the lowest first.
fn bits(packed: &[u8], at: u64, width: u8) -> Option<i64> {
    let (start, shift) = (usize::try_from(at / 8).ok()?, at % 8);
    let n = (shift as usize + usize::from(width)).div_ceil(8);
    let bytes = packed.get(start..start.checked_add(n)?)?;
    let word = bytes.iter().rev().fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
    Some(((word >> shift) & ((1 << width) - 1)) as i64)
}

/// The head of a page: `PageHeader` of the format, in Thrift's compact protocol.
#[derive(Default)]
struct Head {
    /// Bytes when uncompressed.
    whole: u64,
    /// Bytes in the file.
    stored: u64,
    /// Of a page with a dictionary, its values.
    entries: Option<u64>,
    /// Of a page with values, how they are encoded, by number.
    encoding: Option<u64>,
    /// Where the next page begins.
    end: u64,
}

impl Head {
    fn read(mut file: &File, at: u64) -> Option<Self> {
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut compact = Compact { from: BufReader::with_capacity(256, file), taken: 0 };
        let mut head = Self::default();
        compact.fields(0, &mut |compact, field, kind| match (field, kind) {
            (2, I32) => compact.size().map(|n| head.whole = n),
            (3, I32) => compact.size().map(|n| head.stored = n),
            (7, STRUCT) => {
                head.entries = Some(0);
                compact.fields(1, &mut |compact, field, kind| match (field, kind) {
                    (1, I32) => compact.size().map(|n| head.entries = Some(n)),
                    _ => compact.skip(kind, 1),
                })
            }
            // Pages of the first and of the second version.
            (5 | 8, STRUCT) => {
                let at = if field == 5 { 2 } else { 4 };
                compact.fields(1, &mut |compact, field, kind| match kind {
                    I32 if field == at => compact.size().map(|n| head.encoding = Some(n)),
                    _ => compact.skip(kind, 1),
                })
            }
            _ => compact.skip(kind, 0),
        })?;
        head.end = at.checked_add(compact.taken)?.checked_add(head.stored)?;
        Some(head)
    }
}

const I32: u8 = 5;
const STRUCT: u8 = 12;

/// Values of Thrift's compact protocol; None where there are none, or none that are sound.
struct Compact<R> {
    from: R,
    /// Bytes so far.
    taken: u64,
}

impl<R: Read> Compact<R> {
    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte).ok()?;
        self.taken += 1;
        Some(byte[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    /// A number that is not below 0.
    fn size(&mut self) -> Option<u64> {
        let n = self.varint()?;
        (n & 1 == 0).then_some(n >> 1)
    }

    /// Goes through the fields of a struct, by number and type; `each` takes their values.
    fn fields(&mut self, depth: usize, each: &mut dyn FnMut(&mut Self, u64, u8) -> Option<()>) -> Option<()> {
        const DEEPEST: usize = 16;
        let mut field = 0u64;
        loop {
            let head = self.byte()?;
            if head == 0 || depth > DEEPEST {
                return (depth <= DEEPEST).then_some(());
            }
            field = match head >> 4 {
                0 => self.size()?,
                more => field.checked_add(u64::from(more))?,
            };
            each(self, field, head & 0x0f)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => Some(()),
            3 => self.byte().map(|_| ()),
            4..=6 => self.varint().map(|_| ()),
            7 => self.pass(8),
            8 => {
                let n = self.varint()?;
                self.pass(n)
            }
            9 | 10 => {
                let head = self.byte()?;
                let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                // Elements take a byte at least, truths too.
                (0..n).try_for_each(|_| match head & 0x0f {
                    1 | 2 => self.byte().map(|_| ()),
                    kind => self.skip(kind, depth + 1),
                })
            }
            STRUCT => self.fields(depth + 1, &mut |compact, _, kind| compact.skip(kind, depth + 1)),
            _ => None,
        }
    }

    fn pass(&mut self, n: u64) -> Option<()> {
        let passed = std::io::copy(&mut self.from.by_ref().take(n), &mut std::io::sink()).ok()?;
        self.taken = self.taken.checked_add(n)?;
        (passed == n).then_some(())
    }
}

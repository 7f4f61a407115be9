//! What the pages of a Parquet file say of their own sizes, looked at before they are believed: the reader takes as much
//! memory as they ask for.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;

/// Bytes, uncompressed, of the pages that are in memory at once: one of each column, and its dictionary.
const MOST: u64 = 512 << 20;
/// What a value of a dictionary takes in memory, beside its bytes.
const ENTRY: u64 = 32;

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

/// The head of a page: `PageHeader` of the format, in Thrift's compact protocol.
#[derive(Default)]
struct Head {
    /// Bytes when uncompressed.
    whole: u64,
    /// Bytes in the file.
    stored: u64,
    /// Of a page with a dictionary, its values.
    entries: Option<u64>,
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

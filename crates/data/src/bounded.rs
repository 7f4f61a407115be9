//! Small files that are read whole: no more of one than it may have.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Bytes of a tokenizer.json at most; the largest in use have about 40 MB.
pub(crate) const TOKENIZER: u64 = 128 << 20;
/// Bytes of a file of settings, a template or a README at most.
pub(crate) const SETTINGS: u64 = 16 << 20;

/// A file, if it has at most `most` bytes.
///
/// # Errors
/// What the system says; a larger file.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let why = format!("larger than {} MiB, the most that such a file may have", most >> 20);
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

/// [`read`], as text.
///
/// # Errors
/// As [`read`]; bytes that are not UTF-8.
pub(crate) fn text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::new(ErrorKind::InvalidData, "not UTF-8"))
}

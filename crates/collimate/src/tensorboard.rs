//! Events for TensorBoard: records of protocol buffers (`tensorflow.Event`) in TFRecord's frame, written by hand.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Where they lie in an output folder, as with transformers.
pub(crate) const FOLDER: &str = "runs";
const PREFIX: &str = "events.out.tfevents.";

/// A file of events under way. What can't be written now is tried again with the next.
pub(crate) struct Events {
    path: PathBuf,
    file: File,
    /// Bytes that are whole records.
    whole: u64,
    pending: Vec<u8>,
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let all = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX))).collect())
}

/// Removes the events of an earlier run.
pub(crate) fn clear(output: &Path) -> Result<()> {
    let folder = output.join(FOLDER);
    for file in files(&folder)? {
        fs::remove_file(&file).with_context(|| file.display().to_string())?;
    }
    match fs::remove_dir(&folder) {
        // Something else may lie there.
        Err(e) if ![ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty].contains(&e.kind()) => {
            Err(e).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

impl Events {
    /// A new file in an output folder. The events of steps beyond `from`, which an earlier run may have left in other files,
    /// are void for whoever reads this one.
    pub fn open(output: &Path, from: usize) -> Result<Self> {
        let folder = output.join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        // Files are read in the order of their names.
        let time = |p: &PathBuf| p.file_name()?.to_string_lossy().strip_prefix(PREFIX)?.split('.').next()?.parse().ok();
        let last: u64 = files(&folder)?.iter().filter_map(time).max().unwrap_or(0);
        let number = (seconds() as u64).max(last + 1);
        let path = folder.join(format!("{PREFIX}{number:010}.collimate.{}.0", std::process::id()));
        let file = File::options().append(true).create_new(true).open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        let mut new = Self { path, file, whole: 0, pending: Vec::new() };
        new.push(0, |event| text(event, 3, "brain.Event:2"));
        if from > 0 {
            // A session that starts: `status` is START.
            new.push(from as u64 + 1, |event| {
                nested(event, 7, |session| {
                    varint(session, 1 << 3);
                    varint(session, 1);
                });
            });
        }
        new.flush()?;
        Ok(new)
    }

    /// A line of metrics, each number under the tag that transformers gives it.
    pub fn add(&mut self, line: &Map<String, Value>) -> Result<()> {
        let step = line.get("step").and_then(Value::as_u64).unwrap_or(0);
        self.push(step, |event| {
            nested(event, 5, |summary| {
                for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
                    let Some(number) = value.as_f64() else { continue };
                    let tag = match name.strip_prefix("eval_") {
                        Some(name) => format!("eval/{name}"),
                        None => format!("train/{name}"),
                    };
                    nested(summary, 1, |value| {
                        text(value, 1, &tag);
                        varint(value, 2 << 3 | 5);
                        value.extend((number as f32).to_le_bytes());
                    });
                }
            });
        });
        self.flush()
    }

    fn push(&mut self, step: u64, what: impl FnOnce(&mut Vec<u8>)) {
        let mut event = Vec::new();
        varint(&mut event, 1 << 3 | 1);
        event.extend(seconds().to_le_bytes());
        varint(&mut event, 2 << 3);
        varint(&mut event, step);
        what(&mut event);
        let length = (event.len() as u64).to_le_bytes();
        self.pending.extend(length);
        self.pending.extend(masked(&length).to_le_bytes());
        self.pending.extend(&event);
        self.pending.extend(masked(&event).to_le_bytes());
    }

    /// Writes what could not be written when it came.
    pub fn flush(&mut self) -> Result<()> {
        if let Err(e) = self.file.write_all(&self.pending) {
            // Part of a record may be there.
            let _ = self.file.set_len(self.whole);
            return Err(e).with_context(|| self.path.display().to_string());
        }
        self.whole += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

/// A number in groups of seven bits, the lowest first.
fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A field of bytes.
fn bytes(to: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(to, field << 3 | 2);
    varint(to, value.len() as u64);
    to.extend(value);
}

fn text(to: &mut Vec<u8>, field: u64, value: &str) {
    bytes(to, field, value.as_bytes());
}

/// A field that is a message.
fn nested(to: &mut Vec<u8>, field: u64, what: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    what(&mut message);
    bytes(to, field, &message);
}

/// Castagnoli's CRC-32, bits reversed, as TFRecord masks it.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn numbers_are_in_groups_of_seven_bits() {
        let of = |v| {
            let mut to = Vec::new();
            varint(&mut to, v);
            to
        };
        assert_eq!((of(1), of(300)), (vec![1], vec![0xac, 2]));
        assert_eq!(of(u64::MAX).len(), 10);
    }
}

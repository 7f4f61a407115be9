//! What the fuzzer feeds as a checkpoint; `tests/checkpoints.rs` runs the same without the fuzzer.

use std::fs;
use std::path::Path;

use collimate::backend::Backend;
use collimate::model::{Checkpoint, Error};
use serde_json::Value;

/// config.json, and after bytes 0 the index, which may be empty, and model.safetensors: the JSON of its header, which gets
/// its length and the tensors that it speaks of, or the file itself. What is read is written, and read again as it was. Whether it was read.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(3, |b| *b == 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("it can be written");
    write("config.json", parts.next().unwrap_or_default());
    let index = parts.next().unwrap_or_default();
    if !index.is_empty() {
        write("model.safetensors.index.json", index);
    }
    let file = parts.next().unwrap_or_default();
    let file = if file.starts_with(b"{") { with_tensors(file) } else { file.to_owned() };
    const SHARD: &str = "model-00001-of-00001.safetensors";
    let sharded = index.windows(SHARD.len()).any(|part| part == SHARD.as_bytes());
    write(if sharded { SHARD } else { "model.safetensors" }, &file);

    let read = |folder: &Path| -> Result<_, Error> {
        let checkpoint = Checkpoint::open(folder)?;
        let backend = Backend::all().into_iter().find(|b| (b.devices)().is_ok()).expect("a backend is linked");
        let tensors = checkpoint.load(&(backend.open)(0))?;
        Ok((checkpoint, tensors))
    };
    let (checkpoint, tensors) = match read(folder.path()) {
        Ok(all) => all,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    assert_eq!(tensors.0.len(), checkpoint.inventory.specs.len());
    let saved = folder.path().join("saved");
    checkpoint.save(&tensors, &saved).expect("what was read is finite, and is saved");
    let (_, again) = read(&saved).expect("what was saved is read");
    for (a, b) in tensors.0.iter().zip(&again.0) {
        assert_eq!(a.to_data(), b.to_data());
    }
    true
}

/// A header with its length before it, and as many bytes behind it as its tensors have, up to a bound.
fn with_tensors(header: &[u8]) -> Vec<u8> {
    const MOST: u64 = 1 << 20;
    let table: Value = serde_json::from_slice(header).unwrap_or_default();
    let ends = table.as_object().into_iter().flatten().filter_map(|(_, t)| t["data_offsets"][1].as_u64());
    let length = ends.max().unwrap_or(0).min(MOST) as usize;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(0.25f32.to_le_bytes().into_iter().cycle().take(length));
    file
}

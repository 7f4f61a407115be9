//! `smollm3`: Llama with layers that leave out the rotation, and a head tied to the embedding by default.

use serde_json::Value;

use super::llama::{Relative, Switch, windows};
use super::rope::Turning;
use super::{Architecture, Reader};
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "smollm3", family: "SmolLM3", read: |r| RELATIVE.read(r)?.config(r) };

const RELATIVE: Relative = Relative {
    turning: Turning { theta: 2_000_000.0, part: None, interleaved: false },
    tie_word_embeddings: true,
    windows: |r, layers| windows(r, layers, Switch::FlagAndTypes),
    rotates,
    ..Relative::LLAMA
};

/// The rotation is left out of every `no_rope_layer_interval`-th layer; in the list, 1 means that a layer rotates.
fn rotates(r: &mut Reader<'_>, layers: usize) -> Result<Vec<bool>, Error> {
    let interval = r.size("no_rope_layer_interval", Some(4))?;
    match r.get("no_rope_layers").cloned() {
        None => Ok((0..layers).map(|i| (i + 1) % interval != 0).collect()),
        Some(Value::Array(a)) if a.len() == layers && a.iter().all(|v| v.as_u64().is_some_and(|n| n < 2)) => {
            Ok(a.iter().map(|v| v.as_u64() == Some(1)).collect())
        }
        Some(v) => Err(r.refuse("no_rope_layers", format!("expected {layers} numbers, each 0 or 1, got {v}"))),
    }
}

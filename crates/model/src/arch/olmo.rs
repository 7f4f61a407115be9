//! `olmo`: Llama with LayerNorms that have neither weight nor bias.

use super::llama::{NormKind, Relative, absent};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "olmo", family: "Olmo", read };

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    absent(r, "clip_qkv", "clipping queries, keys and values is not implemented")?;
    let mut shape = Relative { norm: NormKind::Bare, ..Relative::LLAMA }.read(r)?;
    // Not a key of its configuration.
    shape.eps = 1e-5;
    shape.config(r)
}

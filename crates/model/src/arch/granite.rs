//! `granite`: Llama with multipliers of the embedding, the scores, the branches and the logits.

use super::llama::{Relative, above_zero};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "granite", family: "Granite", read };

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = Relative::LLAMA.read(r)?;
    shape.embedding_scale = above_zero(r, "embedding_multiplier")?.unwrap_or(1.0);
    shape.residual_scale = above_zero(r, "residual_multiplier")?.unwrap_or(1.0);
    shape.attention_scale = Some(above_zero(r, "attention_multiplier")?.unwrap_or(1.0));
    shape.logits_scale = 1.0 / above_zero(r, "logits_scaling")?.unwrap_or(1.0);
    shape.config(r)
}

//! `granite`: Llama with multipliers of the embedding, the scores, the branches and the logits.

use super::llama::{Relative, Shape, above_zero};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "granite", family: "Granite", read };

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    multiplied(Relative::LLAMA.read(r)?, r)?.config(r)
}

/// The shape with its multipliers.
pub(super) fn multiplied(mut shape: Shape, r: &mut Reader<'_>) -> Result<Shape, Error> {
    shape.embedding_scale = above_zero(r, "embedding_multiplier")?.unwrap_or(1.0);
    shape.residual_scale = above_zero(r, "residual_multiplier")?.unwrap_or(1.0);
    shape.attention_scale = Some(above_zero(r, "attention_multiplier")?.unwrap_or(1.0));
    shape.logits_scale = 1.0 / above_zero(r, "logits_scaling")?.unwrap_or(1.0);
    Ok(shape)
}

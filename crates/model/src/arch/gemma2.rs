//! `gemma2`: Gemma with four norms a layer, a window in every other layer, and caps on scores and logits.

use super::gemma::{self, common};
use super::llama::{Names, Relative, Shape, Switch, above_zero, windows};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "gemma2", family: "Gemma2", read };

const RELATIVE: Relative = Relative {
    act_key: "hidden_activation",
    windows: |r, layers| windows(r, layers, Switch::Pattern(2)),
    names: &AROUND,
    ..gemma::RELATIVE
};

pub(super) const AROUND: Names = Names {
    norms: [
        Some("input_layernorm"),
        Some("post_attention_layernorm"),
        Some("pre_feedforward_layernorm"),
        Some("post_feedforward_layernorm"),
    ],
    ..Names::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let shape = RELATIVE.read(r)?;
    capped(shape, r, Some(50.0), Some(30.0))?.config(r)
}

/// The scale of the scores, and the caps with their defaults; null switches one off.
pub(super) fn capped(
    shape: Shape,
    r: &mut Reader<'_>,
    scores: Option<f64>,
    logits: Option<f64>,
) -> Result<Shape, Error> {
    let mut shape = common(shape, r)?;
    // Earlier versions of transformers wrote both names, and read this one.
    r.get("hidden_act");
    shape.attention_scale = Some(above_zero(r, "query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5));
    let mut cap = |key: &'static str, default: Option<f64>| {
        if r.has(key) { above_zero(r, key) } else { Ok(default) }
    };
    shape.heads.cap = cap("attn_logit_softcapping", scores)?;
    shape.logits_cap = cap("final_logit_softcapping", logits)?;
    Ok(shape)
}

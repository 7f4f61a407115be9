//! `qwen3_moe`: Qwen3 with experts in place of the feed-forward parts of some layers.

use super::llama::{QkNorm, Relative, Routed, Shape, Switch, windows};
use super::mixtral::top;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "qwen3_moe", family: "Qwen3Moe", read };

const RELATIVE: Relative = Relative {
    max_position_embeddings: 32_768,
    qk_norm: QkNorm::Heads,
    windows: |r, layers| windows(r, layers, Switch::FlagEverywhere),
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = RELATIVE.read(r)?;
    let key = if r.has("num_experts") { "num_experts" } else { "num_local_experts" };
    let number = r.size(key, Some(128))?;
    let routed = Routed {
        router: "mlp.gate",
        experts: "mlp.experts",
        names: ["gate_proj", "up_proj", "down_proj"],
        inner: r.size("moe_intermediate_size", Some(768))?,
        number,
        top: top(r, &mut shape, 8, number, 0.001)?,
        normalised: r.flag("norm_topk_prob", false)?,
        shared: None,
        stacked: None,
    };
    sparse(&mut shape, routed, r)?;
    shape.config(r)
}

/// Puts experts where `decoder_sparse_step` and `mlp_only_layers` leave room for them.
pub(super) fn sparse(shape: &mut Shape, routed: Routed, r: &mut Reader<'_>) -> Result<(), Error> {
    let step = r.size("decoder_sparse_step", Some(1))?;
    let dense = match r.get("mlp_only_layers").cloned() {
        None => Vec::new(),
        Some(v) => {
            let all = v.as_array().and_then(|a| a.iter().map(|n| n.as_u64()).collect::<Option<Vec<_>>>());
            all.ok_or_else(|| r.refuse("mlp_only_layers", format!("expected a list of whole numbers, got {v}")))?
        }
    };
    for (i, layer) in shape.routed.iter_mut().enumerate() {
        *layer = ((i + 1) % step == 0 && !dense.contains(&(i as u64))).then_some(routed);
    }
    Ok(())
}

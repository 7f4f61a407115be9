//! `qwen2_moe`: Qwen2 with experts, and one that all tokens share, in place of the feed-forward parts of some layers.

use super::llama::{Biases, Relative, Routed, absent};
use super::mixtral::top;
use super::qwen3_moe::sparse;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "qwen2_moe", family: "Qwen2Moe", read };

const RELATIVE: Relative = Relative {
    max_position_embeddings: 32_768,
    biases: Biases::QkvBy("qkv_bias", true),
    windows: |r, layers| {
        absent(r, "use_sliding_window", "windows are not implemented for this architecture")?;
        // 0 where there is none, as transformers writes it.
        r.get("sliding_window");
        let types = r.get("layer_types").cloned();
        if let Some(odd) = types.iter().flat_map(|t| t.as_array()).flatten().find(|t| *t != "full_attention") {
            return Err(r.refuse("layer_types", format!("expected full_attention alone, got {odd}")));
        }
        Ok(vec![None; layers])
    },
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = RELATIVE.read(r)?;
    let number = r.size("num_experts", Some(60))?;
    let routed = Routed {
        router: "mlp.gate",
        experts: "mlp.experts",
        names: ["gate_proj", "up_proj", "down_proj"],
        inner: r.size("moe_intermediate_size", Some(1408))?,
        number,
        top: top(r, &mut shape, 4, number, 0.001)?,
        normalised: r.flag("norm_topk_prob", false)?,
        shared: Some(r.size("shared_expert_intermediate_size", Some(5632))?),
        stacked: None,
    };
    sparse(&mut shape, routed, r)?;
    shape.config(r)
}

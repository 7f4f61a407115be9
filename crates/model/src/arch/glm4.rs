//! `glm4`: Llama with four norms a layer, gate and up in one map, and heads of which the first half turns, in neighbours.

use super::Architecture;
use super::llama::{Biases, MlpNames, Names, Relative};
use super::rope::Turning;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "glm4", family: "Glm4", read: |r| RELATIVE.read(r)?.config(r) };

const RELATIVE: Relative = Relative {
    head_dim: Some(128),
    turning: Turning { theta: 10_000.0, part: Some(0.5), interleaved: true },
    eps: ("rms_norm_eps", 1.5625e-7),
    max_position_embeddings: 131_072,
    biases: Biases::QkvAsConfigured,
    names: &NAMES,
    ..Relative::LLAMA
};

const NAMES: Names = Names {
    norms: [
        Some("input_layernorm"),
        Some("post_self_attn_layernorm"),
        Some("post_attention_layernorm"),
        Some("post_mlp_layernorm"),
    ],
    mlp: MlpNames::Fused(["mlp.gate_up_proj", "mlp.down_proj"]),
    ..Names::LLAMA
};

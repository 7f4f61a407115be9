//! `gpt_neox`: attention and feed-forward part side by side, each behind a LayerNorm of its own; one map to queries, keys
//! and values, head by head; heads of which a quarter turns; a plain feed-forward part.

use collimate_backend::kernels::Activation;

use super::llama::{Biases, MlpNames, Names, NormKind, QkvNames, Relative};
use super::rope::Turning;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "gpt_neox", family: "GPTNeoX", read };

const NAMES: Names = Names {
    embedding: "gpt_neox.embed_in",
    layers: "gpt_neox.layers",
    norm: "gpt_neox.final_layer_norm",
    head: "embed_out",
    qkv: QkvNames::ByHead("attention.query_key_value"),
    o: "attention.dense",
    mlp: MlpNames::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
    ..Names::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let theta = r.number("rotary_emb_base", 10_000.0)?;
    let part = r.number("rotary_pct", 0.25)?;
    let relative = Relative {
        activation: Activation::Gelu,
        hidden_act: "gelu",
        turning: Turning { theta, part: Some(part), interleaved: false },
        eps: ("layer_norm_eps", 1e-5),
        biases: Biases::QkvAsConfigured,
        names: &NAMES,
        norm: NormKind::Layer { bias: true },
        parallel: r.flag("use_parallel_residual", true)?,
        ..Relative::LLAMA
    };
    let mut shape = relative.read(r)?;
    // The attention's biases have a switch, those of the feed-forward part have none.
    (shape.o_bias, shape.mlp_bias) = (shape.qkv_bias, true);
    shape.config(r)
}

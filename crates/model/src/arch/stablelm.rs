//! `stablelm`: Llama with LayerNorms, heads of which a quarter turns, and a switch that puts attention and feed-forward part
//! side by side.

use super::llama::{Biases, Names, NormKind, Relative, absent};
use super::rope::Turning;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "stablelm", family: "StableLm", read };

/// Side by side, both read the same normed rows.
const TOGETHER: Names = Names { norms: [Some("input_layernorm"), None, None, None], ..Names::LLAMA };

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    absent(r, "qk_layernorm", "a LayerNorm for each head of queries and keys is not implemented")?;
    let parallel = r.flag("use_parallel_residual", false)?;
    let relative = Relative {
        turning: Turning { theta: 10_000.0, part: Some(0.25), interleaved: false },
        eps: ("layer_norm_eps", 1e-5),
        max_position_embeddings: 4096,
        biases: Biases::QkvBy("use_qkv_bias", false),
        names: if parallel { &TOGETHER } else { &Names::LLAMA },
        norm: NormKind::Layer { bias: true },
        parallel,
        ..Relative::LLAMA
    };
    relative.read(r)?.config(r)
}

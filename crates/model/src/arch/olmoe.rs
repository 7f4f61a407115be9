//! `olmoe`: Llama with norms of queries and keys over all heads together, and experts in place of each feed-forward part.

use super::llama::{QkNorm, Relative, Routed, absent};
use super::mixtral::top;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "olmoe", family: "Olmoe", read };

const RELATIVE: Relative =
    Relative { eps: ("rms_norm_eps", 1e-5), max_position_embeddings: 4096, qk_norm: QkNorm::Whole, ..Relative::LLAMA };

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = RELATIVE.read(r)?;
    absent(r, "clip_qkv", "clipping queries, keys and values is not implemented")?;
    let number = r.size("num_experts", Some(64))?;
    let routed = Routed {
        router: "mlp.gate",
        experts: "mlp.experts",
        names: ["gate_proj", "up_proj", "down_proj"],
        inner: shape.intermediate_size,
        number,
        top: top(r, &mut shape, 8, number, 0.01)?,
        normalised: r.flag("norm_topk_prob", false)?,
        shared: None,
        stacked: None,
    };
    shape.routed.fill(Some(routed));
    shape.config(r)
}

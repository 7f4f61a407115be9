//! `mixtral`: Mistral with experts in place of each feed-forward part.

use super::llama::{Biases, Relative, Routed, Shape, Switch, windows};
use super::rope::Turning;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "mixtral", family: "Mixtral", read };

const RELATIVE: Relative = Relative {
    turning: Turning { theta: 1_000_000.0, part: None, interleaved: false },
    eps: ("rms_norm_eps", 1e-5),
    max_position_embeddings: 131_072,
    biases: Biases::Never,
    windows: |r, layers| windows(r, layers, Switch::Present),
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = RELATIVE.read(r)?;
    let noise = r.number("router_jitter_noise", 0.0)?;
    if noise != 0.0 {
        return Err(r.refuse("router_jitter_noise", format!("noise is not implemented; set it to 0, got {noise}")));
    }
    let number = r.size("num_local_experts", Some(8))?;
    let routed = Routed {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.experts",
        names: ["w1", "w3", "w2"],
        inner: shape.intermediate_size,
        number,
        top: top(r, &mut shape, 2, number, 0.001)?,
        normalised: true,
        shared: None,
        stacked: None,
    };
    shape.routed.fill(Some(routed));
    shape.config(r)
}

/// How many experts a token goes through, of `number`; and what the loss that balances them is multiplied by where a run
/// doesn't say it, of that default. Whether that loss is added, the run says: `output_router_logits` changes nothing.
pub(super) fn top(
    r: &mut Reader<'_>,
    shape: &mut Shape,
    default: usize,
    number: usize,
    coefficient: f64,
) -> Result<usize, Error> {
    r.flag("output_router_logits", false)?;
    shape.router_aux_loss_coef = Some(r.number("router_aux_loss_coef", coefficient)?);
    let top = r.size("num_experts_per_tok", Some(default))?;
    if top > number {
        return Err(r.refuse("num_experts_per_tok", format!("expected at most the {number} experts, got {top}")));
    }
    Ok(top)
}

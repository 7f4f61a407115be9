//! `granitemoe`: Granite with experts in place of each feed-forward part, whose weights a checkpoint stacks.

use super::granite::multiplied;
use super::llama::{Relative, Routed};
use super::mixtral::top;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "granitemoe", family: "GraniteMoe", read };

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = multiplied(Relative::LLAMA.read(r)?, r)?;
    let number = r.size("num_local_experts", Some(8))?;
    let routed = Routed {
        router: "block_sparse_moe.router.layer",
        experts: "block_sparse_moe",
        names: ["", "", ""],
        inner: shape.intermediate_size,
        number,
        top: top(r, &mut shape, 2, number, 0.001)?,
        // A softmax over the chosen alone, which is the same.
        normalised: true,
        shared: None,
        stacked: Some(["block_sparse_moe.input_linear", "block_sparse_moe.output_linear"]),
    };
    shape.routed.fill(Some(routed));
    shape.config(r)
}

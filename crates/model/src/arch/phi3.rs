//! `phi3`: Llama with one map to queries, keys and values, one to gate and up, and heads of which a part may turn.

use super::llama::{Biases, MlpNames, Names, QkvNames, Relative, Switch, windows};
use super::rope::{self, Turning};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "phi3", family: "Phi3", read };

const RELATIVE: Relative = Relative {
    turning: Turning { theta: 10_000.0, part: Some(1.0), interleaved: false },
    eps: ("rms_norm_eps", 1e-5),
    max_position_embeddings: 4096,
    biases: Biases::Never,
    windows: |r, layers| windows(r, layers, Switch::Present),
    names: &NAMES,
    ..Relative::LLAMA
};

const NAMES: Names = Names {
    qkv: QkvNames::Fused("self_attn.qkv_proj"),
    mlp: MlpNames::Fused(["mlp.gate_up_proj", "mlp.down_proj"]),
    ..Names::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let longest = r.size("max_position_embeddings", Some(RELATIVE.max_position_embeddings))?;
    // The context of the first training stands beside the table of the factors, not in it.
    let original = r.size("original_max_position_embeddings", Some(4096))?;
    let rope = rope::long(r, longest, original, RELATIVE.turning)?;
    let within = if rope.is_long() { original } else { longest };
    RELATIVE.read_with(r, within, vec![rope])?.config(r)
}

//! `cohere2`: attention and feed-forward part side by side behind one LayerNorm; heads that turn in neighbours, in the
//! layers with a window alone; logits with a scale.

use super::llama::{Names, NormKind, Relative, Switch, above_zero, windows};
use super::rope::Turning;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "cohere2", family: "Cohere2", read };

const RELATIVE: Relative = Relative {
    turning: Turning { theta: 10_000.0, part: None, interleaved: true },
    eps: ("layer_norm_eps", 1e-5),
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    windows: |r, layers| {
        let every = r.size("sliding_window_pattern", Some(4))?;
        r.get("_sliding_window_pattern");
        windows(r, layers, Switch::Pattern(every))
    },
    names: &Names { norms: [Some("input_layernorm"), None, None, None], ..Names::LLAMA },
    norm: NormKind::Layer { bias: false },
    parallel: true,
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = RELATIVE.read(r)?;
    shape.rotates = shape.windows.iter().map(|w| w.map(|_| 0)).collect();
    shape.logits_scale = above_zero(r, "logit_scale")?.unwrap_or(0.0625);
    shape.config(r)
}

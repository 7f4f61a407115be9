//! `ernie4_5`: Llama with heads that turn in neighbours, and a switch for biases on all maps.

use super::Architecture;
use super::llama::{Biases, Relative};
use super::rope::Turning;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "ernie4_5", family: "Ernie4_5", read: |r| RELATIVE.read(r)?.config(r) };

const RELATIVE: Relative = Relative {
    head_dim: Some(128),
    turning: Turning { theta: 500_000.0, part: None, interleaved: true },
    eps: ("rms_norm_eps", 1e-5),
    max_position_embeddings: 131_072,
    tie_word_embeddings: true,
    biases: Biases::All("use_bias", false),
    ..Relative::LLAMA
};

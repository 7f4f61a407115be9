//! `olmo2`: Llama with norms behind attention and feed-forward part, not before them, and norms of queries and keys over
//! all heads together.

use super::Architecture;
use super::llama::{Names, QkNorm, Relative};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "olmo2", family: "Olmo2", read: |r| RELATIVE.read(r)?.config(r) };

const RELATIVE: Relative =
    Relative { eps: ("rms_norm_eps", 1e-5), qk_norm: QkNorm::Whole, names: &BEHIND, ..Relative::LLAMA };

pub(super) const BEHIND: Names =
    Names { norms: [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")], ..Names::LLAMA };

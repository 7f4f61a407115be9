//! `qwen3`: Llama with a norm on each head of queries and keys, heads of width 128 by default, and a window that has a
//! switch.

use super::Architecture;
use super::llama::{QkNorm, Relative, Switch, windows};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen3", family: "Qwen3", read: |r| RELATIVE.read(r)?.config(r) };

const RELATIVE: Relative = Relative {
    head_dim: Some(128),
    qk_norm: QkNorm::Heads,
    windows: |r, layers| windows(r, layers, Switch::Flag),
    ..Relative::LLAMA
};

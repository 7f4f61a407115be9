//! `qwen2`: Llama with biases on queries, keys and values, and a window that has a switch.

use super::Architecture;
use super::llama::{Biases, Relative, Switch, windows};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen2", family: "Qwen2", read: |r| RELATIVE.read(r)?.config(r) };

pub(super) const RELATIVE: Relative =
    Relative { biases: Biases::Qkv, windows: |r, layers| windows(r, layers, Switch::Flag), ..Relative::LLAMA };

//! `mistral`: Llama with a window wherever one is given, and without biases.

use super::Architecture;
use super::llama::{Biases, Relative, Switch, windows};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "mistral", family: "Mistral", read: |r| RELATIVE.read(r)?.config(r) };

pub(super) const RELATIVE: Relative =
    Relative { biases: Biases::Never, windows: |r, layers| windows(r, layers, Switch::Given), ..Relative::LLAMA };

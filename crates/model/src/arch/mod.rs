//! One architecture, one file: what its `config.json` means, and the network that it makes of it.
//!
//! To add one: a file here with an [`Architecture`], and a line in [`ARCHITECTURES`]. Nothing outside this folder asks for
//! a `model_type`.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod reader;
mod rope;
mod smollm3;
#[cfg(test)]
mod toy;

pub(crate) use reader::Reader;

use crate::blocks::{AnyBlock, Embedding, Linear, Recompute, RmsNorm};
use crate::config::ModelConfig;
use crate::error::Error;
use crate::params::{Inventory, ParamId, Role};
use crate::rotary::Rotary;

/// A kind of network, by the name that checkpoints give it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Reads every key that changes what is computed, refuses what is not there, and makes the network.
    pub read: fn(&mut Reader<'_>) -> Result<ModelConfig, Error>,
}

const ARCHITECTURES: &[Architecture] = &[
    llama::ARCHITECTURE,
    mistral::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    smollm3::ARCHITECTURE,
    #[cfg(test)]
    toy::ARCHITECTURE,
];

/// The architectures that checkpoints may have, by their `model_type`.
pub fn model_types() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|a| a.model_type).collect()
}

/// The architecture that a configuration names.
pub(crate) fn of(r: &mut Reader<'_>) -> Result<&'static Architecture, Error> {
    let named = r.get("model_type").cloned();
    let found = ARCHITECTURES.iter().find(|a| named.as_ref().and_then(|v| v.as_str()) == Some(a.model_type));
    found.ok_or_else(|| {
        let got = named.map_or("nothing".into(), |v| v.to_string());
        r.refuse("model_type", format!("expected one of {}, got {got}", model_types().join(", ")))
    })
}

/// What an architecture makes: tokens to hidden states, and the head that reads them.
#[derive(Debug)]
pub(crate) struct Network {
    pub embedding: Embedding,
    pub layers: Vec<Recompute<Box<dyn AnyBlock>>>,
    /// Behind the last layer.
    pub norm: RmsNorm,
    /// The head `[vocab, hidden]`: the embedding itself where they are tied.
    pub head: ParamId,
    /// The rotary embeddings that layers refer to.
    pub rotary: Vec<Rotary>,
    /// The windows that layers have.
    pub windows: Vec<Option<usize>>,
}

/// Declares a checkpoint's parameters in their order.
#[derive(Debug, Default)]
pub(crate) struct Builder(pub Inventory);

impl Builder {
    /// `name.weight` `[out, in]`, and `name.bias` `[out]` if it has one.
    pub fn linear(&mut self, name: &str, out: usize, inp: usize, bias: bool) -> Linear {
        Linear {
            weight: self.0.add(format!("{name}.weight"), &[out, inp], Role::Weight),
            bias: bias.then(|| self.0.add(format!("{name}.bias"), &[out], Role::Bias)),
        }
    }

    /// `name.weight` `[width]`.
    pub fn norm(&mut self, name: &str, width: usize, eps: f64) -> RmsNorm {
        RmsNorm { weight: self.0.add(format!("{name}.weight"), &[width], Role::Norm), eps }
    }

    /// `name.weight` `[vocab, hidden]`.
    pub fn embedding(&mut self, name: &str, vocab: usize, hidden: usize) -> Embedding {
        Embedding { table: self.0.add(format!("{name}.weight"), &[vocab, hidden], Role::Embedding) }
    }
}

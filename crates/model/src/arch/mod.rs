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
pub(crate) mod targets;
#[cfg(test)]
mod toy;

pub(crate) use reader::Reader;

use crate::blocks::{AnyBlock, Embedding, Linear, Recompute, RmsNorm};
use crate::config::{HeadKind, ModelConfig};
use crate::error::Error;
use crate::params::{Inventory, ParamId, Role};
use crate::rotary::Rotary;

/// A kind of network, by the name that checkpoints give it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// What transformers' names of its classes begin with.
    pub family: &'static str,
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

/// What transformers' names of the classes of a `model_type` begin with.
pub(crate) fn family(model_type: &str) -> Option<&'static str> {
    ARCHITECTURES.iter().find(|a| a.model_type == model_type).map(|a| a.family)
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

/// The name of a value head, as transformers has it.
pub(crate) const VALUE_HEAD: &str = "score";
/// How `architectures` calls a network with a value head, behind the name of its family.
pub(crate) const CLASSIFICATION: &str = "ForSequenceClassification";

/// The head that `architectures` names: one number of a hidden state, or a vocabulary's logits.
pub(crate) fn head(r: &mut Reader<'_>) -> Result<HeadKind, Error> {
    let named = r.get("architectures").and_then(|v| v.get(0)?.as_str().map(str::to_owned));
    if !named.is_some_and(|n| n.ends_with(CLASSIFICATION)) {
        return Ok(HeadKind::Vocabulary);
    }
    // transformers writes the names of the labels alone, and takes two where there are none.
    let labels = r.get("id2label").and_then(|v| v.as_object().map(serde_json::Map::len));
    let labels = match r.get("num_labels").cloned() {
        Some(v) => {
            v.as_u64().ok_or_else(|| r.refuse("num_labels", format!("expected a whole number, got {v}")))? as usize
        }
        None => labels.unwrap_or(2),
    };
    match labels {
        1 => Ok(HeadKind::Value),
        n => Err(r.refuse("num_labels", format!("a reward model has 1 label, this one has {n}"))),
    }
}

/// What an architecture makes: tokens to hidden states, and the head that reads them.
#[derive(Debug)]
pub(crate) struct Network {
    pub embedding: Embedding,
    pub layers: Vec<Recompute<Box<dyn AnyBlock>>>,
    /// Behind the last layer.
    pub norm: RmsNorm,
    /// The head `[vocab, hidden]`: the embedding itself where they are tied; `[1, hidden]` in a reward model.
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

//! One architecture, one file: what its `config.json` means, and the network that it makes of it.
//!
//! To add one here: a file with an [`Architecture`], and a line in `ARCHITECTURES`. Another crate registers its own at
//! link time, with `inventory::submit!`; `examples/extending/architecture.rs` does. Nothing outside this folder asks for a
//! `model_type`.

mod cohere2;
mod ernie4_5;
mod exaone4;
mod gemma;
mod gemma2;
mod gemma3_text;
mod glm4;
mod gpt2;
mod gpt_neox;
mod granite;
mod granitemoe;
mod hunyuan_v1_dense;
mod llama;
mod mistral;
mod mixtral;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod reader;
mod rope;
mod smollm3;
mod stablelm;
mod starcoder2;
pub(crate) mod targets;
#[cfg(test)]
mod toy;

pub use reader::Reader;

use burn::tensor::Tensor;
use serde_json::Value;

use crate::blocks::{AnyBlock, Embedding, Linear, Norm, Recompute};
use crate::config::{HeadKind, ModelConfig};
use crate::error::Error;
use crate::params::{Inventory, ParamId, Role};
use crate::rotary::Rotary;

/// A kind of network, by the name that checkpoints give it.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// What transformers' names of its classes begin with.
    pub family: &'static str,
    /// Reads every key that changes what is computed, refuses what is not there, and makes the network.
    pub read: fn(&mut Reader<'_>) -> Result<ModelConfig, Error>,
}

inventory::collect!(Architecture);

const ARCHITECTURES: &[Architecture] = &[
    cohere2::ARCHITECTURE,
    ernie4_5::ARCHITECTURE,
    exaone4::ARCHITECTURE,
    gemma::ARCHITECTURE,
    gemma2::ARCHITECTURE,
    gemma3_text::ARCHITECTURE,
    glm4::ARCHITECTURE,
    gpt2::ARCHITECTURE,
    gpt_neox::ARCHITECTURE,
    granite::ARCHITECTURE,
    granitemoe::ARCHITECTURE,
    hunyuan_v1_dense::ARCHITECTURE,
    llama::ARCHITECTURE,
    mistral::ARCHITECTURE,
    mixtral::ARCHITECTURE,
    olmo::ARCHITECTURE,
    olmo2::ARCHITECTURE,
    olmo3::ARCHITECTURE,
    olmoe::ARCHITECTURE,
    opt::ARCHITECTURE,
    phi::ARCHITECTURE,
    phi3::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen2_moe::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    qwen3_moe::ARCHITECTURE,
    smollm3::ARCHITECTURE,
    stablelm::ARCHITECTURE,
    starcoder2::ARCHITECTURE,
    #[cfg(test)]
    toy::ARCHITECTURE,
];

/// Those of this crate, then those that other crates register, by name: what is linked has no order.
fn all() -> Vec<&'static Architecture> {
    let mut registered: Vec<_> = inventory::iter::<Architecture>.into_iter().collect();
    registered.sort_by_key(|a| a.model_type);
    ARCHITECTURES.iter().chain(registered).collect()
}

/// The architectures that checkpoints may have, by their `model_type`.
pub fn model_types() -> Vec<&'static str> {
    all().into_iter().map(|a| a.model_type).collect()
}

/// What transformers' names of the classes of a `model_type` begin with.
pub(crate) fn family(model_type: &str) -> Option<&'static str> {
    all().into_iter().find(|a| a.model_type == model_type).map(|a| a.family)
}

/// The `config.json` of the text part of a vision-language model, as transformers would save that part alone; none where it
/// is no such model, or one whose text part can't be read.
pub(crate) fn text_part(value: &Value) -> Option<Value> {
    (value.get("model_type")?.as_str()? == "gemma3").then(|| gemma3_text::part(value))?
}

/// The architecture that a configuration names.
pub(crate) fn of(r: &mut Reader<'_>) -> Result<&'static Architecture, Error> {
    let named = r.get("model_type").cloned();
    let found = all().into_iter().find(|a| named.as_ref().and_then(|v| v.as_str()) == Some(a.model_type));
    found.ok_or_else(|| {
        let got = named.map_or("nothing".into(), |v| v.to_string());
        r.refuse("model_type", format!("expected one of {}, got {got}", model_types().join(", ")))
    })
}

/// The name of a value head, as transformers has it.
pub const VALUE_HEAD: &str = "score";
/// How `architectures` calls a network with a value head, behind the name of its family.
pub(crate) const CLASSIFICATION: &str = "ForSequenceClassification";

/// The head that `architectures` names: one number of a hidden state, or a vocabulary's logits.
///
/// # Errors
/// A reward model of several labels.
pub fn head(r: &mut Reader<'_>) -> Result<HeadKind, Error> {
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
pub struct Network {
    /// Token ids to the residual stream.
    pub embedding: Embedding,
    /// The layers. The last attention among them leaves out the rows that nobody reads: see
    /// [`Residual::narrows`](crate::blocks::Residual::narrows).
    pub layers: Vec<Recompute<Box<dyn AnyBlock>>>,
    /// Behind the last layer.
    pub norm: Norm,
    /// The head `[vocab, hidden]`: the embedding itself where they are tied; `[1, hidden]` in a reward model.
    pub head: ParamId,
    /// What the head adds to logits, `[vocab]`.
    pub head_bias: Option<ParamId>,
    /// What a checkpoint calls a head of its own, whether it has one or not.
    pub head_name: &'static str,
    /// What logits are multiplied by.
    pub logits_scale: f64,
    /// c: logits z become c·tanh(z/c).
    pub logits_cap: Option<f64>,
    /// The rotary embeddings that layers refer to.
    pub rotary: Vec<Rotary>,
    /// The windows that layers have.
    pub windows: Vec<Option<usize>>,
}

impl Network {
    /// Hidden states, or their gradients, times what logits are multiplied by.
    pub fn scaled(&self, hidden: Tensor<2>) -> Tensor<2> {
        if self.logits_scale == 1.0 { hidden } else { hidden * self.logits_scale }
    }
}

/// Declares a checkpoint's parameters in their order.
#[derive(Debug, Default)]
pub struct Builder(pub Inventory);

impl Builder {
    /// `name.weight` `[out, in]`, and `name.bias` `[out]` if it has one.
    pub fn linear(&mut self, name: &str, out: usize, inp: usize, bias: bool) -> Linear {
        Linear {
            weight: self.0.add(format!("{name}.weight"), &[out, inp], Role::Weight),
            bias: bias.then(|| self.0.add(format!("{name}.bias"), &[out], Role::Bias)),
        }
    }

    /// The same, with the weight the other way round in the checkpoint: `[in, out]`.
    pub fn transposed(&mut self, name: &str, out: usize, inp: usize, bias: bool) -> Linear {
        Linear {
            weight: self.0.add_transposed(format!("{name}.weight"), [inp, out], Role::Weight),
            bias: bias.then(|| self.0.add(format!("{name}.bias"), &[out], Role::Bias)),
        }
    }

    /// `name.weight` `[width]`.
    pub fn norm(&mut self, name: &str, width: usize, eps: f64) -> Norm {
        Norm::rms(self.0.add(format!("{name}.weight"), &[width], Role::Norm), width, eps)
    }

    /// `name.weight` `[vocab, hidden]`.
    pub fn embedding(&mut self, name: &str, vocab: usize, hidden: usize) -> ParamId {
        self.0.add(format!("{name}.weight"), &[vocab, hidden], Role::Embedding)
    }
}

//! `gemma`: Llama with norms whose stored weights are less 1, an embedding times √hidden, and a gate of GELU.

use collimate_backend::kernels::Activation;

use super::llama::{NormKind, Relative, Shape, absent};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "gemma", family: "Gemma", read };

pub(super) const RELATIVE: Relative = Relative {
    activation: Activation::GeluTanh,
    hidden_act: "gelu_pytorch_tanh",
    head_dim: Some(256),
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    norm: NormKind::RmsAndOne,
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    // Both names of the activation are there, and transformers reads `hidden_act`, where "gelu" is the tanh form.
    let act = if r.get("hidden_act").and_then(|v| v.as_str()) == Some("gelu") { "_" } else { "hidden_act" };
    let shape = Relative { act_key: act, ..RELATIVE }.read(r)?;
    r.get("hidden_activation");
    common(shape, r)?.config(r)
}

/// What all of the family have.
pub(super) fn common(mut shape: Shape, r: &mut Reader<'_>) -> Result<Shape, Error> {
    absent(r, "use_bidirectional_attention", "only causal attention is implemented")?;
    shape.embedding_scale = (shape.hidden_size as f64).sqrt();
    Ok(shape)
}

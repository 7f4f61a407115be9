//! `gpt2`: learnt positions, LayerNorm before attention and feed-forward part, matrices the other way round in the
//! checkpoint, and a plain feed-forward part.

use collimate_backend::kernels::Activation;

use super::llama::{MlpNames, Names, NormKind, QkNorm, QkvNames, Shape, absent, heads, no_dropout};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "gpt2", family: "GPT2", read };

const NAMES: Names = Names {
    embedding: "transformer.wte",
    layers: "transformer.h",
    norm: "transformer.ln_f",
    qkv: QkvNames::Fused("attn.c_attn"),
    o: "attn.c_proj",
    norms: [Some("ln_1"), None, Some("ln_2"), None],
    mlp: MlpNames::Plain(["mlp.c_fc", "mlp.c_proj"]),
    ..Names::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    no_dropout(r)?;
    let p = r.number("attn_pdrop", 0.0)?;
    if p != 0.0 {
        return Err(r.refuse("attn_pdrop", format!("dropout is not implemented; set it to 0, got {p}")));
    }
    for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"] {
        absent(r, key, "is not implemented")?;
    }
    if !r.flag("scale_attn_weights", true)? {
        return Err(r.refuse("scale_attn_weights", "scores that are not divided by √d are not implemented"));
    }
    // About other heads than a language model's.
    for key in
        ["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"]
    {
        r.get(key);
    }
    r.get("n_ctx");
    let activation = match r.get("activation_function").cloned() {
        None => Activation::GeluTanh,
        Some(v) => v.as_str().and_then(Activation::named).ok_or_else(|| {
            r.refuse("activation_function", format!("expected one of gelu_new, gelu, relu, silu, got {v}"))
        })?,
    };
    let hidden_size = r.size("n_embd", Some(768))?;
    let queries = r.size("n_head", Some(12))?;
    let layers = r.size("n_layer", Some(12))?;
    if !hidden_size.is_multiple_of(queries) {
        return Err(r.refuse("n_head", format!("must divide n_embd {hidden_size}, got {queries}")));
    }
    let shape = Shape {
        vocab_size: r.size("vocab_size", Some(50257))?,
        hidden_size,
        intermediate_size: r.size("n_inner", Some(4 * hidden_size))?,
        heads: heads(r, queries, queries, hidden_size / queries)?,
        max_position_embeddings: r.size("n_positions", Some(1024))?,
        eps: r.number("layer_norm_epsilon", 1e-5)?,
        rope: Vec::new(),
        rotates: vec![None; layers],
        windows: vec![None; layers],
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        qk_norm: QkNorm::None,
        activation,
        tie_word_embeddings: r.flag("tie_word_embeddings", true)?,
        names: NAMES,
        norm: NormKind::Layer { bias: true },
        parallel: false,
        routed: vec![None; layers],
        router_aux_loss_coef: None,
        positions: Some("transformer.wpe"),
        positions_from: 0,
        transposed: true,
        head_bias: false,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        attention_scale: None,
        logits_scale: 1.0,
        logits_cap: None,
    };
    shape.config(r)
}

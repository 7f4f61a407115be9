//! `opt`: learnt positions whose table begins two rows late, LayerNorm before attention and feed-forward part, and a plain
//! feed-forward part of ReLU.

use collimate_backend::kernels::Activation;

use super::llama::{MlpNames, Names, NormKind, QkNorm, QkvNames, Shape, absent, heads, no_dropout};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "opt", family: "OPT", read };

const NAMES: Names = Names {
    embedding: "model.decoder.embed_tokens",
    layers: "model.decoder.layers",
    norm: "model.decoder.final_layer_norm",
    qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    o: "self_attn.out_proj",
    norms: [Some("self_attn_layer_norm"), None, Some("final_layer_norm"), None],
    mlp: MlpNames::Plain(["fc1", "fc2"]),
    ..Names::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    no_dropout(r)?;
    for key in ["dropout", "layerdrop"] {
        let p = r.number(key, 0.0)?;
        if p != 0.0 {
            let why = format!("dropout is not implemented; set it to 0 (TRL trains without it too), got {p}");
            return Err(r.refuse(key, why));
        }
    }
    absent(r, "_remove_final_layer_norm", "a network without its last norm is not implemented")?;
    if !r.flag("do_layer_norm_before", true)? {
        return Err(r.refuse("do_layer_norm_before", "norms behind the residual stream are not implemented"));
    }
    // Of how new weights are drawn.
    r.get("init_std");
    let hidden_size = r.size("hidden_size", Some(768))?;
    let projected = r.size("word_embed_proj_dim", Some(hidden_size))?;
    if projected != hidden_size {
        let why =
            format!("embeddings of another width than hidden_size {hidden_size} are not implemented, got {projected}");
        return Err(r.refuse("word_embed_proj_dim", why));
    }
    let activation = match r.get("activation_function").cloned() {
        None => Activation::Relu,
        Some(v) => v.as_str().and_then(Activation::named).ok_or_else(|| {
            r.refuse("activation_function", format!("expected one of relu, gelu, gelu_new, silu, got {v}"))
        })?,
    };
    let queries = r.size("num_attention_heads", Some(12))?;
    let layers = r.size("num_hidden_layers", Some(12))?;
    if !hidden_size.is_multiple_of(queries) {
        return Err(r.refuse("num_attention_heads", format!("must divide hidden_size {hidden_size}, got {queries}")));
    }
    let bias = r.flag("enable_bias", true)?;
    let affine = r.flag("layer_norm_elementwise_affine", true)?;
    let shape = Shape {
        vocab_size: r.size("vocab_size", Some(50272))?,
        hidden_size,
        intermediate_size: r.size("ffn_dim", Some(3072))?,
        heads: heads(r, queries, queries, hidden_size / queries)?,
        max_position_embeddings: r.size("max_position_embeddings", Some(2048))?,
        // Not a key of its configuration.
        eps: 1e-5,
        rope: Vec::new(),
        rotates: vec![None; layers],
        windows: vec![None; layers],
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: bias,
        qk_norm: QkNorm::None,
        activation,
        tie_word_embeddings: r.flag("tie_word_embeddings", true)?,
        names: NAMES,
        norm: if affine { NormKind::Layer { bias: true } } else { NormKind::Bare },
        parallel: false,
        routed: vec![None; layers],
        router_aux_loss_coef: None,
        positions: Some("model.decoder.embed_positions"),
        positions_from: 2,
        transposed: false,
        head_bias: false,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        attention_scale: None,
        logits_scale: 1.0,
        logits_cap: None,
    };
    shape.config(r)
}

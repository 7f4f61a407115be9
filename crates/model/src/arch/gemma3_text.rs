//! `gemma3_text`: Gemma 2 without caps by default, with norms of queries and keys, and with rotary positions of another base
//! in the layers that have a window.

use serde_json::{Value, json};

use super::llama::{QkNorm, Relative, Switch, windows};
use super::rope::{self, Turning};
use super::{Architecture, Reader, gemma, gemma2};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "gemma3_text", family: "Gemma3Text", read };

const RELATIVE: Relative = Relative {
    act_key: "hidden_activation",
    turning: Turning { theta: 1_000_000.0, part: None, interleaved: false },
    max_position_embeddings: 131_072,
    qk_norm: QkNorm::Heads,
    windows: |r, layers| {
        let every = r.size("sliding_window_pattern", Some(6))?;
        r.get("_sliding_window_pattern");
        windows(r, layers, Switch::Pattern(every))
    },
    names: &gemma2::AROUND,
    ..gemma::RELATIVE
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let longest = r.size("max_position_embeddings", Some(RELATIVE.max_position_embeddings))?;
    let local = r.number("rope_local_base_freq", 10_000.0)?;
    let rope = rope::by_type(r, longest, RELATIVE.turning, local)?;
    let mut shape = RELATIVE.read_with(r, longest, rope)?;
    shape.rotates = shape.windows.iter().map(|w| Some(usize::from(w.is_some()))).collect();
    gemma2::capped(shape, r, None, None)?.config(r)
}

/// The text part of a `gemma3`, whose table leaves out what has its default.
pub(super) fn part(whole: &Value) -> Option<Value> {
    let mut text = whole.get("text_config")?.as_object()?.clone();
    let defaults = json!({
        "model_type": "gemma3_text", "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "sliding_window": 4096
    });
    for (key, v) in defaults.as_object()? {
        text.entry(key).or_insert_with(|| v.clone());
    }
    text.insert("architectures".into(), json!(["Gemma3ForCausalLM"]));
    for key in ["bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype"] {
        if let Some(v) = whole.get(key) {
            text.entry(key).or_insert_with(|| v.clone());
        }
    }
    Some(text.into())
}

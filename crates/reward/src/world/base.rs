//! The model of the world before training: its configuration and its tokenizer, one token a word.

use serde_json::{Map, Value, json};

use super::grammar;

/// Of a prompt and an answer, with room for one that goes on too long.
pub const MAX_POSITIONS: usize = 160;

/// `config.json`, `tokenizer.json` and `tokenizer_config.json` of a small Llama over the words of the world.
pub fn base_files() -> [(&'static str, Value); 3] {
    let mut words = vec!["<unk>", "<s>", "</s>"];
    words.extend(grammar::words());
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
        "vocab_size": words.len(), "max_position_embeddings": MAX_POSITIONS, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": "float32"
    });
    let special = |id: usize| {
        json!({"id": id, "content": words[id], "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let vocab: Map<String, Value> = words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), i.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0), special(1), special(2)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    });
    let names =
        json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": MAX_POSITIONS});
    [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", names)]
}

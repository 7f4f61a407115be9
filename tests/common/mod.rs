//! What the integration tests share: the backends, and a small checkpoint made on the spot.
#![allow(dead_code)]

use std::path::Path;

use burn::tensor::Device;
use collimate::backend::Backend;
use collimate::model::{Checkpoint, Decoder};

/// Every backend that is linked and usable here, opened; those skipped are named.
pub fn devices() -> Vec<(&'static str, Device)> {
    let usable = Backend::all().into_iter().filter_map(|b| match (b.devices)() {
        Ok(_) => Some((b.name, (b.open)(0))),
        Err(why) => {
            eprintln!("skipped: backend {}: {why}", b.name);
            None
        }
    });
    usable.collect()
}

/// The first of them: random models and what is read from a file are the same on all.
pub fn any_device() -> Device {
    devices().into_iter().next().expect("a backend is linked").1
}

/// Numbers between −1.5 and 1.5, the same each time.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u64 << 24) as f32 * 3.0 - 1.5
    };
    (0..n).map(|_| next()).collect()
}

/// The words of the small checkpoint's tokenizer, by id; 0 is unknown, 1 BOS, 2 EOS.
pub const WORDS: [&str; 12] = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e", "f", "g", "h", "i"];

/// Writes a checkpoint of random weights over [`WORDS`] with a word-level tokenizer.
pub fn small_checkpoint(folder: &Path, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": WORDS.len(),
        "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "torch_dtype": "float32"
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocab: serde_json::Map<_, _> = WORDS.iter().enumerate().map(|(i, w)| (w.to_string(), i.into())).collect();
    let special: Vec<_> = WORDS[..3]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            serde_json::json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        })
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let names = r#"{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}"#;
    std::fs::write(folder.join("tokenizer_config.json"), names).unwrap();
    let checkpoint = Checkpoint::open(folder).unwrap();
    let decoder = Decoder::random(checkpoint.config.clone(), seed, &any_device());
    checkpoint.save(decoder.parameters(), folder).unwrap();
}

/// Pairs over [`WORDS`] of many lengths, as JSONL.
pub fn small_pairs(rows: usize) -> String {
    let word = |i: usize| WORDS[3 + i % 9];
    let text = |from: usize, n: usize| (0..n).map(|k| format!(" {}", word(from * 7 + k * k))).collect::<String>();
    let row = |i: usize| {
        serde_json::json!({"prompt": text(i, 1 + i % 4).trim(), "chosen": text(i + 1, 1 + i % 5),
            "rejected": text(i + 2, 2 + i * i % 6)})
    };
    (0..rows).map(|i| format!("{}\n", row(i))).collect()
}

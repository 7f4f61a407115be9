//! One model and one batch for all benches.

use collimate::data::Tokens;
use collimate::model::ModelConfig;
use serde_json::json;

/// A model of 5 M parameters: its head is a fifth of the work, as in larger models.
pub fn config() -> ModelConfig {
    let table = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 4096, "max_position_embeddings": 1024
    });
    ModelConfig::from_value(&table, std::path::Path::new("config.json")).expect("a valid configuration")
}

/// Pairs as preference data has them: a prompt that is longer than its completions.
pub fn pairs() -> Vec<Tokens> {
    let text = |from: usize, n: usize| (0..n).map(|k| ((from * 131 + k * 17) % 4096) as u32).collect::<Vec<_>>();
    let pair = |i: usize| Tokens {
        prompt: text(i, 100 + i * 37 % 120),
        chosen: text(i + 50, 40 + i * 13 % 60),
        rejected: text(i + 90, 20 + i * 29 % 60),
        chosen_mask: None,
        rejected_mask: None,
        key: i as u64,
        file: 0,
        row: i + 1,
    };
    (0..8).map(pair).collect()
}

/// Tokens read, the prompt counted for each completion.
pub fn tokens(pairs: &[Tokens]) -> usize {
    pairs.iter().map(|p| 2 * p.prompt.len() + p.chosen.len() + p.rejected.len()).sum()
}

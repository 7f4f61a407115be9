//! What a training step will hold at its peak, before it is run.

use crate::config::ModelConfig;
use crate::engine::Options;
use crate::parameters::Inventory;

/// Bytes that a run holds at its peak, by what they are for; f32 throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters of the policy.
    pub parameters: usize,
    /// Their gradients.
    pub gradients: usize,
    /// The optimiser's two moments.
    pub moments: usize,
    /// Parameters of a reference that is another model than the initial policy.
    pub reference: usize,
    /// What the layers of the largest micro-batch keep and hold.
    pub activations: usize,
    /// Logits held at a time.
    pub logits: usize,
}

impl Memory {
    /// For micro-batches of at most `tokens` inputs and `scored` scored tokens.
    pub fn predict(c: &ModelConfig, tokens: usize, scored: usize, options: Options, reference: bool) -> Self {
        let parameters = 4 * Inventory::new(c).elements();
        let (d, m, q, kv) = (c.hidden_size, c.intermediate_size, c.q_width(), c.kv_width());
        // What a layer keeps: its input, queries, keys, values, what was attended with its log-sum-exp, the middle of
        // the residual stream, gate and up.
        let unnormed = if c.qk_norm { q + kv } else { 0 };
        let inner = 2 * q + 2 * kv + unnormed + c.num_attention_heads + d + 2 * m;
        let kept = match options.gradient_checkpointing {
            true => c.num_hidden_layers * d + inner,
            false => c.num_hidden_layers * (d + inner),
        };
        // What the backward pass of one layer holds beside it, at its widest: in the feed-forward part.
        let held = 3 * m + 4 * d;
        let rows = (options.logits / c.vocab_size).max(1).min(scored);
        Self {
            parameters,
            gradients: parameters,
            moments: 2 * parameters,
            reference: if reference { parameters } else { 0 },
            activations: 4 * (tokens * (kept + held) + 3 * scored * d),
            logits: 4 * rows * c.vocab_size,
        }
    }

    /// All of it, in bytes.
    pub fn total(&self) -> usize {
        self.parameters + self.gradients + self.moments + self.reference + self.activations + self.logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(vocab: usize) -> ModelConfig {
        let table = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 3, "vocab_size": vocab, "max_position_embeddings": 64, "tie_word_embeddings": true
        });
        ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap()
    }

    #[test]
    fn each_part_is_what_it_says() {
        let m = Memory::predict(&config(100), 10, 4, Options::default(), true);
        // Embedding 800; a layer: 4·64 + 3·128 + 2·8 = 656; last norm 8.
        assert_eq!(m.parameters, 4 * (800 + 3 * 656 + 8));
        assert_eq!((m.gradients, m.moments, m.reference), (m.parameters, 2 * m.parameters, m.parameters));
        // Kept a layer: 8 + 2·8 + 2·8 + 2 + 8 + 32 = 82; held: 48 + 32 = 80.
        assert_eq!(m.activations, 4 * (10 * (3 * 82 + 80) + 3 * 4 * 8));
        assert_eq!(m.logits, 4 * 4 * 100);
    }

    #[test]
    fn recomputing_and_chunks_take_less() {
        let full = Memory::predict(&config(100), 10, 4, Options::default(), false);
        let lean = Options { gradient_checkpointing: true, logits: 100, ..Options::default() };
        let lean = Memory::predict(&config(100), 10, 4, lean, false);
        assert!(lean.activations < full.activations && lean.logits == 400 && lean.total() < full.total());
    }
}

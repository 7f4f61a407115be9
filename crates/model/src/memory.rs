//! What a training step will hold at its peak, before it is run.

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::engine::Options;
use crate::ops::attention::SCORES;
use crate::parameters::Inventory;
use crate::precision::Precision;

/// Bytes that a run holds at its peak, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters of the policy, and the rounded copy that is computed with, if there is one.
    pub parameters: usize,
    /// Their gradients, f32.
    pub gradients: usize,
    /// The optimiser's two moments, f32.
    pub moments: usize,
    /// Parameters of a reference that is another model than the initial policy.
    pub reference: usize,
    /// What the layers of the largest micro-batch keep and hold.
    pub activations: usize,
    /// Attention scores held at a time; none where a kernel computes them block by block.
    pub attention: usize,
    /// Logits held at a time.
    pub logits: usize,
}

/// The size of a micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Input tokens.
    pub tokens: usize,
    /// Scored tokens.
    pub scored: usize,
    /// Rows: one for each pair that shares its prompt, two for one that doesn't.
    pub rows: usize,
    /// Tokens of the longest row.
    pub longest: usize,
}

/// How a decoder computes.
#[derive(Clone, Copy, Debug)]
struct Arithmetic {
    precision: Precision,
    kept_in: Precision,
    kernels: bool,
}

impl Decoder {
    /// What a training step on micro-batches of at most `load` will hold; `reference`: beside another model.
    pub fn memory(&self, load: Load, options: Options, reference: bool) -> Memory {
        let arithmetic =
            Arithmetic { precision: self.precision(), kept_in: self.kept_in(), kernels: self.has_kernels() };
        Memory::predict(&self.config, load, options, arithmetic, reference)
    }
}

impl Memory {
    fn predict(c: &ModelConfig, load: Load, options: Options, how: Arithmetic, reference: bool) -> Self {
        let elements = Inventory::new(c).elements();
        let (bytes, copy) = (how.precision.bytes(), how.kept_in != how.precision);
        let (d, m, q, kv) = (c.hidden_size, c.intermediate_size, c.q_width(), c.kv_width());
        let Load { tokens, scored, rows, longest } = load;
        // What a layer keeps: its input, queries, keys, values, what was attended with its log-sum-exp, the middle of
        // the residual stream, gate and up.
        let unnormed = if c.qk_norm { q + kv } else { 0 };
        let inner = 2 * q + 2 * kv + unnormed + c.num_attention_heads + d + 2 * m;
        let kept = match options.gradient_checkpointing {
            true => c.num_hidden_layers * d + inner,
            false => c.num_hidden_layers * (d + inner),
        };
        // What the backward pass of one layer holds beside it, at its widest: in the feed-forward part.
        let held = if how.kernels { 2 * m + 4 * d } else { 3 * m + 4 * d };
        // Tensor operations hold a few of everything: probabilities and their gradients, logits and theirs.
        let padded = rows * longest * longest;
        let at_a_time = padded.min(SCORES.max(longest * longest));
        let (attention, copies) = match how.kernels {
            true => (0, 1),
            false => (4 * (padded + 4 * c.num_attention_heads * at_a_time), 3),
        };
        let chunk = (options.logits / c.vocab_size).max(1).min(scored);
        Self {
            parameters: elements * (how.kept_in.bytes() + if copy { bytes } else { 0 }),
            gradients: 4 * elements,
            moments: 8 * elements,
            reference: if reference { elements * bytes } else { 0 },
            activations: bytes * (tokens * kept + 3 * scored * d) + 4 * tokens * held,
            attention,
            logits: 4 * copies * chunk * c.vocab_size,
        }
    }

    /// All of it, in bytes.
    pub fn total(&self) -> usize {
        let model = self.parameters + self.gradients + self.moments + self.reference;
        model + self.activations + self.attention + self.logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KERNELS: Arithmetic = Arithmetic { precision: Precision::F32, kept_in: Precision::F32, kernels: true };
    const LOAD: Load = Load { tokens: 10, scored: 4, rows: 2, longest: 6 };

    fn config(vocab: usize) -> ModelConfig {
        let table = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 3, "vocab_size": vocab, "max_position_embeddings": 64, "tie_word_embeddings": true
        });
        ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap()
    }

    #[test]
    fn each_part_is_what_it_says() {
        let m = Memory::predict(&config(100), LOAD, Options::default(), KERNELS, true);
        // Embedding 800; a layer: 4·64 + 3·128 + 2·8 = 656; last norm 8.
        assert_eq!(m.parameters, 4 * (800 + 3 * 656 + 8));
        assert_eq!((m.gradients, m.moments, m.reference), (m.parameters, 2 * m.parameters, m.parameters));
        // Kept a layer: 8 + 2·8 + 2·8 + 2 + 8 + 32 = 82; held: 32 + 32 = 64.
        assert_eq!(m.activations, 4 * (10 * (3 * 82 + 64) + 3 * 4 * 8));
        assert_eq!((m.logits, m.attention), (4 * 4 * 100, 0));
    }

    #[test]
    fn fewer_bits_and_no_kernels() {
        let masters = Arithmetic { precision: Precision::Bf16, kernels: false, ..KERNELS };
        let m = Memory::predict(&config(100), LOAD, Options::default(), masters, true);
        let n = 800 + 3 * 656 + 8;
        assert_eq!((m.parameters, m.gradients, m.moments, m.reference), (6 * n, 4 * n, 8 * n, 2 * n));
        assert_eq!(m.activations, 2 * (10 * 3 * 82 + 3 * 4 * 8) + 4 * 10 * 80);
        // Two rows of 6 places: the mask once, and four times two heads' scores.
        assert_eq!((m.attention, m.logits), (4 * (72 + 4 * 2 * 72), 4 * 3 * 4 * 100));
        let pure = Arithmetic { kept_in: Precision::Bf16, ..masters };
        assert_eq!(Memory::predict(&config(100), LOAD, Options::default(), pure, false).parameters, 2 * n);
    }

    #[test]
    fn recomputing_and_chunks_take_less() {
        let full = Memory::predict(&config(100), LOAD, Options::default(), KERNELS, false);
        let lean = Options { gradient_checkpointing: true, logits: 100, ..Options::default() };
        let lean = Memory::predict(&config(100), LOAD, lean, KERNELS, false);
        assert!(lean.activations < full.activations && lean.logits == 400 && lean.total() < full.total());
    }
}

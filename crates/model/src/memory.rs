//! What a training step will hold at its peak, before it is run.

use collimate_backend::kernels::Kernels;

use crate::blocks::{Block, Site};
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::params::Spec;
use crate::precision::Precision;
use crate::readout::Options;

/// Bytes that a run holds at its peak, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Parameters of the policy, and the rounded copy that is computed with, if there is one.
    pub parameters: usize,
    /// Their gradients, f32.
    pub gradients: usize,
    /// The optimiser's two moments, f32.
    pub moments: usize,
    /// What the layers of the largest micro-batch keep and hold.
    pub activations: usize,
    /// Attention scores held at a time; none where a kernel computes them block by block.
    pub attention: usize,
    /// Logits held at a time, and what they are multiplied with where that is put in another order.
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

/// How a decoder computes, and what of it is trained.
#[derive(Clone, Copy, Debug)]
struct Arithmetic<'a> {
    precision: Precision,
    kept_in: Precision,
    kernels: &'a Kernels,
    trainable: &'a [bool],
}

impl Decoder {
    /// What a training step on micro-batches of at most `load` will hold.
    pub fn memory(&self, load: Load, options: Options) -> Memory {
        let plain = Kernels::default();
        let how = Arithmetic {
            precision: self.precision(),
            kept_in: self.kept_in(),
            kernels: if self.has_kernels() { &self.kernels } else { &plain },
            trainable: self.params.trainable(),
        };
        Memory::predict(&self.config, load, options, how)
    }
}

impl Memory {
    fn predict(c: &ModelConfig, load: Load, options: Options, how: Arithmetic<'_>) -> Self {
        let specs = &c.inventory.specs;
        let elements = c.inventory.elements();
        let trained: usize = specs.iter().zip(how.trainable).filter(|(_, t)| **t).map(|(s, _)| Spec::len(s)).sum();
        let (bytes, copy) = (how.precision.bytes(), how.kept_in != how.precision);
        let (d, Load { tokens, scored, .. }) = (c.hidden_size, load);
        let site = Site { load: &load, width: d, kernels: how.kernels };
        let first = c.first_trained(how.trainable);
        let below: Vec<_> = c.network.layers[..first].iter().map(|l| l.numbers(&site)).collect();
        let layers: Vec<_> = c.network.layers[first..].iter().map(|l| l.numbers(&site)).collect();
        // Each layer's input, and what the layers keep beside it; where one is computed anew, those above it keep nothing
        // any more.
        let inputs = layers.len() * tokens * d;
        let (anew, stored) = layers.split_at(options.recomputed.min(layers.len()));
        let stored: usize = stored.iter().map(|n| n.kept).sum();
        let anew = anew.iter().map(|n| n.kept).max().unwrap_or(0);
        // What a layer without gradients makes is gone behind it.
        let passing = below.iter().map(|n| n.kept + tokens * d).max().unwrap_or(0);
        let kept = inputs + stored.max(anew);
        let held = layers.iter().map(|n| n.held).max().unwrap_or(0) + c.inventory.held_by_adapters(tokens);
        // Frozen weights beside adapters are kept as they are computed with.
        let lean = if c.inventory.adapted.is_some() { elements - trained } else { 0 };
        // A bias of the head stands beside it in a copy.
        let biased = if c.network.head_bias.is_some() { (4 + bytes) * c.vocab_size * (d + 1) } else { 0 };
        let chunk = (options.logits / c.head_width()).max(1).min(scored);
        // A unit for bf16 wants the operands of a product in an order of its own: those of the head are the largest.
        let half = how.precision == Precision::Bf16 && how.kernels.linear.half_unit().is_some();
        let packed = if half { 2 * (chunk + d) * c.head_width() } else { 0 };
        Self {
            parameters: (elements - lean) * (how.kept_in.bytes() + if copy { bytes } else { 0 }) + lean * bytes,
            gradients: 4 * trained,
            moments: 8 * trained,
            activations: (bytes * (kept + 3 * scored * d) + 4 * held).max(bytes * passing),
            attention: layers.iter().chain(&below).map(|n| n.scores).max().unwrap_or(0),
            logits: biased + packed + 4 * how.kernels.head.held(c.network.logits_cap) * chunk * c.head_width(),
        }
    }

    /// All of it, in bytes.
    pub fn total(&self) -> usize {
        let model = self.parameters + self.gradients + self.moments;
        model + self.activations + self.attention + self.logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readout::ALL;
    use burn::tensor::Device;
    use collimate_backend_flex as _;
    use serde_json::json;

    const LOAD: Load = Load { tokens: 10, scored: 4, rows: 2, longest: 6 };

    fn config(vocab: usize) -> ModelConfig {
        let table = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 3, "vocab_size": vocab, "max_position_embeddings": 64, "tie_word_embeddings": true
        });
        ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap()
    }

    fn predict(vocab: usize, options: Options, how: (Precision, Precision), kernels: bool) -> Memory {
        let kernels = if kernels { Kernels::on(&Device::flex()) } else { Kernels::default() };
        let trainable = vec![true; config(vocab).inventory.specs.len()];
        let how = Arithmetic { precision: how.0, kept_in: how.1, kernels: &kernels, trainable: &trainable };
        Memory::predict(&config(vocab), LOAD, options, how)
    }

    const F32: (Precision, Precision) = (Precision::F32, Precision::F32);

    #[test]
    fn each_part_is_what_it_says() {
        let m = predict(100, Options::default(), F32, true);
        // Embedding 800; a layer: 4·64 + 3·128 + 2·8 = 656; last norm 8.
        assert_eq!(m.parameters, 4 * (800 + 3 * 656 + 8));
        assert_eq!((m.gradients, m.moments), (m.parameters, 2 * m.parameters));
        // Kept a layer: 8 + 2·8 + 2·8 + 2 + 8 + 32 = 82; held: 32 + 32 = 64.
        assert_eq!(m.activations, 4 * (10 * (3 * 82 + 64) + 3 * 4 * 8));
        assert_eq!((m.logits, m.attention), (4 * 4 * 100, 0));
    }

    #[test]
    fn fewer_bits_and_no_kernels() {
        let m = predict(100, Options::default(), (Precision::Bf16, Precision::F32), false);
        let n = 800 + 3 * 656 + 8;
        assert_eq!((m.parameters, m.gradients, m.moments), (6 * n, 4 * n, 8 * n));
        assert_eq!(m.activations, 2 * (10 * 3 * 82 + 3 * 4 * 8) + 4 * 10 * 80);
        // Two rows of 6 places: the mask once, and four times two heads' scores.
        assert_eq!((m.attention, m.logits), (4 * (72 + 4 * 2 * 72), 4 * 3 * 4 * 100));
        let pure = predict(100, Options::default(), (Precision::Bf16, Precision::Bf16), false);
        assert_eq!(pure.parameters, 2 * n);
        // On kernels: four hidden states and the weight in the unit's order.
        let own = predict(100, Options::default(), (Precision::Bf16, Precision::F32), true);
        let unit = Kernels::on(&Device::flex()).linear.half_unit().is_some();
        let packed = if unit { 2 * (4 + 8) * 100 } else { 0 };
        assert_eq!(own.activations, 2 * (10 * 3 * 82 + 3 * 4 * 8) + 4 * 10 * 64);
        assert_eq!((own.logits, own.attention), (4 * 4 * 100 + packed, 0));
    }

    #[test]
    fn recomputing_and_chunks_take_less() {
        let full = predict(100, Options::default(), F32, true);
        let lean = |recomputed| predict(100, Options { recomputed, logits: 100, ..Options::default() }, F32, true);
        assert_eq!(lean(0).activations, full.activations);
        assert!(lean(0).logits == 400 && lean(0).total() < full.total());
        // Of three layers each keeps 74 numbers a token beside its input, and one is there while it is computed anew.
        let kept = |recomputed| (full.activations - lean(recomputed).activations) / 4 / 10;
        assert_eq!([1, 2, 3, ALL].map(kept), [74, 148, 148, 148]);
    }
}

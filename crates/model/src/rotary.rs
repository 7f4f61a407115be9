//! Rotary positions: frequencies and their scaling, as transformers computes them.

use std::f64::consts::PI;

/// How rotary frequencies are scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Like `None` up to `max_position_embeddings`, which is as far as this program goes.
    Dynamic,
    /// Llama 3.1: low frequencies divided, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths longer than context/this are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than context/this are kept.
        high_freq_factor: f64,
        /// The context of the first training.
        original: f64,
    },
    /// LongRoPE (arXiv:2402.13753) within the context of the first training: each frequency divided by its own factor.
    Long {
        /// A divisor for each frequency.
        factors: Vec<f64>,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
    },
    /// YaRN (arXiv:2309.00071).
    Yarn {
        /// The divisor of interpolated frequencies.
        factor: f64,
        /// Rotations in the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations in the original context below which a frequency is divided.
        beta_slow: f64,
        /// The context of the first training.
        original: f64,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Whether the two bounds are rounded outwards.
        truncate: bool,
    },
}

/// The rotation of each position by each frequency.
///
/// Let θ_i = `rope_theta`^(−2i/d) for i < d/2, with d the width of a head; position p turns the pair
/// (x_i, x_{i+d/2}) by the angle p θ_i (arXiv:2104.09864, in the layout of Hugging Face checkpoints).
#[doc = include_str!("../equations/rotary.html")]
#[derive(Clone, Debug)]
pub struct Rotary {
    inv_freq: Vec<f64>,
    attention_factor: f64,
    /// Pairs of a head that stay as they are.
    still: usize,
    order: Option<Vec<u32>>,
}

impl Rotary {
    /// The frequencies of a head of width `d`, of base `base`.
    pub fn new(d: usize, base: f64, scaling: &RopeScaling) -> Self {
        let plain: Vec<f64> = (0..d / 2).map(|i| base.powf(-2.0 * i as f64 / d as f64)).collect();
        let mut attention_factor = 1.0;
        let inv_freq = match scaling {
            RopeScaling::None | RopeScaling::Dynamic => plain,
            RopeScaling::Linear { factor } => plain.iter().map(|f| f / factor).collect(),
            RopeScaling::Long { factors, attention_factor: a } => {
                attention_factor = *a;
                plain.iter().zip(factors).map(|(p, f)| p / f).collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => plain
                .iter()
                .map(|&f| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength > original / low_freq_factor {
                        f / factor
                    } else if wavelength < original / high_freq_factor {
                        f
                    } else {
                        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor: a, truncate } => {
                attention_factor = *a;
                // arXiv:2309.00071, section 3.2: the dimension that turns `rotations` times in the original context.
                let dimension =
                    |rotations: f64| d as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * base.ln());
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                low = low.max(0.0);
                high = high.min(d as f64 - 1.0);
                if low == high {
                    high += 0.001;
                }
                plain
                    .iter()
                    .enumerate()
                    .map(|(i, f)| {
                        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * ramp + f * (1.0 - ramp)
                    })
                    .collect()
            }
        };
        Self { inv_freq, attention_factor, still: 0, order: None }
    }

    /// The same in heads of width `head`, of which the first columns turn and the others stay; with `interleaved`, the pairs
    /// are neighbours (x_2i, x_{2i+1}).
    pub fn within(self, head: usize, interleaved: bool) -> Self {
        let turning = self.inv_freq.len() as u32;
        let still = (head as u32 - 2 * turning) / 2;
        if still == 0 && !interleaved {
            return self;
        }
        let one = |i: u32, second: u32| if interleaved { 2 * i + second } else { i + second * turning };
        let half = |second: u32| {
            let rest = 2 * turning + second * still;
            (0..turning).map(move |i| one(i, second)).chain(rest..rest + still)
        };
        Self { still: still as usize, order: Some(half(0).chain(half(1)).collect()), ..self }
    }

    /// Where a head's columns are not all turned in halves: the order in which they are.
    pub fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }

    /// Cosines and sines for each of `positions`, each `[positions, head_dim/2]` row by row.
    // ANCHOR: formula
    pub fn tables(&self, positions: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let mut cos = Vec::with_capacity(positions.len() * (self.inv_freq.len() + self.still));
        let mut sin = Vec::with_capacity(cos.capacity());
        for &p in positions {
            for f in &self.inv_freq {
                // transformers multiplies in f32: the same rounding of the angle keeps long positions comparable.
                let angle = f64::from(p as f32 * *f as f32);
                cos.push((angle.cos() * self.attention_factor) as f32);
                sin.push((angle.sin() * self.attention_factor) as f32);
            }
            cos.extend(std::iter::repeat_n(1.0, self.still));
            sin.extend(std::iter::repeat_n(0.0, self.still));
        }
        (cos, sin)
    }
    // ANCHOR_END: formula
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use serde_json::json;
    use std::path::Path;

    fn rotary(scaling: serde_json::Value) -> Rotary {
        let table = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 4096, "rope_scaling": scaling
        });
        let config = ModelConfig::from_value(&table, Path::new("config.json")).unwrap();
        config.network.rotary[0].clone()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (g, e) in got.iter().zip(expected) {
            assert!((g / e - 1.0).abs() < 1e-6, "{got:?} is not {expected:?}");
        }
    }

    // ANCHOR: plain_frequencies
    #[test]
    fn plain_frequencies() {
        // 10000^(−i/4) for i in 0..4
        assert_close(&rotary(json!(null)).inv_freq, &[1.0, 0.1, 0.01, 0.001]);
        assert_close(&rotary(json!({"type": "linear", "factor": 4.0})).inv_freq, &[0.25, 0.025, 0.0025, 0.00025]);
    }
    // ANCHOR_END: plain_frequencies

    #[test]
    fn llama3_divides_low_frequencies_only() {
        let r = rotary(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024}));
        // Wavelengths 6.28, 62.8, 628 and 6283 against the bounds 256 and 1024: kept, kept, mixed, divided.
        // Mixed: s = (1024/628.3185 − 1)/3 = 0.2099155; 0.01·((1 − s)/8 + s) = 0.0030867605
        assert_close(&r.inv_freq, &[1.0, 0.1, 0.003_086_760_6, 0.001 / 8.0]);
    }

    #[test]
    fn yarn_mixes_between_its_bounds() {
        let r = rotary(json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}));
        // Dimensions of 32 and 1 rotations: 8·ln(1024/(32·2π))/(2 ln 10⁴) = 0.7069 → 0; 8·ln(1024/2π)/(2 ln 10⁴) = 2.212 → 3.
        // Ramps 0, 1/3, 2/3, 1: f·(1 − ramp·3/4).
        assert_close(&r.inv_freq, &[1.0, 0.075, 0.005, 0.00025]);
        // 0.1 ln 4 + 1
        assert!((r.attention_factor - 1.138_629_436).abs() < 1e-8);
    }
}

//! AdamW: Adam with decoupled weight decay (arXiv:1711.05101, algorithm 2).

use burn::tensor::{DType, Tensor};
use collimate_kernels::adamw as kernel;

use crate::decoder::{Decoder, Gradients};
use crate::host::{self, View};
use crate::parameters::Tensors;

/// The constants of the optimiser, under the names that transformers gives them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// β₁, the decay of the mean of gradients.
    pub beta1: f64,
    /// β₂, the decay of the mean of their squares.
    pub beta2: f64,
    /// ε, beside the root.
    pub epsilon: f64,
    /// λ, times the learning rate: how much of a weight is taken away each step.
    pub weight_decay: f64,
}

/// The two moments of each parameter, in f32, and how many steps they have seen.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Means of gradients, one per parameter.
    pub first: Tensors,
    /// Means of squared gradients, one per parameter.
    pub second: Tensors,
    /// Optimiser steps taken.
    pub steps: u64,
}

impl Moments {
    /// No steps taken.
    pub fn new(decoder: &Decoder) -> Self {
        let zero = |p: &Tensor<2>| Tensor::zeros(p.dims(), (&p.device(), DType::F32));
        let zeros = || Tensors(decoder.parameters().0.iter().map(zero).collect());
        Self { first: zeros(), second: zeros(), steps: 0 }
    }
}

impl AdamW {
    /// One step at learning rate η on all parameters that have a gradient, each gradient multiplied by `scale` first:
    ///
    /// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← θ − ηλθ − η (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
    ///
    /// All of it in f32; a parameter of fewer bits is rounded afterwards.
    pub fn step(&self, decoder: &mut Decoder, moments: &mut Moments, gradients: Gradients, rate: f64, scale: f64) {
        let (profile, device) = (decoder.profile().clone(), decoder.device.clone());
        profile.timed("optimiser", &device, || self.update(decoder, moments, gradients, rate, scale));
    }

    fn update(&self, decoder: &mut Decoder, moments: &mut Moments, gradients: Gradients, rate: f64, scale: f64) {
        moments.steps += 1;
        let parameters = decoder.parameters.0.iter_mut();
        let state = moments.first.0.iter_mut().zip(&mut moments.second.0);
        for ((p, (m, v)), g) in parameters.zip(state).zip(gradients.0) {
            let Some(g) = g else { continue };
            // Only a look: a view that is held would keep the parameter from being changed in place.
            match View::of(&g).filter(|_| View::of(p).is_some()) {
                Some(g) => self.in_place(moments.steps, [p, m, v], g.slice(), rate, scale),
                None => self.plain(moments.steps, [p, m, v], g * scale, rate),
            }
        }
        decoder.refresh();
    }

    fn in_place(&self, step: u64, [p, m, v]: [&mut Tensor<2>; 3], g: &[f32], rate: f64, scale: f64) {
        let adamw = kernel::AdamW {
            lr: rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.epsilon,
            weight_decay: self.weight_decay,
        };
        let done =
            host::update(p, |p| host::update(m, |m| host::update(v, |v| adamw.step(step, scale as f32, p, m, v, g))));
        done.flatten().flatten().expect("moments and parameters lie where gradients lie");
    }

    fn plain(&self, step: u64, [p, m, v]: [&mut Tensor<2>; 3], g: Tensor<2>, rate: f64) {
        let t = step as f64;
        let (c1, c2) = (1.0 - self.beta1.powf(t), 1.0 - self.beta2.powf(t));
        m.inplace(|m| m * self.beta1 + g.clone() * (1.0 - self.beta1));
        v.inplace(|v| v * self.beta2 + g.square() * (1.0 - self.beta2));
        let update = m.clone() / ((v.clone() / c2).sqrt() + self.epsilon) * (rate / c1);
        p.inplace(|p| {
            let dtype = p.dtype();
            (p.cast(DType::F32) * (1.0 - rate * self.weight_decay) - update).cast(dtype)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::ops::oracle::{assert_close, on_both, random};
    use crate::precision::Precision;
    use burn::tensor::Device;

    #[test]
    fn two_steps_are_those_of_the_formula() {
        let adamw = AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-6, weight_decay: 0.1 };
        on_both(|at| {
            let (mut p, mut m, mut v) =
                (at(random([3, 5], 1)), at(random([3, 5], 9) * 0.0), at(random([3, 5], 9) * 0.0));
            let (mut q, mut qm, mut qv) = (p.clone(), m.clone(), v.clone());
            for step in 1..=2 {
                let g = at(random([3, 5], 1 + step));
                adamw.plain(step, [&mut q, &mut qm, &mut qv], g.clone() * 0.5, 0.01);
                match View::of(&g) {
                    Some(g) => adamw.in_place(step, [&mut p, &mut m, &mut v], g.slice(), 0.01, 0.5),
                    None => adamw.plain(step, [&mut p, &mut m, &mut v], g * 0.5, 0.01),
                }
                assert_close(&p, &q);
            }
        });
    }

    #[test]
    fn masters_keep_what_rounding_loses() {
        let table = serde_json::json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 16
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let exact = Decoder::random(config, 1, &Device::flex());
        let ones = || {
            let mut g = Gradients::none(exact.specs().len());
            (0..exact.specs().len()).for_each(|i| g.add(i, exact.parameters().0[i].ones_like()));
            g
        };
        for (masters, moves) in [(true, true), (false, false)] {
            let mut d = exact.clone().with_precision(Precision::Bf16, masters).unwrap();
            let before = d.clone();
            let mut moments = Moments::new(&d);
            // A norm's weight is 1: a step of 1e-5 is far below the distance of bf16 numbers there.
            adamw.step(&mut d, &mut moments, ones(), 1e-5, 1.0);
            let norm = |d: &Decoder| d.parameters().0[d.inventory.norm].clone().cast(DType::F32);
            let moved = (norm(&before) - norm(&d)).mean().into_scalar::<f32>();
            assert_eq!(moved > 0.9e-5, moves, "{moved}");
            let computed = d.p(d.inventory.norm).clone();
            assert_eq!(computed.dtype(), DType::BF16);
            assert_close(&computed.cast(DType::F32), &norm(&d).cast(DType::BF16).cast(DType::F32));
        }
    }

    #[test]
    fn the_first_step_is_the_sign_of_the_gradient() {
        // m/(1−β₁) = g and v/(1−β₂) = g², so θ moves by η g/(|g| + ε).
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let (mut p, mut m, mut v) = (random([2, 2], 1), random([2, 2], 1) * 0.0, random([2, 2], 1) * 0.0);
        let (before, g) = (p.clone(), random([2, 2], 2));
        adamw.plain(1, [&mut p, &mut m, &mut v], g.clone(), 0.1);
        assert_close(&p, &(before - g.sign() * 0.1));
    }
}

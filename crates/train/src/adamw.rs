//! AdamW: Adam with decoupled weight decay (arXiv:1711.05101, algorithm 2).

use burn::tensor::Tensor;
use collimate_model::{Decoder, Gradients, Tensors};

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

/// The two moments of each parameter, and how many steps they have seen.
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
        let zeros = || Tensors(decoder.parameters().0.iter().map(Tensor::zeros_like).collect());
        Self { first: zeros(), second: zeros(), steps: 0 }
    }
}

impl AdamW {
    /// One step at learning rate η on all parameters that have a gradient, each gradient multiplied by `scale` first:
    ///
    /// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← θ − ηλθ − η (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
    pub fn step(&self, decoder: &mut Decoder, moments: &mut Moments, gradients: Gradients, rate: f64, scale: f64) {
        moments.steps += 1;
        let t = moments.steps as f64;
        let (c1, c2) = (1.0 - self.beta1.powf(t), 1.0 - self.beta2.powf(t));
        let parameters = decoder.parameters_mut().0.iter_mut();
        let state = moments.first.0.iter_mut().zip(&mut moments.second.0);
        for ((p, (m, v)), g) in parameters.zip(state).zip(gradients.0) {
            let Some(g) = g else { continue };
            let g = g * scale;
            m.inplace(|m| m * self.beta1 + g.clone() * (1.0 - self.beta1));
            v.inplace(|v| v * self.beta2 + g.square() * (1.0 - self.beta2));
            let update = m.clone() / ((v.clone() / c2).sqrt() + self.epsilon) * (rate / c1);
            p.inplace(|p| p * (1.0 - rate * self.weight_decay) - update);
        }
    }
}

//! AdamW: Adam with decoupled weight decay (arXiv:1711.05101, algorithm 2).

use std::fmt::Debug;

use burn::tensor::{DType, Tensor};

use super::Plain;
use crate::read_all;

/// The constants of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The number of the step, from 1: t.
    pub number: u64,
    /// Learning rate η.
    pub rate: f64,
    /// β₁, the decay of the mean of gradients.
    pub beta1: f64,
    /// β₂, the decay of the mean of their squares.
    pub beta2: f64,
    /// ε, beside the root.
    pub epsilon: f64,
    /// λ, times the learning rate: how much of a weight is taken away.
    pub weight_decay: f64,
    /// What the gradient is multiplied by first.
    pub scale: f64,
}

/// The optimiser's update of one parameter, and the norm that clipping wants.
#[doc = include_str!("../../equations/adamw.html")]
pub trait AdamW: Debug + Sync {
    /// With θ the parameter `p`, m and v its moments and g `gradient` times `scale`, all of one shape:
    ///
    /// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← θ − ηλθ − η (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
    ///
    /// All of it in f32; a parameter of fewer bits is rounded afterwards.
    // ANCHOR: formula
    fn step(&self, s: &Step, [p, m, v]: [&mut Tensor<2>; 3], gradient: Tensor<2>) {
        let g = gradient * s.scale;
        let t = s.number as f64;
        let (c1, c2) = (1.0 - s.beta1.powf(t), 1.0 - s.beta2.powf(t));
        m.inplace(|m| m * s.beta1 + g.clone() * (1.0 - s.beta1));
        v.inplace(|v| v * s.beta2 + g.square() * (1.0 - s.beta2));
        let update = m.clone() / ((v.clone() / c2).sqrt() + s.epsilon) * (s.rate / c1);
        p.inplace(|p| {
            let dtype = p.dtype();
            (p.cast(DType::F32) * (1.0 - s.rate * s.weight_decay) - update).cast(dtype)
        });
    }
    // ANCHOR_END: formula

    /// Σ g² over all gradients.
    fn sum_of_squares(&self, gradients: &[&Tensor<2>]) -> f64 {
        let sums = gradients.iter().map(|g| (*g).clone().square().sum());
        read_all(sums.collect()).iter().flatten().sum()
    }
}

impl AdamW for Plain {}

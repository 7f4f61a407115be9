//! y = a(g) · u: gated activations (arXiv:2002.05202, eq. 6).

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};
use std::fmt::Debug;

use burn::tensor::{DType, Tensor, activation::sigmoid};

use super::Plain;

/// a, elementwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// g σ(g).
    Silu,
    /// g Φ(g), with Φ the normal distribution's.
    Gelu,
    /// g (1 + tanh(√(2/π)(g + 0.044715 g³)))/2.
    GeluTanh,
    /// max(g, 0).
    Relu,
}

impl Activation {
    /// The activation that a checkpoint calls `name`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// a(g), of f32.
    pub fn value(self, g: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Silu => g.clone() * sigmoid(g),
            Self::Gelu => g.clone() * ((g * (1.0 / SQRT_2)).erf() + 1.0) * 0.5,
            Self::GeluTanh => g.clone() * (bent(g).tanh() + 1.0) * 0.5,
            Self::Relu => g.clamp_min(0.0),
        }
    }

    /// a(g) and a′(g), of f32.
    pub fn value_and_slope(self, g: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match self {
            Self::Silu => {
                let s = sigmoid(g.clone());
                (g.clone() * s.clone(), s.clone() * (g * (-s + 1.0) + 1.0))
            }
            Self::Gelu => {
                let below = ((g.clone() * (1.0 / SQRT_2)).erf() + 1.0) * 0.5;
                let density = (g.clone().square() * -0.5).exp() * (FRAC_2_SQRT_PI / (2.0 * SQRT_2));
                (g.clone() * below.clone(), below + g * density)
            }
            Self::GeluTanh => {
                let t = bent(g.clone()).tanh();
                let inner = (g.clone().square() * (3.0 * 0.044_715) + 1.0) * (2.0 / PI).sqrt();
                let slope = (t.clone() + 1.0) * 0.5 + g.clone() * (-t.clone().square() + 1.0) * inner * 0.5;
                (g * (t + 1.0) * 0.5, slope)
            }
            Self::Relu => (g.clone().clamp_min(0.0), g.greater_elem(0.0).float()),
        }
    }
}

/// √(2/π)(g + 0.044715 g³).
fn bent(g: Tensor<2>) -> Tensor<2> {
    (g.clone() + g.clone().square() * g * 0.044_715) * (2.0 / PI).sqrt()
}

/// Let g be `gate` and u be `up`, both `[tokens, width]`, and a be `activation`.
pub trait Gated: Debug + Sync {
    /// y `[tokens, width]`.
    fn forward(&self, activation: Activation, gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
        let dtype = gate.dtype();
        let [gate, up] = [gate, up].map(|t| t.clone().cast(DType::F32));
        (activation.value(gate) * up).cast(dtype)
    }

    /// dg = dy·u·a′(g) and du = dy·a(g). Takes g and u over, as a layer is done with both.
    fn backward(
        &self,
        activation: Activation,
        dy: &Tensor<2>,
        gate: Tensor<2>,
        up: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let dtype = gate.dtype();
        let [dy, gate, up] = [dy.clone(), gate, up].map(|t| t.cast(DType::F32));
        let (value, slope) = activation.value_and_slope(gate);
        ((dy.clone() * up * slope).cast(dtype), (dy * value).cast(dtype))
    }

    /// Numbers a token and unit of width that the backward pass holds beside gate and up.
    fn held(&self) -> usize {
        3
    }
}

impl Gated for Plain {}

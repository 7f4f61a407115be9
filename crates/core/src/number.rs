//! What a formula runs on: an `f64`, or a batch of pairs on a device.

use std::fmt::Debug;
use std::ops::Neg;

use burn::tensor::{Tensor, activation};
use num_traits::NumOps;

/// One number per pair, `[pairs]`, on any device.
pub type Batch = Tensor<1>;

/// The arithmetic that the formulas need, elementwise where the number is a batch.
///
/// `f64` is the exact oracle: a batch of one. [`Batch`] runs on a device, and is differentiable where that device is.
/// Scalars enter on the right: `x * 2.0`, never `2.0 * x`.
pub trait Number: Clone + Debug + NumOps + NumOps<f64, Self> + Neg<Output = Self> {
    /// `value` everywhere, in the shape and on the device of `self`.
    fn constant(&self, value: f64) -> Self;
    /// e^x.
    fn exp(self) -> Self;
    /// ln x, for x > 0.
    fn ln(self) -> Self;
    /// ln(1 + x), exact near 0.
    fn ln_1p(self) -> Self;
    /// ln σ(x) = −ln(1 + e^(−x)), finite for every finite x.
    fn log_sigmoid(self) -> Self;
    /// σ(x) = 1/(1 + e^(−x)).
    fn sigmoid(self) -> Self;
    /// max(0, x).
    fn relu(self) -> Self;
    /// x², with a gradient that is defined at 0.
    fn square(self) -> Self;
    /// The same value, through which no gradient flows.
    fn detach(self) -> Self;
}

impl Number for f64 {
    fn constant(&self, value: f64) -> Self {
        value
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn ln(self) -> Self {
        self.ln()
    }
    fn ln_1p(self) -> Self {
        self.ln_1p()
    }
    fn log_sigmoid(self) -> Self {
        // The exponent is never positive, so nothing overflows.
        self.min(0.0) - (-self.abs()).exp().ln_1p()
    }
    fn sigmoid(self) -> Self {
        if self >= 0.0 { 1.0 / (1.0 + (-self).exp()) } else { self.exp() / (1.0 + self.exp()) }
    }
    fn relu(self) -> Self {
        self.max(0.0)
    }
    fn square(self) -> Self {
        self * self
    }
    fn detach(self) -> Self {
        self
    }
}

impl Number for Batch {
    fn constant(&self, value: f64) -> Self {
        self.full_like(value)
    }
    fn exp(self) -> Self {
        Tensor::exp(self)
    }
    fn ln(self) -> Self {
        self.log()
    }
    fn ln_1p(self) -> Self {
        self.log1p()
    }
    fn log_sigmoid(self) -> Self {
        activation::log_sigmoid(self)
    }
    fn sigmoid(self) -> Self {
        activation::sigmoid(self)
    }
    fn relu(self) -> Self {
        activation::relu(self)
    }
    fn square(self) -> Self {
        self.clone() * self
    }
    fn detach(self) -> Self {
        Tensor::detach(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Number;

    #[test]
    fn log_sigmoid_is_stable_at_both_ends() {
        assert_eq!(Number::log_sigmoid(0.0f64), -std::f64::consts::LN_2);
        // ln σ(−z) → −z and ln σ(z) → 0 as z grows.
        assert_eq!(Number::log_sigmoid(-1e4f64), -1e4);
        assert_eq!(Number::log_sigmoid(1e4f64), 0.0);
    }

    #[test]
    fn sigmoid_is_stable_at_both_ends() {
        assert_eq!(Number::sigmoid(0.0f64), 0.5);
        assert_eq!(Number::sigmoid(-1e4f64), 0.0);
        assert_eq!(Number::sigmoid(1e4f64), 1.0);
    }
}

//! What a formula runs on: an `f64`, a batch of pairs on the host, or a batch of pairs on a device.

use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Neg, Rem, Sub};

use burn::tensor::{Tensor, activation};
use num_traits::NumOps;

/// One number per pair, `[pairs]`, on any device.
pub type Batch = Tensor<1>;

/// One number per pair, `[pairs]`, on the host in f64: the exact oracle of a whole batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Column(pub Vec<f64>);

/// The exponent beyond which e^x is held: e^80 is the last round power that an f32 can multiply and stay finite.
const EXP_BOUND: f64 = 80.0;

/// The arithmetic that the formulas need, elementwise where the number is a batch.
///
/// `f64` is the exact oracle of one pair, [`Column`] that of a batch. [`Batch`] runs on a device, and is
/// differentiable where that device is. The operators are num-traits' [`NumOps`]; its `Float` can't be asked for, as it
/// wants `Copy` and constants without a shape or a device, which no batch has.
/// Scalars enter on the right: `x * 2.0`, never `2.0 * x`. Where they divide, `x * (1.0 / beta)` keeps more digits than
/// `x / beta`, whose derivative Burn 0.22 rounds to f32 on every device.
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
    /// tanh x.
    fn tanh(self) -> Self;
    /// min(x, bound), without gradient beyond the bound.
    fn at_most(self, bound: f64) -> Self;
    /// 1 where x > 0, 0 elsewhere, without gradient.
    fn step(self) -> Self;
    /// The pairs of the batch in ascending order; one number alone is its own order.
    fn sorted(self) -> Self;
    /// The same value, through which no gradient flows.
    fn detach(self) -> Self;

    /// e^min(x, 80): the exponential of a difference of log-probabilities, which may be anything, held where an f32
    /// would overflow.
    fn bounded_exp(self) -> Self {
        self.at_most(EXP_BOUND).exp()
    }
    /// ln(1 − e^x) for x ≤ 0, exact near 0 and held at ln 1e-30 there.
    fn ln_1m_exp(self) -> Self {
        // 1 − e^x = −tanh(x/2) (1 + e^x), which doesn't cancel; the floor keeps a probability of one finite.
        let half = -(self.clone() * 0.5).tanh();
        (half.relu() + 1e-30).ln() + self.exp().ln_1p()
    }
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
    fn tanh(self) -> Self {
        self.tanh()
    }
    fn at_most(self, bound: f64) -> Self {
        self.min(bound)
    }
    fn step(self) -> Self {
        f64::from(u8::from(self > 0.0))
    }
    fn sorted(self) -> Self {
        self
    }
    fn detach(self) -> Self {
        self
    }
}

/// Arithmetic on columns, place by place; two columns of one expression always have the same length.
macro_rules! columnwise {
    ($($operator:ident $method:ident),*) => {$(
        impl $operator for Column {
            type Output = Column;
            fn $method(self, other: Column) -> Column {
                assert_eq!(self.0.len(), other.0.len(), "columns of one batch have one length");
                Column(self.0.into_iter().zip(other.0).map(|(a, b)| a.$method(b)).collect())
            }
        }
        impl $operator<f64> for Column {
            type Output = Column;
            fn $method(self, other: f64) -> Column {
                Column(self.0.into_iter().map(|a| a.$method(other)).collect())
            }
        }
    )*};
}
columnwise!(Add add, Sub sub, Mul mul, Div div, Rem rem);

impl Neg for Column {
    type Output = Column;
    fn neg(self) -> Column {
        self.each(Neg::neg)
    }
}

impl Column {
    fn each(self, f: impl FnMut(f64) -> f64) -> Self {
        Self(self.0.into_iter().map(f).collect())
    }
}

impl Number for Column {
    fn constant(&self, value: f64) -> Self {
        Self(vec![value; self.0.len()])
    }
    fn exp(self) -> Self {
        self.each(f64::exp)
    }
    fn ln(self) -> Self {
        self.each(f64::ln)
    }
    fn ln_1p(self) -> Self {
        self.each(f64::ln_1p)
    }
    fn log_sigmoid(self) -> Self {
        self.each(Number::log_sigmoid)
    }
    fn sigmoid(self) -> Self {
        self.each(Number::sigmoid)
    }
    fn relu(self) -> Self {
        self.each(Number::relu)
    }
    fn square(self) -> Self {
        self.each(Number::square)
    }
    fn tanh(self) -> Self {
        self.each(f64::tanh)
    }
    fn at_most(self, bound: f64) -> Self {
        self.each(|x| x.min(bound))
    }
    fn step(self) -> Self {
        self.each(Number::step)
    }
    fn sorted(mut self) -> Self {
        self.0.sort_by(f64::total_cmp);
        self
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
        // Burn's own sigmoid goes through f32 on ndarray; this one keeps its digits, in both tails.
        activation::log_sigmoid(self).exp()
    }
    fn relu(self) -> Self {
        activation::relu(self)
    }
    fn square(self) -> Self {
        self.clone() * self
    }
    fn tanh(self) -> Self {
        Tensor::tanh(self)
    }
    fn at_most(self, bound: f64) -> Self {
        self.clamp_max(bound)
    }
    fn step(self) -> Self {
        let above = self.clone().greater_elem(0.0);
        self.zeros_like().mask_fill(above, 1.0)
    }
    fn sorted(self) -> Self {
        // By index, so that the gradient of each place goes back to the pair that holds it.
        let order = self.clone().detach().argsort(0);
        self.select(0, order)
    }
    fn detach(self) -> Self {
        Tensor::detach(self)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::{Column, Number};

    #[test]
    fn a_column_is_its_numbers_side_by_side() {
        let c = Column(vec![3.0, -1.0, 2.0]);
        assert_eq!((c.clone() * 2.0 - c.clone()).relu().0, [3.0, 0.0, 2.0]);
        assert_eq!((-c.clone()).sorted().0, [-3.0, -2.0, 1.0]);
        assert_eq!(c.constant(0.5).0, [0.5; 3]);
        assert_eq!((c - 2.0).step().0, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn ln_1m_exp_keeps_its_digits_at_both_ends() {
        // ln(1 − 1/2) = −ln 2
        assert_abs_diff_eq!(Number::ln_1m_exp(-std::f64::consts::LN_2), -std::f64::consts::LN_2, epsilon = 1e-15);
        // 1 − e^(−x) = x − x²/2 + …: ln(1e-12 − 5e-25) = −27.631021115929 − 5e-13
        assert_abs_diff_eq!(Number::ln_1m_exp(-1e-12f64), (1e-12f64.ln() - 5e-13), epsilon = 1e-13);
        assert_eq!(Number::ln_1m_exp(-1e4f64), 0.0);
        assert_eq!(Number::ln_1m_exp(0.0f64), 1e-30f64.ln() + std::f64::consts::LN_2);
    }

    #[test]
    fn bounded_exp_is_exp_where_it_can_be() {
        assert_eq!(Number::bounded_exp(-3.5f64), (-3.5f64).exp());
        assert_eq!(Number::bounded_exp(1e4f64), 80f64.exp());
        assert!((Number::bounded_exp(1e4f64) as f32).is_finite());
    }

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

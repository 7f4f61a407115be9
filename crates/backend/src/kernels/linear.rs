//! y = x Wᵀ + b.

use std::fmt::Debug;

use burn::tensor::{DType, Tensor};

use super::{Plain, Sum};

/// Let x be `x` `[tokens, in]`, W be `weight` `[out, in]` and b be `bias` `[1, out]`.
pub trait Linear: Debug + Sync {
    /// y `[tokens, out]`.
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
        let y = x.clone().matmul(weight.clone().transpose());
        match bias {
            Some(b) => y + b.clone(),
            None => y,
        }
    }

    /// y of the newest tokens of texts in progress. Where a device can, the bits of a row do not depend on the other rows
    /// or their number: then a text is the same in any batch.
    fn extend(&self, x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
        self.forward(x, weight, bias)
    }

    /// dx = dy W, `[tokens, in]`, added to `sum` if there is one.
    fn backward_input(&self, dy: &Tensor<2>, weight: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
        let dx = dy.clone().matmul(weight.clone());
        match sum {
            Some(sum) => sum + dx,
            None => dx,
        }
    }

    /// Adds dW = dyᵀ x.
    fn backward_weight(&self, dy: &Tensor<2>, x: &Tensor<2>, mut sum: Sum<'_>) {
        sum.add(dy.clone().transpose().matmul(x.clone()));
    }

    /// Adds db = Σ_tokens dy.
    fn backward_bias(&self, dy: &Tensor<2>, mut sum: Sum<'_>) {
        sum.add(dy.clone().cast(DType::F32).sum_dim(0));
    }
}

impl Linear for Plain {}

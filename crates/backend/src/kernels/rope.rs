//! Rotary positions: each pair (x_i, x_{i+d/2}) of a head is turned by its angle (arXiv:2104.09864).

use std::fmt::Debug;

use burn::tensor::{DType, Tensor};

use super::Plain;

/// Let x be `x` `[tokens, heads·d]`, and cos, sin be the f32 tables `[tokens, d/2]` of the tokens' positions.
pub trait Rope: Debug + Sync {
    /// x, turned.
    fn forward(&self, x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let half = cos.dims()[1];
        let heads = width / (2 * half);
        let dtype = x.dtype();
        let x = x.cast(DType::F32).reshape([tokens, heads, 2, half]);
        let first = x.clone().narrow(2, 0, 1);
        let second = x.narrow(2, 1, 1);
        let cos = cos.clone().reshape([tokens, 1, 1, half]);
        let sin = sin.clone().reshape([tokens, 1, 1, half]);
        let a = first.clone() * cos.clone() - second.clone() * sin.clone();
        let b = second * cos + first * sin;
        Tensor::cat(vec![a, b], 2).reshape([tokens, width]).cast(dtype)
    }

    /// A rotation's transpose is the rotation by the opposite angle. (A factor inside the tables passes through
    /// unchanged.)
    fn backward(&self, dy: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
        Rope::forward(&Plain, dy, cos, &-sin.clone())
    }
}

impl Rope for Plain {}

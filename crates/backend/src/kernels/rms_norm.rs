//! y = x·r·w with r = 1/√(mean(x²) + ε) (arXiv:1910.07467, eq. 4).

use std::fmt::Debug;

use burn::tensor::{DType, Tensor};

use super::Plain;

/// Let x be `x` `[rows, width]`, w be `weight` `[1, width]` and r be `r` `[rows, 1]`, which is f32.
pub trait RmsNorm: Debug + Sync {
    /// y `[rows, width]`, and r for the backward pass.
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
        let dtype = x.dtype();
        let (x, weight) = (x.clone().cast(DType::F32), weight.clone().cast(DType::F32));
        let r = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
        ((x * r.clone() * weight).cast(dtype), r)
    }

    /// dx and dw. With x̂ = x·r: dx = r (dy·w − x̂ mean(dy·w·x̂)), dw = Σ_rows dy·x̂, f32.
    fn backward(&self, dy: &Tensor<2>, x: &Tensor<2>, weight: &Tensor<2>, r: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let dtype = x.dtype();
        let [dy, x, weight] = [dy, x, weight].map(|t| t.clone().cast(DType::F32));
        let unit = x * r.clone();
        let dw = (dy.clone() * unit.clone()).sum_dim(0);
        let scaled = dy * weight;
        let along = (scaled.clone() * unit.clone()).mean_dim(1);
        (((scaled - unit * along) * r.clone()).cast(dtype), dw)
    }
}

impl RmsNorm for Plain {}

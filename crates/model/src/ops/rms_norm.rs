//! y = x·r·w with r = 1/√(mean(x²) + ε) (arXiv:1910.07467, eq. 4).

use burn::tensor::{DType, Tensor};
use collimate_kernels::rms_norm as kernel;

use crate::host::{self, View};

/// Let x be `x` `[rows, width]` and w be `weight` `[1, width]`: y `[rows, width]` and r `[rows, 1]`, which is f32.
pub(crate) fn forward(x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
    let Some([xs, w]) = View::all([x, weight]) else { return plain(x, weight, eps) };
    let [n, d] = x.dims();
    let (mut y, mut r) = (vec![0.0; n * d], vec![0.0; n]);
    kernel::forward(xs.slice(), w.slice(), eps as f32, &mut y, &mut r);
    (host::tensor(y, [n, d]), host::tensor(r, [n, 1]))
}

fn plain(x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
    let dtype = x.dtype();
    let (x, weight) = (x.clone().cast(DType::F32), weight.clone().cast(DType::F32));
    let r = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
    ((x * r.clone() * weight).cast(dtype), r)
}

/// dx and dw. With x̂ = x·r: dx = r (dy·w − x̂ mean(dy·w·x̂)), dw = Σ_rows dy·x̂.
pub(crate) fn backward(dy: &Tensor<2>, x: &Tensor<2>, weight: &Tensor<2>, r: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let Some([g, xs, w, rs]) = View::all([dy, x, weight, r]) else {
        let dtype = x.dtype();
        let [dy, x, weight] = [dy, x, weight].map(|t| t.clone().cast(DType::F32));
        let unit = x * r.clone();
        let dw = (dy.clone() * unit.clone()).sum_dim(0);
        let scaled = dy * weight;
        let along = (scaled.clone() * unit.clone()).mean_dim(1);
        return (((scaled - unit * along) * r.clone()).cast(dtype), dw);
    };
    let [n, d] = x.dims();
    let (mut dx, mut dw) = (vec![0.0; n * d], vec![0.0; d]);
    kernel::backward(g.slice(), xs.slice(), w.slice(), rs.slice(), &mut dx, false, &mut dw);
    (host::tensor(dx, [n, d]), host::tensor(dw, [1, d]))
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, on_both, random};
    use super::*;

    #[test]
    fn backward_is_that_of_forward() {
        on_both(|at| {
            let (x, w, dy) = (at(random([5, 8], 1)), at(random([1, 8], 2)), at(random([5, 8], 3)));
            let (y, r) = forward(&x, &w, 1e-5);
            assert_close(&y, &plain(&x, &w, 1e-5).0);
            let expected = gradients(&[x.clone(), w.clone()], &dy, |t| plain(&t[0], &t[1], 1e-5).0);
            let (dx, dw) = backward(&dy, &x, &w, &r);
            assert_close(&dx, &expected[0]);
            assert_close(&dw, &expected[1]);
        });
    }
}

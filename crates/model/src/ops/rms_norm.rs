//! y = x / √(mean(x²) + ε) · w (arXiv:1910.07467, eq. 4).

use burn::tensor::Tensor;

/// 1/√(mean(x²) + ε) of each row of `x` `[rows, width]`, `[rows, 1]`.
fn inverse(x: &Tensor<2>, eps: f64) -> Tensor<2> {
    (x.clone().square().mean_dim(1) + eps).sqrt().recip()
}

/// Let x be `x` `[rows, width]` and w be `weight` `[1, width]`: y `[rows, width]`.
pub(crate) fn forward(x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> Tensor<2> {
    x.clone() * inverse(x, eps) * weight.clone()
}

/// dx and dw. With x̂ = x·r, r the inverse root: dx = r (dy·w − x̂ mean(dy·w·x̂)), dw = Σ_rows dy·x̂.
pub(crate) fn backward(dy: &Tensor<2>, x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
    let r = inverse(x, eps);
    let unit = x.clone() * r.clone();
    let dw = (dy.clone() * unit.clone()).sum_dim(0);
    let scaled = dy.clone() * weight.clone();
    let along = (scaled.clone() * unit.clone()).mean_dim(1);
    ((scaled - unit * along) * r, dw)
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, random};
    use super::*;

    #[test]
    fn backward_is_that_of_forward() {
        let (x, w, dy) = (random([5, 8], 1), random([1, 8], 2), random([5, 8], 3));
        let expected = gradients(&[x.clone(), w.clone()], &dy, |t| forward(&t[0], &t[1], 1e-5));
        let (dx, dw) = backward(&dy, &x, &w, 1e-5);
        assert_close(&dx, &expected[0]);
        assert_close(&dw, &expected[1]);
    }
}

//! y = x Wᵀ + b.

use burn::tensor::Tensor;

/// Let x be `x` `[tokens, in]`, W be `weight` `[out, in]` and b be `bias` `[1, out]`: y `[tokens, out]`.
pub(crate) fn forward(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
    let y = x.clone().matmul(weight.clone().transpose());
    match bias {
        Some(b) => y + b.clone(),
        None => y,
    }
}

/// dx = dy W, `[tokens, in]`.
pub(crate) fn backward_input(dy: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    dy.clone().matmul(weight.clone())
}

/// dW = dyᵀ x, `[out, in]`.
pub(crate) fn backward_weight(dy: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
    dy.clone().transpose().matmul(x.clone())
}

/// db = Σ_tokens dy, `[1, out]`.
pub(crate) fn backward_bias(dy: &Tensor<2>) -> Tensor<2> {
    dy.clone().sum_dim(0)
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, random};
    use super::*;

    #[test]
    fn backward_is_that_of_forward() {
        let (x, w, b, dy) = (random([5, 3], 1), random([4, 3], 2), random([1, 4], 3), random([5, 4], 4));
        let expected = gradients(&[x.clone(), w.clone(), b.clone()], &dy, |t| forward(&t[0], &t[1], Some(&t[2])));
        assert_close(&backward_input(&dy, &w), &expected[0]);
        assert_close(&backward_weight(&dy, &x), &expected[1]);
        assert_close(&backward_bias(&dy), &expected[2]);
    }
}

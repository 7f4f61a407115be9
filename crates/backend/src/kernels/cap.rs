//! z = c·tanh(x/c): scores and logits under a cap (arXiv:2408.00118, section 2), and dz/dx = 1 − (z/c)².

use burn::tensor::Tensor;

/// z of x, which stays as it is without a cap c.
pub fn capped<const D: usize>(x: Tensor<D>, cap: Option<f64>) -> Tensor<D> {
    match cap {
        Some(c) => (x / c).tanh() * c,
        None => x,
    }
}

/// dz/dx, given z; none without a cap.
pub(super) fn slope<const D: usize>(z: &Tensor<D>, cap: Option<f64>) -> Option<Tensor<D>> {
    cap.map(|c| -(z.clone() / c).square() + 1.0)
}

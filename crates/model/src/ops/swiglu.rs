//! y = silu(g) · u, with silu(g) = g σ(g) (arXiv:2002.05202, eq. 6).

use burn::tensor::{Tensor, activation::sigmoid};

/// Let g be `gate` and u be `up`, both `[tokens, width]`.
pub(crate) fn forward(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    gate.clone() * sigmoid(gate.clone()) * up.clone()
}

/// dg = dy·u·σ(g)(1 + g(1 − σ(g))) and du = dy·silu(g).
pub(crate) fn backward(dy: &Tensor<2>, gate: &Tensor<2>, up: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let s = sigmoid(gate.clone());
    let du = dy.clone() * gate.clone() * s.clone();
    let slope = s.clone() * (gate.clone() * (-s + 1.0) + 1.0);
    (dy.clone() * up.clone() * slope, du)
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, random};
    use super::*;

    #[test]
    fn backward_is_that_of_forward() {
        let (g, u, dy) = (random([5, 8], 1), random([5, 8], 2), random([5, 8], 3));
        let expected = gradients(&[g.clone(), u.clone()], &dy, |t| forward(&t[0], &t[1]));
        let (dg, du) = backward(&dy, &g, &u);
        assert_close(&dg, &expected[0]);
        assert_close(&du, &expected[1]);
    }
}

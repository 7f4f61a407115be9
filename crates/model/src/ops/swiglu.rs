//! y = silu(g) · u, with silu(g) = g σ(g) (arXiv:2002.05202, eq. 6).

use burn::tensor::{DType, Tensor, activation::sigmoid};
use collimate_kernels::swiglu as kernel;

use crate::host::{self, View};

/// Let g be `gate` and u be `up`, both `[tokens, width]`.
pub(crate) fn forward(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    let Some([g, u]) = View::all([gate, up]) else { return plain(gate, up) };
    let mut y = vec![0.0; g.slice().len()];
    kernel::forward(g.slice(), u.slice(), &mut y);
    host::tensor(y, gate.dims())
}

fn plain(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    let dtype = gate.dtype();
    let [gate, up] = [gate, up].map(|t| t.clone().cast(DType::F32));
    (gate.clone() * sigmoid(gate) * up).cast(dtype)
}

/// dg = dy·u·σ(g)(1 + g(1 − σ(g))) and du = dy·silu(g).
pub(crate) fn backward(dy: &Tensor<2>, mut gate: Tensor<2>, mut up: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    // In place: a layer is done with both.
    let in_place =
        |dy: View| host::update(&mut gate, |g| host::update(&mut up, |u| kernel::backward(dy.slice(), g, u))).flatten();
    if View::of(dy).and_then(in_place).is_none() {
        let dtype = gate.dtype();
        let [dy, gate, up] = [dy.clone(), gate, up].map(|t| t.cast(DType::F32));
        let s = sigmoid(gate.clone());
        let du = dy.clone() * gate.clone() * s.clone();
        let slope = s.clone() * (gate * (-s + 1.0) + 1.0);
        return ((dy * up * slope).cast(dtype), du.cast(dtype));
    }
    (gate, up)
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, on_both, random};
    use super::*;

    #[test]
    fn backward_is_that_of_forward() {
        on_both(|at| {
            let (g, u, dy) = (at(random([5, 8], 1)), at(random([5, 8], 2)), at(random([5, 8], 3)));
            assert_close(&forward(&g, &u), &plain(&g, &u));
            let expected = gradients(&[g.clone(), u.clone()], &dy, |t| plain(&t[0], &t[1]));
            let (dg, du) = backward(&dy, g, u);
            assert_close(&dg, &expected[0]);
            assert_close(&du, &expected[1]);
        });
    }
}

//! y = x Wᵀ + b.

use burn::tensor::{DType, Tensor};
use collimate_kernels::gemm as kernel;

use crate::decoder::Gradients;
use crate::host::{self, View};

/// Let x be `x` `[tokens, in]`, W be `weight` `[out, in]` and b be `bias` `[1, out]`: y `[tokens, out]`.
pub(crate) fn forward(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
    let Some([xs, ws]) = View::all([x, weight]) else { return plain(x, weight, bias) };
    let (n, [out, inp]) = (x.dims()[0], weight.dims());
    let bias = bias.map(|b| View::of(b).expect("a bias lies where its weight lies"));
    let mut y = vec![0.0; n * out];
    kernel::linear(xs.slice(), ws.slice(), bias.as_ref().map(View::slice), inp, out, &mut y);
    host::tensor(y, [n, out])
}

fn plain(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
    let y = x.clone().matmul(weight.clone().transpose());
    match bias {
        Some(b) => y + b.clone(),
        None => y,
    }
}

/// dx = dy W, `[tokens, in]`, added to `sum` if there is one.
pub(crate) fn backward_input(dy: &Tensor<2>, weight: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
    let Some([g, w]) = View::all([dy, weight]) else {
        let dx = dy.clone().matmul(weight.clone());
        return match sum {
            Some(sum) => sum + dx,
            None => dx,
        };
    };
    let (n, [out, inp]) = (dy.dims()[0], weight.dims());
    let accumulate = sum.is_some();
    let mut dx = sum.unwrap_or_else(|| host::tensor(vec![0.0; n * inp], [n, inp]));
    host::update(&mut dx, |dx| kernel::linear_backward_input(g.slice(), w.slice(), inp, out, dx, accumulate))
        .expect("the sum lies where the gradient lies");
    dx
}

/// dW = dyᵀ x and db = Σ_tokens dy, added to the gradients at `weight` and `bias`.
pub(crate) fn backward_parameters(
    dy: &Tensor<2>,
    x: &Tensor<2>,
    weight: usize,
    bias: Option<usize>,
    gradients: &mut Gradients,
) {
    let Some([g, xs]) = View::all([dy, x]) else {
        gradients.add(weight, dy.clone().transpose().matmul(x.clone()));
        if let Some(bias) = bias {
            gradients.add(bias, dy.clone().cast(DType::F32).sum_dim(0));
        }
        return;
    };
    let (inp, out) = (x.dims()[1], dy.dims()[1]);
    gradients
        .update(weight, [out, inp], |dw| kernel::linear_backward_weight(g.slice(), xs.slice(), inp, out, dw, None));
    if let Some(bias) = bias {
        gradients.add(bias, dy.clone().sum_dim(0));
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, on_both, random};
    use super::*;

    #[test]
    fn backward_is_that_of_forward() {
        on_both(|at| {
            let (x, w, b) = (at(random([5, 3], 1)), at(random([4, 3], 2)), at(random([1, 4], 3)));
            let dy = at(random([5, 4], 4));
            assert_close(&forward(&x, &w, Some(&b)), &plain(&x, &w, Some(&b)));
            let expected = gradients(&[x.clone(), w.clone(), b], &dy, |t| plain(&t[0], &t[1], Some(&t[2])));
            assert_close(&backward_input(&dy, &w, None), &expected[0]);
            let twice = backward_input(&dy, &w, Some(expected[0].clone()));
            assert_close(&twice, &(expected[0].clone() * 2.0));
            let mut sums = Gradients::none(2);
            for times in [1.0, 2.0] {
                backward_parameters(&dy, &x, 0, Some(1), &mut sums);
                assert_close(sums.0[0].as_ref().unwrap(), &(expected[1].clone() * times));
                assert_close(sums.0[1].as_ref().unwrap(), &(expected[2].clone() * times));
            }
        });
    }
}

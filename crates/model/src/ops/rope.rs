//! Rotary positions: each pair (x_i, x_{i+d/2}) of a head is turned by its angle (arXiv:2104.09864).

use burn::tensor::{DType, Tensor};
use collimate_kernels::rope as kernel;

use crate::host::{self, View};

/// Let x be `x` `[tokens, heads·d]`, and cos, sin be the f32 tables `[tokens, d/2]` of the tokens' positions.
pub(crate) fn forward(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
    turn(x, cos, sin, kernel::forward, plain)
}

/// A rotation's transpose is the rotation by the opposite angle. (A factor inside the tables passes through unchanged.)
pub(crate) fn backward(dy: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
    turn(dy, cos, sin, kernel::backward, |dy, cos, sin| plain(dy, cos, &-sin.clone()))
}

fn turn(
    mut x: Tensor<2>,
    cos: &Tensor<2>,
    sin: &Tensor<2>,
    in_place: fn(&mut [f32], usize, &[f32], &[f32], usize),
    plain: fn(Tensor<2>, &Tensor<2>, &Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let d = 2 * cos.dims()[1];
    let heads = x.dims()[1] / d;
    let done =
        View::all([cos, sin]).and_then(|[c, s]| host::update(&mut x, |x| in_place(x, heads, c.slice(), s.slice(), d)));
    match done {
        Some(()) => x,
        None => plain(x, cos, sin),
    }
}

fn plain(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
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

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, on_both, random};
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn backward_is_that_of_forward() {
        on_both(|at| {
            let angles = random([5, 2], 9);
            let (cos, sin) = (at(angles.clone().cos()), at(angles.sin()));
            let (x, dy) = (at(random([5, 12], 1)), at(random([5, 12], 2)));
            assert_close(&forward(x.clone(), &cos, &sin), &plain(x.clone(), &cos, &sin));
            let expected =
                gradients(&[x], &dy, |t| plain(t[0].clone(), &cos.clone().autodiff(), &sin.clone().autodiff()));
            assert_close(&backward(dy, &cos, &sin), &expected[0]);
        });
    }

    #[test]
    fn halves_are_paired() {
        // A quarter turn of (x_0, x_2) and none of (x_1, x_3): (1, 2, 3, 4) → (−3, 2, 1, 4).
        let device = Device::flex();
        let t = |v: Vec<f32>, d: [usize; 2]| Tensor::<2>::from_data(TensorData::new(v, d), &device);
        let y = forward(t(vec![1., 2., 3., 4.], [1, 4]), &t(vec![0., 1.], [1, 2]), &t(vec![1., 0.], [1, 2]));
        assert_eq!(y.to_data().try_to_vec::<f32>().unwrap(), [-3., 2., 1., 4.]);
    }
}

//! Rotary positions: each pair (x_i, x_{i+d/2}) of a head is turned by its angle (arXiv:2104.09864).

use burn::tensor::Tensor;

/// Let x be `x` `[tokens, heads·d]`, and cos, sin be the tables `[tokens, d/2]` of the tokens' positions.
pub(crate) fn forward(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let half = cos.dims()[1];
    let heads = width / (2 * half);
    let x = x.reshape([tokens, heads, 2, half]);
    let first = x.clone().narrow(2, 0, 1);
    let second = x.narrow(2, 1, 1);
    let cos = cos.clone().reshape([tokens, 1, 1, half]);
    let sin = sin.clone().reshape([tokens, 1, 1, half]);
    let a = first.clone() * cos.clone() - second.clone() * sin.clone();
    let b = second * cos + first * sin;
    Tensor::cat(vec![a, b], 2).reshape([tokens, width])
}

/// A rotation's transpose is the rotation by the opposite angle. (A factor inside the tables passes through unchanged.)
pub(crate) fn backward(dy: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
    forward(dy, cos, &-sin.clone())
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, random};
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn backward_is_that_of_forward() {
        let angles = random([5, 2], 9);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let (x, dy) = (random([5, 12], 1), random([5, 12], 2));
        let expected =
            gradients(&[x.clone()], &dy, |t| forward(t[0].clone(), &cos.clone().autodiff(), &sin.clone().autodiff()));
        assert_close(&backward(dy, &cos, &sin), &expected[0]);
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

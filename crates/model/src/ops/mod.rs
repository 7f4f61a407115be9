//! The pieces of a decoder, each with its own backward pass: one piece, one file.
//!
//! Gradients are written by hand, not recorded on a tape: so memory is what a piece says it keeps, a layer can be
//! recomputed instead of stored, and a backend can bring a faster kernel for one piece. The tests hold each
//! backward pass against automatic differentiation of the same forward pass.

pub(crate) mod attention;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;

#[cfg(test)]
pub(crate) mod oracle {
    //! Automatic differentiation as the oracle of the hand-written backward passes.

    use burn::tensor::{Device, Distribution, Tensor, Tolerance};

    /// Random values, the same each time.
    pub fn random(dims: [usize; 2], seed: u64) -> Tensor<2> {
        let device = Device::flex();
        device.seed(seed);
        Tensor::random(dims, Distribution::Normal(0.0, 1.0), &device)
    }

    /// The gradients of Σ (f(inputs) · dy) with respect to the inputs.
    pub fn gradients(inputs: &[Tensor<2>], dy: &Tensor<2>, f: impl Fn(&[Tensor<2>]) -> Tensor<2>) -> Vec<Tensor<2>> {
        let leaves: Vec<_> = inputs.iter().map(|t| t.clone().autodiff().require_grad()).collect();
        let y = f(&leaves);
        let grads = (y * dy.clone().autodiff()).sum().backward();
        leaves.iter().map(|l| l.grad(&grads).expect("each input has a gradient")).collect()
    }

    /// Within 1e-4, which is what f32 sums of this size leave.
    pub fn assert_close(got: &Tensor<2>, expected: &Tensor<2>) {
        got.to_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::rel_abs(1e-4, 1e-4));
    }
}

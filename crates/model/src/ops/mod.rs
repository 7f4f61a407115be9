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

    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// Random values between −1.5 and 1.5, the same each time, on flex.
    pub fn random(dims: [usize; 2], seed: u64) -> Tensor<2> {
        let mut rng = StdRng::seed_from_u64(seed);
        let values: Vec<f32> = (0..dims[0] * dims[1]).map(|_| rng.random::<f32>() * 3.0 - 1.5).collect();
        Tensor::from_data(TensorData::new(values, dims), &Device::flex())
    }

    /// A backend without kernels of ours; deprecated by the tensor library, and still a second opinion.
    #[allow(deprecated)]
    pub fn elsewhere() -> Device {
        Device::ndarray()
    }

    /// Runs a test where the kernels work and where tensor operations do; it is given what brings a tensor there.
    pub fn on_both(test: impl Fn(&dyn Fn(Tensor<2>) -> Tensor<2>)) {
        test(&|t| t);
        test(&|t| Tensor::from_data(t.into_data(), &elsewhere()));
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

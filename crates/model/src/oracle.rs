//! What the tests of this crate share: automatic differentiation as the oracle of the hand-written backward passes.

use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

// The tests want flex's own kernels.
use collimate_backend_flex as _;

/// Random values between −1.5 and 1.5, the same each time.
pub fn random(dims: [usize; 2], seed: u64, device: &Device) -> Tensor<2> {
    let mut rng = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = (0..dims[0] * dims[1]).map(|_| rng.random::<f32>() * 3.0 - 1.5).collect();
    Tensor::from_data(TensorData::new(values, dims), device)
}

/// A backend without kernels of ours; deprecated by the tensor library, and still a second opinion.
#[allow(deprecated)]
pub fn elsewhere() -> Device {
    Device::ndarray()
}

/// Within 1e-4, which is what f32 sums of this size leave.
pub fn assert_close(got: &Tensor<2>, expected: &Tensor<2>) {
    got.to_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::rel_abs(1e-4, 1e-4));
}

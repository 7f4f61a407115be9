//! What the tests of this crate share: automatic differentiation as the oracle of the hand-written backward passes.

use burn::tensor::{Device, Tensor, Tolerance};

// The tests want flex's own kernels.
use collimate_backend_flex as _;

/// A backend without kernels of ours; deprecated by the tensor library, and still a second opinion.
#[allow(deprecated)]
pub fn elsewhere() -> Device {
    Device::ndarray()
}

/// Within 1e-4, which is what f32 sums of this size leave.
pub fn assert_close(got: &Tensor<2>, expected: &Tensor<2>) {
    got.to_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::rel_abs(1e-4, 1e-4));
}

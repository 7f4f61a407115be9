//! The head of a reward model: one number of each hidden state that is read.
//!
//! Let h_t be a row of `hidden` `[read, hidden]` and w be `weight` `[1, hidden]`: r_t = w h_tᵀ. With c_t the derivative of
//! the loss with respect to r_t, dh_t = c_t w and dw = Σ_t c_t h_t.

use burn::tensor::{DType, Tensor, TensorData};
use collimate_backend::kernels::{HeadPass, Scores, Sum};
use collimate_backend::read;

/// A value head on its way over the groups of a batch. Where a vocabulary's head says a log-probability of the target, this
/// one says its number, whatever the target.
#[derive(Default)]
pub(crate) struct ValuePass(Option<(Tensor<2>, Tensor<2>)>);

impl HeadPass for ValuePass {
    fn scores(&mut self, hidden: &Tensor<2>, weight: &Tensor<2>, _targets: &[u32], _collision: bool) -> Scores {
        let values = read(hidden.clone().matmul(weight.clone().transpose()).cast(DType::F32));
        self.0 = Some((hidden.clone(), weight.clone()));
        Scores { log_probs: values.try_to_vec().expect("it was cast"), log_collisions: None }
    }

    fn gradient(&mut self, coefficients: &[f32], weight_sum: Option<Sum<'_>>) -> Tensor<2> {
        let (hidden, weight) = self.0.take().expect("a group was scored");
        let c = TensorData::new(coefficients.to_vec(), [coefficients.len(), 1]);
        let c = Tensor::<2>::from_data(c, (&hidden.device(), DType::F32)).cast(hidden.dtype());
        if let Some(mut sum) = weight_sum {
            sum.add(c.clone().transpose().matmul(hidden));
        }
        c.matmul(weight)
    }
}

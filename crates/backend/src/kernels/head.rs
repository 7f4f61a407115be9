//! Log-probabilities from hidden states, a group of tokens at a time, and the gradient from the same logits.
//!
//! Let h_t be a row of `hidden` `[tokens, hidden]`, W be `weight` `[vocab, hidden]`, y_t the target and z_t = W h_t its
//! logits: ln p_t = z_t\[y_t\] − ln Σ_v exp z_t\[v\]. The gradient that comes back is one number c_t per token, so
//! dz_t = c_t (onehot(y_t) − softmax(z_t)), dh_t = Wᵀ dz_t and dW = Σ_t dz_t h_tᵀ. Under a cap k, z_t = k·tanh(W h_t/k), and
//! dz_t is multiplied by 1 − (z_t/k)² before it goes on.

use std::fmt::Debug;

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

use super::cap::{capped, slope};
use super::{Plain, Sum};
use crate::read;

/// What the head says of each token of a group, on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// ln π(y_t | x, y_<t), in nats; of a reward model, its number.
    pub log_probs: Vec<f32>,
    /// ln Σ_v π(v | x, y_<t)², if it was asked for.
    pub log_collisions: Option<Vec<f32>>,
}

/// The head of a network.
pub trait Head: Debug + Sync {
    /// Begins to go over the groups of a batch, with logits under that cap; what is returned may keep buffers from group to group.
    fn begin(&self, cap: Option<f64>) -> Box<dyn HeadPass> {
        Box::new(PlainPass { cap, group: None })
    }

    /// Numbers that are held for each logit of a group.
    fn held(&self, _cap: Option<f64>) -> usize {
        3
    }
}

/// The head on its way over the groups of a batch.
#[doc = include_str!("../../equations/head.html")]
pub trait HeadPass: Send {
    /// Computes the logits of a group, keeps them, and says what they give the targets.
    fn scores(&mut self, hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[u32], collision: bool) -> Scores;

    /// From c `coefficients`, one for each token of the group that [`scores`](Self::scores) was asked for last: dh
    /// `[tokens, hidden]`, and dW added to `weight_sum` where the weight is trained. Uses the logits up.
    ///
    /// # Panics
    /// Without a group, or with another number of coefficients than it has tokens.
    fn gradient(&mut self, coefficients: &[f32], weight_sum: Option<Sum<'_>>) -> Tensor<2>;
}

impl Head for Plain {}

struct PlainPass {
    cap: Option<f64>,
    group: Option<Group>,
}

struct Group {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<2, Int>,
    /// In f32, capped.
    logits: Tensor<2>,
    /// `[tokens, 1]`.
    log_sum_exp: Tensor<2>,
}

fn host(t: Tensor<2>) -> Vec<f32> {
    read(t).convert::<f32>().try_to_vec().expect("it was converted")
}

// ANCHOR: formula
impl HeadPass for PlainPass {
    fn scores(&mut self, hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[u32], collision: bool) -> Scores {
        let ids: Vec<i32> = targets.iter().map(|t| *t as i32).collect();
        let targets: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [targets.len(), 1]), &hidden.device());
        let logits = hidden.clone().matmul(weight.clone().transpose()).cast(DType::F32);
        let logits = capped(logits, self.cap);
        let target = logits.clone().gather(1, targets.clone());
        let top = logits.clone().max_dim(1);
        let e = (logits.clone() - top.clone()).exp();
        let log_sum = e.clone().sum_dim(1).log();
        let log_sum_exp = top + log_sum.clone();
        let log_collisions = collision.then(|| host(e.square().sum_dim(1).log() - log_sum * 2.0));
        let log_probs = host(target - log_sum_exp.clone());
        self.group = Some(Group { hidden: hidden.clone(), weight: weight.clone(), targets, logits, log_sum_exp });
        Scores { log_probs, log_collisions }
    }

    fn gradient(&mut self, coefficients: &[f32], weight_sum: Option<Sum<'_>>) -> Tensor<2> {
        let Group { hidden, weight, targets, logits, log_sum_exp } = self.group.take().expect("a group was scored");
        let dtype = hidden.dtype();
        let c = TensorData::new(coefficients.to_vec(), [hidden.dims()[0], 1]);
        let c: Tensor<2> = Tensor::from_data(c, (&hidden.device(), DType::F32));
        let slope = slope(&logits, self.cap);
        let p = (logits - log_sum_exp).exp();
        let d_logits = (p * -c.clone()).scatter(1, targets, c, IndexingUpdateOp::Add);
        let d_logits = if let Some(slope) = slope { d_logits * slope } else { d_logits }.cast(dtype);
        if let Some(mut sum) = weight_sum {
            sum.add(d_logits.clone().transpose().matmul(hidden));
        }
        d_logits.matmul(weight)
    }
}
// ANCHOR_END: formula

//! y = x Wᵀ + b.

use std::any::Any;
use std::fmt::Debug;

use burn::tensor::{DType, Tensor};

use super::{Plain, Sum};
use crate::read;

/// What a kernel makes of a weight once, for many steps of texts in progress.
pub type Packed = Box<dyn Any + Send + Sync>;

/// A linear map of texts in progress.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// W.
    pub weight: &'a Tensor<2>,
    /// b.
    pub bias: Option<&'a Tensor<2>>,
    /// What [`Linear::pack`] made of W.
    pub packed: Option<&'a Packed>,
}

/// Let x be `x` `[tokens, in]`, W be `weight` `[out, in]` and b be `bias` `[1, out]`.
pub trait Linear: Debug + Sync {
    /// y `[tokens, out]`.
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
        let y = x.clone().matmul(weight.clone().transpose());
        match bias {
            Some(b) => y + b.clone(),
            None => y,
        }
    }

    /// What multiplies bf16 on this device, where that is faster than f32; none where bf16 saves memory only, or where
    /// it is not known.
    fn half_unit(&self) -> Option<&'static str> {
        None
    }

    /// Rows beyond which a product is hardly faster per row, so that more of them at a time only hold more; none where that
    /// is not known.
    fn ample(&self) -> Option<usize> {
        None
    }

    /// What [`extend`](Self::extend) wants to have of a weight beside it, held while texts are in progress.
    fn pack(&self, _weight: &Tensor<2>) -> Option<Packed> {
        None
    }

    /// y of the newest tokens of texts in progress, for each of the maps of x. Where a device can, the bits of a row do not
    /// depend on the other rows or their number: then a text is the same in any batch.
    fn extend(&self, x: &Tensor<2>, maps: &[Map<'_>]) -> Vec<Tensor<2>> {
        maps.iter().map(|m| self.forward(x, m.weight, m.bias)).collect()
    }

    /// The same of one map, to the host's memory in f32: into `y`, whose room is used again from step to step.
    fn extend_into(&self, x: &Tensor<2>, map: Map<'_>, y: &mut Vec<f32>) {
        let made = self.extend(x, &[map]).remove(0);
        *y = read(made).convert::<f32>().try_into_vec().expect("it was converted");
    }

    /// dx = dy W, `[tokens, in]`, added to `sum` if there is one.
    fn backward_input(&self, dy: &Tensor<2>, weight: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
        let dx = dy.clone().matmul(weight.clone());
        match sum {
            Some(sum) => sum + dx,
            None => dx,
        }
    }

    /// Adds dW = dyᵀ x.
    fn backward_weight(&self, dy: &Tensor<2>, x: &Tensor<2>, mut sum: Sum<'_>) {
        sum.add(dy.clone().transpose().matmul(x.clone()));
    }

    /// Adds db = Σ_tokens dy.
    fn backward_bias(&self, dy: &Tensor<2>, mut sum: Sum<'_>) {
        sum.add(dy.clone().cast(DType::F32).sum_dim(0));
    }
}

impl Linear for Plain {}

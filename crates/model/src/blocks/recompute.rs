//! A block that keeps nothing where the run says so, and computes it anew in the backward pass.

use burn::tensor::Tensor;

use super::{Block, Cache, Cx, Numbers, Site};
use crate::params::{Grads, ParamId};

/// Recomputation (`gradient_checkpointing`), around any block.
#[doc = include_str!("../../equations/block-recompute.html")]
#[derive(Debug)]
pub struct Recompute<B>(pub B);

impl<B: Block> Block for Recompute<B> {
    type Saved = Option<B::Saved>;

    // ANCHOR: formula
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Self::Saved) {
        let (y, saved) = self.0.forward(cx, x);
        (y, (!cx.recompute).then_some(saved))
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let saved = saved.unwrap_or_else(|| self.0.forward(cx, x.clone()).1);
        self.0.backward(cx, x, saved, dy, grads)
    }
    // ANCHOR_END: formula

    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        self.0.extend(cx, x, cache)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        self.0.params(visit);
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        self.0.numbers(on)
    }
}

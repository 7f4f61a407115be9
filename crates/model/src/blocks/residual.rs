//! y = x + m·f(x).

use burn::tensor::Tensor;

use super::{Block, Cache, Cx, Numbers, Site};
use crate::params::{Grads, ParamId};

/// A branch beside the residual stream. Where f gives the rows that are read alone, so does y.
#[doc = include_str!("../../equations/block-residual.html")]
#[derive(Debug)]
pub struct Residual<B> {
    /// f.
    pub inner: B,
    /// m.
    pub scale: f64,
    /// Whether f leaves out the rows that nobody reads.
    pub narrows: bool,
}

impl<B> Residual<B> {
    fn scaled(&self, branch: Tensor<2>) -> Tensor<2> {
        if self.scale == 1.0 { branch } else { branch * self.scale }
    }
}

impl<B: Block> Block for Residual<B> {
    type Saved = B::Saved;

    // ANCHOR: formula
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, B::Saved) {
        let (branch, saved) = self.inner.forward(cx, x.clone());
        let x = if self.narrows { cx.batch.narrow(x) } else { x };
        (x + self.scaled(branch), saved)
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: B::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let branch = self.inner.backward(cx, x, saved, self.scaled(dy.clone()), grads);
        let dy = if self.narrows { cx.batch.widen(dy) } else { dy };
        dy + branch
    }
    // ANCHOR_END: formula

    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        let branch = self.inner.extend(cx, x.clone(), cache);
        let x = if self.narrows { cx.batch.narrow(x) } else { x };
        x + self.scaled(branch)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        self.inner.params(visit);
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        self.inner.numbers(on)
    }
}

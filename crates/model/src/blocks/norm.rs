//! y = x·r·w with r = 1/√(mean(x²) + ε) (arXiv:1910.07467, eq. 4), over whole rows or over each head; and a block behind
//! a norm.

use burn::tensor::Tensor;

use super::{Block, Cache, Cx, Numbers, Site};
use crate::params::{Grads, ParamId};

/// An RMSNorm over runs of as many columns as its weight has: all of a row, or each head of it.
#[doc = include_str!("../../equations/block-norm.html")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// w `[width]`.
    pub weight: ParamId,
    /// ε.
    pub eps: f64,
}

impl RmsNorm {
    /// The normed rows, and r `[runs, 1]`.
    // ANCHOR: formula
    pub fn apply(&self, cx: &Cx<'_>, x: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let weight = cx.p(self.weight);
        let (dims, split) = self.split(x, weight);
        let (y, r) = cx.timed("norm", || cx.kernels.norm.forward(&x.clone().reshape(split), weight, self.eps));
        (y.reshape(dims), r)
    }

    /// dx, given r of the forward pass.
    pub fn pull_back(&self, cx: &Cx<'_>, x: &Tensor<2>, r: &Tensor<2>, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let weight = cx.p(self.weight);
        let (dims, split) = self.split(x, weight);
        let (dy, x) = (dy.reshape(split), x.clone().reshape(split));
        let (dx, dw) = cx.timed("norm", || cx.kernels.norm.backward(&dy, &x, weight, r));
        grads.add(self.weight, dw);
        dx.reshape(dims)
    }
    // ANCHOR_END: formula

    /// The shape of x, and the same with one run a row.
    fn split(&self, x: &Tensor<2>, weight: &Tensor<2>) -> ([usize; 2], [usize; 2]) {
        let ([rows, width], [_, run]) = (x.dims(), weight.dims());
        ([rows, width], [rows * width / run, run])
    }
}

impl Block for RmsNorm {
    // r is computed anew, with the normed rows that some blocks behind a norm want too.
    type Saved = ();

    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, ()) {
        (self.apply(cx, &x).0, ())
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, (): (), dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let (_, r) = self.apply(cx, &x);
        self.pull_back(cx, &x, &r, dy, grads)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        visit(self.weight);
    }

    fn numbers(&self, _on: &Site<'_>) -> Numbers {
        Numbers::default()
    }
}

/// A block behind a norm: y = f(norm(x)). The normed rows are computed anew, not kept.
#[derive(Debug)]
pub struct Normed<B> {
    /// The norm.
    pub norm: RmsNorm,
    /// f.
    pub inner: B,
}

impl<B: Block> Block for Normed<B> {
    type Saved = B::Saved;

    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, B::Saved) {
        let (normed, _) = self.norm.apply(cx, &x);
        self.inner.forward(cx, normed)
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: B::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let (normed, r) = self.norm.apply(cx, &x);
        let dy = self.inner.backward(cx, normed, saved, dy, grads);
        self.norm.pull_back(cx, &x, &r, dy, grads)
    }

    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        let (normed, _) = self.norm.apply(cx, &x);
        self.inner.extend(cx, normed, cache)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        self.norm.params(visit);
        self.inner.params(visit);
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        self.inner.numbers(on)
    }
}

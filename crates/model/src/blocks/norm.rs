//! y = x·r·w + b with r = 1/√(mean(x²) + ε) (RMSNorm: arXiv:1910.07467, eq. 4), over whole rows or over each head; of rows
//! whose mean is taken away first, that is LayerNorm (arXiv:1607.06450, eq. 4). And a block behind a norm.

use burn::tensor::{DType, Tensor};

use super::{Block, Cache, Cx, Numbers, Site};
use crate::params::{Grads, ParamId};

/// A norm over runs of `width` columns: all of a row, or each head of it.
#[doc = include_str!("../../equations/block-norm.html")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// w `[width]`, less `offset`; none: 1.
    pub weight: Option<ParamId>,
    /// b `[width]`.
    pub bias: Option<ParamId>,
    /// The columns of a run.
    pub width: usize,
    /// ε.
    pub eps: f64,
    /// What is added to the weight that is stored.
    pub offset: f64,
    /// Whether the mean of a run is taken away first.
    pub centred: bool,
}

impl Norm {
    /// An RMSNorm.
    pub fn rms(weight: ParamId, width: usize, eps: f64) -> Self {
        Self { weight: Some(weight), bias: None, width, eps, offset: 0.0, centred: false }
    }

    /// The normed rows, and r `[runs, 1]`.
    // ANCHOR: formula
    pub fn apply(&self, cx: &Cx<'_>, x: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (dims, split) = self.split(x);
        let (y, r) = cx.timed("norm", || {
            let (y, r) = cx.kernels.norm.forward(&self.runs(x, split), &self.scale(cx, x), self.eps);
            let y = match self.bias {
                Some(b) => (y + cx.p(b).clone().cast(DType::F32)).cast(x.dtype()),
                None => y,
            };
            (y, r)
        });
        (y.cast(x.dtype()).reshape(dims), r)
    }

    /// dx, given r of the forward pass.
    pub fn pull_back(&self, cx: &Cx<'_>, x: &Tensor<2>, r: &Tensor<2>, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let (dims, split) = self.split(x);
        let (dy, runs) = (dy.reshape(split), self.runs(x, split));
        let dy = if self.centred { dy.cast(DType::F32) } else { dy };
        let (mut dx, dw) = cx.timed("norm", || cx.kernels.norm.backward(&dy, &runs, &self.scale(cx, x), r));
        if let Some(weight) = self.weight {
            grads.add(weight, dw);
        }
        if let Some(bias) = self.bias {
            grads.add(bias, dy.cast(DType::F32).sum_dim(0));
        }
        if self.centred {
            dx = dx.clone() - dx.mean_dim(1);
        }
        dx.cast(x.dtype()).reshape(dims)
    }

    /// One run a row; centred in f32.
    fn runs(&self, x: &Tensor<2>, split: [usize; 2]) -> Tensor<2> {
        let x = x.clone().reshape(split);
        if !self.centred {
            return x;
        }
        let x = x.cast(DType::F32);
        x.clone() - x.mean_dim(1)
    }

    /// w `[1, width]`.
    fn scale(&self, cx: &Cx<'_>, x: &Tensor<2>) -> Tensor<2> {
        match self.weight {
            Some(w) if self.offset == 0.0 && !self.centred => cx.p(w).clone(),
            Some(w) => cx.p(w).clone().cast(DType::F32) + self.offset,
            None => Tensor::ones([1, self.width], (&x.device(), DType::F32)),
        }
    }
    // ANCHOR_END: formula

    /// The shape of x, and the same with one run a row.
    fn split(&self, x: &Tensor<2>) -> ([usize; 2], [usize; 2]) {
        let [rows, width] = x.dims();
        ([rows, width], [rows * width / self.width, self.width])
    }
}

impl Block for Norm {
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
        self.weight.into_iter().chain(self.bias).for_each(visit);
    }

    fn numbers(&self, _on: &Site<'_>) -> Numbers {
        Numbers::default()
    }
}

/// A block behind a norm: y = f(norm(x)). The normed rows are computed anew, not kept.
#[derive(Debug)]
pub struct Normed<B> {
    /// The norm.
    pub norm: Norm,
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

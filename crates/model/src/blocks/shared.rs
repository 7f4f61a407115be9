//! y = E(x) + σ(g x) f(x): experts, and beside them a feed-forward layer that every token goes through, as far as its gate
//! lets it (Qwen2-MoE, arXiv:2407.10671, section 2.2).

use burn::tensor::{DType, Tensor, activation::sigmoid};

use super::experts::Saved as Routed;
use super::{Block, Cx, Experts, GatedMlp, Linear, Numbers, Site};
use crate::params::{Grads, ParamId};

/// Experts with one that all tokens share.
#[doc = include_str!("../../equations/block-shared.html")]
#[derive(Debug)]
pub struct Shared {
    /// E.
    pub experts: Experts,
    /// g `[1, hidden]`.
    pub gate: Linear,
    /// f.
    pub mlp: GatedMlp,
}

/// What the backward pass wants.
#[derive(Debug)]
pub struct Saved {
    experts: Routed,
    mlp: <GatedMlp as Block>::Saved,
    /// f(x).
    out: Tensor<2>,
    /// σ(g x) `[tokens, 1]`, in f32.
    open: Tensor<2>,
}

impl Block for Shared {
    type Saved = Saved;

    // ANCHOR: formula
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Saved) {
        let open = sigmoid(self.gate.apply(cx, &x).cast(DType::F32));
        let (out, mlp) = self.mlp.forward(cx, x.clone());
        let (y, experts) = self.experts.forward(cx, x);
        (y + out.clone() * open.clone().cast(out.dtype()), Saved { experts, mlp, out, open })
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let Saved { experts, mlp, out, open } = saved;
        let d_open = (dy.clone().cast(DType::F32) * out.cast(DType::F32)).sum_dim(1);
        let d_gate = d_open * open.clone() * (open.clone().neg() + 1.0);
        let dx = self.experts.backward(cx, x.clone(), experts, dy.clone(), grads);
        let d_out = dy.clone() * open.cast(dy.dtype());
        let dx = dx + self.mlp.backward(cx, x.clone(), mlp, d_out, grads);
        self.gate.pull_back(cx, &x, &d_gate.cast(dy.dtype()), Some(dx), grads)
    }
    // ANCHOR_END: formula

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        self.experts.params(visit);
        self.gate.params(visit);
        self.mlp.params(visit);
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let (experts, mlp) = (self.experts.numbers(on), self.mlp.numbers(on));
        let out = on.load.tokens * (on.width + 1);
        Numbers { kept: experts.kept + mlp.kept + out, held: experts.held.max(mlp.held) + out, scores: 0 }
    }
}

//! y = W_down (a(W_gate x) · W_up x): the gated feed-forward layer (arXiv:2002.05202, eq. 6).

use burn::tensor::Tensor;
use collimate_backend::kernels::Activation;

use super::{Block, Cx, Linear, Numbers, Site};
use crate::params::{Grads, ParamId};

/// Two maps up, of which one is the gate of the other, and one down.
#[doc = include_str!("../../equations/block-mlp.html")]
#[derive(Debug)]
pub struct GatedMlp {
    /// W_gate `[inner, hidden]`.
    pub gate: Linear,
    /// W_up `[inner, hidden]`.
    pub up: Linear,
    /// W_down `[hidden, inner]`.
    pub down: Linear,
    /// a.
    pub activation: Activation,
    /// The width of what is inside.
    pub inner: usize,
}

impl GatedMlp {
    fn activate(&self, cx: &Cx<'_>, gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
        cx.timed("swiglu", || cx.kernels.gated.forward(self.activation, gate, up))
    }
}

impl Block for GatedMlp {
    /// Gate and up; their product is computed anew.
    type Saved = (Tensor<2>, Tensor<2>);

    // ANCHOR: formula
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Self::Saved) {
        let [gate, up] = Linear::apply_all(cx, [&self.gate, &self.up], &x);
        let y = self.down.apply(cx, &self.activate(cx, &gate, &up));
        (y, (gate, up))
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let (gate, up) = saved;
        let d_inner = self.down.pull_back(cx, &self.activate(cx, &gate, &up), &dy, None, grads);
        let (d_gate, d_up) = cx.timed("swiglu", || cx.kernels.gated.backward(self.activation, &d_inner, gate, up));
        drop(d_inner);
        let dx = self.gate.pull_back(cx, &x, &d_gate, None, grads);
        self.up.pull_back(cx, &x, &d_up, Some(dx), grads)
    }
    // ANCHOR_END: formula

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        [self.gate, self.up, self.down].iter().for_each(|l| l.params(visit));
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let (kept, held) = (2 * self.inner, on.kernels.gated.held() * self.inner + 4 * on.width);
        Numbers { kept: on.load.tokens * kept, held: on.load.tokens * held, scores: 0 }
    }
}

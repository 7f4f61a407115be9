//! y = W_down (a(W_gate x) · W_up x): the gated feed-forward layer (arXiv:2002.05202, eq. 6); and the plain one,
//! y = W_down a(W_up x).

use burn::tensor::{DType, Tensor};
use collimate_backend::kernels::Activation;

use super::{Block, Cx, Linear, Numbers, Site};
use crate::params::{Grads, ParamId};

/// W_gate and W_up.
#[derive(Clone, Copy, Debug)]
pub enum GateUp {
    /// `[inner, hidden]` each.
    Apart([Linear; 2]),
    /// One above the other, `[2·inner, hidden]`.
    Fused(Linear),
}

/// Two maps up, of which one is the gate of the other, and one down.
#[doc = include_str!("../../equations/block-mlp.html")]
#[derive(Debug)]
pub struct GatedMlp {
    /// W_gate and W_up.
    pub gate_up: GateUp,
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
        let [gate, up] = match &self.gate_up {
            GateUp::Apart([gate, up]) => Linear::apply_all(cx, [gate, up], &x),
            GateUp::Fused(both) => {
                let both = both.apply(cx, &x);
                [0, 1].map(|i| both.clone().narrow(1, i * self.inner, self.inner))
            }
        };
        let y = self.down.apply(cx, &self.activate(cx, &gate, &up));
        (y, (gate, up))
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let (gate, up) = saved;
        let d_inner = self.down.pull_back(cx, &self.activate(cx, &gate, &up), &dy, None, grads);
        let (d_gate, d_up) = cx.timed("swiglu", || cx.kernels.gated.backward(self.activation, &d_inner, gate, up));
        drop(d_inner);
        match &self.gate_up {
            GateUp::Apart([gate, up]) => {
                let dx = gate.pull_back(cx, &x, &d_gate, None, grads);
                up.pull_back(cx, &x, &d_up, Some(dx), grads)
            }
            GateUp::Fused(both) => both.pull_back(cx, &x, &Tensor::cat(vec![d_gate, d_up], 1), None, grads),
        }
    }
    // ANCHOR_END: formula

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        match &self.gate_up {
            GateUp::Apart(both) => both.iter().for_each(|l| l.params(visit)),
            GateUp::Fused(both) => both.params(visit),
        }
        self.down.params(visit);
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let fused = if matches!(self.gate_up, GateUp::Fused(_)) { 2 } else { 0 };
        let (kept, held) = (2 * self.inner, (on.kernels.gated.held() + fused) * self.inner + 4 * on.width);
        Numbers { kept: on.load.tokens * kept, held: on.load.tokens * held, scores: 0 }
    }
}

/// One map up and one down.
#[derive(Debug)]
pub struct Mlp {
    /// W_up `[inner, hidden]`.
    pub up: Linear,
    /// W_down `[hidden, inner]`.
    pub down: Linear,
    /// a.
    pub activation: Activation,
    /// The width of what is inside.
    pub inner: usize,
}

impl Block for Mlp {
    /// W_up x; its activation is computed anew.
    type Saved = Tensor<2>;

    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Self::Saved) {
        let up = self.up.apply(cx, &x);
        let inner = cx.timed("activation", || self.activation.value(up.clone().cast(DType::F32)).cast(up.dtype()));
        (self.down.apply(cx, &inner), up)
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, up: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let dtype = up.dtype();
        let (inner, slope) = cx.timed("activation", || self.activation.value_and_slope(up.cast(DType::F32)));
        let d_inner = self.down.pull_back(cx, &inner.cast(dtype), &dy, None, grads);
        let d_up = (d_inner.cast(DType::F32) * slope).cast(dtype);
        self.up.pull_back(cx, &x, &d_up, None, grads)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        [self.up, self.down].iter().for_each(|l| l.params(visit));
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        // The activation, its slope, and the gradients of both sides of it.
        let held = 4 * self.inner + 4 * on.width;
        Numbers { kept: on.load.tokens * self.inner, held: on.load.tokens * held, scores: 0 }
    }
}

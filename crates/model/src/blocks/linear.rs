//! y = x Wᵀ + b.

use burn::tensor::Tensor;

use super::{Block, Cx, Numbers, Site};
use crate::params::{Grads, ParamId};

/// A weight `[out, in]`, and a bias `[out]` where the architecture has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// W.
    pub weight: ParamId,
    /// b.
    pub bias: Option<ParamId>,
}

impl Linear {
    /// y `[tokens, out]` of x `[tokens, in]`.
    pub fn apply(&self, cx: &Cx<'_>, x: &Tensor<2>) -> Tensor<2> {
        let (weight, bias) = (cx.p(self.weight), self.bias.map(|b| cx.p(b)));
        let kernel = cx.kernels.linear;
        cx.timed("linear forward", || match cx.batch.extends {
            true => kernel.extend(x, weight, bias),
            false => kernel.forward(x, weight, bias),
        })
    }

    /// dx `[tokens, in]`, added to `sum` if there is one; of a frozen weight no gradient is computed.
    pub fn pull_back(
        &self,
        cx: &Cx<'_>,
        x: &Tensor<2>,
        dy: &Tensor<2>,
        sum: Option<Tensor<2>>,
        grads: &mut Grads,
    ) -> Tensor<2> {
        let kernel = cx.kernels.linear;
        cx.timed("linear backward", || {
            if let Some(sum) = grads.sum(self.weight) {
                kernel.backward_weight(dy, x, sum);
            }
            if let Some(sum) = self.bias.and_then(|b| grads.sum(b)) {
                kernel.backward_bias(dy, sum);
            }
            kernel.backward_input(dy, cx.p(self.weight), sum)
        })
    }
}

impl Block for Linear {
    type Saved = ();

    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, ()) {
        (self.apply(cx, &x), ())
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, (): (), dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        self.pull_back(cx, &x, &dy, None, grads)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        visit(self.weight);
        self.bias.into_iter().for_each(visit);
    }

    fn numbers(&self, _on: &Site<'_>) -> Numbers {
        Numbers::default()
    }
}

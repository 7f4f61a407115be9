//! y = x Wᵀ + b; with what an [`Adapter`](super::Adapter) of the weight adds, where the parameters have one.

use burn::tensor::Tensor;
use collimate_backend::kernels::Map;

use super::{Block, Cx, Numbers, Site};
use crate::params::{Grads, ParamId};

/// A weight `[out, in]`, and a bias `[out]` where the architecture has one.
#[doc = include_str!("../../equations/block-linear.html")]
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
        let [y] = Self::apply_all(cx, [self], x);
        y
    }

    /// y of each of some maps of one x.
    // ANCHOR: formula
    pub fn apply_all<const N: usize>(cx: &Cx<'_>, maps: [&Self; N], x: &Tensor<2>) -> [Tensor<2>; N] {
        let kernel = cx.kernels.linear;
        if cx.packed.is_some() {
            let each = maps.map(|m| (m.map(cx), cx.params.adapter(m.weight)));
            // A bias comes behind a magnitude.
            let each = each.map(|(map, a)| {
                (if a.is_some_and(|a| a.magnitude.is_some()) { Map { bias: None, ..map } } else { map }, a)
            });
            let all = cx.timed("linear forward", || kernel.extend(x, &each.map(|(map, _)| map)));
            let mut all = all.into_iter();
            return std::array::from_fn(|i| {
                let y = all.next().expect("one for each map");
                match each[i].1 {
                    Some(adapter) => cx.timed("adapter", || adapter.extend(cx, maps[i], x, y)),
                    None => y,
                }
            });
        }
        maps.map(|m| {
            cx.timed("linear forward", || match cx.params.adapter(m.weight) {
                Some(adapter) => adapter.forward(cx, m, x),
                None => kernel.forward(x, cx.p(m.weight), m.bias.map(|b| cx.p(b))),
            })
        })
    }

    pub(crate) fn map<'a>(&self, cx: &Cx<'a>) -> Map<'a> {
        let packed = cx.packed.and_then(|all| all[self.weight.index()].as_ref());
        Map { weight: cx.p(self.weight), bias: self.bias.map(|b| cx.p(b)), packed }
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
        cx.timed("linear backward", || {
            if let Some(sum) = self.bias.and_then(|b| grads.sum(b)) {
                cx.kernels.linear.backward_bias(dy, sum);
            }
            match cx.params.adapter(self.weight) {
                Some(adapter) => adapter.pull_back(cx, self, x, dy, sum, grads),
                None => self.through(cx, x, dy, sum, grads),
            }
        })
    }

    /// The way back of x Wᵀ.
    pub(super) fn through(
        &self,
        cx: &Cx<'_>,
        x: &Tensor<2>,
        dy: &Tensor<2>,
        sum: Option<Tensor<2>>,
        grads: &mut Grads,
    ) -> Tensor<2> {
        let kernel = cx.kernels.linear;
        if let Some(sum) = grads.sum(self.weight) {
            kernel.backward_weight(dy, x, sum);
        }
        kernel.backward_input(dy, cx.p(self.weight), sum)
    }
    // ANCHOR_END: formula
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

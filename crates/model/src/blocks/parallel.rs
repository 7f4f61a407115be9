//! y = f(x) + g(x): two branches of one layer side by side.

use burn::tensor::Tensor;

use super::{Block, Cache, Cx, Numbers, Site};
use crate::params::{Grads, ParamId};

/// Attention and what goes beside it. Where f gives the rows that are read alone, g is asked for these alone.
#[doc = include_str!("../../equations/block-parallel.html")]
#[derive(Debug)]
pub struct Parallel<A, B> {
    /// f.
    pub first: A,
    /// g.
    pub second: B,
    /// Whether f leaves out the rows that nobody reads.
    pub narrows: bool,
}

impl<A, B> Parallel<A, B> {
    fn read(&self, cx: &Cx<'_>, x: Tensor<2>) -> Tensor<2> {
        if self.narrows { cx.batch.narrow(x) } else { x }
    }
}

impl<A: Block, B: Block> Block for Parallel<A, B> {
    type Saved = (A::Saved, B::Saved);

    // ANCHOR: formula
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Self::Saved) {
        let (y, first) = self.first.forward(cx, x.clone());
        let (z, second) = self.second.forward(cx, self.read(cx, x));
        (y + z, (first, second))
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let (first, second) = saved;
        let dz = self.second.backward(cx, self.read(cx, x.clone()), second, dy.clone(), grads);
        let dz = if self.narrows { cx.batch.widen(dz) } else { dz };
        self.first.backward(cx, x, first, dy, grads) + dz
    }
    // ANCHOR_END: formula

    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        let y = self.first.extend(cx, x.clone(), cache);
        y + self.second.extend(cx, self.read(cx, x), cache)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        self.first.params(visit);
        self.second.params(visit);
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let both = self.first.numbers(on).then(self.second.numbers(on));
        Numbers { held: both.held + on.load.tokens * on.width, ..both }
    }
}

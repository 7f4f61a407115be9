//! y = W_o softmax(q kᵀ/√d + mask) v, with q, k, v linear in x; q and k normed head by head and turned by their
//! positions, where the architecture says so.

use burn::tensor::Tensor;
use collimate_backend::kernels::Heads;

use super::{Block, Cache, Cx, Linear, Numbers, RmsNorm, Site};
use crate::params::{Grads, ParamId};

/// Attention with grouped heads over rows whose branches share a prefix.
#[doc = include_str!("../../equations/block-attention.html")]
#[derive(Debug)]
pub struct Attention {
    /// To queries `[queries·d, hidden]`.
    pub q: Linear,
    /// To keys `[keys·d, hidden]`.
    pub k: Linear,
    /// To values `[keys·d, hidden]`.
    pub v: Linear,
    /// Back `[hidden, queries·d]`.
    pub o: Linear,
    /// Norms of each head of the queries and of the keys.
    pub norms: Option<[RmsNorm; 2]>,
    /// Which rotary embedding of the network turns queries and keys.
    pub rotary: Option<usize>,
    /// How many positions back a token sees, itself included; none: all.
    pub window: Option<usize>,
    /// Numbers and width of the heads.
    pub heads: Heads,
    /// Whether only the rows that are read go on: behind the last attention of a network nothing reads the others.
    pub narrows: bool,
    /// Its place in the cache.
    pub slot: usize,
}

/// What the backward pass wants.
#[derive(Debug)]
pub struct Saved {
    /// Query and key before their norms, where there are any.
    unnormed: Option<[Tensor<2>; 2]>,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    attended: Tensor<2>,
    /// What the attention kernel wants back, if there is one.
    log_sum_exp: Option<Tensor<2>>,
}

impl Attention {
    /// Queries and keys before their norms where there are any, then queries, keys and values with positions applied.
    fn project(&self, cx: &Cx<'_>, x: &Tensor<2>) -> (Option<[Tensor<2>; 2]>, [Tensor<2>; 3]) {
        let [mut q, mut k, v] = Linear::apply_all(cx, [&self.q, &self.k, &self.v], x);
        let mut unnormed = None;
        if let Some([of_q, of_k]) = &self.norms {
            let normed = [of_q.apply(cx, &q).0, of_k.apply(cx, &k).0];
            unnormed = Some([q, k]);
            [q, k] = normed;
        }
        if let Some(at) = self.rotary {
            let (cos, sin) = &cx.batch.rotary[at];
            let turn = |x| cx.kernels.rope.forward(x, cos, sin);
            (q, k) = cx.timed("rotary", || (turn(q), turn(k)));
        }
        (unnormed, [q, k, v])
    }

    fn read(&self, cx: &Cx<'_>, attended: &Tensor<2>) -> Tensor<2> {
        let attended = attended.clone();
        if self.narrows { cx.batch.narrow(attended) } else { attended }
    }
}

impl Block for Attention {
    type Saved = Saved;

    // ANCHOR: formula
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Saved) {
        let (unnormed, [q, k, v]) = self.project(cx, &x);
        let mask = &cx.batch.masks[&self.window];
        let (attended, log_sum_exp) =
            cx.timed("attention forward", || cx.kernels.attention.forward([&q, &k, &v], mask, self.heads));
        let y = self.o.apply(cx, &self.read(cx, &attended));
        (y, Saved { unnormed, q, k, v, attended, log_sum_exp })
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let Saved { unnormed, q, k, v, attended, log_sum_exp } = saved;
        let mut d_attended = self.o.pull_back(cx, &self.read(cx, &attended), &dy, None, grads);
        if self.narrows {
            d_attended = cx.batch.widen(d_attended);
        }
        let mask = &cx.batch.masks[&self.window];
        let [mut dq, mut dk, dv] = cx.timed("attention backward", || {
            let made = (&attended, log_sum_exp.as_ref());
            cx.kernels.attention.backward(&d_attended, [&q, &k, &v], made, mask, self.heads)
        });
        if let Some(at) = self.rotary {
            let (cos, sin) = &cx.batch.rotary[at];
            let turn = |d| cx.kernels.rope.backward(d, cos, sin);
            (dq, dk) = cx.timed("rotary", || (turn(dq), turn(dk)));
        }
        if let (Some([of_q, of_k]), Some([q, k])) = (&self.norms, unnormed) {
            dq = of_q.backward(cx, q, (), dq, grads);
            dk = of_k.backward(cx, k, (), dk, grads);
        }
        let dx = self.q.pull_back(cx, &x, &dq, None, grads);
        let dx = self.k.pull_back(cx, &x, &dk, Some(dx), grads);
        self.v.pull_back(cx, &x, &dv, Some(dx), grads)
    }
    // ANCHOR_END: formula

    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        let (_, [q, k, v]) = self.project(cx, &x);
        let slot = &mut cache.slots[self.slot];
        let stored = slot.get_or_insert_with(|| cx.kernels.attention.cache(self.window, self.heads));
        let attended = cx.timed("attention forward", || stored.extend([&q, &k, &v], &cache.growth));
        self.o.apply(cx, &self.read(cx, &attended))
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        [self.q, self.k, self.v, self.o].iter().for_each(|l| l.params(visit));
        self.norms.iter().flatten().for_each(|n| n.params(visit));
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let (q, kv) = (self.heads.queries * self.heads.dim, self.heads.keys * self.heads.dim);
        let unnormed = if self.norms.is_some() { q + kv } else { 0 };
        let kept = 2 * q + 2 * kv + unnormed + self.heads.queries;
        Numbers {
            kept: on.load.tokens * kept,
            held: on.load.tokens * (2 * q + 2 * kv + 2 * on.width),
            scores: on.kernels.attention.held(on.load.rows, on.load.longest, self.heads),
        }
    }
}

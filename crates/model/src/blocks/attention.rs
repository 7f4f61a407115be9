//! y = W_o softmax(q kᵀ/√d + mask) v, with q, k, v linear in x; q and k normed, head by head or whole, and turned by their
//! positions, where the architecture says so.

use burn::tensor::Tensor;
use collimate_backend::kernels::Heads;

use super::{Block, Cache, Cx, Linear, Norm, Numbers, Site};
use crate::params::{Grads, ParamId};

/// Attention with grouped heads over rows whose branches share a prefix.
#[doc = include_str!("../../equations/block-attention.html")]
#[derive(Debug)]
pub struct Attention {
    /// To queries, keys and values.
    pub qkv: Qkv,
    /// Back `[hidden, queries·d]`.
    pub o: Linear,
    /// Norms of the queries and of the keys, of each head or of all together.
    pub norms: Option<[Norm; 2]>,
    /// Whether these come behind the positions, not before them.
    pub norms_behind: bool,
    /// Which rotary embedding of the network turns queries and keys.
    pub rotary: Option<usize>,
    /// How many positions back a token sees, itself included; none: all.
    pub window: Option<usize>,
    /// What q k is multiplied by, where that is not 1/√d.
    pub scale: Option<f64>,
    /// Numbers and width of the heads.
    pub heads: Heads,
    /// Whether only the rows that are read go on: behind the last attention of a network nothing reads the others.
    pub narrows: bool,
    /// Its place in the cache.
    pub slot: usize,
}

/// The maps to queries `[queries·d, hidden]`, and to keys and values `[keys·d, hidden]`.
#[derive(Clone, Copy, Debug)]
pub enum Qkv {
    /// Three.
    Apart([Linear; 3]),
    /// One, with their outputs one after the other.
    Fused(Linear),
    /// One, with a query, a key and a value of each head one after the other.
    ByHead(Linear),
}

impl Qkv {
    fn apply(&self, cx: &Cx<'_>, x: &Tensor<2>, heads: Heads) -> [Tensor<2>; 3] {
        let (q, kv) = (heads.queries * heads.dim, heads.keys * heads.dim);
        match self {
            Self::Apart([q, k, v]) => Linear::apply_all(cx, [q, k, v], x),
            Self::Fused(map) => {
                let y = map.apply(cx, x);
                [(0, q), (q, kv), (q + kv, kv)].map(|(start, width)| y.clone().narrow(1, start, width))
            }
            Self::ByHead(map) => {
                let y = map.apply(cx, x);
                let tokens = y.dims()[0];
                let y = y.reshape([tokens, heads.queries, 3, heads.dim]);
                [0, 1, 2].map(|i| y.clone().narrow(2, i, 1).reshape([tokens, q]))
            }
        }
    }

    fn pull_back(&self, cx: &Cx<'_>, x: &Tensor<2>, d: [Tensor<2>; 3], heads: Heads, grads: &mut Grads) -> Tensor<2> {
        match self {
            Self::Apart([q, k, v]) => {
                let [dq, dk, dv] = d;
                let dx = q.pull_back(cx, x, &dq, None, grads);
                let dx = k.pull_back(cx, x, &dk, Some(dx), grads);
                v.pull_back(cx, x, &dv, Some(dx), grads)
            }
            Self::Fused(map) => map.pull_back(cx, x, &Tensor::cat(d.into(), 1), None, grads),
            Self::ByHead(map) => {
                let [tokens, q] = d[0].dims();
                let d = d.map(|t| t.reshape([tokens, heads.queries, 1, heads.dim]));
                let dy = Tensor::cat(d.into(), 2).reshape([tokens, 3 * q]);
                map.pull_back(cx, x, &dy, None, grads)
            }
        }
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        match self {
            Self::Apart(maps) => maps.iter().for_each(|l| l.params(visit)),
            Self::Fused(map) | Self::ByHead(map) => map.params(visit),
        }
    }
}

/// What the backward pass wants.
#[derive(Debug)]
pub struct Saved {
    /// Queries and keys before their norms, where there are any.
    unnormed: Option<[Tensor<2>; 2]>,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    attended: Tensor<2>,
    /// What the attention kernel wants back, if there is one.
    log_sum_exp: Option<Tensor<2>>,
}

impl Attention {
    /// Queries and keys before their norms where there are any, then queries, keys and values, normed and turned.
    fn project(&self, cx: &Cx<'_>, x: &Tensor<2>) -> (Option<[Tensor<2>; 2]>, [Tensor<2>; 3]) {
        let [mut q, mut k, v] = self.qkv.apply(cx, x, self.heads);
        let mut unnormed = None;
        if self.norms_behind {
            (q, k) = self.turned(cx, q, k);
        }
        if let Some([of_q, of_k]) = &self.norms {
            let normed = [of_q.apply(cx, &q).0, of_k.apply(cx, &k).0];
            unnormed = Some([q, k]);
            [q, k] = normed;
        }
        if !self.norms_behind {
            (q, k) = self.turned(cx, q, k);
        }
        q = self.scaled(q);
        (unnormed, [q, k, v])
    }

    fn turned(&self, cx: &Cx<'_>, q: Tensor<2>, k: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Some(at) = self.rotary else { return (q, k) };
        let turns = &cx.batch.rotary[at];
        cx.timed("rotary", || (turns.turn(cx, q), turns.turn(cx, k)))
    }

    fn turned_back(&self, cx: &Cx<'_>, dq: Tensor<2>, dk: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Some(at) = self.rotary else { return (dq, dk) };
        let turns = &cx.batch.rotary[at];
        cx.timed("rotary", || (turns.turn_back(cx, dq), turns.turn_back(cx, dk)))
    }

    /// The kernels multiply by 1/√d: here is the rest.
    fn scaled(&self, q: Tensor<2>) -> Tensor<2> {
        match self.scale {
            Some(scale) => q * (scale / self.heads.scale()),
            None => q,
        }
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
        dq = self.scaled(dq);
        if !self.norms_behind {
            (dq, dk) = self.turned_back(cx, dq, dk);
        }
        if let (Some([of_q, of_k]), Some([q, k])) = (&self.norms, unnormed) {
            dq = of_q.backward(cx, q, (), dq, grads);
            dk = of_k.backward(cx, k, (), dk, grads);
        }
        if self.norms_behind {
            (dq, dk) = self.turned_back(cx, dq, dk);
        }
        self.qkv.pull_back(cx, &x, [dq, dk, dv], self.heads, grads)
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
        self.qkv.params(visit);
        self.o.params(visit);
        self.norms.iter().flatten().for_each(|n| n.params(visit));
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let (q, kv) = (self.heads.queries * self.heads.dim, self.heads.keys * self.heads.dim);
        let unnormed = if self.norms.is_some() { q + kv } else { 0 };
        let kept = 2 * q + 2 * kv + unnormed + self.heads.queries;
        let fused = if matches!(self.qkv, Qkv::Apart(_)) { 0 } else { q + 2 * kv };
        Numbers {
            kept: on.load.tokens * kept,
            held: on.load.tokens * (2 * q + 2 * kv + fused + 2 * on.width),
            scores: on.kernels.attention.held(on.load.rows, on.load.longest, self.heads),
        }
    }
}

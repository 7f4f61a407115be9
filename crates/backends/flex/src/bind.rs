//! The CPU kernels on flex's own buffers. Products of bf16 have kernels of their own; the other pieces are widened on the
//! way in and rounded on the way out. What is neither f32 nor bf16 here, or is on a tape, goes through tensor operations.

use ::half::bf16;
use burn::tensor::Tensor;
use collimate_backend::kernels::{
    Activation, AdamW, Attention, BLOCK, Cache, Gated, Growth, Head, HeadPass, Heads, Kernels, Linear, Map, Mask,
    Packed, Plain, RmsNorm, Rope, Scores, Step, Sum,
};
use collimate_kernels::half::{self, Numbers, Sums};
use collimate_kernels::path::Path;
use collimate_kernels::{adamw, attention, extend, gemm, head, rms_norm, rope, rows, swiglu};

use crate::host::{self, HalfView, View};

/// All of them.
#[derive(Debug)]
struct Cpu;

pub(crate) fn install(kernels: &mut Kernels) {
    kernels.linear = &Cpu;
    kernels.norm = &Cpu;
    kernels.rope = &Cpu;
    kernels.gated = &Cpu;
    kernels.attention = &Cpu;
    kernels.head = &Cpu;
    kernels.adamw = &Cpu;
    kernels.vectors = Some(Path::current().name());
}

/// Adds to a sum in place, which is 0 until then; none where terms are to be scaled first.
fn add_in_place(sum: &mut Sum<'_>, dims: [usize; 2], add: impl FnOnce(&mut [f32])) -> Option<()> {
    let slot = sum.in_place()?.get_or_insert_with(|| host::tensor(vec![0.0; dims[0] * dims[1]], dims));
    host::update(slot, add)
}

/// Adds to a sum, in place if that can be.
fn add(mut sum: Sum<'_>, dims: [usize; 2], add: impl Fn(&mut [f32])) {
    if add_in_place(&mut sum, dims, &add).is_none() {
        let mut more = vec![0.0; dims[0] * dims[1]];
        add(&mut more);
        sum.add(host::tensor(more, dims));
    }
}

impl Linear for Cpu {
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
        let (n, [out, inp]) = (x.dims()[0], weight.dims());
        let wide_bias = || bias.map(|b| View::or_wide(b).expect("a bias lies where its weight lies"));
        if let Some([xs, ws]) = HalfView::all([x, weight]) {
            let (bias, mut y) = (wide_bias(), host::unwritten(n * out));
            let (xs, ws) = (Numbers::Bf16(xs.slice()), Numbers::Bf16(ws.slice()));
            half::linear(xs, ws, bias.as_ref().map(View::slice), inp, out, Sums::Bf16(&mut y));
            return host::half_tensor(y, [n, out]);
        }
        let Some([xs, ws]) = View::all([x, weight]) else { return Linear::forward(&Plain, x, weight, bias) };
        let bias = wide_bias();
        let mut y = host::unwritten(n * out);
        gemm::linear(xs.slice(), ws.slice(), bias.as_ref().map(View::slice), inp, out, &mut y);
        host::like(x, y, [n, out])
    }

    fn half_unit(&self) -> Option<&'static str> {
        let unit = half::Unit::here();
        (unit != half::Unit::Wide).then(|| unit.name())
    }

    fn ample(&self) -> Option<usize> {
        // Below it, the passes over weights and their gradients begin to cost more than a few hundredths of a step.
        Some(1024)
    }

    fn pack(&self, weight: &Tensor<2>) -> Option<Packed> {
        let [out, inp] = weight.dims();
        if let Some(w) = View::of(weight) {
            return Some(Box::new(rows::Packed::new(rows::Weight::F32(w.slice()), inp, out)));
        }
        let w = HalfView::of(weight)?;
        Some(Box::new(rows::Packed::new(rows::Weight::Bf16(w.slice()), inp, out)))
    }

    fn extend(&self, x: &Tensor<2>, maps: &[Map<'_>]) -> Vec<Tensor<2>> {
        let packed: Option<Vec<&rows::Packed>> = maps.iter().map(|m| m.packed?.downcast_ref()).collect();
        let Some(packed) = packed else {
            return maps.iter().map(|m| Linear::forward(&Plain, x, m.weight, m.bias)).collect();
        };
        let [n, inp] = x.dims();
        let (xs, biases) = (View::wide(x), maps.iter().map(|m| m.bias.map(View::wide)).collect::<Vec<_>>());
        let mut ys: Vec<Vec<f32>> = packed.iter().map(|p| host::unwritten(n * p.outputs())).collect();
        let each = packed.iter().zip(&biases).zip(&mut ys);
        let products = each.map(|((p, bias), y)| (*p, bias.as_ref().map(View::slice), &mut y[..])).collect();
        rows::linear(xs.slice(), inp, products);
        let tensors = ys.into_iter().zip(packed).map(|(y, p)| host::tensor::<2>(y, [n, p.outputs()]).cast(x.dtype()));
        tensors.collect()
    }

    fn extend_into(&self, x: &Tensor<2>, map: Map<'_>, y: &mut Vec<f32>) {
        let Some(packed) = map.packed.and_then(|p| p.downcast_ref::<rows::Packed>()) else {
            return Linear::extend_into(&Plain, x, map, y);
        };
        let ([n, inp], bias) = (x.dims(), map.bias.map(View::wide));
        y.resize(n * packed.outputs(), 0.0);
        rows::linear(View::wide(x).slice(), inp, vec![(packed, bias.as_ref().map(View::slice), &mut y[..])]);
    }

    fn backward_input(&self, dy: &Tensor<2>, weight: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
        let (n, [out, inp]) = (dy.dims()[0], weight.dims());
        let accumulate = sum.is_some();
        if let Some([g, w]) = HalfView::all([dy, weight]) {
            let mut dx = sum.unwrap_or_else(|| host::half_tensor(host::unwritten(n * inp), [n, inp]));
            let (g, w) = (Numbers::Bf16(g.slice()), Numbers::Bf16(w.slice()));
            host::update_half(&mut dx, |dx| half::linear_backward_input(g, w, inp, out, Sums::Bf16(dx), accumulate))
                .expect("the sum lies where the gradient lies");
            return dx;
        }
        let Some([g, w]) = View::all([dy, weight]) else { return Linear::backward_input(&Plain, dy, weight, sum) };
        let multiply = |dx: &mut [f32]| gemm::linear_backward_input(g.slice(), w.slice(), inp, out, dx, accumulate);
        let Some(mut dx) = sum else {
            let mut dx = host::unwritten(n * inp);
            multiply(&mut dx);
            return host::like(dy, dx, [n, inp]);
        };
        host::change(&mut dx, multiply).expect("the sum lies where the gradient lies");
        dx
    }

    fn backward_weight(&self, dy: &Tensor<2>, x: &Tensor<2>, sum: Sum<'_>) {
        let (inp, out) = (x.dims()[1], dy.dims()[1]);
        if let Some([g, xs]) = HalfView::all([dy, x]) {
            let (g, xs) = (Numbers::Bf16(g.slice()), Numbers::Bf16(xs.slice()));
            add(sum, [out, inp], |dw| half::linear_backward_weight(g, xs, inp, out, dw));
            return;
        }
        let Some([g, xs]) = View::all([dy, x]) else { return Linear::backward_weight(&Plain, dy, x, sum) };
        add(sum, [out, inp], |dw| gemm::linear_backward_weight(g.slice(), xs.slice(), inp, out, dw, None));
    }
}

impl RmsNorm for Cpu {
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
        let Some([xs, w]) = View::all([x, weight]) else { return RmsNorm::forward(&Plain, x, weight, eps) };
        let [n, d] = x.dims();
        let (mut y, mut r) = (host::unwritten(n * d), host::unwritten(n));
        rms_norm::forward(xs.slice(), w.slice(), eps as f32, &mut y, &mut r);
        (host::like(x, y, [n, d]), host::tensor(r, [n, 1]))
    }

    fn backward(&self, dy: &Tensor<2>, x: &Tensor<2>, weight: &Tensor<2>, r: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Some([g, xs, w, rs]) = View::all([dy, x, weight, r]) else {
            return RmsNorm::backward(&Plain, dy, x, weight, r);
        };
        let [n, d] = x.dims();
        let (mut dx, mut dw) = (host::unwritten(n * d), vec![0.0; d]);
        rms_norm::backward(g.slice(), xs.slice(), w.slice(), rs.slice(), &mut dx, false, &mut dw);
        (host::like(x, dx, [n, d]), host::tensor(dw, [1, d]))
    }
}

/// Turns in place, if that can be.
fn turn(
    x: &mut Tensor<2>,
    cos: &Tensor<2>,
    sin: &Tensor<2>,
    kernel: fn(&mut [f32], usize, &[f32], &[f32], usize),
) -> bool {
    let d = 2 * cos.dims()[1];
    let heads = x.dims()[1] / d;
    let done = View::all([cos, sin]).and_then(|[c, s]| host::change(x, |x| kernel(x, heads, c.slice(), s.slice(), d)));
    done.is_some()
}

impl Rope for Cpu {
    fn forward(&self, mut x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
        if turn(&mut x, cos, sin, rope::forward) { x } else { Rope::forward(&Plain, x, cos, sin) }
    }

    fn backward(&self, mut dy: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
        if turn(&mut dy, cos, sin, rope::backward) { dy } else { Rope::backward(&Plain, dy, cos, sin) }
    }
}

impl Gated for Cpu {
    fn forward(&self, activation: Activation, gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
        // The kernel knows no other.
        if activation != Activation::Silu {
            return Gated::forward(&Plain, activation, gate, up);
        }
        if let Some([g, u]) = HalfView::all([gate, up]) {
            let mut y = host::unwritten(g.slice().len());
            half::by_pieces([g.slice(), u.slice()], [&mut y], |[g, u], [y]| swiglu::forward(g, u, y));
            return host::half_tensor(y, gate.dims());
        }
        let Some([g, u]) = View::all([gate, up]) else { return Gated::forward(&Plain, activation, gate, up) };
        let mut y = host::unwritten(g.slice().len());
        swiglu::forward(g.slice(), u.slice(), &mut y);
        host::like(gate, y, gate.dims())
    }

    fn backward(
        &self,
        activation: Activation,
        dy: &Tensor<2>,
        mut gate: Tensor<2>,
        mut up: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let silu = activation == Activation::Silu;
        if let Some(dy) = HalfView::of(dy).filter(|_| silu) {
            let run = |g: &mut [bf16], u: &mut [bf16]| {
                half::by_pieces([dy.slice()], [g, u], |[dy], [g, u]| swiglu::backward(dy, g, u));
            };
            host::update_half(&mut gate, |g| host::update_half(&mut up, |u| run(g, u)))
                .flatten()
                .expect("gate and up lie where their gradient lies");
            return (gate, up);
        }
        let in_place = |dy: View| {
            host::update(&mut gate, |g| host::update(&mut up, |u| swiglu::backward(dy.slice(), g, u))).flatten()
        };
        match View::of(dy).filter(|_| silu).and_then(in_place) {
            Some(()) => (gate, up),
            None => Gated::backward(&Plain, activation, dy, gate, up),
        }
    }

    fn held(&self) -> usize {
        2
    }
}

/// What the kernel wants to know of mask and heads.
fn with_kernel<R>(mask: &Mask, heads: Heads, run: impl FnOnce(attention::Attention<'_>) -> R) -> R {
    let row = |r: &collimate_backend::kernels::Row| attention::Row {
        start: r.start,
        prefix: r.prefix,
        branches: r.branches.clone(),
    };
    let rows: Vec<_> = mask.rows().iter().map(row).collect();
    run(attention::Attention {
        rows: &rows,
        heads: heads.queries,
        kv_heads: heads.keys,
        head_dim: heads.dim,
        scale: heads.scale() as f32,
        window: mask.window(),
    })
}

impl Attention for Cpu {
    fn forward(&self, [q, k, v]: [&Tensor<2>; 3], mask: &Mask, heads: Heads) -> (Tensor<2>, Option<Tensor<2>>) {
        // The kernel knows no cap.
        let views = heads.cap.is_none().then(|| View::all([q, k, v])).flatten();
        let Some([qs, ks, vs]) = views else {
            return Attention::forward(&Plain, [q, k, v], mask, heads);
        };
        let [n, width] = q.dims();
        let (mut out, mut lse) = (host::unwritten(n * width), host::unwritten(n * heads.queries));
        with_kernel(mask, heads, |a| a.forward(qs.slice(), ks.slice(), vs.slice(), &mut out, &mut lse));
        (host::like(q, out, [n, width]), Some(host::tensor(lse, [n, heads.queries])))
    }

    fn backward(
        &self,
        d_out: &Tensor<2>,
        [q, k, v]: [&Tensor<2>; 3],
        (out, lse): (&Tensor<2>, Option<&Tensor<2>>),
        mask: &Mask,
        heads: Heads,
    ) -> [Tensor<2>; 3] {
        let views = lse.and_then(|lse| View::all([d_out, q, k, v, out, lse]));
        let Some([g, qs, ks, vs, o, l]) = views else {
            return Attention::backward(&Plain, d_out, [q, k, v], (out, lse), mask, heads);
        };
        let (dims, kv_dims) = (q.dims(), k.dims());
        let mut dq = vec![0.0; dims[0] * dims[1]];
        let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; kv_dims[0] * kv_dims[1]]);
        with_kernel(mask, heads, |a| {
            let (g, q, k, v, o, l) = (g.slice(), qs.slice(), ks.slice(), vs.slice(), o.slice(), l.slice());
            a.backward(g, q, k, v, o, l, &mut dq, &mut dk, &mut dv);
        });
        [host::like(q, dq, dims), host::like(k, dk, kv_dims), host::like(v, dv, kv_dims)]
    }

    fn cache(&self, window: Option<usize>, heads: Heads) -> Box<dyn Cache> {
        if heads.cap.is_some() {
            return Attention::cache(&Plain, window, heads);
        }
        let scale = heads.scale() as f32;
        Box::new(Blocks(extend::Cache::new(heads.queries, heads.keys, heads.dim, scale, window)))
    }

    fn held(&self, rows: usize, longest: usize, heads: Heads) -> usize {
        if heads.cap.is_some() { Attention::held(&Plain, rows, longest, heads) } else { 0 }
    }
}

/// Keys and values in f32, whatever they are computed in.
#[derive(Debug)]
struct Blocks(extend::Cache);

impl Cache for Blocks {
    fn extend(&mut self, [q, k, v]: [&Tensor<2>; 3], growth: &Growth) -> Tensor<2> {
        self.0.reserve(growth.blocks);
        growth.copies.iter().for_each(|(from, to)| self.0.copy(*from as usize, *to as usize));
        let texts = growth.texts.iter().map(|t| extend::Text { blocks: &t.blocks, tokens: t.tokens, new: t.new });
        let texts: Vec<_> = texts.collect();
        let ([n, width], [qs, ks, vs]) = (q.dims(), [q, k, v].map(View::wide));
        let mut out = vec![0.0; n * width];
        self.0.extend(qs.slice(), ks.slice(), vs.slice(), &texts, &mut out);
        host::tensor::<2>(out, [n, width]).cast(q.dtype())
    }
}

const _: () = assert!(BLOCK == extend::BLOCK);

impl Head for Cpu {
    fn begin(&self, cap: Option<f64>) -> Box<dyn HeadPass> {
        let plain = Head::begin(&Plain, cap);
        // The kernel knows no cap.
        if cap.is_some() { plain } else { Box::new(Pass { logits: Vec::new(), group: None, plain }) }
    }

    fn held(&self, cap: Option<f64>) -> usize {
        if cap.is_some() { Head::held(&Plain, cap) } else { 1 }
    }
}

struct Pass {
    /// Kept from group to group.
    logits: Vec<f32>,
    group: Option<Group>,
    plain: Box<dyn HeadPass>,
}

/// What the logits were made of.
enum Factors {
    Wide([View; 2]),
    Half([HalfView; 2]),
}

struct Group {
    /// Hidden states and weight.
    factors: Factors,
    /// Vocabulary and width.
    dims: [usize; 2],
    targets: Vec<u32>,
    log_sum_exp: Vec<f32>,
}

impl HeadPass for Pass {
    fn scores(&mut self, hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[u32], collision: bool) -> Scores {
        self.group = None;
        let half = HalfView::all([hidden, weight]).map(Factors::Half);
        let Some(factors) = half.or_else(|| View::all([hidden, weight]).map(Factors::Wide)) else {
            return self.plain.scores(hidden, weight, targets, collision);
        };
        let (n, [vocab, width]) = (targets.len(), weight.dims());
        if self.logits.len() < n * vocab {
            // What is overwritten need not be copied first.
            self.logits = host::unwritten(n * vocab);
        }
        let logits = &mut self.logits[..n * vocab];
        match &factors {
            Factors::Wide([h, w]) => gemm::linear(h.slice(), w.slice(), None, width, vocab, logits),
            Factors::Half([h, w]) => {
                let (h, w) = (Numbers::Bf16(h.slice()), Numbers::Bf16(w.slice()));
                half::linear(h, w, None, width, vocab, Sums::F32(logits));
            }
        }
        let [mut log_probs, mut log_sum_exp] = [(); 2].map(|()| host::unwritten(n));
        let mut squares = collision.then(|| host::unwritten(n));
        head::forward(logits, targets, vocab, &mut log_sum_exp, &mut log_probs, squares.as_deref_mut());
        let targets = targets.to_vec();
        self.group = Some(Group { factors, dims: [vocab, width], targets, log_sum_exp });
        let log_collisions = squares.map(|s| s.into_iter().map(f32::ln).collect());
        Scores { log_probs, log_collisions }
    }

    fn gradient(&mut self, coefficients: &[f32], weight_sum: Option<Sum<'_>>) -> Tensor<2> {
        let Some(Group { factors, dims, targets, log_sum_exp }) = self.group.take() else {
            return self.plain.gradient(coefficients, weight_sum);
        };
        let ([vocab, width], n) = (dims, targets.len());
        let logits = &mut self.logits[..n * vocab];
        head::backward(logits, &targets, vocab, &log_sum_exp, coefficients);
        match &factors {
            Factors::Wide([h, w]) => {
                let mut dh = host::unwritten(n * width);
                gemm::linear_backward_input(logits, w.slice(), width, vocab, &mut dh, false);
                if let Some(sum) = weight_sum {
                    add(sum, dims, |dw| gemm::linear_backward_weight(logits, h.slice(), width, vocab, dw, None));
                }
                host::tensor(dh, [n, width])
            }
            Factors::Half([h, w]) => {
                let (logits, h, w) = (Numbers::F32(logits), Numbers::Bf16(h.slice()), Numbers::Bf16(w.slice()));
                let mut dh = host::unwritten(n * width);
                half::linear_backward_input(logits, w, width, vocab, Sums::Bf16(&mut dh), false);
                if let Some(sum) = weight_sum {
                    add(sum, dims, |dw| half::linear_backward_weight(logits, h, width, vocab, dw));
                }
                host::half_tensor(dh, [n, width])
            }
        }
    }
}

impl AdamW for Cpu {
    fn step(&self, s: &Step, [p, m, v]: [&mut Tensor<2>; 3], gradient: Tensor<2>) {
        // Only a look: a view that is held would keep the parameter from being changed in place.
        let Some(g) = View::of(&gradient).filter(|_| View::of(p).is_some()) else {
            return AdamW::step(&Plain, s, [p, m, v], gradient);
        };
        let Step { number, rate: lr, beta1, beta2, epsilon: eps, weight_decay, scale } = *s;
        let kernel = adamw::AdamW { lr, beta1, beta2, eps, weight_decay };
        let step = |p: &mut [f32], m: &mut [f32], v: &mut [f32]| kernel.step(number, scale as f32, p, m, v, g.slice());
        let done = host::update(p, |p| host::update(m, |m| host::update(v, |v| step(p, m, v))));
        done.flatten().flatten().expect("moments and parameters lie where gradients lie");
    }

    fn sum_of_squares(&self, gradients: &[&Tensor<2>]) -> f64 {
        let each = gradients.iter().map(|g| match View::of(g) {
            Some(g) => adamw::sum_of_squares(g.slice()),
            None => AdamW::sum_of_squares(&Plain, &[g]),
        });
        each.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::DType;

    fn numbers<const D: usize>(dims: [usize; D], seed: usize, dtype: DType) -> Tensor<D> {
        let n = dims.iter().product();
        let values = (0..n).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect();
        host::tensor(values, dims).cast(dtype)
    }

    fn assert_near(got: &Tensor<2>, expected: &Tensor<2>, what: &str) {
        let far = (got.clone().cast(DType::F32) - expected.clone().cast(DType::F32)).abs().max().into_scalar::<f32>();
        let most = expected.clone().cast(DType::F32).abs().max().into_scalar::<f32>();
        // NaN is far too.
        assert!(far <= most * if got.dtype() == DType::BF16 { 0.02 } else { 1e-5 }, "{what}: {far} of {most}");
    }

    #[test]
    fn what_is_not_zeroed_is_written() {
        for dtype in [DType::F32, DType::BF16] {
            for (n, inp, out) in [(1, 3, 5), (60, 32, 48), (7, 70, 2)] {
                let (x, w) = (numbers([n, inp], 1, dtype), numbers([out, inp], 2, dtype));
                let (dy, b) = (numbers([n, out], 3, dtype), numbers([1, out], 4, dtype));
                for bias in [None, Some(&b)] {
                    let got = Linear::forward(&Cpu, &x, &w, bias);
                    assert_near(&got, &Linear::forward(&Plain, &x, &w, bias), "linear");
                }
                for sum in [None, Some(x.clone())] {
                    let got = Linear::backward_input(&Cpu, &dy, &w, sum.clone());
                    assert_near(&got, &Linear::backward_input(&Plain, &dy, &w, sum), "linear, back");
                }
                let scale = numbers([1, inp], 5, DType::F32);
                let ((got, r), (y, plain_r)) =
                    (RmsNorm::forward(&Cpu, &x, &scale, 1e-5), RmsNorm::forward(&Plain, &x, &scale, 1e-5));
                assert_near(&got, &y.cast(dtype), "norm");
                assert_near(&r, &plain_r.clone().cast(DType::F32), "norm, r");
                let dx = RmsNorm::backward(&Cpu, &x, &x, &scale, &r).0;
                assert_near(&dx, &RmsNorm::backward(&Plain, &x, &x, &scale, &plain_r).0, "norm, back");
                let got = Gated::forward(&Cpu, Activation::Silu, &dy, &dy);
                assert_near(&got, &Gated::forward(&Plain, Activation::Silu, &dy, &dy), "gate");
                let targets: Vec<u32> = (0..n).map(|i| (i % out) as u32).collect();
                let pass = |head: &dyn Head| {
                    let mut pass = head.begin(None);
                    let scores = pass.scores(&x, &w, &targets, true);
                    let mut all = scores.log_probs;
                    all.extend(scores.log_collisions.unwrap());
                    (host::tensor(all, [2, n]), pass.gradient(&vec![0.5; n], None))
                };
                let (got, plain) = (pass(&Cpu), pass(&Plain));
                assert_near(&got.0.cast(dtype), &plain.0, "log-probs");
                assert_near(&got.1, &plain.1, "head, back");
            }
        }
    }
}

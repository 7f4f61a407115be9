//! Every backend's set of kernels against the default set, piece by piece, and the default set against definitions; and
//! a kernel that comes from outside.

mod common;

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};
use collimate::backend::kernels::{
    Activation, AdamW, Attention, Gated, Growing, Growth, Head, Heads, Kernels, Linear, Map, Mask, Plain, Plugin,
    RmsNorm, Rope, Row, Step, Sum, places,
};
use collimate::model::{Decoder, Layout, ModelConfig, Options, Text};

const HEADS: Heads = Heads { queries: 4, keys: 2, dim: 4, cap: None };

/// Values between −1.5 and 1.5, the same each time.
fn random(dims: [usize; 2], seed: u64, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(common::numbers(dims[0] * dims[1], seed), dims), device)
}

fn close(got: &Tensor<2>, expected: &Tensor<2>) {
    got.to_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::rel_abs(1e-4, 1e-4));
}

/// Runs a test with the kernels of every usable backend, and with the default set on the same device.
fn on_every_backend(test: impl Fn(&Kernels, &dyn Fn([usize; 2], u64) -> Tensor<2>)) {
    for (name, device) in common::devices() {
        eprintln!("{name}");
        for kernels in [Kernels::on(&device), Kernels::default()] {
            test(&kernels, &|dims, seed| random(dims, seed, &device));
        }
    }
}

#[test]
fn linear() {
    on_every_backend(|k, t| {
        let (x, w, b, dy) = (t([5, 3], 1), t([4, 3], 2), t([1, 4], 3), t([5, 4], 4));
        close(&k.linear.forward(&x, &w, Some(&b)), &Linear::forward(&Plain, &x, &w, Some(&b)));
        let dx = Linear::backward_input(&Plain, &dy, &w, None);
        close(&k.linear.backward_input(&dy, &w, None), &dx);
        close(&k.linear.backward_input(&dy, &w, Some(dx.clone())), &(dx * 2.0));
        // Sums go on where they were, and a loss scale is divided out.
        for by in [1.0, 0.25] {
            let ([mut got, mut expected], [mut db, mut expected_db]) = ([None, None], [None, None]);
            for _ in 0..2 {
                k.linear.backward_weight(&dy, &x, Sum::new(&mut got, by));
                Linear::backward_weight(&Plain, &dy, &x, Sum::new(&mut expected, by));
                k.linear.backward_bias(&dy, Sum::new(&mut db, by));
                Linear::backward_bias(&Plain, &dy, Sum::new(&mut expected_db, by));
            }
            close(got.as_ref().unwrap(), expected.as_ref().unwrap());
            close(db.as_ref().unwrap(), expected_db.as_ref().unwrap());
            close(expected.as_ref().unwrap(), &(dy.clone().transpose().matmul(x.clone()) * 2.0 * by));
        }
    });
}

#[test]
fn maps_of_texts_in_progress() {
    on_every_backend(|k, t| {
        let (w, v, b) = (t([70, 3], 2), t([5, 3], 4), t([1, 70], 3));
        let packed = [k.linear.pack(&w), k.linear.pack(&v)];
        for rows in [1, 9] {
            let x = t([rows, 3], 1);
            let maps = [
                Map { weight: &w, bias: Some(&b), packed: packed[0].as_ref() },
                Map { weight: &v, bias: None, packed: packed[1].as_ref() },
            ];
            let got = k.linear.extend(&x, &maps);
            assert_eq!(got.len(), 2);
            let mut host = vec![f32::NAN; 2];
            for (got, m) in got.iter().zip(maps) {
                close(got, &Linear::forward(&Plain, &x, m.weight, m.bias));
                k.linear.extend_into(&x, m, &mut host);
                assert_eq!(host, got.clone().into_data().try_into_vec::<f32>().unwrap());
            }
        }
    });
}

#[test]
fn norm() {
    on_every_backend(|k, t| {
        let (x, w, dy) = (t([5, 8], 1), t([1, 8], 2), t([5, 8], 3));
        let ((y, r), (expected, expected_r)) = (k.norm.forward(&x, &w, 1e-5), RmsNorm::forward(&Plain, &x, &w, 1e-5));
        close(&y, &expected);
        close(&r, &expected_r);
        let ((dx, dw), (expected, expected_w)) =
            (k.norm.backward(&dy, &x, &w, &r), RmsNorm::backward(&Plain, &dy, &x, &w, &r));
        close(&dx, &expected);
        close(&dw, &expected_w);
    });
}

#[test]
fn rope() {
    on_every_backend(|k, t| {
        let angles = t([5, 2], 9);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let x = t([5, 12], 1);
        close(&k.rope.forward(x.clone(), &cos, &sin), &Rope::forward(&Plain, x.clone(), &cos, &sin));
        close(&k.rope.backward(x.clone(), &cos, &sin), &Rope::backward(&Plain, x, &cos, &sin));
        // Halves are paired: a quarter turn of (x_0, x_2) and none of (x_1, x_3) makes (−3, 2, 1, 4) of (1, 2, 3, 4).
        let of = |v: Vec<f32>, dims: [usize; 2]| Tensor::<2>::from_data(TensorData::new(v, dims), &cos.device());
        let y = k.rope.forward(of(vec![1., 2., 3., 4.], [1, 4]), &of(vec![0., 1.], [1, 2]), &of(vec![1., 0.], [1, 2]));
        assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [-3., 2., 1., 4.]);
    });
}

#[test]
fn gated() {
    on_every_backend(|k, t| {
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let (g, u, dy) = (t([5, 8], 1), t([5, 8], 2), t([5, 8], 3));
            close(&k.gated.forward(activation, &g, &u), &Gated::forward(&Plain, activation, &g, &u));
            let (dg, du) = k.gated.backward(activation, &dy, g.clone(), u.clone());
            let (expected_g, expected_u) = Gated::backward(&Plain, activation, &dy, g, u);
            close(&dg, &expected_g);
            close(&du, &expected_u);
        }
    });
}

fn rows() -> Vec<Row> {
    vec![
        Row { start: 0, prefix: 3, branches: vec![2, 4] },
        Row { start: 9, prefix: 5, branches: vec![] },
        Row { start: 14, prefix: 1, branches: vec![1, 1, 1] },
    ]
}

/// Straight from the definition, token by token, in f64.
fn naive(q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>, rows: &[Row], window: Option<usize>) -> Vec<f32> {
    let host =
        |t: &Tensor<2>| t.to_data().try_to_vec::<f32>().unwrap().iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let (q, k, v) = (host(q), host(k), host(v));
    let mut out = vec![0f32; q.len()];
    for row in rows {
        let at: Vec<_> = places(row).collect();
        for i in 0..row.tokens() {
            for h in 0..HEADS.queries {
                let kh = h / HEADS.group();
                let seen = |j: &usize| {
                    (*j < row.prefix || at[*j].1 == at[i].1) && window.is_none_or(|w| at[i].0 - at[*j].0 < w)
                };
                let seen: Vec<usize> = (0..=i).filter(seen).collect();
                let dot = |j: usize| {
                    let products =
                        (0..4).map(|c| q[(row.start + i) * 16 + h * 4 + c] * k[(row.start + j) * 8 + kh * 4 + c]);
                    products.sum::<f64>() * HEADS.scale()
                };
                let e: Vec<f64> = seen.iter().map(|&j| dot(j).exp()).collect();
                let z: f64 = e.iter().sum();
                for c in 0..4 {
                    let terms = seen.iter().zip(&e).map(|(&j, e)| e / z * v[(row.start + j) * 8 + kh * 4 + c]);
                    out[(row.start + i) * 16 + h * 4 + c] = terms.sum::<f64>() as f32;
                }
            }
        }
    }
    out
}

#[test]
fn attention() {
    on_every_backend(|kernels, t| {
        let (q, k, v, dy) = (t([18, 16], 1), t([18, 8], 2), t([18, 8], 3), t([18, 16], 4));
        let device = q.device();
        // All rows at a time, two, one: 9, 5 and 4 tokens.
        for (window, scores) in [(None, 1 << 21), (Some(3), 1 << 21), (None, 162), (Some(3), 1)] {
            let mask = Mask::new(&rows(), window, &device).with_scores(scores);
            let (out, lse) = kernels.attention.forward([&q, &k, &v], &mask, HEADS);
            let expected = TensorData::new(naive(&q, &k, &v, &rows(), window), [18, 16]);
            close(&out, &Tensor::from_data(expected, &device));
            let whole = Mask::new(&rows(), window, &device);
            let expected = Attention::backward(&Plain, &dy, [&q, &k, &v], (&out, None), &whole, HEADS);
            let got = kernels.attention.backward(&dy, [&q, &k, &v], (&out, lse.as_ref()), &mask, HEADS);
            got.iter().zip(&expected).for_each(|(got, expected)| close(got, expected));
        }
    });
}

/// Rows longer than any tile of a processor's kernel, and no whole number of tiles; heads of no whole number of pieces; caps.
#[test]
fn long_attention() {
    let rows = [
        Row { start: 0, prefix: 35, branches: vec![20, 1, 17] },
        Row { start: 73, prefix: 0, branches: vec![18, 3] },
        Row { start: 94, prefix: 40, branches: vec![] },
    ];
    on_every_backend(|kernels, t| {
        let (q, k, v, dy) = (t([134, 24], 1), t([134, 12], 2), t([134, 12], 3), t([134, 24], 4));
        for (window, cap) in [(None, None), (Some(21), Some(2.0))] {
            let heads = Heads { queries: 4, keys: 2, dim: 6, cap };
            let mask = Mask::new(&rows, window, &q.device());
            let (out, lse) = kernels.attention.forward([&q, &k, &v], &mask, heads);
            close(&out, &Attention::forward(&Plain, [&q, &k, &v], &mask, heads).0);
            let expected = Attention::backward(&Plain, &dy, [&q, &k, &v], (&out, None), &mask, heads);
            let got = kernels.attention.backward(&dy, [&q, &k, &v], (&out, lse.as_ref()), &mask, heads);
            got.iter().zip(&expected).for_each(|(got, expected)| close(got, expected));
        }
    });
}

#[test]
fn extending_a_text_is_the_same_as_starting_over() {
    on_every_backend(|kernels, t| {
        // A prompt of 18 tokens, two texts that go on from it, and another text.
        let (q, k, v) = (t([30, 16], 1), t([30, 8], 2), t([30, 8], 3));
        let text = |blocks: &[u32], tokens, new| Growing { blocks: blocks.to_vec(), tokens, new };
        let read = Growth { texts: vec![text(&[2, 0], 18, 18), text(&[3], 5, 5)], blocks: 4, copies: vec![] };
        let grown = Growth {
            texts: vec![text(&[2, 0], 19, 1), text(&[2, 5], 20, 2), text(&[3], 6, 1), text(&[4], 3, 3)],
            blocks: 8,
            copies: vec![(0, 5)],
        };
        // Each text in the order of its tokens, of which the last so many are new in the second step.
        let whole: [(Vec<std::ops::Range<usize>>, usize); 4] =
            [(vec![0..18, 23..24], 1), (vec![0..18, 24..26], 2), (vec![18..23, 26..27], 1), (vec![27..28, 28..30], 3)];
        for window in [None, Some(3)] {
            let mut cache = kernels.attention.cache(window, HEADS);
            let mut at = 0;
            let mut step = |n: usize, growth: &Growth| {
                let part = [&q, &k, &v].map(|x| x.clone().narrow(0, at, n));
                at += n;
                cache.extend(part.each_ref(), growth)
            };
            step(23, &read);
            let got = step(7, &grown);
            let mut row = 0;
            for (pieces, new) in &whole {
                let cut = |x: &Tensor<2>| {
                    Tensor::cat(pieces.iter().map(|p| x.clone().narrow(0, p.start, p.len())).collect(), 0)
                };
                let [q, k, v] = [&q, &k, &v].map(cut);
                let n = q.dims()[0];
                let alone = [Row { start: 0, prefix: n, branches: vec![] }];
                let mask = Mask::new(&alone, window, &q.device());
                let expected = kernels.attention.forward([&q, &k, &v], &mask, HEADS).0.narrow(0, n - new, *new);
                close(&got.clone().narrow(0, row, *new), &expected);
                row += new;
            }
        }
    });
}

// ANCHOR: head
#[test]
fn head() {
    const TARGETS: [u32; 5] = [3, 0, 6, 3, 1];
    on_every_backend(|k, t| {
        let (h, w) = (t([5, 4], 1), t([7, 4], 2));
        let c = [0.5, -1.0, 0.25, 2.0, 0.0];
        let (mut pass, mut plain) = (k.head.begin(None), Head::begin(&Plain, None));
        // A pass goes from group to group; its buffers may be larger than the next group wants.
        for (rows, collision) in [(0..5, true), (1..3, false), (2..5, true)] {
            let (h, targets) = (h.clone().narrow(0, rows.start, rows.len()), &TARGETS[rows.clone()]);
            let (got, expected) = (pass.scores(&h, &w, targets, collision), plain.scores(&h, &w, targets, collision));
            let near = |a: &[f32], b: &[f32]| {
                assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} is not {b:?}");
            };
            near(&got.log_probs, &expected.log_probs);
            assert_eq!(got.log_collisions.is_some(), collision);
            near(&got.log_collisions.unwrap_or_default(), &expected.log_collisions.unwrap_or_default());
            let ([mut dw, mut expected_dw], c) = ([None, None], &c[rows]);
            let by = if collision { 1.0 } else { 0.25 };
            let dh = pass.gradient(c, Some(Sum::new(&mut dw, by)));
            let expected_dh = plain.gradient(c, Some(Sum::new(&mut expected_dw, by)));
            close(&dh, &expected_dh);
            close(dw.as_ref().unwrap(), expected_dw.as_ref().unwrap());
            // A frozen head passes its gradient on, and has none.
            pass.scores(&h, &w, targets, false);
            close(&pass.gradient(c, None), &dh);
        }
    });
}
// ANCHOR_END: head

/// Within what bf16 rounds, of the largest number.
fn near(got: &Tensor<2>, expected: &Tensor<2>) {
    assert_eq!(got.dims(), expected.dims());
    let host = |t: &Tensor<2>| t.clone().cast(DType::F32).into_data().try_into_vec::<f32>().unwrap();
    let (got, expected) = (host(got), host(expected));
    let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (a, b) in got.iter().zip(&expected) {
        assert!((a - b).abs() <= size / 64.0, "{a} is not {b} of {size}");
    }
}

/// Each piece on numbers of bf16, against the default set in f32 on the same numbers.
#[test]
fn half_precision() {
    for (name, device) in common::devices().into_iter().filter(|(_, d)| d.supports_dtype(DType::BF16)) {
        eprintln!("{name}");
        let k = Kernels::on(&device);
        let half = |dims, seed| random(dims, seed, &device).cast(DType::BF16);
        let wide = |t: &Tensor<2>| t.clone().cast(DType::F32);
        let of = |t: &Tensor<2>| assert_eq!(t.dtype(), DType::BF16);
        // More than a block of each kind, and no whole number of them.
        let (x, w, b, dy) = (half([70, 50], 1), half([90, 50], 2), half([1, 90], 3), half([70, 90], 4));
        let [wx, ww, wb, wdy] = [&x, &w, &b, &dy].map(wide);
        let y = k.linear.forward(&x, &w, Some(&b));
        of(&y);
        near(&y, &Linear::forward(&Plain, &wx, &ww, Some(&wb)));
        let (dx, expected) = (k.linear.backward_input(&dy, &w, None), Linear::backward_input(&Plain, &wdy, &ww, None));
        of(&dx);
        near(&dx, &expected);
        near(&k.linear.backward_input(&dy, &w, Some(dx.clone())), &(expected * 2.0));
        for by in [1.0, 0.25] {
            let [mut got, mut expected] = [None, None];
            for _ in 0..2 {
                k.linear.backward_weight(&dy, &x, Sum::new(&mut got, by));
                Linear::backward_weight(&Plain, &wdy, &wx, Sum::new(&mut expected, by));
            }
            assert_eq!(got.as_ref().unwrap().dtype(), DType::F32);
            near(&got.unwrap(), &expected.unwrap());
        }

        let (w, ww) = (half([1, 50], 5), wide(&half([1, 50], 5)));
        let ((y, r), (expected, expected_r)) = (k.norm.forward(&x, &w, 1e-5), RmsNorm::forward(&Plain, &wx, &ww, 1e-5));
        of(&y);
        near(&y, &expected);
        close(&r, &expected_r);
        let dy = half([70, 50], 6);
        let ((dx, dw), (expected, expected_w)) =
            (k.norm.backward(&dy, &x, &w, &r), RmsNorm::backward(&Plain, &wide(&dy), &wx, &ww, &expected_r));
        of(&dx);
        near(&dx, &expected);
        near(&dw, &expected_w);

        let angles = random([70, 5], 9, &device);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let turned = k.rope.forward(x.clone(), &cos, &sin);
        of(&turned);
        near(&turned, &Rope::forward(&Plain, wx.clone(), &cos, &sin));
        near(&k.rope.backward(x.clone(), &cos, &sin), &Rope::backward(&Plain, wx.clone(), &cos, &sin));

        let (g, u) = (half([70, 50], 7), half([70, 50], 8));
        let y = k.gated.forward(Activation::Silu, &g, &u);
        of(&y);
        near(&y, &Gated::forward(&Plain, Activation::Silu, &wide(&g), &wide(&u)));
        let (dg, du) = k.gated.backward(Activation::Silu, &dy, g.clone(), u.clone());
        let expected = Gated::backward(&Plain, Activation::Silu, &wide(&dy), wide(&g), wide(&u));
        near(&dg, &expected.0);
        near(&du, &expected.1);

        let (q, key, v, dy) = (half([18, 16], 1), half([18, 8], 2), half([18, 8], 3), half([18, 16], 4));
        let mask = Mask::new(&rows(), None, &device);
        let (out, lse) = k.attention.forward([&q, &key, &v], &mask, HEADS);
        of(&out);
        let [wq, wk, wv, wdy] = [&q, &key, &v, &dy].map(wide);
        let (expected, _) = Attention::forward(&Plain, [&wq, &wk, &wv], &mask, HEADS);
        near(&out, &expected);
        let got = k.attention.backward(&dy, [&q, &key, &v], (&out, lse.as_ref()), &mask, HEADS);
        let expected = Attention::backward(&Plain, &wdy, [&wq, &wk, &wv], (&expected, None), &mask, HEADS);
        got.iter().zip(&expected).for_each(|(got, expected)| near(got, expected));

        let (h, w) = (half([5, 40], 1), half([70, 40], 2));
        let (targets, c) = ([3, 0, 69, 3, 1], [0.5, -1.0, 0.25, 2.0, 0.0]);
        let (mut pass, mut plain) = (k.head.begin(None), Head::begin(&Plain, None));
        let (got, expected) = (pass.scores(&h, &w, &targets, true), plain.scores(&wide(&h), &wide(&w), &targets, true));
        let sized = |v: &[f32]| Tensor::from_data(TensorData::new(v.to_vec(), [1, v.len()]), &device);
        near(&sized(&got.log_probs), &sized(&expected.log_probs));
        near(&sized(&got.log_collisions.unwrap()), &sized(&expected.log_collisions.unwrap()));
        let [mut dw, mut expected_dw] = [None, None];
        let dh = pass.gradient(&c, Some(Sum::new(&mut dw, 1.0)));
        of(&dh);
        near(&dh, &plain.gradient(&c, Some(Sum::new(&mut expected_dw, 1.0))));
        near(&dw.unwrap(), &expected_dw.unwrap());
    }
}

// ANCHOR: optimiser
#[test]
fn optimiser() {
    let step =
        |number| Step { number, rate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-6, weight_decay: 0.1, scale: 0.5 };
    on_every_backend(|k, t| {
        let zero = || t([3, 5], 9) * 0.0;
        let (mut p, mut m, mut v) = (t([3, 5], 1), zero(), zero());
        let (mut q, mut qm, mut qv) = (p.clone(), m.clone(), v.clone());
        for number in 1..=2 {
            let g = t([3, 5], 1 + number);
            k.adamw.step(&step(number), [&mut p, &mut m, &mut v], g.clone());
            AdamW::step(&Plain, &step(number), [&mut q, &mut qm, &mut qv], g.clone());
            [(&p, &q), (&m, &qm), (&v, &qv)].iter().for_each(|(got, expected)| close(got, expected));
            let (a, b) = (k.adamw.sum_of_squares(&[&g, &p]), AdamW::sum_of_squares(&Plain, &[&g, &p]));
            assert!((a / b - 1.0).abs() < 1e-5, "{a} is not {b}");
        }
        // m/(1−β₁) = g and v/(1−β₂) = g², so the first step moves θ by η g/(|g| + ε).
        let (mut p, mut m, mut v, g) = (t([3, 5], 1), zero(), zero(), t([3, 5], 2));
        let before = p.clone();
        k.adamw.step(&Step { weight_decay: 0.0, epsilon: 1e-8, ..step(1) }, [&mut p, &mut m, &mut v], g.clone());
        close(&p, &(before - g.sign() * 0.01));
    });
}
// ANCHOR_END: optimiser

/// A norm from outside: the default's, counted.
#[derive(Debug)]
struct Counted;

thread_local! {
    /// Whether networks of this thread are given the plug-in: the other tests are to see what the backends bring.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// On whatever thread a network computes.
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl RmsNorm for Counted {
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        RmsNorm::forward(&Plain, x, weight, eps)
    }
}

inventory::submit! { Plugin {
    name: "counted norm",
    rank: 1,
    by_hand: true,
    serves: |_device| ASKED.get(),
    install: |kernels| kernels.norm = &Counted,
} }

#[test]
fn a_crate_outside_brings_a_kernel_for_one_piece() {
    let table = serde_json::json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
        "num_hidden_layers": 2, "vocab_size": 40, "max_position_embeddings": 64
    });
    let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
    for (name, device) in common::devices() {
        ASKED.set(true);
        let decoder = Decoder::random(config.clone(), 1, &device);
        let mut layout = Layout::default();
        layout.push(&[1, 2], &[Text::whole(&[3, 4])], true).unwrap();
        let scores = decoder.score(&layout, Options::default()).unwrap();
        // Two layers of two norms, and the last.
        ASKED.set(false);
        assert_eq!(CALLS.swap(0, Ordering::Relaxed), 5, "{name}");
        let plain = decoder.with_kernels(Kernels::default()).score(&layout, Options::default()).unwrap();
        for (a, b) in scores.log_probs.iter().zip(&plain.log_probs) {
            assert!((a - b).abs() < 1e-5, "{name}: {a} is not {b}");
        }
    }
}

#[test]
fn bits_are_asked_for_in_every_type_that_a_device_has() {
    for (name, device) in common::devices() {
        for dtype in [DType::BF16, DType::F16] {
            if !device.supports_dtype(dtype) {
                eprintln!("skipped: {name} has no {dtype:?}");
                continue;
            }
            // What kernels don't take goes through tensor operations, to the same numbers within a rounding.
            let k = Kernels::on(&device);
            let (x, w) = (random([5, 3], 1, &device), random([4, 3], 2, &device));
            let y = k.linear.forward(&x.clone().cast(dtype), &w.clone().cast(dtype), None);
            assert_eq!(y.dtype(), dtype, "{name}");
            let off = (y.cast(DType::F32) - k.linear.forward(&x, &w, None)).abs().max().into_scalar::<f32>();
            assert!(off < 0.06, "{name}, {dtype:?}: {off}");
        }
    }
}

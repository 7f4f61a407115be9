//! Times every kernel beside a plain version of the same, at the shapes of a 30-million-parameter model.
//!
//! `cargo run --release -p collimate-kernels --example bench [-- [--cpu] [--path NAME | --paths] [start of a name]]`; the
//! minimum of several runs is printed. On a machine that others use, `--cpu` with `RAYON_NUM_THREADS=1` prints CPU time,
//! which suffers less. `--path AVX2` takes narrower vectors than there are; `--paths` all that there are, in turns, and
//! prints what each takes beside the widest.

use std::hint::black_box;
use std::time::Instant;

use ::half::bf16;
use collimate_kernels::adamw::{self, AdamW};
use collimate_kernels::attention::{Attention, Row};
use collimate_kernels::gemm::{self, Mat, MatMut, Threads};
use collimate_kernels::half::{self, Numbers, Sums, Unit};
use collimate_kernels::path::Path;
use collimate_kernels::rows::{self, Packed, Weight};
use collimate_kernels::{head, rms_norm, rope, swiglu};

struct Bench {
    only: Option<String>,
    cpu: bool,
    /// What kernels run on, the widest first.
    paths: Vec<Path>,
}

/// Seconds that all threads of this process have run (Linux).
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("--cpu needs Linux");
    let run = |task: std::fs::DirEntry| -> f64 {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
    };
    tasks.flatten().map(run).sum::<f64>() / 1e9
}

impl Bench {
    /// Seconds of a run on each path: the fastest within a second, or the mean of their CPU time.
    fn time(&self, name: &str, mut run: impl FnMut()) -> Option<Vec<f64>> {
        if self.only.as_ref().is_some_and(|part| !name.starts_with(part.as_str())) {
            return None;
        }
        let mut on = |path: Path| path.run(&mut run);
        if self.cpu {
            let mean = |path: &Path| {
                on(*path);
                let (begin, mut runs) = (cpu_seconds(), 0);
                loop {
                    on(*path);
                    runs += 1;
                    let seconds = cpu_seconds() - begin;
                    if seconds > 0.3 {
                        return seconds / f64::from(runs);
                    }
                }
            };
            return Some(self.paths.iter().map(mean).collect());
        }
        let (begin, mut best) = (Instant::now(), vec![f64::MAX; self.paths.len()]);
        for i in 0.. {
            for (path, best) in self.paths.iter().zip(&mut best) {
                let start = Instant::now();
                on(*path);
                // The first warms up.
                if i > 0 {
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
            if i > 4 && begin.elapsed().as_secs_f64() > self.paths.len() as f64 {
                break;
            }
        }
        Some(best)
    }

    /// What the narrower paths take beside the widest.
    fn beside(&self, seconds: &[f64]) -> String {
        let each = self.paths.iter().zip(seconds).skip(1);
        each.map(|(path, s)| format!("   {} ×{:.2}", path.name(), s / seconds[0])).collect()
    }

    fn flops(&self, name: &str, flops: f64, run: impl FnMut()) {
        if let Some(all) = self.time(name, run) {
            let (s, beside) = (all[0], self.beside(&all));
            println!("{name:<64} {:>9.3} ms {:>8.1} GFLOP/s{beside}", s * 1e3, flops / s / 1e9);
        }
    }
}

fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn products(b: &Bench) {
    let s = 1024;
    let (x, y, mut z) = (numbers(s * s), numbers(s * s), vec![0.0; s * s]);
    b.flops("gemm 1024³ A·B", 2.0 * (s * s * s) as f64, || {
        gemm::gemm(0.0, MatMut::new(&mut z, s, s), 1.0, Mat::new(&x, s, s), Mat::new(&y, s, s), Threads::Pool);
    });
    for n in [512, 2000, 4096] {
        for (i, o) in [(256, 256), (384, 384), (384, 1024), (1024, 384), (512, 1536)] {
            linear(b, n, i, o);
        }
    }
    for n in [64, 256, 1024] {
        linear(b, n, 384, 50257);
    }
}

/// Products of the newest tokens of `n` texts.
fn newest(b: &Bench) {
    for n in [1, 8, 32, 256] {
        for (i, o) in [(384, 384), (384, 1024), (1024, 384), (384, 50257)] {
            let (x, w, mut y) = (numbers(n * i), numbers(o * i), vec![0.0; n * o]);
            let packed = Packed::new(Weight::F32(&w), i, o);
            b.flops(&format!("rows n={n} {i}→{o}"), 2.0 * (n * i * o) as f64, || {
                rows::linear(&x, i, vec![(&packed, None, &mut y)]);
            });
        }
    }
    let w = numbers(384 * 50257);
    b.flops("rows pack 384→50257", 0.0, || _ = black_box(Packed::new(Weight::F32(&w), 384, 50257)));
}

fn linear(b: &Bench, n: usize, i: usize, o: usize) {
    let (x, w, dy) = (numbers(n * i), numbers(o * i), numbers(n * o));
    let (mut y, mut dx, mut dw) = (vec![0.0; n * o], vec![0.0; n * i], vec![0.0; o * i]);
    let flops = 2.0 * (n * i * o) as f64;
    b.flops(&format!("linear n={n} {i}→{o} y"), flops, || gemm::linear(&x, &w, None, i, o, &mut y));
    b.flops(&format!("linear n={n} {i}→{o} dx"), flops, || {
        gemm::linear_backward_input(&dy, &w, i, o, &mut dx, false);
    });
    b.flops(&format!("linear n={n} {i}→{o} dW"), flops, || {
        gemm::linear_backward_weight(&dy, &x, i, o, &mut dw, None);
    });
    let [x, w, dy] = [x, w, dy].map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
    let [mut y, mut dx] = [n * o, n * i].map(|len| vec![bf16::ZERO; len]);
    let (x, w, dy) = (Numbers::Bf16(&x), Numbers::Bf16(&w), Numbers::Bf16(&dy));
    let unit = Unit::here().name();
    b.flops(&format!("linear n={n} {i}→{o} y, bf16, unit {unit}"), flops, || {
        half::linear(x, w, None, i, o, Sums::Bf16(&mut y));
    });
    b.flops(&format!("linear n={n} {i}→{o} dx, bf16, unit {unit}"), flops, || {
        half::linear_backward_input(dy, w, i, o, Sums::Bf16(&mut dx), false);
    });
    b.flops(&format!("linear n={n} {i}→{o} dW, bf16, unit {unit}"), flops, || {
        half::linear_backward_weight(dy, x, i, o, &mut dw);
    });
}

/// A kernel and its plain version, in GB/s of what must move at least.
fn compare(b: &Bench, name: &str, bytes: f64, kernel: impl FnMut(), plain: impl FnMut()) {
    let Some(all) = b.time(name, kernel) else { return };
    let once = Bench { only: None, cpu: b.cpu, paths: vec![b.paths[0]] };
    let (fast, beside) = (all[0], b.beside(&all));
    let slow = once.time(name, plain).map_or(f64::NAN, |s| s[0]) / fast;
    println!("{name:<64} {:>9.3} ms {:>8.1} GB/s     plain ×{slow:.1}{beside}", fast * 1e3, bytes / fast / 1e9);
}

fn elementwise(b: &Bench) {
    let (n, d, m, heads, hd) = (2000, 384, 1024, 6, 64);
    let bytes = |floats: usize| 4.0 * floats as f64;

    let (x, w, dy) = (numbers(n * d), numbers(d), numbers(n * d));
    let (mut y, mut inv, mut dx, mut dw) = (vec![0.0; n * d], vec![0.0; n], vec![0.0; n * d], vec![0.0; d]);
    let (mut y2, mut dx2, mut dw2) = (vec![0.0; n * d], vec![0.0; n * d], vec![0.0; d]);
    compare(
        b,
        "rms_norm forward [2000, 384]",
        bytes(2 * n * d),
        || rms_norm::forward(&x, &w, 1e-5, &mut y, &mut inv),
        || {
            for (x, y) in x.chunks(d).zip(y2.chunks_mut(d)) {
                let rho = 1.0 / (x.iter().map(|v| v * v).sum::<f32>() / d as f32 + 1e-5).sqrt();
                for i in 0..d {
                    y[i] = x[i] * rho * w[i];
                }
            }
        },
    );
    compare(
        b,
        "rms_norm backward [2000, 384]",
        bytes(3 * n * d),
        || rms_norm::backward(&dy, &x, &w, &inv, &mut dx, false, &mut dw),
        || {
            for (((x, g), dx), rho) in x.chunks(d).zip(dy.chunks(d)).zip(dx2.chunks_mut(d)).zip(&inv) {
                let dot: f32 = (0..d).map(|i| g[i] * w[i] * x[i]).sum();
                for i in 0..d {
                    dx[i] = rho * (w[i] * g[i] - x[i] * rho * rho * dot / d as f32);
                    dw2[i] += g[i] * x[i] * rho;
                }
            }
        },
    );

    let positions: Vec<usize> = (0..n).collect();
    let (cos, sin) = rope::tables(&positions, hd, 1e4);
    let (mut q, mut q2) = (numbers(n * d), numbers(n * d));
    compare(
        b,
        "rope forward [2000, 6·64]",
        bytes(2 * n * d + n * hd),
        || rope::forward(&mut q, heads, &cos, &sin, hd),
        || {
            for (t, row) in q2.chunks_mut(d).enumerate() {
                for head in row.chunks_mut(hd) {
                    for i in 0..hd / 2 {
                        let (c, s, a, b) = (cos[t * hd / 2 + i], sin[t * hd / 2 + i], head[i], head[i + hd / 2]);
                        head[i] = a * c - b * s;
                        head[i + hd / 2] = b * c + a * s;
                    }
                }
            }
        },
    );

    let (gate, up, dy) = (numbers(n * m), numbers(n * m), numbers(n * m));
    let (mut y, mut dg, mut du) = (vec![0.0; n * m], vec![0.0; n * m], vec![0.0; n * m]);
    let (mut y2, mut dg2, mut du2) = (vec![0.0; n * m], vec![0.0; n * m], vec![0.0; n * m]);
    compare(
        b,
        "swiglu forward [2000, 1024]",
        bytes(3 * n * m),
        || swiglu::forward(&gate, &up, &mut y),
        || {
            for i in 0..n * m {
                y2[i] = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
            }
            black_box(&y2);
        },
    );
    compare(
        b,
        "swiglu backward [2000, 1024]",
        bytes(5 * n * m),
        || swiglu::backward(&dy, &mut dg, &mut du),
        || {
            for i in 0..n * m {
                let sigma = 1.0 / (1.0 + (-gate[i]).exp());
                dg2[i] = dy[i] * up[i] * sigma * (1.0 + gate[i] * (1.0 - sigma));
                du2[i] = dy[i] * gate[i] * sigma;
            }
            black_box((&dg2, &du2));
        },
    );

    let (c, v) = (128, 50257);
    let (mut z, targets) = (numbers(c * v), (0..c as u32).collect::<Vec<_>>());
    let (mut lse, mut lp, mut p2, coef) = (vec![0.0; c], vec![0.0; c], vec![0.0; c], numbers(c));
    let mut lse2 = vec![0.0; c];
    compare(
        b,
        "head forward [128, 50257]",
        bytes(c * v),
        || head::forward(&z, &targets, v, &mut lse, &mut lp, None),
        || {
            for (z, lse) in z.chunks(v).zip(&mut lse2) {
                let top = z.iter().fold(f32::MIN, |m, v| m.max(*v));
                *lse = top + z.iter().map(|v| (v - top).exp()).sum::<f32>().ln();
            }
        },
    );
    compare(
        b,
        "head forward with Σp² [128, 50257]",
        bytes(c * v),
        || head::forward(&z, &targets, v, &mut lse, &mut lp, Some(&mut p2)),
        || (),
    );
    let mut z2 = z.clone();
    compare(
        b,
        "head backward [128, 50257]",
        bytes(2 * c * v),
        || head::backward(&mut z, &targets, v, &lse2, &coef),
        || {
            for (i, z) in z2.chunks_mut(v).enumerate() {
                z.iter_mut().for_each(|v| *v = -coef[i] * (*v - lse2[i]).exp());
                z[targets[i] as usize] += coef[i];
            }
        },
    );

    let n = 30_000_000;
    let (mut p, mut m, mut v, g) = (numbers(n), vec![0.0; n], vec![0.0; n], numbers(n));
    let mut fast = (p.clone(), m.clone(), v.clone());
    let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    compare(
        b,
        "adamw step [30 M]",
        bytes(7 * n),
        || adamw.step(1, 1.0, &mut fast.0, &mut fast.1, &mut fast.2, &g),
        || {
            for i in 0..n {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                p[i] = p[i] * (1.0 - 1e-5) - 1e-3 * m[i] / 0.1 / ((v[i] / 0.001).sqrt() + 1e-8);
            }
        },
    );
    compare(
        b,
        "sum_of_squares [30 M]",
        bytes(n),
        || assert!(adamw::sum_of_squares(&g).is_finite()),
        || assert!(g.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().is_finite()),
    );
}

/// Pairs (query, key) that the mask lets through: the floating-point operations that count are 4·h of each, forward.
fn pairs(rows: &[Row]) -> f64 {
    let causal = |n: usize| (n * (n + 1) / 2) as f64;
    rows.iter()
        .map(|r| causal(r.prefix) + r.branches.iter().map(|&b| causal(b) + (b * r.prefix) as f64).sum::<f64>())
        .sum()
}

/// Attention of every row as if it were one plain sequence, scores of a whole head at once.
fn dense(a: &Attention<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let (h, group, n) = (a.head_dim, a.heads / a.kv_heads, q.len() / a.heads / a.head_dim);
    let (q, k, v) = (Mat::new(q, n, a.heads * h), Mat::new(k, n, a.kv_heads * h), Mat::new(v, n, a.kv_heads * h));
    let mut out = MatMut::new(out, n, a.heads * h);
    for row in a.rows {
        let t = row.tokens();
        let mut scores = vec![0.0; t * t];
        for head in 0..a.heads {
            let (q, k) = (q.block(row.start, t, head * h, h), k.block(row.start, t, head / group * h, h));
            gemm::gemm(0.0, MatMut::new(&mut scores, t, t), a.scale, q, k.t(), Threads::Pool);
            for (i, scores) in scores.chunks_mut(t).enumerate() {
                let top = scores[..=i].iter().fold(f32::MIN, |m, v| m.max(*v));
                scores[..=i].iter_mut().for_each(|s| *s = (*s - top).exp());
                scores[i + 1..].fill(0.0);
                let total: f32 = scores.iter().sum();
                scores.iter_mut().for_each(|s| *s /= total);
            }
            let v = v.block(row.start, t, head / group * h, h);
            gemm::gemm(0.0, out.block(row.start, t, head * h, h), 1.0, Mat::new(&scores, t, t), v, Threads::Pool);
        }
    }
}

fn attentions(b: &Bench) {
    let shapes: [(usize, usize, &[usize]); 5] =
        [(8, 150, &[60, 45]), (8, 256, &[]), (32, 64, &[]), (2, 1024, &[64, 64]), (2, 1500, &[])];
    for (count, prefix, branches) in shapes {
        let len = prefix + branches.iter().sum::<usize>();
        let rows: Vec<Row> = (0..count).map(|i| Row { start: i * len, prefix, branches: branches.to_vec() }).collect();
        let n = count * len;
        for (heads, kv_heads, h) in [(6, 6, 64), (6, 2, 64), (12, 12, 32), (3, 3, 128)] {
            let a = Attention { rows: &rows, heads, kv_heads, head_dim: h, scale: 0.125, window: None };
            let (q, k, v, g) =
                (numbers(n * heads * h), numbers(n * kv_heads * h), numbers(n * kv_heads * h), numbers(n * heads * h));
            let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; n * heads]);
            let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
            let flops = pairs(&rows) * (4 * h * heads) as f64;
            let name = format!("attention {count} × {prefix} + {branches:?}, {heads}/{kv_heads} heads of {h}");
            b.flops(&format!("{name} fwd"), flops, || a.forward(&q, &k, &v, &mut out, &mut lse));
            b.flops(&format!("{name} bwd"), 2.5 * flops, || {
                a.backward(&g, &q, &k, &v, &out, &lse, &mut dq, &mut dk, &mut dv);
            });
            if (heads, kv_heads) == (6, 6) {
                b.flops(&format!("{name} dense fwd"), flops, || dense(&a, &q, &k, &v, &mut out));
            }
        }
    }
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut cut = |flag: &str, values: usize| {
        let at = arguments.iter().position(|a| a == flag)?;
        assert!(at + values < arguments.len(), "{flag} wants a value");
        arguments.drain(at..=at + values).next_back()
    };
    let cpu = cut("--cpu", 0).is_some();
    let all: Vec<Path> = Path::all().collect();
    let paths = match cut("--path", 1) {
        Some(name) => {
            let known: Vec<_> = all.iter().map(|p| p.name()).collect();
            let found = all.iter().find(|p| p.name().eq_ignore_ascii_case(&name));
            vec![*found.unwrap_or_else(|| panic!("no path {name} here; there are: {}", known.join(", ")))]
        }
        None if cut("--paths", 0).is_some() => all,
        None => vec![Path::here()],
    };
    let bench = Bench { only: arguments.pop(), cpu, paths };
    // Groups are named by the first words of their lines, so that the inputs of others need not be made.
    let wanted = |words: &[&str]| bench.only.as_ref().is_none_or(|part| words.iter().any(|w| part.starts_with(w)));
    if wanted(&["rms", "rope", "swiglu", "head", "adamw", "sum"]) {
        elementwise(&bench);
    }
    if wanted(&["rows"]) {
        newest(&bench);
    }
    if wanted(&["attention"]) {
        attentions(&bench);
    }
    if wanted(&["gemm", "linear"]) {
        products(&bench);
    }
}

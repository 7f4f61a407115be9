//! Attention by PyTorch's fused kernels, which know causal and full attention: a shared prompt is cut into what they know,
//! and the parts are merged by their log-sum-exps.
//!
//! Let a query see its keys in parts j, o_j be the attention over one part and L_j its ln Σ exp of the scores. Then
//!
//! L = ln Σ_j exp L_j,  o = Σ_j exp(L_j − L)·o_j   (arXiv:2205.14135, section 3.1).
//!
//! A token of the prompt has one part, causal. A token of a completion has two: the prompt, all of it, and the completion,
//! causal. With o and L of the whole, p = exp(s − L) are a part's own probabilities and Σ do·o what is subtracted in every
//! part: so each part's backward pass is the kernel's, given those two, and the gradients are sums over the parts.
//!
//! Scores are not stored, and nothing is computed for keys that are not seen: no padding, no mask.

// The tensor library is about to drop this backend: see `lib.rs`.
#![allow(deprecated)]

use burn::tensor::{DType, Tensor};
use burn_tch::{LibTorch, TchTensor};
use collimate_backend::kernels::{Attention, Heads, Mask, Plain, Row};
use tch::{Kind, Tensor as Torch};

/// PyTorch's kernels for processors, in bf16 and f16. Left to tensor operations are a cap, a window that hides something, and
/// f32: there an exponential of these kernels, good to some 20 units in the last place, is what is most in error (losses of a
/// run of eight steps came 1.5e-4 apart from TRL's, of tensor operations less than 1e-4).
#[derive(Debug)]
pub(crate) struct Fused;

/// A tensor of floating-point numbers that lies in PyTorch's memory.
fn torch(t: &Tensor<2>) -> Option<Torch> {
    Some(t.clone().try_into_primitive::<LibTorch>().ok()?.tensor)
}

fn burn(t: Torch) -> Tensor<2> {
    Tensor::from_primitive::<LibTorch>(TchTensor::new(t))
}

/// What a part's queries see of its keys: `[first, number]` of tokens.
#[derive(Clone, Copy, Debug)]
struct Part {
    queries: [i64; 2],
    keys: [i64; 2],
    causal: bool,
}

/// The prompt and the completions of a row, those with tokens; and all completions over the prompt.
fn parts(row: &Row) -> (Vec<Part>, Option<Part>) {
    let start = row.start as i64;
    let mut from = start;
    let mut causal = Vec::with_capacity(1 + row.branches.len());
    for n in std::iter::once(row.prefix).chain(row.branches.iter().copied()) {
        let tokens = [from, n as i64];
        from += tokens[1];
        if n > 0 {
            causal.push(Part { queries: tokens, keys: tokens, causal: true });
        }
    }
    let prompt = [start, row.prefix as i64];
    let behind = [start + prompt[1], from - start - prompt[1]];
    let across = (prompt[1] > 0 && behind[1] > 0).then_some(Part { queries: behind, keys: prompt, causal: false });
    (causal, across)
}

/// Widths, and the way to what the kernels want: key heads as a batch, the query heads of each beside each other.
#[derive(Clone, Copy)]
struct Widths {
    keys: i64,
    group: i64,
    dim: i64,
    scale: f64,
}

impl Widths {
    fn of(heads: Heads) -> Self {
        let [keys, group, dim] = [heads.keys, heads.group(), heads.dim].map(|n| n as i64);
        Self { keys, group, dim, scale: heads.scale() }
    }

    /// `[tokens, keys·group·d]` to `[keys, group, n, d]`, a view.
    fn queries(self, x: &Torch, [from, n]: [i64; 2]) -> Torch {
        x.narrow(0, from, n).view([n, self.keys, self.group, self.dim]).permute([1, 2, 0, 3])
    }

    /// `[tokens, keys·d]` to `[keys, group, n, d]`, a view: the same for every head of a group.
    fn keys(self, x: &Torch, [from, n]: [i64; 2]) -> Torch {
        let x = x.narrow(0, from, n).view([n, self.keys, self.dim]).permute([1, 0, 2]);
        x.unsqueeze(1).expand([self.keys, self.group, n, self.dim], false)
    }

    /// `[tokens, keys·group]` to `[keys, group, n]`, a view.
    fn sums(self, x: &Torch, [from, n]: [i64; 2]) -> Torch {
        x.narrow(0, from, n).view([n, self.keys, self.group]).permute([1, 2, 0])
    }

    /// Back from [`queries`](Self::queries).
    fn flat(self, x: &Torch) -> Torch {
        let n = x.size()[2];
        x.permute([2, 0, 1, 3]).reshape([n, self.keys * self.group * self.dim])
    }

    /// Back from [`keys`](Self::keys): summed over the heads of a group.
    fn gathered(self, x: &Torch) -> Torch {
        let n = x.size()[2];
        let kind = x.kind();
        x.sum_dim_intlist(1, false, kind).permute([1, 0, 2]).reshape([n, self.keys * self.dim])
    }

    fn flat_sums(self, x: &Torch) -> Torch {
        let n = x.size()[2];
        x.permute([2, 0, 1]).reshape([n, self.keys * self.group])
    }

    fn forward(self, [q, k, v]: [&Torch; 3], part: Part) -> (Torch, Torch) {
        Torch::internal_scaled_dot_product_flash_attention_for_cpu::<Torch>(
            &self.queries(q, part.queries),
            &self.keys(k, part.keys),
            &self.keys(v, part.keys),
            0.0,
            part.causal,
            None,
            self.scale,
        )
    }

    fn backward(self, [d_out, out, sums]: [&Torch; 3], [q, k, v]: [&Torch; 3], part: Part) -> [Torch; 3] {
        let (dq, dk, dv) = Torch::internal_scaled_dot_product_flash_attention_for_cpu_backward::<Torch>(
            &self.queries(d_out, part.queries),
            &self.queries(q, part.queries),
            &self.keys(k, part.keys),
            &self.keys(v, part.keys),
            &self.queries(out, part.queries),
            &self.sums(sums, part.queries),
            0.0,
            part.causal,
            None,
            self.scale,
        );
        [self.flat(&dq), self.gathered(&dk), self.gathered(&dv)]
    }
}

/// Attention over the keys of both, of the same queries `[…, n, d]` with log-sum-exps `[…, n]`.
fn merged((one, first): (Torch, Torch), (two, second): (Torch, Torch)) -> (Torch, Torch) {
    let kind = one.kind();
    let sums = first.logaddexp(&second);
    let share = |out: Torch, of: Torch| out.to_kind(Kind::Float) * (of - &sums).exp().unsqueeze(-1);
    let out = (share(one, first) + share(two, second)).to_kind(kind);
    (out, sums)
}

/// Adds `more` to some tokens of `to`.
fn add(to: &Torch, [from, n]: [i64; 2], more: &Torch) {
    let _ = to.narrow(0, from, n).g_add_(more);
}

/// Whether a window hides nothing, and scores have no cap.
fn known(mask: &Mask, heads: Heads) -> bool {
    let longest = |row: &Row| row.prefix + row.branches.iter().max().copied().unwrap_or(0);
    heads.cap.is_none() && mask.window().is_none_or(|w| mask.rows().iter().all(|row| longest(row) <= w))
}

impl Attention for Fused {
    fn forward(&self, qkv: [&Tensor<2>; 3], mask: &Mask, heads: Heads) -> (Tensor<2>, Option<Tensor<2>>) {
        let here = known(mask, heads).then(|| qkv.map(torch));
        let few = qkv[0].dtype() != DType::F32;
        let Some([Some(q), Some(k), Some(v)]) = here.filter(|_| few) else {
            return Attention::forward(&Plain, qkv, mask, heads);
        };
        let widths = Widths::of(heads);
        let (out, sums) = tch::no_grad(|| {
            let (mut outs, mut all) = (Vec::new(), Vec::new());
            for row in mask.rows() {
                let (causal, across) = parts(row);
                let own = causal.into_iter().map(|part| widths.forward([&q, &k, &v], part)).collect::<Vec<_>>();
                let (prompt, completions) = own.split_at(usize::from(row.prefix > 0));
                let mut done: Vec<_> = prompt.iter().map(|(o, l)| (o.shallow_clone(), l.shallow_clone())).collect();
                if !completions.is_empty() {
                    let (outs, sums): (Vec<_>, Vec<_>) = completions.iter().map(|(o, l)| (o, l)).unzip();
                    let own = (Torch::cat(&outs, 2), Torch::cat(&sums, 2));
                    done.push(match across {
                        Some(across) => merged(own, widths.forward([&q, &k, &v], across)),
                        None => own,
                    });
                }
                for (out, sums) in done {
                    outs.push(widths.flat(&out));
                    all.push(widths.flat_sums(&sums));
                }
            }
            (Torch::cat(&outs, 0), Torch::cat(&all, 0))
        });
        (burn(out), Some(burn(sums)))
    }

    fn backward(
        &self,
        d_out: &Tensor<2>,
        qkv: [&Tensor<2>; 3],
        (out, sums): (&Tensor<2>, Option<&Tensor<2>>),
        mask: &Mask,
        heads: Heads,
    ) -> [Tensor<2>; 3] {
        let here = sums.map(|sums| [d_out, out, sums, qkv[0], qkv[1], qkv[2]].map(torch));
        let Some([Some(d_out), Some(o), Some(l), Some(q), Some(k), Some(v)]) = here else {
            return Attention::backward(&Plain, d_out, qkv, (out, sums), mask, heads);
        };
        let widths = Widths::of(heads);
        tch::no_grad(|| {
            let all = [&q, &k, &v].map(|x| x.zeros_like());
            for row in mask.rows() {
                let (causal, across) = parts(row);
                for part in causal.into_iter().chain(across) {
                    let [dq, dk, dv] = widths.backward([&d_out, &o, &l], [&q, &k, &v], part);
                    add(&all[0], part.queries, &dq);
                    add(&all[1], part.keys, &dk);
                    add(&all[2], part.keys, &dv);
                }
            }
            all
        })
        .map(burn)
    }
}

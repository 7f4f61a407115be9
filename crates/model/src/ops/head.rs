//! Log-probabilities from hidden states, without the logits of all tokens ever being stored.
//!
//! Let h_t be a row of `hidden` `[scored, hidden]`, W be `weight` `[vocab, hidden]`, y_t the target and z_t = W h_t its
//! logits: ln p_t = z_t\[y_t\] − ln Σ_v exp z_t\[v\]. The gradient that comes back is one number c_t per token, so
//! dz_t = c_t (onehot(y_t) − softmax(z_t)): the logits are computed a chunk at a time, and once more in the backward
//! pass.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use collimate_kernels::{gemm as products, head as kernel};

use crate::decoder::Gradients;
use crate::host::{self, View};

/// What the forward pass yields for each scored token, `[scored]`, in f32.
#[derive(Clone, Debug)]
pub(crate) struct Scored {
    /// ln p_t, in nats.
    pub log_probs: Tensor<1>,
    /// ln Σ_v exp z_t\[v\], kept for the backward pass.
    pub log_sum_exp: Tensor<1>,
    /// ln Σ_v p_t(v)², if it was asked for.
    pub log_collision: Option<Tensor<1>>,
}

fn chunks(scored: usize, chunk: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..scored).step_by(chunk.max(1)).map(move |start| (start, chunk.min(scored - start)))
}

fn indices(targets: &[u32], like: &Tensor<2>) -> Tensor<2, Int> {
    let ids: Vec<i32> = targets.iter().map(|t| *t as i32).collect();
    Tensor::from_data(TensorData::new(ids, [targets.len(), 1]), &like.device())
}

/// `chunk`: tokens whose logits are held at a time.
pub(crate) fn forward(
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: &[u32],
    chunk: usize,
    collision: bool,
) -> Scored {
    let Some([h, w]) = View::all([hidden, weight]) else { return plain(hidden, weight, targets, chunk, collision) };
    let (n, [vocab, width]) = (targets.len(), weight.dims());
    let [mut log_probs, mut lse, mut squares] = [(); 3].map(|()| vec![0.0; n]);
    let mut logits = vec![0.0; chunk.min(n) * vocab];
    for (start, c) in chunks(n, chunk) {
        let (range, logits) = (start..start + c, &mut logits[..c * vocab]);
        products::linear(&h.slice()[start * width..][..c * width], w.slice(), None, width, vocab, logits);
        let squares = collision.then_some(&mut squares[range.clone()]);
        let (lse, log_probs) = (&mut lse[range.clone()], &mut log_probs[range.clone()]);
        kernel::forward(logits, &targets[range], vocab, lse, log_probs, squares);
    }
    let collisions = squares.into_iter().map(f32::ln).collect();
    Scored {
        log_probs: host::tensor(log_probs, [n]),
        log_sum_exp: host::tensor(lse, [n]),
        log_collision: collision.then(|| host::tensor(collisions, [n])),
    }
}

fn plain(hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[u32], chunk: usize, collision: bool) -> Scored {
    let mut parts: [Vec<Tensor<1>>; 3] = Default::default();
    for (start, n) in chunks(targets.len(), chunk) {
        let logits = hidden.clone().narrow(0, start, n).matmul(weight.clone().transpose()).cast(DType::F32);
        let target = logits.clone().gather(1, indices(&targets[start..start + n], hidden));
        let top = logits.clone().max_dim(1);
        let e = (logits - top.clone()).exp();
        let sum = e.clone().sum_dim(1);
        let log_sum = sum.clone().log();
        let log_sum_exp = top + log_sum.clone();
        if collision {
            parts[2].push((e.square().sum_dim(1).log() - log_sum * 2.0).reshape([n]));
        }
        parts[0].push((target - log_sum_exp.clone()).reshape([n]));
        parts[1].push(log_sum_exp.reshape([n]));
    }
    let [log_probs, log_sum_exp, log_collision] = parts;
    Scored {
        log_probs: Tensor::cat(log_probs, 0),
        log_sum_exp: Tensor::cat(log_sum_exp, 0),
        log_collision: collision.then(|| Tensor::cat(log_collision, 0)),
    }
}

/// dh `[scored, hidden]` from c `coefficients`, one per scored token; dW is added to the gradient at `parameter`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    coefficients: &[f32],
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: &[u32],
    log_sum_exp: &Tensor<1>,
    chunk: usize,
    parameter: usize,
    gradients: &mut Gradients,
) -> Tensor<2> {
    let views = View::all([hidden, weight]).zip(View::of(log_sum_exp));
    let Some(([h, w], lse)) = views else {
        let (dh, dw) = plain_backward(coefficients, hidden, weight, targets, log_sum_exp, chunk);
        gradients.add(parameter, dw);
        return dh;
    };
    let (n, [vocab, width]) = (targets.len(), weight.dims());
    let mut logits = vec![0.0; chunk.min(n) * vocab];
    let mut dh = vec![0.0; n * width];
    for (start, c) in chunks(n, chunk) {
        let (range, logits) = (start..start + c, &mut logits[..c * vocab]);
        let rows = start * width..(start + c) * width;
        products::linear(&h.slice()[rows.clone()], w.slice(), None, width, vocab, logits);
        kernel::backward(logits, &targets[range.clone()], vocab, &lse.slice()[range.clone()], &coefficients[range]);
        products::linear_backward_input(logits, w.slice(), width, vocab, &mut dh[rows.clone()], false);
        gradients.update(parameter, [vocab, width], |dw| {
            products::linear_backward_weight(logits, &h.slice()[rows], width, vocab, dw, None);
        });
    }
    host::tensor(dh, [n, width])
}

fn plain_backward(
    coefficients: &[f32],
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: &[u32],
    log_sum_exp: &Tensor<1>,
    chunk: usize,
) -> (Tensor<2>, Tensor<2>) {
    let c = TensorData::new(coefficients.to_vec(), [coefficients.len(), 1]);
    let coefficients: Tensor<2> = Tensor::from_data(c, (&hidden.device(), DType::F32));
    let mut d_hidden = Vec::new();
    let mut d_weight: Option<Tensor<2>> = None;
    for (start, n) in chunks(targets.len(), chunk) {
        let h = hidden.clone().narrow(0, start, n);
        let c = coefficients.clone().narrow(0, start, n);
        let z = log_sum_exp.clone().narrow(0, start, n).reshape([n, 1]);
        let p = (h.clone().matmul(weight.clone().transpose()).cast(DType::F32) - z).exp();
        let ids = indices(&targets[start..start + n], hidden);
        let d_logits = (p * -c.clone()).scatter(1, ids, c, IndexingUpdateOp::Add).cast(hidden.dtype());
        d_hidden.push(d_logits.clone().matmul(weight.clone()));
        let more = d_logits.transpose().matmul(h).cast(DType::F32);
        d_weight = Some(match d_weight {
            None => more,
            Some(sum) => sum + more,
        });
    }
    (Tensor::cat(d_hidden, 0), d_weight.expect("something is scored"))
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, on_both, random};
    use super::*;
    use burn::tensor::activation::log_softmax;

    const TARGETS: [u32; 5] = [3, 0, 6, 3, 1];

    /// All logits at once.
    fn whole(hidden: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
        let ids = indices(&TARGETS, &hidden);
        log_softmax(hidden.matmul(weight.transpose()), 1).gather(1, ids)
    }

    #[test]
    fn streaming_changes_nothing() {
        on_both(|at| {
            let (h, w, c) = (at(random([5, 4], 1)), at(random([7, 4], 2)), at(random([5, 1], 3)));
            let expected = gradients(&[h.clone(), w.clone()], &c, |t| whole(t[0].clone(), t[1].clone()));
            let coefficients: Vec<f32> = c.to_data().try_to_vec().unwrap();
            for chunk in [1, 2, 5, 64] {
                let scored = forward(&h, &w, &TARGETS, chunk, true);
                assert_close(&scored.log_probs.reshape([5, 1]), &whole(h.clone(), w.clone()));
                let p = log_softmax(h.clone().matmul(w.clone().transpose()), 1).exp();
                let collision = p.square().sum_dim(1).log();
                assert_close(&scored.log_collision.unwrap().reshape([5, 1]), &collision);
                let mut sums = Gradients::none(1);
                let dh = backward(&coefficients, &h, &w, &TARGETS, &scored.log_sum_exp, chunk, 0, &mut sums);
                assert_close(&dh, &expected[0]);
                assert_close(sums.0[0].as_ref().unwrap(), &expected[1]);
            }
        });
    }
}

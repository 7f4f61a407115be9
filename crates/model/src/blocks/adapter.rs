//! y = x Wᵀ + b + s B(A x): a linear map with an adapter of low rank beside it (LoRA, arXiv:2106.09685, eq. 3); and, with
//! a magnitude m, y = m/‖W + sBA‖ ⊙ (W x + s B(A x)) + b (DoRA, arXiv:2402.09353, eq. 5), the norm that of each row, held
//! constant in the backward pass (section 4.3 there), as PEFT has both. W + sBA is never composed.

use burn::tensor::{DType, Tensor, TensorData};
use collimate_backend::kernels::{Linear as Kernel, Map};

use super::{Cx, Linear};
use crate::mixed::mixed;
use crate::params::{Grads, ParamId};

/// What a linear map has beside it: A `[r, in]` and B `[out, r]`.
#[doc = include_str!("../../equations/block-adapter.html")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    /// A.
    pub a: ParamId,
    /// B.
    pub b: ParamId,
    /// m `[out]` of DoRA.
    pub magnitude: Option<ParamId>,
    /// s: α/r, or α/√r (rsLoRA, arXiv:2312.03732).
    pub scale: f64,
    /// The share of x that A does not see while training.
    pub dropout: f64,
}

impl Adapter {
    /// y `[tokens, out]` of x `[tokens, in]`.
    // ANCHOR: formula
    pub(super) fn forward(&self, cx: &Cx<'_>, of: &Linear, x: &Tensor<2>) -> Tensor<2> {
        let kernel = cx.kernels.linear;
        let bias = of.bias.map(|b| cx.p(b));
        let seen = self.seen(cx, x);
        let seen = seen.as_ref().map_or(x, |(_, seen)| seen);
        // A bias comes behind a magnitude.
        match self.magnitude {
            None => self.add(cx, kernel, seen, kernel.forward(x, cx.p(of.weight), bias)),
            Some(m) => self.stretch(cx, of, m, self.add(cx, kernel, seen, kernel.forward(x, cx.p(of.weight), None))),
        }
    }
    // ANCHOR_END: formula

    /// m/‖W + sBA‖ ⊙ u + b.
    fn stretch(&self, cx: &Cx<'_>, of: &Linear, m: ParamId, u: Tensor<2>) -> Tensor<2> {
        let by = (cx.p(m).clone().cast(DType::F32) / self.norm(cx, of)).cast(u.dtype());
        let y = u * by;
        match of.bias {
            Some(b) => y + cx.p(b).clone(),
            None => y,
        }
    }

    /// y + s B(A x).
    fn add(&self, cx: &Cx<'_>, kernel: &dyn Kernel, x: &Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        let inner = kernel.forward(x, cx.p(self.a), None) * self.scale;
        // The product with B that adds: of its transpose, that of a backward pass.
        kernel.backward_input(&inner, &cx.p(self.b).clone().transpose(), Some(y))
    }

    /// The same for the newest tokens of texts in progress: what was made of W x, whose bias is in it unless there is a
    /// magnitude.
    pub(super) fn extend(&self, cx: &Cx<'_>, of: &Linear, x: &Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        let kernel = cx.kernels.linear;
        let one = |x: &Tensor<2>, map: Map<'_>| kernel.extend(x, &[map]).remove(0);
        let plain = |weight| Linear { weight, bias: None }.map(cx);
        let inner = one(x, plain(self.a)) * self.scale;
        let y = y + one(&inner, plain(self.b));
        match self.magnitude {
            Some(m) => self.stretch(cx, of, m, y),
            None => y,
        }
    }

    /// ‖W + sBA‖ of each row, `[1, out]` in f32: ‖w‖² + 2s b·(A w) + s² b·(A Aᵀ) b.
    fn norm(&self, cx: &Cx<'_>, of: &Linear) -> Tensor<2> {
        let [w, a, b] = [of.weight, self.a, self.b].map(|id| cx.p(id).clone().detach().cast(DType::F32));
        let at = a.clone().transpose();
        let crossed = (w.clone().matmul(at.clone()) * b.clone()).sum_dim(1) * (2.0 * self.scale);
        let own = (b.clone().matmul(a.matmul(at)) * b).sum_dim(1) * (self.scale * self.scale);
        ((w.clone() * w).sum_dim(1) + crossed + own).sqrt().transpose()
    }

    /// dx `[tokens, in]`, added to `sum` if there is one; the bias has its gradient already.
    pub(super) fn pull_back(
        &self,
        cx: &Cx<'_>,
        of: &Linear,
        x: &Tensor<2>,
        dy: &Tensor<2>,
        sum: Option<Tensor<2>>,
        grads: &mut Grads,
    ) -> Tensor<2> {
        let kernel = cx.kernels.linear;
        let made = self.seen(cx, x);
        let seen = made.as_ref().map_or(x, |(_, seen)| seen);
        let stretched = self.magnitude.map(|m| {
            let norm = self.norm(cx, of);
            if let Some(mut sum) = grads.sum(m) {
                let u = self.add(cx, kernel, seen, kernel.forward(x, cx.p(of.weight), None));
                sum.add((dy.clone() * u).cast(DType::F32).sum_dim(0) / norm.clone());
            }
            dy.clone() * (cx.p(m).clone().cast(DType::F32) / norm).cast(dy.dtype())
        });
        let dy = stretched.as_ref().unwrap_or(dy);
        if let Some(sum) = grads.sum(self.b) {
            let inner = kernel.forward(seen, cx.p(self.a), None) * self.scale;
            kernel.backward_weight(dy, &inner, sum);
        }
        let d_inner = kernel.backward_input(dy, cx.p(self.b), None) * self.scale;
        if let Some(sum) = grads.sum(self.a) {
            kernel.backward_weight(&d_inner, seen, sum);
        }
        let dx = of.through(cx, x, dy, sum, grads);
        match made {
            Some((mask, _)) => dx + kernel.backward_input(&d_inner, cx.p(self.a), None) * mask,
            None => kernel.backward_input(&d_inner, cx.p(self.a), Some(dx)),
        }
    }

    /// Where dropout is on, what x is multiplied by before A sees it (0, or 1/(1 − p)), and the product. It follows from
    /// the pass and the adapter alone: a backward pass, and a layer that is recomputed, find it again.
    fn seen(&self, cx: &Cx<'_>, x: &Tensor<2>) -> Option<(Tensor<2>, Tensor<2>)> {
        let key = cx.dropout.filter(|_| self.dropout > 0.0)?;
        let dims = x.dims();
        let key = mixed(key ^ (self.a.index() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (bound, kept) = ((self.dropout * 65536.0) as u64, (1.0 / (1.0 - self.dropout)) as f32);
        let words = (0..dims[0] * dims[1]).step_by(4).map(|i| mixed(key.wrapping_add(i as u64)));
        let mask =
            words.flat_map(|w| [w, w >> 16, w >> 32, w >> 48]).map(|w| if w & 0xffff < bound { 0.0 } else { kept });
        let mask = TensorData::new(mask.take(dims[0] * dims[1]).collect::<Vec<f32>>(), dims);
        let mask: Tensor<2> = Tensor::from_data(mask, (cx.device, x.dtype()));
        Some((mask.clone(), x.clone() * mask))
    }
}

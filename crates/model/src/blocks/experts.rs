//! y = Σ_e w_e f_e(x) over the likeliest experts of each token (arXiv:2101.03961): with p = softmax(R x) the router's
//! probabilities, w_e = p_e for the `top` largest of them, divided by their sum where the architecture says so.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, activation::softmax};
use collimate_backend::read;

use super::{Block, Cx, GatedMlp, Linear, Numbers, Site, ints};
use crate::params::{Grads, ParamId};

/// Feed-forward layers, of which each token goes through some.
#[doc = include_str!("../../equations/block-experts.html")]
#[derive(Debug)]
pub struct Experts {
    /// R `[experts, hidden]`.
    pub router: Linear,
    /// f_e.
    pub experts: Vec<GatedMlp>,
    /// How many a token goes through.
    pub top: usize,
    /// Whether the weights of a token are divided by their sum.
    pub normalised: bool,
}

/// What the backward pass wants.
#[derive(Debug)]
pub struct Saved {
    /// p `[tokens, experts]`, in f32.
    probabilities: Tensor<2>,
    /// 1 where a token goes through an expert, 0 elsewhere, `[tokens, experts]`.
    chosen: Tensor<2>,
    routes: Vec<Route>,
}

/// The tokens of one expert.
#[derive(Debug)]
struct Route {
    expert: usize,
    /// The rows of its tokens.
    rows: Tensor<1, Int>,
    /// Their places among the numbers of `[tokens, experts]`.
    places: Tensor<1, Int>,
    saved: <GatedMlp as Block>::Saved,
    /// f_e of them.
    out: Tensor<2>,
}

impl Experts {
    /// Of each expert, the rows of its tokens, in rising order.
    fn choose(&self, probabilities: &[f32]) -> Vec<Vec<u32>> {
        let n = self.experts.len();
        let mut rows = vec![Vec::new(); n];
        let mut order: Vec<usize> = Vec::with_capacity(n);
        for (row, p) in probabilities.chunks_exact(n).enumerate() {
            order.clear();
            order.extend(0..n);
            // Of equals the first, so that a token's experts follow from its probabilities alone.
            order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
            order[..self.top].iter().for_each(|e| rows[*e].push(row as u32));
        }
        rows
    }

    /// w `[tokens, experts]`.
    fn weights(&self, probabilities: &Tensor<2>, chosen: &Tensor<2>) -> Tensor<2> {
        let w = probabilities.clone() * chosen.clone();
        if self.normalised { w.clone() / w.sum_dim(1) } else { w }
    }
}

/// The numbers at `places` of a matrix, one a row.
fn at(x: &Tensor<2>, places: &Tensor<1, Int>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    x.clone().reshape([rows * columns, 1]).select(0, places.clone())
}

impl Block for Experts {
    type Saved = Saved;

    // ANCHOR: formula
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Saved) {
        let ([tokens, width], n) = (x.dims(), self.experts.len());
        let probabilities = softmax(self.router.apply(cx, &x).cast(DType::F32), 1);
        let host = cx.timed("router", || read(probabilities.clone()));
        let host: Vec<f32> = host.try_to_vec().expect("probabilities are f32");
        let all = self.choose(&host);
        if let Some(balance) = &cx.batch.balance {
            balance.add(&host, &all);
        }
        let mut chosen = vec![0f32; tokens * n];
        for (e, rows) in all.iter().enumerate() {
            rows.iter().for_each(|row| chosen[*row as usize * n + e] = 1.0);
        }
        let device = x.device();
        let chosen = burn::tensor::TensorData::new(chosen, [tokens, n]);
        let chosen: Tensor<2> = Tensor::from_data(chosen, (&device, DType::F32));
        let weights = self.weights(&probabilities, &chosen);
        let mut y = Tensor::zeros([tokens, width], (&device, x.dtype()));
        let mut routes = Vec::new();
        for (expert, rows) in all.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let places = ints(rows.iter().map(|row| row * n as u32 + expert as u32).collect(), &device);
            let rows = ints(rows, &device);
            let (out, saved) = self.experts[expert].forward(cx, x.clone().select(0, rows.clone()));
            let part = out.clone() * at(&weights, &places).cast(x.dtype());
            y = y.select_assign(0, rows.clone(), part, IndexingUpdateOp::Add);
            routes.push(Route { expert, rows, places, saved, out });
        }
        (y, Saved { probabilities, chosen, routes })
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let Saved { probabilities, chosen, routes } = saved;
        let ([tokens, width], n, device) = (x.dims(), self.experts.len(), x.device());
        let weights = self.weights(&probabilities, &chosen);
        let mut dx = Tensor::zeros([tokens, width], (&device, x.dtype()));
        let mut dw = Tensor::zeros([tokens * n, 1], (&device, DType::F32));
        let mut idle = vec![true; n];
        for Route { expert, rows, places, saved, out } in routes {
            idle[expert] = false;
            let d_out = dy.clone().select(0, rows.clone());
            let along = (d_out.clone().cast(DType::F32) * out.cast(DType::F32)).sum_dim(1);
            dw = dw.select_assign(0, places.clone(), along, IndexingUpdateOp::Add);
            let d_out = d_out * at(&weights, &places).cast(x.dtype());
            let d_in = self.experts[expert].backward(cx, x.clone().select(0, rows.clone()), saved, d_out, grads);
            dx = dx.select_assign(0, rows, d_in, IndexingUpdateOp::Add);
        }
        // An expert that no token went through has a gradient of 0, not none: its moments decay as in transformers.
        for (expert, _) in self.experts.iter().zip(idle).filter(|(_, idle)| *idle) {
            expert.params(&mut |id| grads.add(id, Tensor::zeros(cx.p(id).dims(), (&device, DType::F32))));
        }
        let mut dp = dw.reshape([tokens, n]) * chosen.clone();
        if self.normalised {
            let sum = (probabilities.clone() * chosen.clone()).sum_dim(1);
            dp = (dp.clone() - (dp * weights).sum_dim(1)) * chosen / sum;
        }
        if let Some(slope) = cx.batch.balance.as_ref().and_then(|b| b.slope(&device)) {
            dp = dp + slope;
        }
        let dz = probabilities.clone() * (dp.clone() - (dp * probabilities).sum_dim(1));
        self.router.pull_back(cx, &x, &dz.cast(dy.dtype()), Some(dx), grads)
    }
    // ANCHOR_END: formula

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        self.router.params(visit);
        self.experts.iter().for_each(|e| e.params(visit));
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        // Were all tokens to go through one expert, it would hold as much as a layer without experts.
        let one = self.experts.first().map_or(Numbers::default(), |e| e.numbers(on));
        let (n, tokens) = (self.experts.len(), on.load.tokens);
        Numbers {
            kept: self.top * (one.kept + tokens * on.width) + 2 * tokens * n,
            held: one.held + 4 * tokens * n,
            scores: 0,
        }
    }
}

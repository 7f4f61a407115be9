//! A block from outside: a feed-forward part with a squared ReLU, held against finite differences of itself.
//!
//! ```sh
//! cargo run --release --example block
//! ```

use burn::tensor::{Device, Tensor, TensorData};
use collimate::backend::Backend;
use collimate::backend::kernels::Kernels;
use collimate::model::arch::Builder;
use collimate::model::blocks::{Batch, Block, Cx, Linear, Numbers, Site};
use collimate::model::{Grads, Layout, ParamId, Params, Profile, Tensors, Text};

// ANCHOR: block
/// y = W_down relu(W_up x)² (arXiv:2109.08668).
#[derive(Debug)]
pub struct SquaredRelu {
    /// W_up `[inner, hidden]`.
    pub up: Linear,
    /// W_down `[hidden, inner]`.
    pub down: Linear,
    /// The width of what is inside.
    pub inner: usize,
}

impl Block for SquaredRelu {
    /// relu(W_up x); its square is computed anew.
    type Saved = Tensor<2>;

    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let positive = self.up.apply(cx, &x).clamp_min(0.0);
        (self.down.apply(cx, &positive.clone().square()), positive)
    }

    // The caller kept x and gives it back. `pull_back` adds dW to `grads`, unless the weight is frozen, and gives dx.
    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Tensor<2>, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let d_square = self.down.pull_back(cx, &saved.clone().square(), &dy, None, grads);
        let d_up = d_square * saved * 2.0;
        self.up.pull_back(cx, &x, &d_up, None, grads)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        [self.up, self.down].iter().for_each(|l| l.params(visit));
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let (kept, held) = (self.inner, 3 * self.inner + 2 * on.width);
        Numbers { kept: on.load.tokens * kept, held: on.load.tokens * held, scores: 0 }
    }
}
// ANCHOR_END: block

const WIDTH: usize = 6;

/// Values between −1 and 1, the same each time.
fn numbers(dims: [usize; 2], seed: u32, device: &Device) -> Tensor<2> {
    let value = |i: usize| ((i as f32 + 1.0) * 0.73 + seed as f32 * 1.9).sin();
    Tensor::from_data(TensorData::new((0..dims[0] * dims[1]).map(value).collect::<Vec<_>>(), dims), device)
}

fn dot(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    f64::from((a.clone() * b.clone()).sum().into_scalar::<f32>())
}

/// Runs `f` with all that a block may ask for.
fn with_cx<R>(params: &Params, device: &Device, f: impl FnOnce(&Cx<'_>) -> R) -> R {
    let mut layout = Layout::default();
    layout.push(&[1, 2, 3], &[Text::whole(&[4, 5]), Text::whole(&[6, 7])], true).unwrap();
    let (batch, kernels, profile) = (Batch::new(&layout, &[], &[], device), Kernels::on(device), Profile::default());
    f(&Cx {
        params,
        kernels: &kernels,
        batch: &batch,
        packed: None,
        dropout: None,
        recompute: false,
        profile: &profile,
        device,
    })
}

/// What the backward pass says of L = Σ y·dy along a direction of all that goes in, and what differences say.
fn slopes(device: &Device) -> (f64, f64) {
    let mut b = Builder::default();
    let block = SquaredRelu { up: b.linear("up", 8, WIDTH, true), down: b.linear("down", WIDTH, 8, false), inner: 8 };
    let of = |seed: u32| b.0.specs.iter().zip(seed..).map(|(s, i)| numbers(s.dims(), i, device)).collect::<Vec<_>>();
    let (values, along) = (of(1), of(11));
    let rows = [5, WIDTH];
    let [x, dx, dy] = [21, 22, 23].map(|seed| numbers(rows, seed, device));
    let loss = |step: f64| {
        let moved = values.iter().zip(&along).map(|(v, d)| v.clone() + d.clone() * step);
        let params = Params::new(Tensors(moved.collect()));
        dot(&with_cx(&params, device, |cx| block.forward(cx, x.clone() + dx.clone() * step).0), &dy)
    };
    let params = Params::new(Tensors(values.clone()));
    let mut grads = Grads::new(&params);
    let gradient = with_cx(&params, device, |cx| {
        let (_, saved) = block.forward(cx, x.clone());
        block.backward(cx, x.clone(), saved, dy.clone(), &mut grads)
    });
    let mut said = dot(&gradient, &dx);
    block.params(&mut |id| said += dot(grads.get(id).unwrap(), &along[id.index()]));
    let h = 1e-3;
    (said, (loss(h) - loss(-h)) / (2.0 * h))
}

fn main() {
    for backend in Backend::all().into_iter().filter(|b| (b.devices)().is_ok()) {
        let (said, measured) = slopes(&(backend.open)(0));
        println!("{}: the backward pass says {said:.4}, differences say {measured:.4}", backend.name);
        assert!(measured.abs() > 0.1 && (said - measured).abs() < 5e-3 * measured.abs(), "{said} is not {measured}");
    }
}

#[test]
fn its_backward_pass_is_that_of_its_forward_pass() {
    main();
}

//! The decoder: forward and backward through its layers.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use collimate_kernels::adamw::sum_of_squares;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, RopeScaling};
use crate::error::Error;
use crate::host::{self, View};
use crate::layout::Layout;
use crate::ops::attention::{self, Heads, Mask};
use crate::ops::{linear, rms_norm, rope, swiglu};
use crate::parameters::{Inventory, Layer, Linear, Spec, Tensors};
use crate::precision::Precision;
use crate::profile::Profile;
use crate::rotary::Rotary;

/// A decoder-only transformer of the Llama family, on a device.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) inventory: Inventory,
    pub(crate) parameters: Tensors,
    /// What is computed with, where that is not the parameters themselves: f32 masters rounded to fewer bits.
    working: Option<Tensors>,
    precision: Precision,
    profile: Profile,
    pub(crate) rotary: Rotary,
    pub(crate) device: Device,
}

/// A gradient for each parameter that has one, in the order of the inventory, in f32.
#[derive(Clone, Debug)]
pub struct Gradients(pub Vec<Option<Tensor<2>>>, f64);

impl Gradients {
    /// No gradients yet, for `parameters` parameters.
    pub fn none(parameters: usize) -> Self {
        Self(vec![None; parameters], 1.0)
    }

    /// What is added until the next call was computed from coefficients that were multiplied by `scale`.
    pub(crate) fn divide_by(&mut self, scale: f64) {
        self.1 = 1.0 / scale;
    }

    fn unscaled(&self, more: Tensor<2>) -> Tensor<2> {
        let more = more.cast(DType::F32);
        if self.1 == 1.0 { more } else { more * self.1 }
    }

    pub(crate) fn add(&mut self, index: usize, more: Tensor<2>) {
        let more = self.unscaled(more);
        self.0[index] = Some(match self.0[index].take() {
            None => more,
            Some(sum) => sum + more,
        });
    }

    /// Adds the rows of `more` at `places` of a gradient `[rows, width]`.
    fn add_rows(&mut self, index: usize, rows: usize, places: Tensor<1, Int>, more: Tensor<2>) {
        let more = self.unscaled(more);
        let zeros = || Tensor::zeros([rows, more.dims()[1]], (&more.device(), DType::F32));
        let sum = self.0[index].take().unwrap_or_else(zeros);
        self.0[index] = Some(sum.select_assign(0, places, more, IndexingUpdateOp::Add));
    }

    /// Changes the buffer of a gradient in this process's memory, which is 0 until then.
    pub(crate) fn update(&mut self, index: usize, dims: [usize; 2], change: impl FnOnce(&mut [f32])) {
        let slot = self.0[index].get_or_insert_with(|| host::tensor(vec![0.0; dims[0] * dims[1]], dims));
        host::update(slot, change).expect("gradients lie where parameters lie");
    }

    /// √Σ g² over all parameters.
    pub fn norm(&self) -> f64 {
        let square = |g: &Tensor<2>| match View::of(g) {
            Some(g) => sum_of_squares(g.slice()),
            None => f64::from(g.clone().square().sum().into_scalar::<f32>()),
        };
        self.0.iter().flatten().map(square).sum::<f64>().sqrt()
    }
}

/// What all layers share for one batch.
pub(crate) struct Context {
    cos: Tensor<2>,
    sin: Tensor<2>,
    masks: BTreeMap<Option<usize>, Mask>,
    /// The inputs whose last hidden state is read, in rising order: behind the last attention only they go on.
    kept: Tensor<1, Int>,
    /// For each scored token, its predictor among `kept`.
    readers: Tensor<1, Int>,
    ids: Tensor<1, Int>,
    tokens: usize,
}

impl Context {
    fn new(layout: &Layout, decoder: &Decoder) -> Self {
        let device = &decoder.device;
        let (cos, sin) = decoder.tables(&layout.positions);
        let windows = decoder.config.sliding_window.iter().copied();
        let masks = windows.map(|w| (w, Mask::new(&layout.rows, w, device)));
        let mut kept = layout.predictors.clone();
        kept.sort_unstable();
        kept.dedup();
        let readers = layout.predictors.iter().map(|p| kept.binary_search(p).expect("kept holds all") as u32).collect();
        Self {
            cos,
            sin,
            masks: masks.collect(),
            kept: ints(kept, device),
            readers: ints(readers, device),
            ids: ints(layout.ids.clone(), device),
            tokens: layout.tokens(),
        }
    }
}

/// What a layer keeps for its backward pass.
pub(crate) struct Kept {
    input: Tensor<2>,
    inner: Option<Inner>,
}

/// What recomputation can bring back from a layer's input.
struct Inner {
    /// Query and key before their norms, where the architecture has these.
    unnormed: Option<(Tensor<2>, Tensor<2>)>,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    attended: Tensor<2>,
    /// What the attention kernel wants back, if there is one.
    log_sum_exp: Option<Tensor<2>>,
    middle: Tensor<2>,
    gate: Tensor<2>,
    up: Tensor<2>,
}

fn ints(values: Vec<u32>, device: &Device) -> Tensor<1, Int> {
    let n = values.len();
    let values: Vec<i32> = values.into_iter().map(|v| v as i32).collect();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Rows of `x` added at `places` of a zero matrix of `rows` rows.
fn scatter(x: Tensor<2>, places: &Tensor<1, Int>, rows: usize) -> Tensor<2> {
    let zeros = Tensor::zeros([rows, x.dims()[1]], (&x.device(), x.dtype()));
    zeros.select_assign(0, places.clone(), x, IndexingUpdateOp::Add)
}

impl Decoder {
    /// A decoder from the weights of a checkpoint folder.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, Error> {
        Ok(Self::new(checkpoint.config.clone(), checkpoint.load(device)?, device))
    }

    /// A decoder from parameters in the order of [`Inventory::new`].
    pub fn new(config: ModelConfig, parameters: Tensors, device: &Device) -> Self {
        let inventory = Inventory::new(&config);
        let rotary = Rotary::new(&config);
        let (precision, profile) = (Precision::F32, Profile::default());
        Self { config, inventory, parameters, working: None, precision, profile, rotary, device: device.clone() }
    }

    /// The same decoder, measured by `profile`.
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// What measures it.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(crate) fn timed<R>(&self, piece: &'static str, run: impl FnOnce() -> R) -> R {
        self.profile.timed(piece, &self.device, run)
    }

    /// The same decoder, computing in `precision`: with `masters`, it keeps its parameters in f32 and computes with a
    /// rounded copy; without, the parameters themselves are rounded, and small updates of them vanish.
    ///
    /// # Errors
    /// A device that lacks such numbers.
    pub fn with_precision(mut self, precision: Precision, masters: bool) -> Result<Self, Error> {
        precision.check(&self.device)?;
        self.precision = precision;
        self.working = None;
        match masters {
            true => self.refresh(),
            false => self.parameters = self.parameters.cast(precision),
        }
        Ok(self)
    }

    /// Rounds the parameters anew, where they are not computed with themselves.
    pub(crate) fn refresh(&mut self) {
        let kept = self.parameters.0.first().map(Tensor::dtype);
        self.working = kept.filter(|d| *d != self.precision.dtype()).map(|_| self.parameters.cast(self.precision));
    }

    /// What it computes in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What its parameters are kept in.
    pub fn kept_in(&self) -> Precision {
        if self.working.is_some() { Precision::F32 } else { self.precision }
    }

    /// Whether hand-made kernels do its arithmetic; tensor operations do it elsewhere.
    pub fn has_kernels(&self) -> bool {
        View::of(self.p(self.inventory.norm)).is_some()
    }

    /// A decoder of random weights: normal with deviation 0.02, norms 1, biases 0; the same on every backend.
    pub fn random(config: ModelConfig, seed: u64, device: &Device) -> Self {
        let inventory = Inventory::new(&config);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut normal = || {
            // Box and Muller's transform, one half of it.
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * 0.02) as f32
        };
        let values = inventory.specs.iter().map(|s| match s.name.as_str() {
            name if name.contains("norm") => vec![1.0; s.len()],
            name if name.ends_with("bias") => vec![0.0; s.len()],
            _ => (0..s.len()).map(|_| normal()).collect(),
        });
        let parameters = Tensors::from_host(&inventory, values.collect(), device);
        Self::new(config, parameters, device)
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names and shapes of the parameters, in their order.
    pub fn specs(&self) -> &[Spec] {
        &self.inventory.specs
    }

    /// The parameters as they are kept.
    pub fn parameters(&self) -> &Tensors {
        &self.parameters
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn p(&self, index: usize) -> &Tensor<2> {
        &self.working.as_ref().unwrap_or(&self.parameters).0[index]
    }

    pub(crate) fn tables(&self, positions: &[u32]) -> (Tensor<2>, Tensor<2>) {
        let (cos, sin) = self.rotary.tables(positions);
        let shape = [positions.len(), self.config.head_dim / 2];
        let on_device = |v| Tensor::from_data(TensorData::new(v, shape), (&self.device, DType::F32));
        (on_device(cos), on_device(sin))
    }

    pub(crate) fn heads(&self) -> Heads {
        Heads {
            queries: self.config.num_attention_heads,
            keys: self.config.num_key_value_heads,
            dim: self.config.head_dim,
        }
    }

    fn linear(&self, l: Linear, x: &Tensor<2>) -> Tensor<2> {
        self.timed("linear forward", || linear::forward(x, self.p(l.weight), l.bias.map(|b| self.p(b))))
    }

    /// The gradient through a linear map, added to `sum`; its parameters' gradients are added to `grads`.
    fn linear_backward(
        &self,
        l: Linear,
        dy: &Tensor<2>,
        x: &Tensor<2>,
        sum: Option<Tensor<2>>,
        grads: &mut Gradients,
    ) -> Tensor<2> {
        self.timed("linear backward", || {
            linear::backward_parameters(dy, x, l.weight, l.bias, grads);
            linear::backward_input(dy, self.p(l.weight), sum)
        })
    }

    /// The normed rows, and the inverse roots that the backward pass wants.
    pub(crate) fn norm(&self, index: usize, x: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        self.timed("norm", || rms_norm::forward(x, self.p(index), self.config.rms_norm_eps))
    }

    fn norm_backward(
        &self,
        index: usize,
        dy: &Tensor<2>,
        x: &Tensor<2>,
        inverse: &Tensor<2>,
        grads: &mut Gradients,
    ) -> Tensor<2> {
        let (dx, dw) = self.timed("norm", || rms_norm::backward(dy, x, self.p(index), inverse));
        grads.add(index, dw);
        dx
    }

    /// A norm over each head of `x` `[tokens, heads·d]`.
    fn head_norm(&self, index: usize, x: &Tensor<2>) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let d = self.config.head_dim;
        self.norm(index, &x.clone().reshape([tokens * width / d, d])).0.reshape([tokens, width])
    }

    fn head_norm_backward(&self, index: usize, dy: Tensor<2>, x: &Tensor<2>, grads: &mut Gradients) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let d = self.config.head_dim;
        let split = [tokens * width / d, d];
        let x = x.clone().reshape(split);
        let (_, inverse) = self.norm(index, &x);
        self.norm_backward(index, &dy.reshape(split), &x, &inverse, grads).reshape([tokens, width])
    }

    pub(crate) fn embed(&self, ids: &Tensor<1, Int>) -> Tensor<2> {
        self.timed("embedding", || self.p(self.inventory.embed).clone().select(0, ids.clone()))
    }

    /// Queries and keys before their norms where there are any, then queries, keys and values with positions applied.
    #[allow(clippy::type_complexity)]
    pub(crate) fn project(
        &self,
        i: usize,
        h: &Tensor<2>,
        cos: &Tensor<2>,
        sin: &Tensor<2>,
    ) -> (Option<(Tensor<2>, Tensor<2>)>, [Tensor<2>; 3]) {
        let layer = &self.inventory.layers[i];
        let (x, _) = self.norm(layer.input_norm, h);
        let (mut q, mut k, v) = (self.linear(layer.q, &x), self.linear(layer.k, &x), self.linear(layer.v, &x));
        let mut unnormed = None;
        if let (Some(qn), Some(kn)) = (layer.q_norm, layer.k_norm) {
            unnormed = Some((q.clone(), k.clone()));
            (q, k) = (self.head_norm(qn, &q), self.head_norm(kn, &k));
        }
        if self.config.rope_layers[i] {
            (q, k) = self.timed("rotary", || (rope::forward(q, cos, sin), rope::forward(k, cos, sin)));
        }
        (unnormed, [q, k, v])
    }

    /// From what was attended to the layer's output; also what the backward pass wants of it: middle, gate, up.
    pub(crate) fn finish(&self, i: usize, h: Tensor<2>, attended: &Tensor<2>) -> (Tensor<2>, [Tensor<2>; 3]) {
        let layer = &self.inventory.layers[i];
        let middle = h + self.linear(layer.o, attended);
        let (x, _) = self.norm(layer.post_norm, &middle);
        let (gate, up) = (self.linear(layer.gate, &x), self.linear(layer.up, &x));
        let out = middle.clone() + self.linear(layer.down, &self.swiglu(&gate, &up));
        (out, [middle, gate, up])
    }

    fn swiglu(&self, gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
        self.timed("swiglu", || swiglu::forward(gate, up))
    }

    fn is_last(&self, i: usize) -> bool {
        i + 1 == self.config.num_hidden_layers
    }

    fn layer(&self, i: usize, input: Tensor<2>, context: &Context) -> (Tensor<2>, Inner) {
        let (unnormed, [q, k, v]) = self.project(i, &input, &context.cos, &context.sin);
        let mask = &context.masks[&self.config.sliding_window[i]];
        let (attended, log_sum_exp) =
            self.timed("attention forward", || attention::forward(&q, &k, &v, mask, self.heads()));
        // Behind the last attention, nothing reads the other tokens any more.
        let (h, read) = match self.is_last(i) {
            true => (input.select(0, context.kept.clone()), attended.clone().select(0, context.kept.clone())),
            false => (input, attended.clone()),
        };
        let (out, [middle, gate, up]) = self.finish(i, h, &read);
        (out, Inner { unnormed, q, k, v, attended, log_sum_exp, middle, gate, up })
    }

    fn layer_backward(
        &self,
        i: usize,
        dy: Tensor<2>,
        kept: Kept,
        context: &Context,
        grads: &mut Gradients,
    ) -> Tensor<2> {
        let layer: &Layer = &self.inventory.layers[i];
        let input = kept.input;
        let inner = kept.inner.unwrap_or_else(|| self.layer(i, input.clone(), context).1);
        let Inner { unnormed, q, k, v, attended, log_sum_exp, middle, gate, up } = inner;

        let d_act = self.linear_backward(layer.down, &dy, &self.swiglu(&gate, &up), None, grads);
        let (d_gate, d_up) = self.timed("swiglu", || swiglu::backward(&d_act, gate, up));
        let (x, inverse) = self.norm(layer.post_norm, &middle);
        let dx = self.linear_backward(layer.gate, &d_gate, &x, None, grads);
        let dx = self.linear_backward(layer.up, &d_up, &x, Some(dx), grads);
        let d_middle = dy + self.norm_backward(layer.post_norm, &dx, &middle, &inverse, grads);

        let last = self.is_last(i);
        let read = if last { attended.clone().select(0, context.kept.clone()) } else { attended.clone() };
        let mut d_attended = self.linear_backward(layer.o, &d_middle, &read, None, grads);
        let mut dh = d_middle;
        if last {
            d_attended = scatter(d_attended, &context.kept, context.tokens);
            dh = scatter(dh, &context.kept, context.tokens);
        }
        let mask = &context.masks[&self.config.sliding_window[i]];
        let saved = (&attended, log_sum_exp.as_ref());
        let [mut dq, mut dk, dv] = self
            .timed("attention backward", || attention::backward(&d_attended, [&q, &k, &v], saved, mask, self.heads()));
        if self.config.rope_layers[i] {
            let turn = |d| rope::backward(d, &context.cos, &context.sin);
            (dq, dk) = self.timed("rotary", || (turn(dq), turn(dk)));
        }
        if let (Some(qn), Some(kn), Some((uq, uk))) = (layer.q_norm, layer.k_norm, unnormed) {
            dq = self.head_norm_backward(qn, dq, &uq, grads);
            dk = self.head_norm_backward(kn, dk, &uk, grads);
        }
        let (x, inverse) = self.norm(layer.input_norm, &input);
        let dx = self.linear_backward(layer.q, &dq, &x, None, grads);
        let dx = self.linear_backward(layer.k, &dk, &x, Some(dx), grads);
        let dx = self.linear_backward(layer.v, &dv, &x, Some(dx), grads);
        dh + self.norm_backward(layer.input_norm, &dx, &input, &inverse, grads)
    }

    /// Hidden states behind the last layer, before the last norm, of the kept inputs; with what each layer keeps, if
    /// `keep` says so, all of it or (with `recompute`) its input alone.
    pub(crate) fn body(&self, layout: &Layout, keep: bool, recompute: bool) -> Result<Body, Error> {
        self.check(layout)?;
        let context = Context::new(layout, self);
        let mut h = self.embed(&context.ids);
        let mut layers = Vec::new();
        for i in 0..self.config.num_hidden_layers {
            let input = h.clone();
            let (out, inner) = self.layer(i, h, &context);
            if keep {
                layers.push(Kept { input, inner: (!recompute).then_some(inner) });
            }
            h = out;
        }
        Ok(Body { context, layers, last: h })
    }

    /// Normed hidden states, one for each scored token.
    pub(crate) fn readout(&self, body: &Body) -> Tensor<2> {
        self.norm(self.inventory.norm, &body.last).0.select(0, body.context.readers.clone())
    }

    /// From the gradient of [`readout`](Self::readout) back through all layers.
    pub(crate) fn body_backward(&self, body: Body, d_hidden: Tensor<2>, grads: &mut Gradients) {
        let Body { context, mut layers, last } = body;
        let dy = scatter(d_hidden, &context.readers, last.dims()[0]);
        let (_, inverse) = self.norm(self.inventory.norm, &last);
        let mut dh = self.norm_backward(self.inventory.norm, &dy, &last, &inverse, grads);
        while let Some(kept) = layers.pop() {
            dh = self.layer_backward(layers.len(), dh, kept, &context, grads);
        }
        // Tied or not, the embedding's gradient is a sum of rows, added in place.
        let embed = self.inventory.embed;
        self.timed("embedding", || grads.add_rows(embed, self.config.vocab_size, context.ids, dh));
    }

    fn check(&self, layout: &Layout) -> Result<(), Error> {
        // Rotary positions go on beyond what the model was trained for; only dynamic scaling would have to change there.
        let (longest, limit) = (layout.longest(), self.config.max_position_embeddings);
        if longest > limit && self.config.rope_scaling == RopeScaling::Dynamic {
            return Err(Error::Sequence(format!(
                "a text of {longest} tokens is longer than the model's max_position_embeddings {limit}, where its dynamic \
                 rotary scaling sets in, which is not implemented; lower max_length"
            )));
        }
        let vocab = self.config.vocab_size as u32;
        match layout.ids.iter().chain(&layout.targets).find(|id| **id >= vocab) {
            Some(id) => Err(Error::Sequence(format!("token id {id} is outside the model's vocabulary of {vocab}"))),
            None => Ok(()),
        }
    }
}

/// A forward pass through the layers, with what its backward pass wants.
pub(crate) struct Body {
    context: Context,
    layers: Vec<Kept>,
    last: Tensor<2>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Options;
    use crate::layout::Text;
    use crate::ops::head;
    use crate::ops::oracle::assert_close;
    use serde_json::{Value, json};
    use std::path::Path;

    /// A small model of each architecture, with whatever sets it apart.
    fn architectures() -> Vec<(&'static str, ModelConfig)> {
        let base = json!({
            "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_hidden_layers": 3, "vocab_size": 40, "max_position_embeddings": 64, "rms_norm_eps": 1e-5
        });
        let with = |name, more: Value| {
            let mut table = base.clone();
            table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (name, ModelConfig::from_value(&table, Path::new("config.json")).unwrap())
        };
        vec![
            with("llama, tied", json!({"model_type": "llama", "tie_word_embeddings": true})),
            with("llama, biases", json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true})),
            with("mistral, windows", json!({"model_type": "mistral", "sliding_window": 4, "head_dim": 6})),
            with("qwen2", json!({"model_type": "qwen2", "tie_word_embeddings": true})),
            with("qwen3", json!({"model_type": "qwen3", "head_dim": 8})),
            with("smollm3", json!({"model_type": "smollm3", "no_rope_layers": [1, 0, 1]})),
        ]
    }

    fn layout(share: bool) -> Layout {
        let mut l = Layout::default();
        l.push(&[1, 7, 9, 30, 4], &[Text::whole(&[5, 6, 2]), Text::whole(&[8, 11, 12, 13, 2])], share).unwrap();
        l.push(&[1], &[Text::whole(&[2]), Text::whole(&[39, 38, 2])], share).unwrap();
        l
    }

    fn coefficients(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7 % 5) as f32 - 1.5) / 3.0).collect()
    }

    /// Gradients by automatic differentiation of the same forward pass, run as tensor operations.
    fn on_tape(decoder: &Decoder, layout: &Layout) -> Vec<Tensor<2>> {
        let device = decoder.device.clone().autodiff();
        let leaves = decoder.parameters.0.iter().map(|p| p.clone().autodiff().require_grad());
        let taped = Decoder::new(decoder.config.clone(), Tensors(leaves.collect()), &device);
        let body = taped.body(layout, false, false).unwrap();
        let scored = head::forward(&taped.readout(&body), taped.p(taped.inventory.head), &layout.targets, 1000, false);
        let c = coefficients(layout.targets.len());
        let c: Tensor<1> = Tensor::from_data(TensorData::new(c.clone(), [c.len()]), &device);
        let gradients = (scored.log_probs * c).sum().backward();
        taped.parameters.0.iter().map(|p| p.grad(&gradients).expect("every parameter has a gradient")).collect()
    }

    /// Random weights, spread wide enough that no piece is nearly linear.
    fn decoder(config: &ModelConfig, device: &Device) -> Decoder {
        let mut d = Decoder::random(config.clone(), 5, &Device::flex());
        for (i, (spec, p)) in d.inventory.specs.iter().zip(&mut d.parameters.0).enumerate() {
            match spec.name.contains("norm") {
                true => p.inplace(|p| p + 0.02 * i as f64),
                false => p.inplace(|p| p * 8.0 + 0.001 * i as f64),
            }
        }
        let there = d.parameters.0.into_iter().map(|p| Tensor::from_data(p.into_data(), device)).collect();
        Decoder::new(config.clone(), Tensors(there), device)
    }

    #[test]
    fn gradients_are_those_of_the_tape() {
        for (name, config) in architectures() {
            for device in [Device::flex(), crate::ops::oracle::elsewhere()] {
                let d = decoder(&config, &device);
                let l = layout(true);
                let expected = on_tape(&d, &l);
                for checkpointing in [false, true] {
                    let options =
                        Options { gradient_checkpointing: checkpointing, logits: 3 * 40, ..Options::default() };
                    let mut got = Gradients::none(d.specs().len());
                    let pass = d.forward(&l, options).unwrap();
                    d.backward(pass, &coefficients(l.targets.len()), &mut got);
                    for ((spec, got), expected) in d.specs().iter().zip(&got.0).zip(&expected) {
                        eprintln!("{name}, {}", spec.name);
                        assert_close(got.as_ref().unwrap(), expected);
                    }
                }
            }
        }
    }

    /// ‖a − b‖ / ‖b‖ over all parameters.
    fn distance(a: &Gradients, b: &Gradients) -> f64 {
        let difference = a.0.iter().zip(&b.0).map(|(a, b)| Some(a.clone().unwrap() - b.clone().unwrap()));
        Gradients(difference.collect(), 1.0).norm() / b.norm()
    }

    #[test]
    fn fewer_bits_change_gradients_by_their_rounding() {
        let l = layout(true);
        let gradients = |d: &Decoder, options: Options, size: f32| {
            let mut sum = Gradients::none(d.specs().len());
            let c: Vec<f32> = coefficients(l.targets.len()).iter().map(|c| c * size).collect();
            d.backward(d.forward(&l, options).unwrap(), &c, &mut sum);
            assert!(sum.0.iter().flatten().all(|g| g.dtype() == DType::F32));
            sum
        };
        let lean = Options { gradient_checkpointing: true, logits: 3 * 40, ..Options::default() };
        for (name, config) in architectures() {
            let d = decoder(&config, &Device::flex());
            for precision in [Precision::Bf16, Precision::F16] {
                // Coefficients of a millionth would be lost to f16 as they are.
                for size in [1.0, 1e-6] {
                    let exact = gradients(&d, Options::default(), size);
                    let masters = d.clone().with_precision(precision, true).unwrap();
                    let rounded = d.clone().with_precision(precision, false).unwrap();
                    assert_eq!((masters.kept_in(), rounded.kept_in()), (Precision::F32, precision));
                    let got = gradients(&masters, Options::default(), size);
                    let off = distance(&got, &exact);
                    assert!(off > 0.0 && off < 16.0 * precision.epsilon(), "{name}, {precision:?}, {size}: {off}");
                    // The same numbers are computed with, and recomputed.
                    assert_eq!(distance(&gradients(&rounded, Options::default(), size), &got), 0.0);
                    assert!(distance(&gradients(&masters, lean, size), &got) < precision.epsilon());
                }
            }
        }
    }

    #[test]
    fn sharing_a_prompt_changes_no_score() {
        for (name, config) in architectures() {
            let d = decoder(&config, &Device::flex());
            let options = Options { collision: true, ..Options::default() };
            let [a, b] = [true, false].map(|share| d.score(&layout(share), options).unwrap());
            for (x, y) in a.log_probs.iter().zip(&b.log_probs) {
                assert!((x - y).abs() < 1e-4, "{name}: {x} is not {y}");
            }
            for (x, y) in a.log_collisions.unwrap().iter().zip(&b.log_collisions.unwrap()) {
                assert!((x - y).abs() < 1e-4, "{name}: {x} is not {y}");
            }
        }
    }

    #[test]
    fn what_the_model_cannot_take_is_named() {
        let (_, mut config) = architectures().remove(0);
        let mut l = Layout::default();
        l.push(&[1; 60], &[Text::whole(&[2; 6])], true).unwrap();
        let d = Decoder::random(config.clone(), 1, &Device::flex());
        assert_eq!(d.score(&l, Options::default()).unwrap().log_probs.len(), 6);
        config.rope_scaling = RopeScaling::Dynamic;
        let d = Decoder::random(config, 1, &Device::flex());
        let said = d.score(&l, Options::default()).unwrap_err().to_string();
        assert!(said.contains("65 tokens") && said.contains("max_position_embeddings 64"), "{said}");
        let mut l = Layout::default();
        l.push(&[1, 40], &[Text::whole(&[2])], true).unwrap();
        let said = d.score(&l, Options::default()).unwrap_err().to_string();
        assert!(said.contains("token id 40") && said.contains("vocabulary of 40"), "{said}");
    }
}

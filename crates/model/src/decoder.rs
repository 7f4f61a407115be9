//! The decoder: a network, its parameters and the device that they are on.

use std::sync::Mutex;

use burn::tensor::{Device, Tensor};
use collimate_backend::kernels::{Kernels, capped};

use crate::blocks::{Balance, Batch, Block, Cx, Kept, scatter};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::Error;
use crate::layout::Layout;
use crate::params::{Grads, ParamId, Params, Spec, Tensors};
use crate::precision::Precision;
use crate::profile::Profile;
use crate::readout::Options;

/// A decoder-only transformer on a device.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) params: Params,
    pub(crate) kernels: Kernels,
    profile: Profile,
    pub(crate) device: Device,
}

/// A forward pass through the layers, with what its backward pass wants.
pub(crate) struct Body {
    batch: Batch,
    /// The input of each layer and what else it keeps.
    layers: Vec<(Tensor<2>, Option<Kept>)>,
    last: Tensor<2>,
    /// The first layer that was kept: below it nothing is trained.
    first: usize,
    options: Options,
}

/// Runs where kernels of the processor share their work out: of many small pieces each is handed over quicker there than from
/// a thread that has to be woken behind it. It is the same thread each time, as they keep buffers by thread.
pub(crate) fn pooled<R: Send>(kernels: &Kernels, run: impl FnOnce() -> R + Send) -> R {
    if kernels.vectors.is_none() || rayon::current_thread_index().is_some() {
        return run();
    }
    let (run, done) = (Mutex::new(Some(run)), Mutex::new(None));
    rayon::broadcast(|thread| {
        let run = (thread.index() == 0).then(|| run.lock().expect("nothing panics under the lock").take());
        if let Some(run) = run.flatten() {
            let result = run();
            *done.lock().expect("nothing panics under the lock") = Some(result);
        }
    });
    done.into_inner().expect("nothing panics under the lock").expect("the first thread has run it")
}

impl Body {
    /// The loss that balances experts, where it was asked for; otherwise 0.
    pub(crate) fn aux_loss(&self) -> f64 {
        self.batch.balance.as_ref().map_or(0.0, Balance::loss)
    }
}

impl Decoder {
    /// A decoder from the weights of a checkpoint folder.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, Error> {
        Ok(Self::new(checkpoint.config.clone(), checkpoint.load(device)?, device))
    }

    /// A decoder from parameters in the order of its configuration's [`Inventory`](crate::Inventory).
    pub fn new(config: ModelConfig, parameters: Tensors, device: &Device) -> Self {
        let params = Params::new(parameters).with_adapters(&config.inventory);
        Self { config, params, kernels: Kernels::on(device), profile: Profile::default(), device: device.clone() }
    }

    /// A decoder of random weights: normal with deviation 0.02, norms 1, biases 0; the same on every backend.
    pub fn random(config: ModelConfig, seed: u64, device: &Device) -> Self {
        let params = Params::random(&config.inventory, seed, device);
        Self { config, params, kernels: Kernels::on(device), profile: Profile::default(), device: device.clone() }
    }

    /// The same decoder, measured by `profile`.
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// The same decoder on other kernels: on none of ours with [`Kernels::default`].
    pub fn with_kernels(mut self, kernels: Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// The same decoder, computing in `precision`: with `masters`, it keeps its parameters in f32 and computes with a
    /// rounded copy; without, the parameters themselves are rounded, and small updates of them vanish.
    ///
    /// # Errors
    /// A device that lacks such numbers.
    pub fn with_precision(mut self, precision: Precision, masters: bool) -> Result<Self, Error> {
        self.params.set_precision(precision, masters, &self.device)?;
        Ok(self)
    }

    /// The same decoder, of which only some parameters are trained. Of the others no gradient is kept, and the
    /// optimiser has no state.
    pub fn with_trainable(mut self, trained: impl Fn(&Spec) -> bool) -> Self {
        self.params.set_trainable(&self.config.inventory, trained);
        self
    }

    /// The same network with its adapters off: the model that they were put beside. Values are shared, not copied.
    pub fn without_adapters(mut self) -> Self {
        self.params = self.params.without_adapters();
        self
    }

    /// What measures it.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What it computes in.
    pub fn precision(&self) -> Precision {
        self.params.precision()
    }

    /// What its parameters are kept in.
    pub fn kept_in(&self) -> Precision {
        self.params.kept_in()
    }

    /// Whether hand-made kernels do its arithmetic; tensor operations do it elsewhere.
    pub fn has_kernels(&self) -> bool {
        self.precision() != Precision::F16 && self.kernels.any()
    }

    /// Tokens beyond which a batch is hardly cheaper per token; none where that is not known.
    pub fn ample_tokens(&self) -> Option<usize> {
        self.has_kernels().then(|| self.kernels.linear.ample()).flatten()
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names and shapes of the parameters, in their order.
    pub fn specs(&self) -> &[Spec] {
        &self.config.inventory.specs
    }

    /// The parameters as they are kept.
    pub fn parameters(&self) -> &Tensors {
        self.params.values()
    }

    /// The parameters with all that belongs to them.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The weight of the head `[vocab, hidden]`: the embedding itself where they are tied; `[1, hidden]` in a reward model.
    pub fn head(&self) -> ParamId {
        self.config.network.head
    }

    /// Logits `[rows, vocab]` under the network's cap, where it has one.
    pub fn capped(&self, logits: Tensor<2>) -> Tensor<2> {
        capped(logits, self.config.network.logits_cap)
    }

    /// How many layers a backward pass goes through: from the first trained one on.
    pub fn layers_kept(&self) -> usize {
        self.config.network.layers.len() - self.config.first_trained(self.params.trainable())
    }

    /// No gradients yet, for the parameters that are trained.
    pub fn no_gradients(&self) -> Grads {
        Grads::new(&self.params)
    }

    /// The trained parameters in the order in which a backward pass is done with them.
    pub fn backward_order(&self) -> Vec<ParamId> {
        self.stages().concat()
    }

    /// The trained parameters that a backward pass is done with behind the last norm, behind each layer from the last to the
    /// first, and at its end: embeddings, and what is tied to them.
    fn stages(&self) -> Vec<Vec<ParamId>> {
        let (network, n) = (&self.config.network, self.config.network.layers.len());
        let mut stages = vec![None::<usize>; self.config.inventory.specs.len()];
        let mut used = |id: ParamId, stage: usize| {
            let adapter = self.params.adapter(id).into_iter().flat_map(|a| [Some(a.a), Some(a.b), a.magnitude]);
            for id in adapter.flatten().chain([id, self.params.read_for(id)]) {
                let known = &mut stages[id.index()];
                *known = (*known).max(Some(stage));
            }
        };
        network.norm.params(&mut |id| used(id, 0));
        network.head_bias.into_iter().chain([network.head]).for_each(|id| used(id, 0));
        for (i, layer) in network.layers.iter().enumerate() {
            Block::params(layer, &mut |id| used(id, n - i));
        }
        network.embedding.positions.into_iter().chain([network.embedding.table]).for_each(|id| used(id, n + 1));
        let mut all = vec![Vec::new(); n + 2];
        for (i, stage) in stages.into_iter().enumerate().filter(|(i, _)| self.params.trainable()[*i]) {
            all[stage.unwrap_or(n + 1)].push(ParamId(i));
        }
        all
    }

    /// Hands over what a last pass would have, where there is none to come.
    pub fn hand_over_rest(&self, gradients: &mut Grads) {
        gradients.done(&self.backward_order());
    }

    /// Puts another value in the place of a parameter, in the type in which it is kept.
    pub fn set_value(&mut self, id: ParamId, value: Tensor<2>) {
        self.params.set(id, value);
    }

    /// √Σ g² over all gradients.
    pub fn gradient_norm(&self, gradients: &Grads) -> f64 {
        self.pooled(|| self.timed("gradient norm", || gradients.norm(self.kernels.adamw)))
    }

    pub(crate) fn timed<R>(&self, piece: &'static str, run: impl FnOnce() -> R) -> R {
        self.profile.timed(piece, &self.device, run)
    }

    /// See [`pooled`].
    pub(crate) fn pooled<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        pooled(&self.kernels, run)
    }

    pub(crate) fn cx<'a>(&'a self, batch: &'a Batch, options: Options) -> Cx<'a> {
        let (params, kernels, dropout) = (&self.params, &self.kernels, options.dropout);
        let recompute = options.recomputed > 0;
        Cx { params, kernels, batch, packed: None, recompute, dropout, profile: &self.profile, device: &self.device }
    }

    /// Hidden states behind the last layer, before the last norm, of the kept inputs; with what each layer keeps, if
    /// `keep` says so, all of it or (where layers are recomputed) its input alone.
    pub(crate) fn body(&self, layout: &Layout, keep: bool, options: Options) -> Result<Body, Error> {
        self.check(layout)?;
        let network = &self.config.network;
        let mut batch = Batch::new(layout, &network.rotary, &network.windows, &self.device);
        if options.router_aux_loss_coef != 0.0 {
            self.config.balances(options.router_aux_loss_coef)?;
            if !layout.whole {
                return Err(Error::Sequence("the loss that balances experts wants a whole layout".into()));
            }
            batch.balance = Some(Balance::new(layout));
        }
        let cx = self.cx(&batch, options);
        let first = self.config.first_trained(self.params.trainable());
        let mut h = network.embedding.forward(&cx);
        let mut layers = Vec::new();
        for (i, layer) in network.layers.iter().enumerate() {
            if keep && i >= first {
                let input = h.clone();
                let cx = Cx { recompute: i - first < options.recomputed, ..cx };
                let (out, saved) = layer.forward(&cx, h);
                layers.push((input, saved));
                h = out;
            } else {
                h = layer.forward(&cx, h).0;
            }
        }
        Ok(Body { batch, layers, last: h, first, options })
    }

    /// Normed hidden states `[scored, hidden]`, one for each scored token of a batch: what the head reads.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn hidden_states(&self, layout: &Layout) -> Result<Tensor<2>, Error> {
        Ok(self.hidden(&self.body(layout, false, Options::default())?))
    }

    /// Normed hidden states, one for each scored token.
    pub(crate) fn hidden(&self, body: &Body) -> Tensor<2> {
        let cx = self.cx(&body.batch, body.options);
        let normed = self.config.network.norm.apply(&cx, &body.last).0.select(0, body.batch.readers.clone());
        self.config.network.scaled(normed)
    }

    /// From the gradient of [`hidden`](Self::hidden), which is `scale` times what it is, back through all layers.
    pub(crate) fn body_backward(&self, body: Body, d_hidden: Tensor<2>, scale: f64, grads: &mut Grads) {
        let Body { mut batch, mut layers, last, first, options } = body;
        if let Some(balance) = &mut batch.balance {
            balance.weigh(options.router_aux_loss_coef * scale);
        }
        let (network, cx) = (&self.config.network, self.cx(&batch, options));
        let dy = scatter(network.scaled(d_hidden), &batch.readers, last.dims()[0]);
        let stages = if grads.are_handed_over() { self.stages() } else { Vec::new() };
        let mut stages = stages.iter();
        let mut done = |grads: &mut Grads| grads.done(stages.next().map_or(&[], Vec::as_slice));
        let mut dh = network.norm.backward(&cx, last, (), dy, grads);
        done(grads);
        while let Some((input, saved)) = layers.pop() {
            dh = network.layers[first + layers.len()].backward(&cx, input, saved, dh, grads);
            done(grads);
        }
        if first == 0 {
            network.embedding.backward(&cx, dh, grads);
        }
        stages.for_each(|stage| grads.done(stage));
    }

    fn check(&self, layout: &Layout) -> Result<(), Error> {
        let (longest, limit) = (layout.longest(), self.config.max_position_embeddings);
        if let Some(why) = self.config.bounded_by.filter(|_| longest > limit) {
            return Err(Error::Sequence(format!(
                "a text of {longest} tokens is longer than the model's max_position_embeddings {limit}, where {why}; lower \
                 max_length"
            )));
        }
        let vocab = self.config.vocab_size as u32;
        match layout.ids.iter().chain(&layout.targets).find(|id| **id >= vocab) {
            Some(id) => Err(Error::Sequence(format!("token id {id} is outside the model's vocabulary of {vocab}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

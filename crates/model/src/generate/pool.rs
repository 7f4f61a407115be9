//! The texts in progress of one decoder: which blocks of the cache are whose, and a step of all of them.

use collimate_backend::kernels::{BLOCK, Growing, Growth, Packed};

use crate::blocks::{Batch, Block, Cache, Cx, Linear};
use crate::decoder::Decoder;
use crate::params::{ParamId, Role, Spec};
use crate::readout::Options;

/// What a text holds of the cache.
#[derive(Debug, Default)]
pub(super) struct Held {
    blocks: Vec<u32>,
    pub tokens: usize,
}

/// A decoder with a cache for any number of texts.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    pub decoder: &'a Decoder,
    cache: Cache,
    /// Behind the texts of the newest step.
    logits: Vec<f32>,
    /// Of each parameter, what the kernels want to have beside it.
    packed: Vec<Option<Packed>>,
    /// Of each block, how many texts hold it.
    holders: Vec<u32>,
    free: Vec<u32>,
    copies: Vec<(u32, u32)>,
}

impl<'a> Pool<'a> {
    pub fn new(decoder: &'a Decoder) -> Self {
        let cache = Cache::new(decoder.config.num_hidden_layers);
        let head = decoder.config.network.head;
        let pack = |(i, spec): (usize, &Spec)| {
            let wanted = matches!(spec.role, Role::Weight | Role::Routed) || i == head.index();
            wanted.then(|| decoder.kernels.linear.pack(decoder.params.get(ParamId(i)))).flatten()
        };
        let packed = decoder.specs().iter().enumerate().map(pack).collect();
        Self { decoder, cache, logits: Vec::new(), packed, holders: Vec::new(), free: Vec::new(), copies: Vec::new() }
    }

    fn take(&mut self) -> u32 {
        let block = self.free.pop().unwrap_or(self.holders.len() as u32);
        if block as usize == self.holders.len() {
            self.holders.push(0);
        }
        self.holders[block as usize] = 1;
        block
    }

    fn release(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }

    /// A text that begins as `held`, whose whole blocks both then hold.
    pub fn fork(&mut self, held: &Held) -> Held {
        let mut blocks = held.blocks.clone();
        let whole = held.tokens / BLOCK;
        blocks[..whole].iter().for_each(|b| self.holders[*b as usize] += 1);
        // New tokens go to the last one.
        for block in &mut blocks[whole..] {
            let own = self.take();
            self.copies.push((*block, own));
            *block = own;
        }
        Held { blocks, tokens: held.tokens }
    }

    /// A text is done.
    pub fn give_back(&mut self, held: Held) {
        held.blocks.into_iter().for_each(|b| self.release(b));
    }

    /// Forgets all but the first `tokens` of a text that shares nothing.
    pub fn shorten(&mut self, held: &mut Held, tokens: usize) {
        held.tokens = held.tokens.min(tokens);
        for block in held.blocks.split_off(held.tokens.div_ceil(BLOCK)) {
            self.release(block);
        }
    }

    /// Each text goes on with its newest tokens, at least one: the logits behind them, `[texts, vocab]`.
    pub fn advance(&mut self, texts: &mut [(&mut Held, &[u32])]) -> &mut [f32] {
        let mut growth = Growth { copies: std::mem::take(&mut self.copies), ..Growth::default() };
        let mut new = Vec::with_capacity(texts.len());
        for (held, tokens) in texts.iter_mut() {
            new.push((*tokens, held.tokens));
            held.tokens += tokens.len();
            while held.blocks.len() * BLOCK < held.tokens {
                let block = self.take();
                held.blocks.push(block);
            }
            growth.texts.push(Growing { blocks: held.blocks.clone(), tokens: held.tokens, new: tokens.len() });
        }
        // Room is made for twice as much each time.
        growth.blocks = self.holders.len().next_power_of_two();
        self.cache.growth = growth;
        let decoder = self.decoder;
        decoder.pooled(|| self.step(&new));
        &mut self.logits
    }

    fn step(&mut self, new: &[(&[u32], usize)]) {
        let (d, network) = (self.decoder, &self.decoder.config.network);
        let batch = Batch::extending(new, &network.rotary, &d.device);
        let cx = Cx { packed: Some(&self.packed), ..d.cx(&batch, Options::default()) };
        let mut h = network.embedding.forward(&cx);
        for layer in &network.layers {
            h = layer.extend(&cx, h, &mut self.cache);
        }
        let (normed, _) = network.norm.apply(&cx, &h);
        let normed = network.scaled(normed);
        let head = Linear { weight: network.head, bias: network.head_bias };
        cx.timed("head forward", || d.kernels.linear.extend_into(&normed, head.map(&cx), &mut self.logits));
        if let Some(cap) = network.logits_cap {
            let cap = cap as f32;
            self.logits.iter_mut().for_each(|z| *z = (*z / cap).tanh() * cap);
        }
    }
}

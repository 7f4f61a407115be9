//! Text from a decoder, one token at a time, with its keys and values kept.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::blocks::{Batch, Block, Cache};
use crate::decoder::Decoder;
use crate::error::Error;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; above, logits are divided by it.
    pub temperature: f64,
    /// Only the likeliest tokens whose probabilities add up to this, 0 < top_p ≤ 1.
    pub top_p: f64,
    /// Only this many of the likeliest tokens; 0: all.
    pub top_k: usize,
    /// What randomness is drawn from.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 }
    }
}

/// A text in progress.
pub struct Generation<'a> {
    decoder: &'a Decoder,
    sampling: Sampling,
    rng: StdRng,
    cache: Cache,
    length: usize,
    logits: Vec<f32>,
}

impl<'a> Generation<'a> {
    /// Starts from the tokens of a prompt.
    ///
    /// # Errors
    /// An empty prompt, one longer than the model's positions, or a token outside its vocabulary.
    pub fn start(decoder: &'a Decoder, prompt: &[u32], sampling: Sampling) -> Result<Self, Error> {
        if prompt.is_empty() {
            return Err(Error::Sequence("the prompt has no tokens".into()));
        }
        let vocab = decoder.config.vocab_size as u32;
        if let Some(id) = prompt.iter().find(|id| **id >= vocab) {
            return Err(Error::Sequence(format!("token id {id} is outside the model's vocabulary of {vocab}")));
        }
        let limit = decoder.config.max_position_embeddings;
        if prompt.len() > limit {
            let n = prompt.len();
            return Err(Error::Sequence(format!("the prompt has {n} tokens, the model takes {limit}")));
        }
        let cache = Cache(vec![None; decoder.config.num_hidden_layers]);
        let rng = StdRng::seed_from_u64(sampling.seed);
        let mut one = Self { decoder, sampling, rng, cache, length: 0, logits: Vec::new() };
        one.feed(prompt);
        Ok(one)
    }

    /// The next token; none where the model's positions end.
    pub fn step(&mut self) -> Option<u32> {
        let token = self.choose();
        if self.length >= self.decoder.config.max_position_embeddings {
            return None;
        }
        self.feed(&[token]);
        Some(token)
    }

    fn feed(&mut self, tokens: &[u32]) {
        let (d, network) = (self.decoder, &self.decoder.config.network);
        let batch = Batch::extending(tokens, self.length, &network.rotary, &d.device);
        let cx = d.cx(&batch, false);
        let mut h = network.embedding.forward(&cx);
        for layer in &network.layers {
            h = layer.extend(&cx, h, &mut self.cache);
        }
        self.length += tokens.len();
        let (normed, _) = network.norm.apply(&cx, &h.narrow(0, tokens.len() - 1, 1));
        let logits = d.kernels.linear.forward(&normed, d.params.get(network.head), None);
        self.logits = logits.into_data().convert::<f32>().try_to_vec().expect("it was converted");
    }

    fn choose(&mut self) -> u32 {
        let mut order: Vec<u32> = (0..self.logits.len() as u32).collect();
        let logit = |i: &u32| self.logits[*i as usize];
        // Ties go to the smaller id, so that greedy decoding is well defined.
        let by_rank = |a: &u32, b: &u32| logit(b).total_cmp(&logit(a)).then(a.cmp(b));
        if self.sampling.temperature == 0.0 {
            return order.into_iter().min_by(by_rank).expect("a vocabulary has tokens");
        }
        order.sort_unstable_by(by_rank);
        if self.sampling.top_k > 0 {
            order.truncate(self.sampling.top_k);
        }
        let top = f64::from(logit(&order[0]));
        let mut weights: Vec<f64> =
            order.iter().map(|i| ((f64::from(logit(i)) - top) / self.sampling.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let nucleus = weights.iter().take_while(|w| {
            let inside = sum < self.sampling.top_p * total;
            sum += **w;
            inside
        });
        let n = nucleus.count().max(1);
        weights.truncate(n);
        let mut draw = self.rng.random::<f64>() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|w| {
            draw -= w;
            draw < 0.0
        });
        order[chosen.unwrap_or(n - 1)]
    }
}

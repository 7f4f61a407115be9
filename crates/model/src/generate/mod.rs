//! Texts from a decoder: many at a time, or one whose tokens are handed out as they come.
//!
//! A prompt goes through the decoder once, whatever the number of its samples. These share its keys and values, and a
//! finished text leaves its place to the next. What a text becomes follows from its prompt, the sampling and its number
//! alone: not from the texts beside it, nor from their number.

mod pool;
mod sampling;

use rayon::prelude::*;

pub use sampling::Sampling;

use crate::decoder::Decoder;
use crate::error::Error;
use pool::{Held, Pool};
use sampling::Chooser;

/// Tokens of prompts that go through the decoder at a time, unless one alone has more.
const PREFILL: usize = 4096;

/// A text that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Its tokens behind the prompt, the stop token included where it came.
    pub tokens: Vec<u32>,
    /// Whether it ended by itself, not by a limit.
    pub ended: bool,
}

/// Hears of a prompt whose texts are finished: its number, and these. A fault stops the work.
pub type Told<'a> = dyn FnMut(usize, &[Written]) -> Result<(), Error> + 'a;

/// A prompt that has been read, for the samples that are still to begin.
struct Trunk {
    prompt: usize,
    held: Held,
    /// Behind its last token.
    logits: Vec<f32>,
    begun: usize,
}

/// A text in progress.
struct Text {
    prompt: usize,
    sample: usize,
    held: Held,
    chooser: Chooser,
    tokens: Vec<u32>,
}

/// What has been written so far.
struct Done<'a> {
    texts: Vec<Vec<Option<Written>>>,
    told: &'a mut Told<'a>,
}

impl Done<'_> {
    fn put(&mut self, prompt: usize, sample: usize, written: Written) -> Result<(), Error> {
        let all = &mut self.texts[prompt];
        all[sample] = Some(written);
        match all.iter().cloned().collect::<Option<Vec<_>>>() {
            Some(all) => (self.told)(prompt, &all),
            None => Ok(()),
        }
    }
}

impl Decoder {
    /// Texts that go on from each prompt: `num_return_sequences` of them, in order. A token of `stop` ends a text, as do
    /// `max_new_tokens` and the model's last position. At most `batch` texts are in progress at a time, which changes
    /// nothing but speed and memory. `told` is called with a prompt's number and its texts when all of these are
    /// finished, and may stop the work by an error.
    ///
    /// # Errors
    /// Options that have no meaning; a prompt that is empty, has more tokens than the model has positions or a token that
    /// it does not know (the first prompt is number 1); logits that are not numbers; what `told` answers.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        stop: &[u32],
        batch: usize,
        told: &mut Told<'_>,
    ) -> Result<Vec<Vec<Written>>, Error> {
        sampling.validate()?;
        if batch == 0 {
            return Err(Error::Sampling("the number of texts in progress must be at least 1".into()));
        }
        for (i, prompt) in prompts.iter().enumerate() {
            self.check_prompt(prompt, &format!("prompt {} of {}", i + 1, prompts.len()))?;
        }
        let (vocab, samples) = (self.config.vocab_size, sampling.num_return_sequences);
        let limit = self.config.max_position_embeddings;
        let room = |prompt: usize| sampling.max_new_tokens.min(limit - prompts[prompt].len());
        let mut done = Done { texts: prompts.iter().map(|_| vec![None; samples]).collect(), told };
        let mut pool = Pool::new(self);
        let mut trunks: Vec<Trunk> = Vec::new();
        let mut texts: Vec<Text> = Vec::new();
        let mut next = 0;
        loop {
            // Free places, and the samples that are to begin.
            let mut starting: Vec<(usize, Text)> = Vec::new();
            let places = batch - texts.len();
            let waiting = |trunks: &[Trunk]| trunks.iter().map(|t| samples - t.begun).sum::<usize>();
            let mut read = Vec::new();
            let mut tokens = 0;
            while next < prompts.len() && waiting(&trunks) + read.len() * samples < places {
                let prompt = &prompts[next];
                if room(next) == 0 {
                    for sample in 0..samples {
                        done.put(next, sample, Written::default())?;
                    }
                } else if read.is_empty() || tokens + prompt.len() <= PREFILL {
                    tokens += prompt.len();
                    read.push(next);
                } else {
                    break;
                }
                next += 1;
            }
            let mut held: Vec<Held> = read.iter().map(|_| Held::default()).collect();
            if !read.is_empty() {
                let mut each: Vec<_> = held.iter_mut().zip(&read).map(|(h, p)| (h, &prompts[*p][..])).collect();
                let logits = pool.advance(&mut each);
                let rows = logits.chunks_exact(vocab).map(<[f32]>::to_vec);
                let made = read.iter().zip(held).zip(rows);
                trunks.extend(made.map(|((prompt, held), logits)| Trunk { prompt: *prompt, held, logits, begun: 0 }));
            }
            for (at, trunk) in trunks.iter_mut().enumerate() {
                while trunk.begun < samples && starting.len() < places {
                    let (prompt, sample) = (trunk.prompt, trunk.begun);
                    let chooser = Chooser::new(sampling, &prompts[prompt], sample, vocab);
                    let text = Text { prompt, sample, held: Held::default(), chooser, tokens: Vec::new() };
                    starting.push((at, text));
                    trunk.begun += 1;
                }
            }
            let first = |(at, text): &mut (usize, Text)| text.chooser.choose(sampling, &mut trunks[*at].logits.clone());
            let chosen: Vec<_> = starting.par_iter_mut().with_max_len(1).map(first).collect();
            for ((at, mut text), token) in starting.into_iter().zip(chosen) {
                let n = prompts[text.prompt].len();
                let token = token.ok_or_else(|| not_numbers(n))?;
                text.tokens.push(token);
                let ended = stop.contains(&token);
                if ended || text.tokens.len() == room(text.prompt) {
                    done.put(text.prompt, text.sample, Written { tokens: text.tokens, ended })?;
                } else {
                    text.held = pool.fork(&trunks[at].held);
                    texts.push(text);
                }
            }
            for trunk in trunks.extract_if(.., |t| t.begun == samples) {
                pool.give_back(trunk.held);
            }
            if texts.is_empty() {
                if next == prompts.len() && trunks.is_empty() {
                    break;
                }
                continue;
            }

            // A token more for each.
            let newest: Vec<[u32; 1]> = texts.iter().map(|t| [*t.tokens.last().expect("it has begun")]).collect();
            let mut each: Vec<_> = texts.iter_mut().zip(&newest).map(|(t, new)| (&mut t.held, &new[..])).collect();
            let logits = pool.advance(&mut each);
            let rows = logits.par_chunks_exact_mut(vocab).with_max_len(1);
            let choose = |(text, row): (&mut Text, &mut [f32])| text.chooser.choose(sampling, row);
            let chosen: Vec<_> = texts.par_iter_mut().with_max_len(1).zip(rows).map(choose).collect();
            let mut left = Vec::with_capacity(texts.len());
            for (mut text, token) in texts.into_iter().zip(chosen) {
                let token = token.ok_or_else(|| not_numbers(text.held.tokens))?;
                text.tokens.push(token);
                let ended = stop.contains(&token);
                if ended || text.tokens.len() == room(text.prompt) {
                    pool.give_back(text.held);
                    done.put(text.prompt, text.sample, Written { tokens: text.tokens, ended })?;
                } else {
                    left.push(text);
                }
            }
            texts = left;
        }
        Ok(done.texts.into_iter().map(|all| all.into_iter().flatten().collect()).collect())
    }

    fn check_prompt(&self, prompt: &[u32], name: &str) -> Result<(), Error> {
        let (vocab, limit) = (self.config.vocab_size as u32, self.config.max_position_embeddings);
        if prompt.is_empty() {
            return Err(Error::Sequence(format!("{name} has no tokens")));
        }
        if let Some(id) = prompt.iter().find(|id| **id >= vocab) {
            return Err(Error::Sequence(format!(
                "{name} has token id {id}, which is outside the model's vocabulary of {vocab}"
            )));
        }
        if prompt.len() > limit {
            let n = prompt.len();
            return Err(Error::Sequence(format!("{name} has {n} tokens, the model takes {limit}")));
        }
        Ok(())
    }
}

fn not_numbers(tokens: usize) -> Error {
    Error::Sequence(format!("behind a text of {tokens} tokens the model's logits are not finite numbers"))
}

/// One text in progress, whose tokens are handed out as they come.
#[derive(Debug)]
pub struct Generation<'a> {
    pool: Pool<'a>,
    sampling: Sampling,
    chooser: Chooser,
    held: Held,
    /// Prompt and text.
    tokens: Vec<u32>,
}

impl<'a> Generation<'a> {
    /// Starts from the tokens of a prompt. The text is the first of [`Decoder::generate`]'s, without an end to its
    /// length.
    ///
    /// # Errors
    /// Options that have no meaning; an empty prompt, one longer than the model's positions, or a token outside its
    /// vocabulary.
    pub fn start(decoder: &'a Decoder, prompt: &[u32], sampling: Sampling) -> Result<Self, Error> {
        sampling.validate()?;
        let chooser = Chooser::new(&sampling, &[], 0, 0);
        let (pool, held) = (Pool::new(decoder), Held::default());
        let mut one = Self { pool, sampling, chooser, held, tokens: Vec::new() };
        one.restart(prompt)?;
        Ok(one)
    }

    /// Starts anew from another prompt; what both texts begin with is not computed again.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart(&mut self, prompt: &[u32]) -> Result<(), Error> {
        self.pool.decoder.check_prompt(prompt, "the prompt")?;
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The logits are those behind the last token, which therefore goes through in any case.
        self.pool.shorten(&mut self.held, same.min(prompt.len() - 1));
        self.tokens = prompt.to_vec();
        self.chooser = Chooser::new(&self.sampling, prompt, 0, self.pool.decoder.config.vocab_size);
        Ok(())
    }

    /// The next token; none where the model's positions end.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn step(&mut self) -> Result<Option<u32>, Error> {
        if self.tokens.len() >= self.pool.decoder.config.max_position_embeddings {
            return Ok(None);
        }
        let new = &self.tokens[self.held.tokens..];
        let logits = self.pool.advance(&mut [(&mut self.held, new)]);
        let n = self.tokens.len();
        let token = self.chooser.choose(&self.sampling, logits).ok_or_else(|| not_numbers(n))?;
        self.tokens.push(token);
        Ok(Some(token))
    }
}

#[cfg(test)]
mod tests;

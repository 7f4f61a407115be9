//! How the next token is chosen from logits: names, meaning and order are those of transformers' `GenerationConfig`.
//!
//! Let l be the logits. Of each token that the text has already, l ← l/ρ where l > 0 and l·ρ elsewhere, ρ the
//! `repetition_penalty` (arXiv:1909.05858, section 4.1). Greedy decoding takes the largest l, of equal ones the smallest
//! id. Sampling divides l by `temperature`, then leaves out in turn: what is below the `top_k`-th largest; what comes
//! behind the likeliest tokens whose probabilities add up to `top_p` (arXiv:1904.09751); what is less likely than
//! `min_p` times the likeliest (arXiv:2407.01082).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use collimate_kernels::exp::exp_in_place;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::error::Error;
use crate::mixed::mixed;

/// How texts are written, as transformers' `GenerationConfig` spells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Whether tokens are drawn; greedy decoding takes the likeliest.
    pub do_sample: bool,
    /// What logits are divided by, above 0.
    pub temperature: f64,
    /// Only this many of the likeliest tokens, and what is as likely as the last of them; 0: all.
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities add up to this, 0 < top_p ≤ 1.
    pub top_p: f64,
    /// Only tokens at least this likely, in parts of the likeliest, 0 ≤ min_p ≤ 1.
    pub min_p: f64,
    /// What the logits of tokens that the text has are divided by where they are above 0, and multiplied with elsewhere.
    pub repetition_penalty: f64,
    /// What random numbers follow from, with the tokens of the prompt and the number of the sample.
    pub seed: u64,
    /// Most tokens of a text, the stop token included.
    pub max_new_tokens: usize,
    /// Texts for each prompt.
    pub num_return_sequences: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 42,
            max_new_tokens: 256,
            num_return_sequences: 1,
        }
    }
}

impl Sampling {
    /// Refuses what has no meaning.
    ///
    /// # Errors
    /// [`Error::Sampling`], with the name of the option and what it may be.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Sampling(why));
        let Self { temperature: t, top_p, min_p, repetition_penalty: penalty, .. } = *self;
        if !(t > 0.0 && t.is_finite()) {
            return refuse(format!("temperature must be above 0, got {t}; without do_sample nothing is drawn"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refuse(format!("top_p must be above 0 and at most 1, got {top_p}"));
        }
        if !(0.0..=1.0).contains(&min_p) {
            return refuse(format!("min_p must be 0 to 1, got {min_p}"));
        }
        if !(penalty > 0.0 && penalty.is_finite()) {
            return refuse(format!("repetition_penalty must be above 0, got {penalty}"));
        }
        if self.max_new_tokens == 0 {
            return refuse("max_new_tokens must be at least 1".into());
        }
        if self.num_return_sequences == 0 {
            return refuse("num_return_sequences must be at least 1".into());
        }
        if !self.do_sample && self.num_return_sequences > 1 {
            return refuse(format!(
                "num_return_sequences is {} without do_sample: greedy decoding writes one text, and would repeat it",
                self.num_return_sequences
            ));
        }
        Ok(())
    }
}

/// Chooses the tokens of one text.
#[derive(Debug)]
pub(super) struct Chooser {
    rng: StdRng,
    /// A bit for each token of the vocabulary that the text has; empty where that is of no interest.
    seen: Vec<u64>,
}

impl Chooser {
    /// For sample `number` of a prompt. The same in whatever company the prompt is.
    pub fn new(sampling: &Sampling, prompt: &[u32], number: usize, vocab: usize) -> Self {
        let all = prompt.iter().map(|t| u64::from(*t)).chain([number as u64]);
        let seed = all.fold(mixed(sampling.seed), |h, x| mixed(h ^ x));
        let penalised = sampling.repetition_penalty != 1.0;
        let mut one = Self {
            rng: StdRng::seed_from_u64(seed),
            seen: if penalised { vec![0; vocab.div_ceil(64)] } else { Vec::new() },
        };
        prompt.iter().for_each(|t| one.saw(*t));
        one
    }

    fn saw(&mut self, token: u32) {
        if let Some(bits) = self.seen.get_mut(token as usize / 64) {
            *bits |= 1 << (token % 64);
        }
    }

    /// The next token, of its logits `[vocab]`, which are spent. None where these are not numbers.
    pub fn choose(&mut self, sampling: &Sampling, logits: &mut [f32]) -> Option<u32> {
        let top = self.left(sampling, logits)?;
        let token = match sampling.do_sample {
            true => draw(logits, self.rng.random::<f64>()),
            false => logits.iter().position(|l| *l == top).expect("it is one of them") as u32,
        };
        self.saw(token);
        Some(token)
    }

    /// Applies the options: what is left are weights where tokens are drawn, and logits elsewhere. Returns the largest
    /// logit.
    pub(super) fn left(&self, sampling: &Sampling, logits: &mut [f32]) -> Option<f32> {
        self.penalise(sampling, logits);
        let top = largest(logits)?;
        if !top.is_finite() {
            return None;
        }
        if sampling.do_sample {
            filter(sampling, logits, top);
        }
        Some(top)
    }

    fn penalise(&self, sampling: &Sampling, logits: &mut [f32]) {
        let penalty = sampling.repetition_penalty as f32;
        for (i, bits) in self.seen.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let l = &mut logits[64 * i + bits.trailing_zeros() as usize];
                *l = if *l < 0.0 { *l * penalty } else { *l / penalty };
                bits &= bits - 1;
            }
        }
    }
}

/// None where one of them is not a number.
fn largest(x: &[f32]) -> Option<f32> {
    let (mut lanes, mut odd) = ([f32::NEG_INFINITY; 16], [0u32; 16]);
    let whole = x.chunks_exact(16);
    let rest = whole.remainder();
    for chunk in whole {
        for ((m, odd), x) in lanes.iter_mut().zip(&mut odd).zip(chunk) {
            *m = if *x > *m { *x } else { *m };
            *odd |= u32::from(x.is_nan());
        }
    }
    let numbers = odd == [0; 16] && !rest.iter().any(|x| x.is_nan());
    numbers.then(|| lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m }))
}

fn sum(x: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let whole = x.chunks_exact(8);
    let rest: f64 = whole.remainder().iter().map(|x| f64::from(*x)).sum();
    for chunk in whole {
        lanes.iter_mut().zip(chunk).for_each(|(s, x)| *s += f64::from(*x));
    }
    lanes.iter().sum::<f64>() + rest
}

/// Logits, of which `top` is the largest, to weights: 0 for what is left out, and in proportion to probabilities.
fn filter(sampling: &Sampling, l: &mut [f32], top: f32) {
    if sampling.top_k > 0 && sampling.top_k < l.len() {
        let least = nth_largest(l, sampling.top_k);
        l.iter_mut().for_each(|l| *l = if *l < least { f32::NEG_INFINITY } else { *l });
    }
    let by = (1.0 / sampling.temperature) as f32;
    l.iter_mut().for_each(|l| *l = (*l - top) * by);
    exp_in_place(l);
    if sampling.top_p < 1.0 {
        nucleus(l, sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        // The likeliest has weight 1.
        let least = sampling.min_p as f32;
        l.iter_mut().for_each(|w| *w = if *w < least { 0.0 } else { *w });
    }
}

/// The `n`-th largest of `x`, 1 ≤ n ≤ its length.
fn nth_largest(x: &[f32], n: usize) -> f32 {
    // Numbers in the order of their bits: the sign's makes the others count down.
    let key = |x: f32| {
        let bits = x.to_bits();
        bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
    };
    if n > 1024 {
        let mut all = x.to_vec();
        return *all.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1;
    }
    let mut best: BinaryHeap<Reverse<u32>> = x[..n].iter().map(|x| Reverse(key(*x))).collect();
    let mut least = best.peek().expect("n is at least 1").0;
    for x in &x[n..] {
        let key = key(*x);
        if key > least {
            best.pop();
            best.push(Reverse(key));
            least = best.peek().expect("n is at least 1").0;
        }
    }
    f32::from_bits(least ^ if least >> 31 == 1 { 1 << 31 } else { u32::MAX })
}

/// Leaves the fewest of the largest weights that make up `p` of their sum; of equal ones the first. No sorting: a half
/// is looked into at a time.
fn nucleus(w: &mut [f32], p: f64) {
    let total = sum(w);
    let wanted = p * total;
    // Those below, all together, are less than what may be left out.
    let bound = ((1.0 - p) * total / w.len() as f64) as f32 * (1.0 - 1e-6);
    let mut all: Vec<f32> = w.iter().copied().filter(|w| *w >= bound && *w > 0.0).collect();
    let (mut rest, mut before) = (&mut all[..], 0.0);
    while rest.len() > 1 {
        let half = rest.len() / 2;
        rest.select_nth_unstable_by(half, |a, b| b.total_cmp(a));
        let (upper, lower) = rest.split_at_mut(half);
        let mass = sum(upper);
        if before + mass >= wanted {
            rest = upper;
        } else {
            before += mass;
            rest = lower;
        }
    }
    let Some(&mut least) = rest.first_mut() else { return };
    let above: f64 = w.iter().filter(|w| **w > least).map(|w| f64::from(*w)).sum();
    let mut ties = (((wanted - above) / f64::from(least)).ceil()).max(1.0) as usize;
    for w in w {
        if *w < least {
            *w = 0.0;
        } else if *w == least {
            match ties {
                0 => *w = 0.0,
                _ => ties -= 1,
            }
        }
    }
}

/// The token at `u` of the weights' sum, 0 ≤ u < 1.
fn draw(w: &[f32], u: f64) -> u32 {
    const PIECE: usize = 256;
    let sums: Vec<f64> = w.chunks(PIECE).map(sum).collect();
    let mut at = u * sums.iter().sum::<f64>();
    let mut piece = 0;
    while piece + 1 < sums.len() && at >= sums[piece] {
        at -= sums[piece];
        piece += 1;
    }
    let from = piece * PIECE;
    for (i, w) in w[from..].iter().enumerate() {
        at -= f64::from(*w);
        if *w > 0.0 && at < 0.0 {
            return (from + i) as u32;
        }
    }
    // Rounding left something over.
    w.iter().rposition(|w| *w > 0.0).expect("the largest has weight 1") as u32
}

//! The log-prob engine: token log-probabilities of completions, and the gradient through them.
//!
//! Whatever the method and its averaging, it asks one thing of the model: Σ_t ω_t ln π(y_t | x, y_<t) for each
//! completion. [`Decoder::score`] gives the ln π. [`Decoder::learn`] goes over the units of a batch in groups whose logits
//! fit a budget: it computes a group's logits once, says what they give, is told one coefficient per token (the derivative
//! of the loss with respect to ln π), and takes the gradient from the same logits. A task that wants all scores of a batch
//! before any coefficient takes the two halves apart: [`Decoder::open`], [`Decoder::scores`], [`Decoder::close`].

use std::ops::Range;

use burn::tensor::Tensor;
use collimate_backend::kernels::{HeadPass, Sum};

pub use collimate_backend::kernels::Scores;

use crate::config::HeadKind;
use crate::decoder::{Body, Decoder};
use crate::error::Error;
use crate::layout::Layout;
use crate::params::Grads;
use crate::precision::Precision;
use crate::value::ValuePass;

/// Every layer, however many there are.
pub const ALL: usize = usize::MAX;

/// How the engine goes about it; but for dropout and the loss that balances experts, none of these changes a result beyond
/// rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Logits held at a time, in numbers: tokens of a group times vocabulary.
    pub logits: usize,
    /// How many of the trained layers, from the first on, keep their input alone and compute the rest anew in the backward
    /// pass; [`ALL`] of them, or none. The first, since theirs is wanted last: what the others keep is gone by then.
    pub recomputed: usize,
    /// Whether ln Σ_v p² is computed too.
    pub collision: bool,
    /// In f16, how far below 1 the largest coefficient is put in the backward pass, in powers of two: it leaves room for
    /// sums above and for small gradients below. The gradients are the same.
    pub headroom: i32,
    /// What dropout is drawn from, where the pass is one of training.
    pub dropout: Option<u64>,
    /// What the loss that balances experts is multiplied by; where it is not 0, a batch must be laid out
    /// [`whole`](Layout::whole).
    pub router_aux_loss_coef: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { logits: 1 << 24, recomputed: 0, collision: false, headroom: 4, dropout: None, router_aux_loss_coef: 0.0 }
    }
}

/// Is told which units are scored (by their places in the layout) and what was said of their scored tokens, and answers
/// with one coefficient for each of these.
pub type Judge<'a> = dyn FnMut(Range<usize>, &Scores) -> Vec<f32> + 'a;

/// A forward pass through the layers, ready to be read and for its backward pass.
pub struct Pass {
    body: Body,
    /// `[scored, hidden]`.
    hidden: Tensor<2>,
    targets: Vec<u32>,
    /// Of each unit, its scored tokens.
    units: Vec<Range<usize>>,
    options: Options,
}

impl Pass {
    /// The loss that balances experts, where the options ask for it; otherwise 0.
    pub fn aux_loss(&self) -> f64 {
        self.body.aux_loss()
    }

    /// Runs of units whose tokens fit `most` together, or one that doesn't.
    fn groups(&self, most: usize) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut held = 0;
        for (i, unit) in self.units.iter().enumerate() {
            match groups.last_mut() {
                Some(g) if held + unit.len() <= most => g.end = i + 1,
                _ => {
                    groups.push(i..i + 1);
                    held = 0;
                }
            }
            held += unit.len();
        }
        groups
    }

    fn rows(&self, tokens: &Range<usize>) -> Tensor<2> {
        match tokens.len() == self.targets.len() {
            true => self.hidden.clone(),
            false => self.hidden.clone().narrow(0, tokens.start, tokens.len()),
        }
    }
}

/// The powers of two beyond which a loss scale is not taken: it must be finite in f32, and so must its reciprocal.
const SCALES: f64 = 120.0;

/// The power of two that puts the largest coefficient between 2^(−1−headroom) and 2^(−headroom); none if there is
/// nothing to scale.
fn loss_scale(coefficients: &[f32], headroom: i32) -> Option<f64> {
    let largest = coefficients.iter().fold(0f64, |m, c| m.max(f64::from(c.abs())));
    let power = -largest.log2().ceil() - f64::from(headroom);
    (largest > 0.0 && largest.is_finite()).then(|| 2f64.powf(power.clamp(-SCALES, SCALES)))
}

fn pieces(tokens: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = tokens.end;
    tokens.step_by(most).map(move |start| start..end.min(start + most))
}

fn append(all: &mut Scores, more: Scores) {
    all.log_probs.extend(more.log_probs);
    if let Some(more) = more.log_collisions {
        all.log_collisions.get_or_insert_default().extend(more);
    }
}

impl Decoder {
    /// Scores a batch, in the order of [`Layout::targets`], keeping nothing.
    ///
    /// # Errors
    /// A text longer than the model can take, a token outside its vocabulary.
    pub fn score(&self, layout: &Layout, options: Options) -> Result<Scores, Error> {
        Ok(self.score_and_balance(layout, options)?.0)
    }

    /// The same, with the loss that balances experts where the options ask for it (otherwise 0).
    ///
    /// # Errors
    /// As [`score`](Self::score), and a network without experts.
    pub fn score_and_balance(&self, layout: &Layout, options: Options) -> Result<(Scores, f64), Error> {
        let pass = self.begin(layout, options, false)?;
        Ok((self.scores(&pass), pass.aux_loss()))
    }

    /// Adds Σ_t c_t ∇ ln π(y_t | x, y_<t) to `gradients`, with c_t what `judge` answers; and where the options ask for it,
    /// that of the loss that balances experts, which is returned (otherwise 0).
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn learn(
        &self,
        layout: &Layout,
        options: Options,
        judge: &mut Judge<'_>,
        gradients: &mut Grads,
    ) -> Result<f64, Error> {
        let pass = self.open(layout, options)?;
        let balance = pass.aux_loss();
        self.close(pass, judge, gradients);
        Ok(balance)
    }

    /// The forward pass through the layers of a batch, keeping what [`close`](Self::close) wants.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn open(&self, layout: &Layout, options: Options) -> Result<Pass, Error> {
        self.begin(layout, options, true)
    }

    fn begin(&self, layout: &Layout, options: Options, keep: bool) -> Result<Pass, Error> {
        let (body, mut hidden) = self.pooled(|| {
            let body = self.body(layout, keep, options)?;
            let hidden = self.hidden(&body);
            Ok::<_, Error>((body, hidden))
        })?;
        if self.config.network.head_bias.is_some() {
            let ones = Tensor::ones([hidden.dims()[0], 1], (&self.device, hidden.dtype()));
            hidden = Tensor::cat(vec![hidden, ones], 1);
        }
        let (targets, units) = (layout.targets.clone(), layout.scored_by_unit());
        Ok(Pass { body, hidden, targets, units, options })
    }

    /// The scores of an open pass.
    pub fn scores(&self, pass: &Pass) -> Scores {
        let mut head = self.begin_head();
        let mut all = Scores::default();
        for piece in pieces(0..pass.targets.len(), self.tokens_at_a_time(pass.options)) {
            append(&mut all, self.read(head.as_mut(), pass, &piece));
        }
        all
    }

    /// The backward pass of an open pass: see [`learn`](Self::learn).
    ///
    /// # Panics
    /// If `judge` answers with another number of coefficients than there are tokens.
    pub fn close(&self, pass: Pass, judge: &mut Judge<'_>, gradients: &mut Grads) {
        let most = self.tokens_at_a_time(pass.options);
        let mut head = self.begin_head();
        let mut parts: Vec<(Tensor<2>, Option<f64>)> = Vec::new();
        for group in pass.groups(most) {
            let tokens = pass.units[group.start].start..pass.units[group.end - 1].end;
            let pieces: Vec<_> = pieces(tokens.clone(), most).collect();
            let mut scores = Scores::default();
            for piece in &pieces {
                append(&mut scores, self.read(head.as_mut(), &pass, piece));
            }
            let mut coefficients = judge(group, &scores);
            assert_eq!(coefficients.len(), tokens.len(), "a coefficient for each scored token");
            let scale = match self.precision() {
                Precision::F16 => loss_scale(&coefficients, pass.options.headroom),
                Precision::F32 | Precision::Bf16 => None,
            };
            if let Some(scale) = scale {
                coefficients.iter_mut().for_each(|c| *c *= scale as f32);
            }
            gradients.divide_by(scale.unwrap_or(1.0));
            for piece in &pieces {
                // Of a unit whose logits don't fit, they are computed again.
                if pieces.len() > 1 {
                    self.read(head.as_mut(), &pass, piece);
                }
                let c = &coefficients[piece.start - tokens.start..piece.end - tokens.start];
                let back = || self.timed("head backward", || self.head_gradient(head.as_mut(), c, gradients));
                parts.push((self.pooled(back), scale));
            }
        }
        drop(head);
        // One scale for all: the smallest, so that nothing overflows that didn't before.
        let common = parts.iter().filter_map(|(_, s)| *s).reduce(f64::min).unwrap_or(1.0);
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|(dh, scale)| match scale {
                Some(scale) if scale != common => dh * (common / scale),
                _ => dh,
            })
            .collect();
        let d_hidden = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) };
        gradients.divide_by(common);
        self.pooled(|| self.body_backward(pass.body, d_hidden, common, gradients));
        gradients.divide_by(1.0);
    }

    fn begin_head(&self) -> Box<dyn HeadPass> {
        match self.config.head {
            HeadKind::Vocabulary => self.kernels.head.begin(self.config.network.logits_cap),
            HeadKind::Value => Box::new(ValuePass::default()),
        }
    }

    /// The head `[vocab, hidden]`; with its bias as one more column, where it has one: that of hidden states is 1 then.
    fn head_weight(&self) -> Tensor<2> {
        let network = &self.config.network;
        let weight = self.params.get(network.head).clone();
        match network.head_bias {
            Some(bias) => Tensor::cat(vec![weight, self.params.get(bias).clone().transpose()], 1),
            None => weight,
        }
    }

    /// The gradient of the hidden states `[tokens, hidden]`; those of the head are added to `gradients`.
    fn head_gradient(&self, head: &mut dyn HeadPass, coefficients: &[f32], gradients: &mut Grads) -> Tensor<2> {
        let network = &self.config.network;
        let Some(bias) = network.head_bias else {
            return head.gradient(coefficients, gradients.sum(network.head));
        };
        let mut both = None;
        let trained = gradients.sum(network.head).is_some() || gradients.sum(bias).is_some();
        let dh = head.gradient(coefficients, trained.then(|| Sum::new(&mut both, 1.0)));
        let width = self.config.hidden_size;
        if let Some(both) = both {
            gradients.add(network.head, both.clone().narrow(1, 0, width));
            gradients.add(bias, both.narrow(1, width, 1).transpose());
        }
        dh.narrow(1, 0, width)
    }

    fn tokens_at_a_time(&self, options: Options) -> usize {
        (options.logits / self.config.head_width()).max(1)
    }

    fn read(&self, head: &mut dyn HeadPass, pass: &Pass, tokens: &Range<usize>) -> Scores {
        let weight = self.head_weight();
        let (targets, rows, collision) = (&pass.targets[tokens.clone()], pass.rows(tokens), pass.options.collision);
        self.pooled(|| self.timed("head forward", || head.scores(&rows, &weight, targets, collision)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_scale_is_a_power_of_two_that_leaves_room() {
        // 0.003 lies between 2^−9 and 2^−8: ·2^8 puts it below 1, and headroom goes below that.
        assert_eq!(loss_scale(&[0.001, -0.003], 0), Some(256.0));
        assert_eq!(loss_scale(&[0.001, -0.003], 4), Some(16.0));
        assert_eq!(loss_scale(&[0.0], 4), None);
        assert_eq!(loss_scale(&[f32::NAN, 1.0], 0), Some(1.0));
        assert_eq!(loss_scale(&[f32::INFINITY], 0), None);
    }

    #[test]
    fn the_loss_scale_is_finite_for_every_coefficient() {
        for c in [f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX] {
            for headroom in [-8, 4, 28] {
                let scale = loss_scale(&[c], headroom).unwrap() as f32;
                assert!(scale.is_finite() && scale > 0.0 && (1.0 / scale) > 0.0, "{c}, {headroom}: {scale}");
            }
        }
    }
}

//! The log-prob engine: token log-probabilities of completions, and their gradient.
//!
//! Whatever the method and its averaging, it asks one thing of the model: Σ_t ω_t ln π(y_t | x, y_<t) for each
//! completion. [`Decoder::score`] gives the ln π, and [`Decoder::backward`] takes one coefficient per token, the
//! derivative of the loss with respect to it.

use burn::tensor::Tensor;

use crate::decoder::{Body, Decoder, Gradients};
use crate::error::Error;
use crate::layout::Layout;
use crate::ops::head;
use crate::precision::Precision;

/// How the engine goes about it; none of these changes a result beyond rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Logits held at a time, in numbers: tokens per chunk times vocabulary.
    pub logits: usize,
    /// Whether layers keep their input alone and recompute the rest in the backward pass.
    pub gradient_checkpointing: bool,
    /// Whether ln Σ_v p² is computed too.
    pub collision: bool,
    /// In f16, how far below 1 the largest coefficient is put in the backward pass, in powers of two: it leaves room for
    /// sums above and for small gradients below. The gradients are the same.
    pub headroom: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { logits: 1 << 24, gradient_checkpointing: false, collision: false, headroom: 4 }
    }
}

/// What the engine says of each scored token, in the order of [`Layout::targets`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// ln π(y_t | x, y_<t), in nats.
    pub log_probs: Vec<f32>,
    /// ln Σ_v π(v | x, y_<t)², if [`Options::collision`] asked for it.
    pub log_collisions: Option<Vec<f32>>,
}

/// A forward pass, ready for its backward pass.
pub struct Pass {
    /// The scores of the batch.
    pub scores: Scores,
    body: Body,
    hidden: Tensor<2>,
    log_sum_exp: Tensor<1>,
    targets: Vec<u32>,
    chunk: usize,
    headroom: u32,
}

/// The power of two that puts the largest coefficient between 2^(−1−headroom) and 2^(−headroom).
fn loss_scale(coefficients: &[f32], headroom: u32) -> f64 {
    let largest = coefficients.iter().fold(0f64, |m, c| m.max(f64::from(c.abs())));
    if largest > 0.0 && largest.is_finite() { 2f64.powf(-largest.log2().ceil() - f64::from(headroom)) } else { 1.0 }
}

fn host(t: Tensor<1>) -> Vec<f32> {
    t.into_data().convert::<f32>().try_to_vec().expect("it was converted")
}

impl Decoder {
    /// Scores a batch, keeping nothing.
    ///
    /// # Errors
    /// A text longer than the model's positions, a token outside its vocabulary.
    pub fn score(&self, layout: &Layout, options: Options) -> Result<Scores, Error> {
        let body = self.body(layout, false, false)?;
        Ok(self.read(&body, layout, options).0)
    }

    /// Scores a batch, keeping what [`backward`](Self::backward) wants.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn forward(&self, layout: &Layout, options: Options) -> Result<Pass, Error> {
        let body = self.body(layout, true, options.gradient_checkpointing)?;
        let (scores, hidden, log_sum_exp) = self.read(&body, layout, options);
        let targets = layout.targets.clone();
        Ok(Pass { scores, body, hidden, log_sum_exp, targets, chunk: self.chunk(options), headroom: options.headroom })
    }

    /// Adds Σ_t c_t ∇ ln π(y_t | x, y_<t) to `gradients`, with c_t `coefficients`, one per scored token.
    pub fn backward(&self, pass: Pass, coefficients: &[f32], gradients: &mut Gradients) {
        let Pass { body, hidden, log_sum_exp, targets, chunk, headroom, .. } = pass;
        let head = self.inventory.head;
        let weight = self.p(head);
        let scale = match self.precision() {
            Precision::F16 => loss_scale(coefficients, headroom),
            Precision::F32 | Precision::Bf16 => 1.0,
        };
        let scaled: Vec<f32> = coefficients.iter().map(|c| c * scale as f32).collect();
        gradients.divide_by(scale);
        let d_hidden = self.timed("head backward", || {
            head::backward(&scaled, &hidden, weight, &targets, &log_sum_exp, chunk, head, gradients)
        });
        self.body_backward(body, d_hidden, gradients);
        gradients.divide_by(1.0);
    }

    fn chunk(&self, options: Options) -> usize {
        (options.logits / self.config.vocab_size).max(1)
    }

    fn read(&self, body: &Body, layout: &Layout, options: Options) -> (Scores, Tensor<2>, Tensor<1>) {
        let hidden = self.readout(body);
        let weight = self.p(self.inventory.head);
        let scored = self.timed("head forward", || {
            head::forward(&hidden, weight, &layout.targets, self.chunk(options), options.collision)
        });
        let scores = Scores { log_probs: host(scored.log_probs), log_collisions: scored.log_collision.map(host) };
        (scores, hidden, scored.log_sum_exp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_scale_is_a_power_of_two_that_leaves_room() {
        // 0.003 lies between 2^−9 and 2^−8: ·2^8 puts it below 1, and headroom goes below that.
        assert_eq!(loss_scale(&[0.001, -0.003], 0), 256.0);
        assert_eq!(loss_scale(&[0.001, -0.003], 4), 16.0);
        assert_eq!(loss_scale(&[0.0], 4), 1.0);
        assert_eq!(loss_scale(&[f32::NAN, 1.0], 0), 1.0);
    }
}

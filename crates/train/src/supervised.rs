//! Supervised training: the token-averaged cross-entropy, on the same engine.

use collimate_model::{AdamW, Decoder, Gradients, Layout, Moments, Options, Text};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::error::Error;
use crate::schedule::Schedule;

/// A prompt that is read and a completion that is learnt, as token ids.
pub type Lesson = (Vec<u32>, Vec<u32>);

/// How a supervised run goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Supervised {
    /// Optimiser steps.
    pub steps: usize,
    /// Lessons per step.
    pub batch: usize,
    /// Peak learning rate; it falls along half a cosine.
    pub learning_rate: f64,
    /// What the order of the lessons is drawn from.
    pub seed: u64,
}

impl Supervised {
    /// Minimises −Σ ln π(y_t | x, y_<t) / Σ n over each batch; `each` is told the step and its loss.
    ///
    /// # Errors
    /// A lesson that the model can't take.
    pub fn run(&self, policy: &mut Decoder, lessons: &[Lesson], each: &mut dyn FnMut(usize, f64)) -> Result<(), Error> {
        if lessons.is_empty() {
            return Err(Error::NoPairs);
        }
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let mut moments = Moments::new(policy);
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut order: Vec<usize> = Vec::new();
        for step in 0..self.steps {
            let mut layout = Layout::default();
            for _ in 0..self.batch {
                if order.is_empty() {
                    order = (0..lessons.len()).collect();
                    order.shuffle(&mut rng);
                }
                let (prompt, completion) = &lessons[order.pop().expect("it was filled")];
                layout.push(prompt, &[Text::whole(completion)], true)?;
            }
            let pass = policy.forward(&layout, Options::default())?;
            let n = layout.targets.len() as f64;
            let loss = -pass.scores.log_probs.iter().copied().map(f64::from).sum::<f64>() / n;
            let mut gradients = Gradients::none(policy.specs().len());
            policy.backward(pass, &vec![(-1.0 / n) as f32; layout.targets.len()], &mut gradients);
            let scale = (1.0 / (gradients.norm() + 1e-6)).min(1.0);
            let rate = self.learning_rate * Schedule::Cosine.factor(step, self.steps / 20, self.steps);
            adamw.step(policy, &mut moments, gradients, rate, scale);
            each(step + 1, loss);
        }
        Ok(())
    }
}

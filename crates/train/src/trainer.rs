//! The training run: reference scores, steps, evaluation, events.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use collimate_core::{Column, Objective, Totals};
use collimate_data::Tokens;
use collimate_model::{AdamW, Decoder, Gradients, Load, Memory, Moments, Options, Profile};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::metrics::Window;
use crate::part::Part;
use crate::reference::Reference;
use crate::settings::Settings;
use crate::step::{self, How, Item, Said};

/// What a run tells whoever watches it.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The reference is being scored.
    Reference {
        /// Pairs scored.
        done: usize,
        /// Pairs to score.
        total: usize,
    },
    /// Training begins.
    Begin {
        /// Optimiser steps already taken, in a resumed run.
        from: usize,
        /// Optimiser steps in all.
        steps: usize,
    },
    /// An optimiser step was taken.
    Step(StepInfo),
    /// A line of metrics.
    Metrics(&'a Map<String, Value>),
    /// The state after `step` steps is to be kept.
    Save(&'a State<'a>),
}

/// An optimiser step, in short.
#[derive(Clone, Copy, Debug)]
pub struct StepInfo {
    /// Steps taken, this one included.
    pub step: usize,
    /// Optimiser steps in all.
    pub steps: usize,
    /// The loss of the step.
    pub loss: f64,
    /// The mean margin of its rewards.
    pub margin: f64,
    /// The share of its pairs with a margin above 0.
    pub accuracy: f64,
    /// Tokens read, the prompt counted for each completion.
    pub tokens: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// All that a run needs to go on as if it had never stopped.
#[derive(Clone, Debug)]
pub struct State<'a> {
    /// The policy.
    pub policy: &'a Decoder,
    /// The moments of the optimiser.
    pub moments: &'a Moments,
    /// Counters.
    pub progress: Progress,
}

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps taken.
    pub step: usize,
    /// Tokens read, the prompt counted for each completion.
    pub num_tokens: u64,
    window: Window,
}

/// Who watches a run; a fault stops it.
pub type Observer<'a> = dyn FnMut(Event<'_>) -> Result<(), Error> + 'a;

/// A training run.
pub struct Trainer {
    policy: Decoder,
    reference: Option<Decoder>,
    objective: Objective,
    settings: Settings,
    train: Part,
    eval: Option<Part>,
    moments: Moments,
    progress: Progress,
    scores: Option<PathBuf>,
    stop: Option<Arc<AtomicUsize>>,
}

fn how(s: &Settings, pairs: usize) -> How {
    How {
        pairs,
        tokens: s.max_tokens_per_batch,
        share: s.prefix_sharing,
        engine: Options {
            logits: s.logits_chunk,
            gradient_checkpointing: s.gradient_checkpointing,
            ..Options::default()
        },
    }
}

/// The mean loss of pairs and its gradient, as one optimiser step sees them, without a run around it.
///
/// # Errors
/// A setting out of range, no pairs, or pairs that the model can't take.
pub fn loss_and_gradients(
    policy: &Decoder,
    reference: &Decoder,
    objective: &Objective,
    pairs: &[Tokens],
    settings: &Settings,
) -> Result<(f64, Gradients), Error> {
    settings.validate()?;
    if pairs.is_empty() {
        return Err(Error::NoPairs);
    }
    let how = how(settings, settings.per_device_train_batch_size);
    let item = |t: &Tokens| -> Result<Item, Error> {
        if !objective.uses_reference() {
            return Ok(Item::new(objective, t.clone(), None));
        }
        let scores = step::log_probs(reference, std::slice::from_ref(t), how)?;
        Ok(Item::new(objective, t.clone(), Some(&scores[0])))
    };
    let items = pairs.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    let outcome = step::run(policy, objective, &items, how, true)?;
    let loss = outcome.judged.loss.iter().sum::<f64>() / items.len() as f64;
    Ok((loss, outcome.gradients.expect("it learns")))
}

impl Trainer {
    /// A run of `objective` on `train`, evaluated on `eval`.
    ///
    /// The reference is the policy as it is now, unless another is given by [`with_reference`](Self::with_reference).
    ///
    /// The policy computes in what the settings say, whatever it was given in.
    ///
    /// # Errors
    /// A setting out of range, a device that lacks the numbers asked for, or no pairs.
    pub fn new(
        policy: Decoder,
        objective: Objective,
        settings: Settings,
        train: Part,
        eval: Option<Part>,
    ) -> Result<Self, Error> {
        settings.validate()?;
        if train.is_empty() {
            return Err(Error::NoPairs);
        }
        let (precision, masters) = settings.precision();
        let policy = policy.with_precision(precision, masters)?;
        let moments = Moments::new(&policy);
        let progress = Progress::default();
        Ok(Self {
            policy,
            reference: None,
            objective,
            settings,
            train,
            eval,
            moments,
            progress,
            scores: None,
            stop: None,
        })
    }

    /// Another model as the reference; it computes in what the policy computes in.
    ///
    /// # Errors
    /// A device that lacks such numbers.
    pub fn with_reference(mut self, reference: Decoder) -> Result<Self, Error> {
        self.reference = Some(reference.with_precision(self.policy.precision(), false)?);
        Ok(self)
    }

    /// Keeps the reference's scores in `file`, and reads there what an earlier run has left.
    ///
    /// The caller answers for the file being of this reference: see [`reference_file_name`](crate::reference_file_name).
    pub fn with_reference_file(mut self, file: PathBuf) -> Self {
        self.scores = Some(file);
        self
    }

    /// Stops after the step during which `stop` became other than 0, with a state saved: see [`Error::Stopped`].
    pub fn with_stop(mut self, stop: Arc<AtomicUsize>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Goes on from a state that [`Event::Save`] has offered; `self` holds its policy.
    ///
    /// The reference must be given too, since the policy is not what it was at the start.
    pub fn resume(mut self, moments: Moments, progress: Progress) -> Self {
        self.moments = moments;
        self.progress = progress;
        self
    }

    /// The policy as it is.
    pub fn policy(&self) -> &Decoder {
        &self.policy
    }

    /// What a step will hold at its peak: that of a micro-batch of the longest pairs, one sequence of temporaries aside.
    pub fn memory(&self) -> Memory {
        let s = &self.settings;
        let how = how(s, s.per_device_train_batch_size);
        let mut sizes: Vec<Load> = (0..self.train.len())
            .map(|i| {
                let l = self.train.lengths(i);
                let (tokens, scored) = (how.tokens_of(l), l.chosen + l.rejected);
                match how.share {
                    true => Load { tokens, scored, rows: 1, longest: tokens },
                    false => Load { tokens, scored, rows: 2, longest: l.prompt + l.chosen.max(l.rejected) },
                }
            })
            .collect();
        sizes.sort_unstable_by_key(|l| std::cmp::Reverse((l.tokens, l.scored)));
        let mut load = sizes.iter().take(how.pairs).fold(Load::default(), |a, b| Load {
            tokens: a.tokens + b.tokens,
            scored: a.scored + b.scored,
            rows: a.rows + b.rows,
            longest: a.longest.max(b.longest),
        });
        let bound = if how.tokens > 0 { how.tokens.max(sizes[0].tokens) } else { usize::MAX };
        load.tokens = load.tokens.min(bound);
        load.scored = load.scored.min(load.tokens);
        self.policy.memory(load, how.engine, self.reference.is_some())
    }

    fn per_step(&self) -> usize {
        self.settings.per_device_train_batch_size * self.settings.gradient_accumulation_steps
    }

    fn steps_per_epoch(&self) -> usize {
        self.train.len().div_ceil(self.per_step())
    }

    /// Optimiser steps in all.
    pub fn steps(&self) -> usize {
        match self.settings.max_steps {
            0 => (self.settings.num_train_epochs * self.steps_per_epoch() as f64).ceil() as usize,
            n => n,
        }
    }

    /// The pairs of optimiser step `step`, counted from 0; `order` holds the order of the epoch it was asked for last.
    fn pairs_of(&self, step: usize, order: &mut (usize, Vec<usize>)) -> Vec<usize> {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        if order.1.is_empty() || order.0 != epoch {
            let mut all: Vec<usize> = (0..self.train.len()).collect();
            if self.settings.shuffle {
                // Each epoch has an order of its own that no other epoch is needed for: a resumed run finds it again.
                let seed = self.settings.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(epoch as u64);
                all.shuffle(&mut StdRng::seed_from_u64(seed));
            }
            *order = (epoch, all);
        }
        let start = within * self.per_step();
        order.1[start..(start + self.per_step()).min(self.train.len())].to_vec()
    }

    /// Scores the pairs of `wanted` under the reference, each once and only if its scores are not known.
    fn score_reference(
        &self,
        data: &Part,
        mut wanted: Vec<usize>,
        known: &mut Reference,
        progress: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.objective.uses_reference() {
            return Ok(());
        }
        wanted.sort_unstable();
        let reference = self.reference.as_ref().unwrap_or(&self.policy);
        let how = how(&self.settings, self.settings.per_device_eval_batch_size);
        let sizes: Vec<usize> = wanted.iter().map(|i| how.tokens_of(data.lengths(*i))).collect();
        // Cut before what is known is left out: the bits of a score may depend on its batch, and are to be the same
        // wherever a run that was stopped goes on.
        for range in step::cut(&sizes, how.pairs, how.tokens) {
            let tokens: Vec<_> = wanted[range.clone()].iter().map(|i| data.get(*i)).collect();
            if tokens.iter().any(|t| known.get(t).is_none()) {
                for (t, scores) in tokens.iter().zip(step::log_probs(reference, &tokens, how)?) {
                    if known.get(t).is_none() {
                        known.insert(t, scores)?;
                    }
                }
            }
            progress(range.end)?;
        }
        known.save()
    }

    fn items(&self, data: &Part, known: &Reference, pairs: &[usize]) -> Vec<Item> {
        let item = |i: &usize| {
            let tokens = data.get(*i);
            let reference = known.get(&tokens).cloned();
            Item::new(&self.objective, tokens, reference.as_ref())
        };
        pairs.iter().map(item).collect()
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// Pairs that the model can't take, a run that starts elsewhere than its method must, a loss that is not a number,
    /// and whatever the observer objects to.
    pub fn run(&mut self, observer: &mut Observer<'_>) -> Result<(), Error> {
        let steps = self.steps();
        let mut order = (0, Vec::new());
        // Every epoch has all pairs: more steps than one has want no more. From the first step on, also where the run goes
        // on from a later one.
        let wanted: Vec<usize> =
            (0..steps.min(self.steps_per_epoch())).flat_map(|s| self.pairs_of(s, &mut order)).collect();
        let eval_pairs: Vec<usize> = (0..self.eval.as_ref().map_or(0, Part::len)).collect();
        let distinct = wanted.len();
        let total = distinct + eval_pairs.len();
        let mut known = Reference::open(self.scores.as_deref())?;
        let mut tell = |done| observer(Event::Reference { done, total });
        self.score_reference(&self.train, wanted, &mut known, &mut tell)?;
        if let Some(eval) = &self.eval {
            self.score_reference(eval, eval_pairs, &mut known, &mut |done| tell(distinct + done))?;
        }
        let initial = self.reference.is_none();

        observer(Event::Begin { from: self.progress.step, steps })?;
        while self.progress.step < steps {
            let pairs = self.pairs_of(self.progress.step, &mut order);
            let items = self.items(&self.train, &known, &pairs);
            self.step(&items, initial && self.progress.step == 0, steps, observer)?;
            let at = |every: usize| every > 0 && self.progress.step.is_multiple_of(every);
            let (evaluate, save) = (at(self.settings.eval_steps), at(self.settings.save_steps));
            let last = self.progress.step == steps;
            if self.eval.is_some() && (evaluate || last) {
                self.evaluate(&known, observer)?;
            }
            let stopped = self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed) != 0);
            if (save || stopped) && !last {
                let progress = self.progress.clone();
                observer(Event::Save(&State { policy: &self.policy, moments: &self.moments, progress }))?;
                if stopped {
                    return Err(Error::Stopped(self.progress.step));
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, items: &[Item], initial: bool, steps: usize, observer: &mut Observer<'_>) -> Result<(), Error> {
        let s = &self.settings;
        let begun = Instant::now();
        let how = how(s, s.per_device_train_batch_size);
        let (outcome, norm) = step::learn(&self.policy, &self.objective, items, how)?;
        let number = self.progress.step + 1;
        let mut window = Window::default();
        window.add(items, &outcome);
        let loss = window.mean("loss");
        let finite = |what, value: f64| match value.is_finite() {
            true => Ok(()),
            false => {
                Err(Error::NotFinite { step: number, what, value, rows: step::rows(items.iter().map(|i| &i.tokens)) })
            }
        };
        finite("the loss", loss)?;
        if initial {
            self.self_check(items, &outcome, loss)?;
        }
        finite("the gradient norm", norm)?;

        let warmup = match s.warmup_steps {
            0 => (s.warmup_ratio * steps as f64).ceil() as usize,
            n => n,
        };
        let rate = s.learning_rate * s.lr_scheduler_type.factor(self.progress.step, warmup, steps);
        // As torch clips: scaled to the bound, with its small number beside the norm.
        let scale = if s.max_grad_norm > 0.0 { (s.max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let adamw =
            AdamW { beta1: s.adam_beta1, beta2: s.adam_beta2, epsilon: s.adam_epsilon, weight_decay: s.weight_decay };
        self.progress.window.add(items, &outcome);
        let gradients = outcome.gradients.expect("a training step has gradients");
        adamw.step(&mut self.policy, &mut self.moments, gradients, rate, scale);
        self.progress.step = number;
        let tokens: u64 = items.iter().map(Item::num_tokens).sum();
        self.progress.num_tokens += tokens;

        observer(Event::Step(StepInfo {
            step: number,
            steps,
            loss,
            margin: window.mean("rewards/margins"),
            accuracy: window.mean("rewards/accuracies"),
            tokens,
            seconds: begun.elapsed().as_secs_f64(),
        }))?;
        if number.is_multiple_of(s.logging_steps) || number == steps {
            let mut line = self.progress.window.means("", self.objective.uses_reference());
            line.insert("grad_norm".into(), norm.into());
            line.insert("learning_rate".into(), rate.into());
            self.finish_line(&mut line);
            self.progress.window = Window::default();
            observer(Event::Metrics(&line))?;
        }
        Ok(())
    }

    fn finish_line(&self, line: &mut Map<String, Value>) {
        let epoch = self.progress.step as f64 / self.steps_per_epoch() as f64;
        line.insert("num_tokens".into(), self.progress.num_tokens.into());
        line.insert("epoch".into(), epoch.into());
        line.insert("step".into(), self.progress.step.into());
    }

    /// With π = μ the loss is known before it is measured.
    fn self_check(&self, items: &[Item], outcome: &step::Outcome, loss: f64) -> Result<(), Error> {
        if !self.objective.uses_reference() {
            return Ok(());
        }
        let expected = self.objective.loss_at_reference().unwrap_or_else(|| self.loss_of_reference(items, outcome));
        let difference = items
            .iter()
            .zip(&outcome.policy)
            .flat_map(|(i, p)| p.zip(i.reference).into_array().map(|(p, r)| (p.score - r.score).abs()));
        let difference = difference.fold(0.0, f64::max);
        // Scores repeat to about ten roundings of their size when batches are composed differently; more is a fault.
        let rounding = self.policy.precision().epsilon();
        let (of_scores, of_loss) = ((10.0 * rounding).max(1e-4), (10.0 * rounding).max(1e-2));
        let size = outcome.policy.iter().flat_map(|p| p.into_array()).map(|s| s.score.abs()).fold(1.0, f64::max);
        if difference <= of_scores * size && (loss - expected).abs() <= of_loss * expected.abs().max(1e-6) {
            return Ok(());
        }
        Err(Error::SelfCheck { expected, got: loss, difference })
    }

    /// The loss of the reference taken for the policy, exactly: where it depends on the pairs.
    fn loss_of_reference(&self, items: &[Item], outcome: &step::Outcome) -> f64 {
        let reference = items.iter().map(|i| i.reference).zip(&outcome.policy);
        let same: Vec<_> =
            reference.map(|(r, p)| r.zip(*p).map(|(r, p)| Said { confidence: p.confidence, ..r })).collect();
        let same = step::completions(&same, Column);
        let chosen_tokens = items.iter().map(|i| i.weights.chosen.len()).sum();
        let totals = Totals { pairs: items.len(), chosen_tokens };
        let losses = self.objective.evaluate_column(&same, &same, totals).loss.0;
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    fn evaluate(&self, known: &Reference, observer: &mut Observer<'_>) -> Result<(), Error> {
        let Some(eval) = &self.eval else { return Ok(()) };
        let mut window = Window::default();
        let all: Vec<usize> = (0..eval.len()).collect();
        let how = how(&self.settings, self.settings.per_device_eval_batch_size);
        // Not a part of a step.
        let policy = self.policy.clone().with_profile(Profile::default());
        // Losses that couple pairs are those of a batch as large as in training.
        for pairs in all.chunks(self.per_step()) {
            let items = self.items(eval, known, pairs);
            let outcome = step::run(&policy, &self.objective, &items, how, false)?;
            window.add(&items, &outcome);
        }
        let mut line = window.means("eval_", self.objective.uses_reference());
        self.finish_line(&mut line);
        observer(Event::Metrics(&line))
    }
}

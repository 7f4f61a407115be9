//! The training run: reference scores, steps, evaluation, events. It knows of no task in particular.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::tensor::Tensor;
use collimate_model::{AdamW, Decoder, Grads, Load, Memory, Moments, Options, Profile};
use collimate_workers::{Solo, Workers, share};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::fit::{Bounds, Plan};
use crate::metrics::{Window, pools};
use crate::reference::Reference;
use crate::reference::{parse, record};
use crate::settings::Settings;
use crate::step::{self, How, Items};
use crate::task::{Size, Source, Task, Unit};
use crate::team;

/// What a run tells whoever watches it.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The reference is being scored.
    Reference {
        /// Units scored.
        done: usize,
        /// Units to score.
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
    Step(&'a StepInfo),
    /// Somebody wanted to look at the policy after `step` steps: see [`Trainer::with_looks`].
    Look {
        /// The policy.
        policy: &'a Decoder,
        /// Optimiser steps taken.
        step: usize,
    },
    /// A line of metrics.
    Metrics(&'a Map<String, Value>),
    /// The state after `step` steps is to be kept.
    Save(&'a State<'a>),
}

/// An optimiser step, in short.
#[derive(Clone, Debug)]
pub struct StepInfo {
    /// Steps taken, this one included.
    pub step: usize,
    /// Optimiser steps in all.
    pub steps: usize,
    /// The task's metrics, each the mean over the step, the loss first.
    pub metrics: Vec<(&'static str, f64)>,
    /// Tokens read, the prompt counted for each completion.
    pub tokens: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl StepInfo {
    /// The loss of the step.
    pub fn loss(&self) -> f64 {
        self.metrics[0].1
    }

    /// A metric by its name, if the task has it.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// All that a run needs to go on as if it had never stopped.
#[derive(Clone, Debug)]
pub struct State<'a> {
    /// The policy.
    pub policy: &'a Decoder,
    /// The moments of the optimiser; where they are split over workers, whole on the one that writes.
    pub moments: &'a Moments,
    /// Counters.
    pub progress: Progress,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Optimiser steps in all.
    pub steps: usize,
}

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps taken.
    pub step: usize,
    /// Tokens read, the prompt counted for each completion.
    pub num_tokens: u64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// The best of those after which a checkpoint was due.
    pub best_saved: Option<Best>,
    /// Evaluations since one was better by more than `early_stopping_threshold`.
    pub waited: usize,
    /// How much is computed and held at a time, where `max_memory_mib` had a say in it: what was found to fit stays, as other
    /// numbers of tokens are other roundings.
    #[serde(default)]
    pub plan: Option<Plan>,
    window: Window,
}

/// An evaluation, by the metric that compares them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimiser steps taken.
    pub step: usize,
    /// What `metric_for_best_model` was.
    pub metric: f64,
}

/// Who watches a run; a fault stops it.
pub type Observer<'a> = dyn FnMut(Event<'_>) -> Result<(), Error> + 'a;

/// Where a run finds its units.
pub type Units<T> = Box<dyn Source<<T as Task>::Unit>>;

/// A training run.
pub struct Trainer<T: Task> {
    policy: Decoder,
    reference: Option<Decoder>,
    task: T,
    settings: Settings,
    train: Units<T>,
    eval: Option<Units<T>>,
    moments: Moments,
    progress: Progress,
    scores: Option<PathBuf>,
    stop: Option<Arc<AtomicUsize>>,
    looks: Option<usize>,
    /// What the loss that balances experts is multiplied by.
    balance: f64,
    workers: Arc<dyn Workers>,
}

/// Whether each of several workers keeps the optimiser's state of its rows alone.
fn splits(s: &Settings, workers: &dyn Workers) -> bool {
    s.zero_stage > 0 && workers.size() > 1
}

/// The rows, of a parameter of so many, of which a worker keeps it.
fn kept(s: &Settings, workers: &dyn Workers, rows: usize) -> Range<usize> {
    if splits(s, workers) { share(rows, workers) } else { 0..rows }
}

fn how(s: &Settings, plan: Plan, units: usize) -> How {
    let Plan { tokens, logits, recomputed } = plan;
    let engine = Options { logits, recomputed, ..Options::default() };
    How { units, tokens, share: s.prefix_sharing, own_rows: false, engine }
}

/// What the loss that balances experts is multiplied by: as TRL has it, what the settings say, or else the configuration
/// of the policy; 0 where that has no experts, or no text to write.
fn router_aux_loss_coef(policy: &Decoder, s: &Settings) -> Result<f64, Error> {
    let own = || policy.config().router_aux_loss_coef.filter(|c| policy.config().balances(*c).is_ok());
    match s.router_aux_loss_coef {
        None => Ok(own().unwrap_or(0.0)),
        Some(c) if c != 0.0 => Ok(policy.config().balances(c).map(|()| c)?),
        Some(_) => Ok(0.0),
    }
}

/// The name of that loss among the metrics, where it is added.
const AUX_LOSS: &str = "aux_loss";

/// What a model says of units, without what only a policy is asked.
fn reference_scores<U: Unit>(model: &Decoder, units: &[U], how: How) -> Result<Vec<Vec<Vec<f32>>>, Error> {
    let (said, _) = step::score(model, units, how)?;
    Ok(said.into_iter().map(|unit| unit.into_iter().map(|s| s.log_probs).collect()).collect())
}

/// The mean loss of units and its gradient, as one optimiser step sees them, without a run around it.
///
/// # Errors
/// A setting out of range, no units, or units that the model can't take.
pub fn loss_and_gradients<T: Task>(
    policy: &Decoder,
    reference: &Decoder,
    task: &T,
    units: &[T::Unit],
    settings: &Settings,
) -> Result<(f64, Grads), Error>
where
    T::Unit: Clone,
{
    settings.validate()?;
    if units.is_empty() {
        return Err(Error::NoPairs);
    }
    let mut how = how(settings, Plan::of(settings), settings.per_device_train_batch_size);
    let mut items = Items { units: units.to_vec(), reference: Vec::new() };
    if task.needs_reference() {
        for unit in units {
            items.reference.extend(reference_scores(reference, std::slice::from_ref(unit), how)?);
        }
    }
    how.engine.router_aux_loss_coef = router_aux_loss_coef(policy, settings)?;
    let (outcome, _) = step::learn(policy, task, &items, how, &Solo)?;
    let mut window = Window::default();
    window.add(&outcome.rows, &pools(task));
    Ok((window.loss(), outcome.gradients))
}

impl<T: Task> Trainer<T> {
    /// A run of `task` on `train`, evaluated on `eval`, in this process alone: see [`among`](Self::among).
    ///
    /// # Errors
    /// As [`among`](Self::among).
    pub fn new(
        policy: Decoder,
        task: impl Into<T>,
        settings: Settings,
        train: impl Source<T::Unit> + 'static,
        eval: Option<Units<T>>,
    ) -> Result<Self, Error> {
        Self::among(Arc::new(Solo), policy, task, settings, train, eval)
    }

    /// A run of `task` on `train`, evaluated on `eval`, together with others, each of which has the same policy, task, settings
    /// and units, and is offered the same events: one of them writes. A step has `per_device_train_batch_size` ×
    /// `gradient_accumulation_steps` units for each worker.
    ///
    /// The reference is the policy as it is now, unless another is given by [`with_reference`](Self::with_reference).
    ///
    /// The policy computes in what the settings say, whatever it was given in.
    ///
    /// # Errors
    /// A setting out of range, a device that lacks the numbers asked for, or no units.
    pub fn among(
        workers: Arc<dyn Workers>,
        policy: Decoder,
        task: impl Into<T>,
        settings: Settings,
        train: impl Source<T::Unit> + 'static,
        eval: Option<Units<T>>,
    ) -> Result<Self, Error> {
        settings.validate()?;
        if train.is_empty() || eval.as_ref().is_some_and(|e| e.is_empty()) {
            return Err(Error::NoPairs);
        }
        let task = task.into();
        settings.best_metric(&task.metrics())?;
        if eval.is_none() && (settings.load_best_model_at_end || settings.early_stopping_patience > 0) {
            return Err(Error::Conflict(
                "load_best_model_at_end, early_stopping_patience: there is nothing to evaluate on",
            ));
        }
        let (precision, masters) = settings.precision();
        let policy = policy.with_precision(precision, masters)?;
        let balance = router_aux_loss_coef(&policy, &settings)?;
        let (progress, train) = (Progress::default(), Box::new(train));
        let (reference, scores, stop, looks) = (None, None, None, None);
        let moments = Moments::new_rows(&policy, |n| kept(&settings, workers.as_ref(), n));
        let mut run = Self {
            policy,
            reference,
            task,
            settings,
            train,
            eval,
            moments,
            progress,
            scores,
            stop,
            looks,
            balance,
            workers,
        };
        if run.settings.max_memory_mib > 0 {
            run.progress.plan = Some(run.fitting()?);
        }
        Ok(run)
    }

    /// The plan that fits `max_memory_mib`.
    fn fitting(&self) -> Result<Plan, Error> {
        let sizes = self.sizes();
        let (plan, config) = (self.usual(), self.policy.config());
        let load = self.load(plan, &sizes);
        let longest = sizes[0].inputs + self.how(plan, 1).more_inputs();
        let (width, layers) = (config.head_width(), self.policy.layers_kept());
        let bounds = Bounds { most: load.tokens, longest, width, layers };
        plan.fitting(self.settings.max_memory_mib, &bounds, |plan| self.memory_of(plan, &sizes))
    }

    /// Another model as the reference; it computes in what the policy computes in, and is let go once it has scored
    /// everything that the run will see.
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

    /// Offers the policy to the observer before the first step, after every `every` steps (0: none of these) and after the
    /// last.
    pub fn with_looks(mut self, every: usize) -> Self {
        self.looks = Some(every);
        self
    }

    /// Goes on from a state that [`Event::Save`] has offered; `self` holds its policy.
    ///
    /// The reference must be given too, since the policy is not what it was at the start.
    pub fn resume(mut self, moments: Moments, progress: Progress) -> Self {
        self.moments = self.own(moments);
        self.progress = Progress { plan: progress.plan.or(self.progress.plan), ..progress };
        self
    }

    fn splits(&self) -> bool {
        splits(&self.settings, self.workers.as_ref())
    }

    /// Of moments what this worker keeps.
    fn own(&self, moments: Moments) -> Moments {
        match self.splits() {
            true => moments.rows(|n| share(n, self.workers.as_ref())),
            false => moments,
        }
    }

    /// The policy as it is.
    pub fn policy(&self) -> &Decoder {
        &self.policy
    }

    /// The counters as they are.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether so many evaluations in a row were no better that the run ends before its steps do.
    pub fn stopped_early(&self) -> bool {
        let patience = self.settings.early_stopping_patience;
        patience > 0 && self.progress.waited >= patience
    }

    /// The policy, trained.
    pub fn into_policy(self) -> Decoder {
        self.policy
    }

    /// What a step will hold at its peak: that of a micro-batch of the longest units, one sequence of temporaries aside.
    /// A reference is gone by then.
    pub fn memory(&self) -> Memory {
        self.memory_of(self.plan(), &self.sizes())
    }

    /// How much is computed and held at a time.
    pub fn plan(&self) -> Plan {
        self.progress.plan.unwrap_or_else(|| self.usual())
    }

    /// What the settings say, and where they say nothing of tokens and a step is the same however it is cut, no more of
    /// them at a time than the device needs.
    fn usual(&self) -> Plan {
        let plan = Plan::of(&self.settings);
        let cut = !self.task.coupled() && self.balance == 0.0 && !self.policy.params().has_dropout();
        match self.settings.max_tokens_per_batch {
            None if cut => Plan { tokens: self.policy.ample_tokens().unwrap_or(0), ..plan },
            _ => plan,
        }
    }

    /// The sizes of all units to train on, the largest first.
    fn sizes(&self) -> Vec<Size> {
        let share = self.settings.prefix_sharing;
        let mut sizes: Vec<_> = (0..self.train.len()).map(|i| self.train.size(i, share)).collect();
        sizes.sort_unstable_by_key(|l| std::cmp::Reverse((l.inputs, l.scored)));
        sizes
    }

    fn how(&self, plan: Plan, units: usize) -> How {
        let mut how = how(&self.settings, plan, units);
        how.engine.router_aux_loss_coef = self.balance;
        how.own_rows = self.splits();
        how
    }

    fn memory_of(&self, plan: Plan, sizes: &[Size]) -> Memory {
        let options = self.how(plan, self.settings.per_device_train_batch_size).engine;
        let mut memory = self.policy.memory(self.load(plan, sizes), options);
        if self.splits() {
            memory.moments = memory.moments.div_ceil(self.workers.size());
        }
        memory
    }

    /// A micro-batch of the largest units.
    fn load(&self, plan: Plan, sizes: &[Size]) -> Load {
        let how = self.how(plan, self.settings.per_device_train_batch_size);
        let mut load = sizes.iter().take(how.units).fold(Load::default(), |a, b| Load {
            tokens: a.tokens + b.inputs + how.more_inputs(),
            scored: a.scored + b.scored,
            rows: a.rows + b.rows,
            longest: a.longest.max(b.longest),
        });
        let bound = if how.tokens > 0 { how.tokens.max(sizes[0].inputs + how.more_inputs()) } else { usize::MAX };
        load.tokens = load.tokens.min(bound);
        load.scored = load.scored.min(load.tokens);
        load
    }

    fn per_step(&self) -> usize {
        let one = self.settings.per_device_train_batch_size.saturating_mul(self.settings.gradient_accumulation_steps);
        one.saturating_mul(self.workers.size())
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

    /// The units of optimiser step `step`, counted from 0; `order` holds the order of the epoch it was asked for last.
    fn units_of(&self, step: usize, order: &mut (usize, Vec<usize>)) -> Vec<usize> {
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
        order.1[start..start.saturating_add(self.per_step()).min(self.train.len())].to_vec()
    }

    /// The units that a run of `steps` steps sees, each once, in rising order: every epoch has all units, so more steps
    /// than one has see no more. They are those from the first step on, also where the run goes on from a later one.
    fn units_in(&self, steps: usize, order: &mut (usize, Vec<usize>)) -> Vec<usize> {
        let mut all: Vec<_> =
            (0..steps.min(self.steps_per_epoch())).flat_map(|step| self.units_of(step, order)).collect();
        all.sort_unstable();
        all
    }

    /// Scores units under the reference, each only if its scores are not known.
    fn score_reference(
        &self,
        reference: &Decoder,
        data: &dyn Source<T::Unit>,
        wanted: Vec<usize>,
        known: &mut Reference,
        progress: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let how = how(&self.settings, self.plan(), self.settings.per_device_eval_batch_size);
        let sizes: Vec<usize> = wanted.iter().map(|i| data.size(*i, how.share).inputs).collect();
        // Cut before what is known is left out: the bits of a score may depend on its batch, and are to be the same
        // wherever a run that was stopped goes on.
        let (rank, size) = (self.workers.rank(), self.workers.size());
        let mut told = Vec::new();
        for range in step::cut(&sizes, how.units, how.tokens).into_iter().skip(rank).step_by(size) {
            let units: Vec<_> = wanted[range.clone()].iter().map(|i| data.get(*i)).collect();
            if units.iter().any(|u| known.get(u.key()).is_none()) {
                for (unit, scores) in units.iter().zip(reference_scores(reference, &units, how)?) {
                    if known.get(unit.key()).is_none() {
                        known.insert(unit.key(), scores)?;
                    }
                }
            }
            if size > 1 {
                for unit in &units {
                    let scores = known.get(unit.key()).expect("it was just scored, or known");
                    told.extend(record(unit.key(), scores));
                }
            }
            progress(range.end)?;
        }
        if size > 1 {
            for bytes in self.workers.gather(&told) {
                let mut rest = &bytes[..];
                while let Some((key, scores, length)) = parse(rest) {
                    if known.get(key).is_none() {
                        known.insert(key, scores)?;
                    }
                    rest = &rest[length..];
                }
            }
        }
        known.save()
    }

    fn items(
        &self,
        data: &dyn Source<T::Unit>,
        known: &Reference,
        which: impl Iterator<Item = usize>,
    ) -> Result<Items<T::Unit>, Error> {
        let units: Vec<_> = which.map(|i| data.get(i)).collect();
        let mut reference = Vec::new();
        if self.task.needs_reference() {
            for unit in &units {
                let scores = known.get(unit.key()).ok_or_else(|| Error::NoReference { row: unit.place() })?;
                reference.push(scores.clone());
            }
        }
        Ok(Items { units, reference })
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// Units that the model can't take, a run that starts elsewhere than its task must, a loss that is not a number,
    /// and whatever the observer objects to.
    pub fn run(&mut self, observer: &mut Observer<'_>) -> Result<(), Error> {
        let steps = self.steps();
        let mut order = (0, Vec::new());
        if self.progress.step > 0 && self.reference.is_none() && self.task.needs_reference() {
            return Err(Error::Resume(
                "a run that goes on must be given its reference: the policy is no longer it".into(),
            ));
        }
        let state = self.moments.first.iter().zip(&self.moments.second).map(|(m, v)| m.is_some() && v.is_some());
        let parameters = self.policy.parameters().0.iter().zip(self.policy.params().trainable());
        let kept = |p: &Tensor<2>| !kept(&self.settings, self.workers.as_ref(), p.dims()[0]).is_empty();
        if !state.eq(parameters.map(|(p, trained)| *trained && kept(p))) {
            return Err(Error::Resume(
                "the optimiser's state is of other parameters than those that are trained".into(),
            ));
        }
        // Once it has said all that will be asked, its memory is wanted elsewhere.
        let reference = self.reference.take();
        let initial = reference.is_none();
        let mut known = Reference::open(self.scores.as_deref().filter(|_| self.task.needs_reference()))?;
        if self.task.needs_reference() {
            let wanted = self.units_in(steps, &mut order);
            let eval_units: Vec<usize> = (0..self.eval.as_ref().map_or(0, |e| e.len())).collect();
            let (first, total) = (wanted.len(), wanted.len() + eval_units.len());
            let reference = reference.as_ref().unwrap_or(&self.policy);
            let mut tell = |done| observer(Event::Reference { done, total });
            self.score_reference(reference, self.train.as_ref(), wanted, &mut known, &mut tell)?;
            if let Some(eval) = &self.eval {
                let mut tell = |done| tell(first + done);
                self.score_reference(reference, eval.as_ref(), eval_units, &mut known, &mut tell)?;
            }
        }
        drop(reference);

        observer(Event::Begin { from: self.progress.step, steps })?;
        if self.looks.is_some() && self.progress.step == 0 {
            self.look(observer)?;
        }
        while self.progress.step < steps && !self.stopped_early() {
            let units = self.units_of(self.progress.step, &mut order);
            let items = self.items(self.train.as_ref(), &known, units.into_iter())?;
            self.step(&items, initial && self.progress.step == 0, steps, observer)?;
            let step = self.progress.step;
            let at = |every: usize| every > 0 && step.is_multiple_of(every);
            let (evaluate, save) = (at(self.settings.eval_steps), at(self.settings.save_steps));
            let end = step == steps;
            let mut evaluated = None;
            if self.eval.is_some() && (evaluate || end) {
                evaluated = Some(self.evaluate(&known, observer)?);
            }
            if let Some(new) = evaluated {
                self.compare(new)?;
            }
            let last = end || self.stopped_early();
            // What is loaded at the end may be what the end is.
            let save = save || (end && self.settings.load_best_model_at_end);
            if save && let Some(new) = evaluated {
                // Only where it is due: a run that was interrupted elsewhere ends with the same one.
                self.progress.best_saved = Some(self.better(new, self.progress.best_saved)?);
            }
            if self.looks.is_some_and(|every| at(every) || last) {
                self.look(observer)?;
            }
            let stopped = self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed) != 0);
            let stopped = team::any(self.workers.as_ref(), stopped)?;
            if save || (stopped && !last) {
                let (progress, epoch) = (self.progress.clone(), self.epoch());
                let workers = self.workers.as_ref();
                let whole = self.splits().then(|| team::whole_moments(workers, &self.policy, &self.moments));
                let moments = whole.as_ref().unwrap_or(&self.moments);
                observer(Event::Save(&State { policy: &self.policy, moments, progress, epoch, steps }))?;
                if stopped && !last {
                    // None leaves before the one that writes has written.
                    team::any(self.workers.as_ref(), false)?;
                    return Err(Error::Stopped(self.progress.step));
                }
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        items: &Items<T::Unit>,
        initial: bool,
        steps: usize,
        observer: &mut Observer<'_>,
    ) -> Result<(), Error> {
        let s = &self.settings;
        let begun = Instant::now();
        let mut how = self.how(self.plan(), s.per_device_train_batch_size);
        // Each step has its own, which a run that goes on finds again.
        let seed = s.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(self.progress.step as u64 + 1);
        how.engine.dropout = self.policy.params().has_dropout().then_some(seed);
        let (outcome, norm) = step::learn(&self.policy, &self.task, items, how, self.workers.as_ref())?;
        let number = self.progress.step + 1;
        let mut window = Window::default();
        let pools = pools(&self.task);
        window.add(&outcome.rows, &pools);
        let loss = window.loss();
        let finite = |what, value: f64| match value.is_finite() {
            true => Ok(()),
            false => Err(Error::NotFinite { step: number, what, value, rows: step::places(&items.units) }),
        };
        finite("the loss", loss)?;
        if initial && how.engine.dropout.is_none() {
            let seen = items.seen(0..items.units.len(), &outcome.said);
            let balance = outcome.rows.iter().filter_map(|row| row.last()).sum::<f64>() / outcome.rows.len() as f64;
            let own = if how.balances() { loss - self.balance * balance } else { loss };
            self.task.check_start(&seen, own, self.policy.precision().epsilon())?;
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
        self.progress.window.add(&outcome.rows, &pools);
        match self.splits() {
            false => adamw.step(&mut self.policy, &mut self.moments, outcome.gradients, rate, scale),
            true => {
                let (gradients, rows) = (outcome.gradients, |n| share(n, self.workers.as_ref()));
                let own = adamw.step_rows(&self.policy, &mut self.moments, gradients, (rate, scale), rows);
                team::share_values(self.workers.as_ref(), &mut self.policy, &outcome.given, own);
            }
        }
        self.progress.step = number;
        let tokens: u64 = items.units.iter().map(|u| u.size(true).read as u64).sum();
        self.progress.num_tokens += tokens;

        let names = self.metrics();
        observer(Event::Step(&StepInfo {
            step: number,
            steps,
            metrics: window.each(&names).collect(),
            tokens,
            seconds: begun.elapsed().as_secs_f64(),
        }))?;
        if number.is_multiple_of(s.logging_steps) || number == steps {
            let mut line = self.progress.window.means(&names, "");
            line.insert("grad_norm".into(), norm.into());
            line.insert("learning_rate".into(), rate.into());
            self.finish_line(&mut line);
            self.progress.window = Window::default();
            observer(Event::Metrics(&line))?;
        }
        Ok(())
    }

    /// The names of what is reported of each unit.
    fn metrics(&self) -> Vec<&'static str> {
        let mut names = self.task.metrics();
        names.extend((self.balance != 0.0).then_some(AUX_LOSS));
        names
    }

    fn look(&self, observer: &mut Observer<'_>) -> Result<(), Error> {
        // Not a part of a step.
        let policy = self.policy.clone().with_profile(Profile::default());
        observer(Event::Look { policy: &policy, step: self.progress.step })
    }

    fn epoch(&self) -> f64 {
        self.progress.step as f64 / self.steps_per_epoch() as f64
    }

    fn finish_line(&self, line: &mut Map<String, Value>) {
        line.insert("num_tokens".into(), self.progress.num_tokens.into());
        line.insert("epoch".into(), self.epoch().into());
        line.insert("step".into(), self.progress.step.into());
    }

    /// The better of two evaluations; of equal ones the earlier.
    fn better(&self, new: Best, old: Option<Best>) -> Result<Best, Error> {
        let (_, greater) = self.settings.best_metric(&self.task.metrics())?;
        Ok(match old {
            Some(old) if !(if greater { new.metric > old.metric } else { new.metric < old.metric }) => old,
            _ => new,
        })
    }

    /// Takes account of an evaluation, as transformers' `EarlyStoppingCallback` and `Trainer` do: what is better by less
    /// than the threshold is the best all the same, and does not end the wait.
    fn compare(&mut self, new: Best) -> Result<(), Error> {
        let old = self.progress.best;
        let best = self.better(new, old)?;
        let enough = |old: Best| (new.metric - old.metric).abs() > self.settings.early_stopping_threshold;
        let improved = old.is_none_or(|old| best == new && old != new && enough(old));
        self.progress.waited = if improved { 0 } else { self.progress.waited + 1 };
        self.progress.best = Some(best);
        Ok(())
    }

    /// The loss of an evaluation is that of all its units taken for one batch, whatever they were scored in.
    fn evaluate(&self, known: &Reference, observer: &mut Observer<'_>) -> Result<Best, Error> {
        let eval = self.eval.as_ref().expect("asked for where there is an evaluation");
        let how = self.how(self.plan(), self.settings.per_device_eval_batch_size);
        // Not a part of a step.
        let policy = self.policy.clone().with_profile(Profile::default());
        let items = self.items(eval.as_ref(), known, 0..eval.len())?;
        let mut window = Window::default();
        let rows = step::evaluate(&policy, &self.task, &items, how, self.workers.as_ref())?;
        window.add(&rows, &pools(&self.task));
        let names = self.metrics();
        let mut line = window.means(&names, "eval_");
        self.finish_line(&mut line);
        observer(Event::Metrics(&line))?;
        let (name, _) = self.settings.best_metric(&names)?;
        // What is no number is null there.
        let metric = line[&name].as_f64().unwrap_or(f64::NAN);
        Ok(Best { step: self.progress.step, metric })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{Preference, Supervised};
    use burn::tensor::Device;
    use collimate_backend_flex as _;
    use collimate_core::Method;
    use collimate_data::{Lesson, Tokens};
    use collimate_model::ModelConfig;
    use serde_json::json;

    fn decoder() -> Decoder {
        let table = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
            "num_hidden_layers": 1, "vocab_size": 20, "max_position_embeddings": 64
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        Decoder::random(config, 1, &Device::flex())
    }

    fn pairs() -> Vec<Tokens> {
        let text = |from: usize, n: usize| (0..n).map(|k| (3 + (from * 7 + k * 5) % 17) as u32).collect::<Vec<_>>();
        let pair = |i: usize| Tokens {
            prompt: text(i, 1 + i % 3),
            chosen: text(i + 1, 1 + i * 5 % 11),
            rejected: text(i + 2, 2 + i * 3 % 7),
            chosen_mask: None,
            rejected_mask: None,
            key: i as u64,
            file: 0,
            row: i + 1,
        };
        (0..10).map(pair).collect()
    }

    #[test]
    fn experts_are_balanced_as_their_configuration_or_the_run_says() {
        let table = json!({
            "model_type": "mixtral", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
            "num_hidden_layers": 2, "vocab_size": 20, "max_position_embeddings": 64, "num_local_experts": 3,
            "router_aux_loss_coef": 0.5
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        let policy = Decoder::random(config, 1, &Device::flex());
        let run = |policy: &Decoder, router_aux_loss_coef| {
            let settings = Settings { max_steps: 1, logging_steps: 1, router_aux_loss_coef, ..Settings::default() };
            let dpo = Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
            let eval: Option<Units<Preference>> = Some(Box::new(pairs()));
            Trainer::<Preference>::new(policy.clone(), dpo, settings, pairs(), eval)
        };
        let of = |line: &Map<String, Value>, key: &str| line[key].as_f64().unwrap();
        for (given, coefficient) in [(None, 0.5), (Some(0.1), 0.1)] {
            let [train, eval] = &lines(run(&policy, given).unwrap())[..] else { panic!("two lines") };
            let balance = of(train, "aux_loss");
            // Of three experts a token goes through two: were they equally likely, it would be 2.
            assert!((balance - 2.0).abs() < 0.1, "{balance}");
            assert!((of(train, "loss") - 2f64.ln() - coefficient * balance).abs() < 1e-5);
            assert!(of(eval, "eval_loss") > coefficient * of(eval, "eval_aux_loss"));
        }
        let [off, _] = &lines(run(&policy, Some(0.0)).unwrap())[..] else { panic!("two lines") };
        assert!(!off.contains_key("aux_loss") && (of(off, "loss") - 2f64.ln()).abs() < 1e-6);
        // Through the loss scale of float16 too, of which the balance must not make a multiple.
        let norm = |fp16, coefficient| {
            let router_aux_loss_coef = Some(coefficient);
            let settings = Settings { max_steps: 1, fp16, router_aux_loss_coef, ..Settings::default() };
            let dpo = Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
            of(
                &lines(Trainer::<Preference>::new(policy.clone(), dpo, settings, pairs(), None).unwrap())[0],
                "grad_norm",
            )
        };
        let [whole, half, none] = [(false, 20.0), (true, 20.0), (true, 0.0)].map(|(fp16, c)| norm(fp16, c));
        assert!((half / whole - 1.0).abs() < 0.02 && (none / whole - 1.0).abs() > 0.1, "{whole} {half} {none}");
        let said = run(&decoder(), Some(0.1)).err().unwrap().to_string();
        assert!(said.contains("router_aux_loss_coef is 0.1, and model_type \"llama\" has no experts"), "{said}");
    }

    /// What a run saves on its way.
    fn saved<T: Task>(trainer: &mut Trainer<T>) -> Vec<(Decoder, Moments, Progress)> {
        let mut saved = Vec::new();
        trainer
            .run(&mut |event| {
                if let Event::Save(state) = event {
                    saved.push((state.policy.clone(), state.moments.clone(), state.progress.clone()));
                }
                Ok(())
            })
            .unwrap();
        saved
    }

    /// The lines of metrics of a run.
    fn lines<T: Task>(mut trainer: Trainer<T>) -> Vec<Map<String, Value>> {
        let mut lines = Vec::new();
        trainer
            .run(&mut |event| {
                if let Event::Metrics(line) = event {
                    lines.push(line.clone());
                }
                Ok(())
            })
            .unwrap();
        lines
    }

    #[test]
    fn an_evaluation_is_the_same_whatever_its_batches() {
        // A mean over the tokens of a batch, a loss that couples pairs, and one that does neither.
        for method in ["cpo", "aot", "averaged-dpo"] {
            let evaluated = |train, accumulate, eval| {
                let settings = Settings {
                    per_device_train_batch_size: train,
                    gradient_accumulation_steps: accumulate,
                    per_device_eval_batch_size: eval,
                    max_steps: 1,
                    // So small a step that the policies that are evaluated are one.
                    learning_rate: 1e-12,
                    ..Settings::default()
                };
                let objective = Method::find(method).unwrap().objective(&Map::new()).unwrap();
                let eval: Option<Units<Preference>> = Some(Box::new(pairs()));
                let all = lines(Trainer::<Preference>::new(decoder(), objective, settings, pairs(), eval).unwrap());
                all.last().unwrap()["eval_loss"].as_f64().unwrap()
            };
            let whole = evaluated(10, 1, 10);
            for (train, accumulate, eval) in [(1, 1, 1), (2, 2, 3), (4, 1, 64)] {
                let got = evaluated(train, accumulate, eval);
                assert!(
                    (got / whole - 1.0).abs() < 1e-5,
                    "{method}, {train} × {accumulate}, {eval}: {got} is not {whole}"
                );
            }
        }
    }

    #[test]
    fn a_run_of_a_thousand_million_steps_begins() {
        // What a run holds doesn't grow with its steps: this one is stopped after the first.
        let settings = Settings { max_steps: 1_000_000_000, per_device_train_batch_size: 4, ..Settings::default() };
        let objective = Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
        let mut trainer = Trainer::<Preference>::new(decoder(), objective, settings, pairs(), None)
            .unwrap()
            .with_stop(Arc::new(AtomicUsize::new(1)));
        let stopped = trainer.run(&mut |_| Ok(())).unwrap_err();
        assert!(matches!(stopped, Error::Stopped(1)), "{stopped}");
    }

    /// Where the optimiser's state is split, workers hold a share of it, and train as where it is whole; what is saved is
    /// whole, and goes on in one process.
    #[test]
    fn a_split_state_is_a_share_and_trains_as_a_whole_one() {
        let run = |size: usize, zero_stage| {
            let settings = Settings {
                max_steps: 4,
                save_steps: 2,
                learning_rate: 1e-2,
                per_device_train_batch_size: 6 / size,
                zero_stage,
                ..Settings::default()
            };
            let train = move |worker: Arc<dyn Workers>| {
                let dpo = Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
                let new = Trainer::<Preference>::among(worker.clone(), decoder(), dpo, settings, pairs(), None);
                let mut trainer = new.unwrap();
                let saved = saved(&mut trainer);
                let numbers = |t: &Vec<Option<Tensor<2>>>| t.iter().flatten().map(|t| t.shape().num_elements()).sum();
                let held: usize = numbers(&trainer.moments.first);
                assert_eq!(held, numbers(&trainer.moments.second));
                (worker.rank(), held, trainer.memory().moments, saved)
            };
            let mut all: Vec<_> = std::thread::scope(|scope| {
                let threads = collimate_workers::Threads::new(size).into_iter();
                let threads: Vec<_> =
                    threads.map(|w| (train.clone(), w)).map(|(t, w)| scope.spawn(move || t(Arc::new(w)))).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            all.sort_by_key(|(rank, ..)| *rank);
            all
        };
        let [one] = &run(1, 0)[..] else { panic!("one worker") };
        let (all, bytes) = (one.1, one.2);
        assert_eq!(run(1, 1)[0].1, all, "alone, a worker has all");
        for size in [2, 3] {
            let (whole, split) = (run(size, 0), run(size, 1));
            assert!(whole.iter().all(|w| w.1 == all && w.2 == bytes));
            assert_eq!(split.iter().map(|w| w.1).sum::<usize>(), all);
            // Norms are a row each, and one worker has it; other parts differ by a row.
            assert!(split.iter().all(|w| w.1.abs_diff(all / size) < 150 && w.2 == bytes.div_ceil(size)));
            let near = |a: &[Tensor<2>], b: &[Tensor<2>]| {
                let far = |(a, b): (&Tensor<2>, &Tensor<2>)| (a.clone() - b.clone()).abs().max().into_scalar::<f32>();
                assert!(a.len() == b.len() && a.iter().zip(b).map(far).all(|d| d < 1e-5));
            };
            let flat = |t: &[Option<Tensor<2>>]| t.iter().map(|t| t.clone().unwrap()).collect::<Vec<_>>();
            for worker in &split {
                for ((policy, ..), (expected, ..)) in worker.3.iter().zip(&whole[0].3) {
                    near(&policy.parameters().0, &expected.parameters().0);
                }
            }
            for ((_, moments, _), (_, expected, _)) in split[0].3.iter().zip(&whole[0].3) {
                near(&flat(&moments.first), &flat(&expected.first));
                near(&flat(&moments.second), &flat(&expected.second));
            }
            let (policy, moments, progress) = split[0].3[0].clone();
            let settings =
                Settings { max_steps: 4, learning_rate: 1e-2, per_device_train_batch_size: 6, ..Settings::default() };
            let dpo = Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
            let mut on = Trainer::<Preference>::new(policy, dpo, settings, pairs(), None)
                .unwrap()
                .with_reference(decoder())
                .unwrap()
                .resume(moments, progress);
            on.run(&mut |_| Ok(())).unwrap();
            near(&on.policy().parameters().0, &whole[0].3[1].0.parameters().0);
        }
    }

    #[test]
    fn the_reference_is_let_go_once_it_has_scored() {
        let settings = Settings { max_steps: 2, ..Settings::default() };
        let objective = Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
        let mut trainer = Trainer::<Preference>::new(decoder(), objective, settings, pairs(), None)
            .unwrap()
            .with_reference(decoder())
            .unwrap();
        trainer.run(&mut |_| Ok(())).unwrap();
        assert!(trainer.reference.is_none());
    }

    #[test]
    fn a_run_that_goes_on_wants_its_reference_and_its_own_state() {
        let objective = || Method::find("dpo").unwrap().objective(&Map::new()).unwrap();
        let settings = Settings { max_steps: 4, save_steps: 2, ..Settings::default() };
        let new = |policy| Trainer::<Preference>::new(policy, objective(), settings.clone(), pairs(), None).unwrap();
        let mut trainer = new(decoder());
        let mut saved = saved(&mut trainer);
        // Also after the last step: the run may go on with more of them.
        assert_eq!(saved.iter().map(|(_, _, p)| p.step).collect::<Vec<_>>(), [2, 4]);
        let (policy, moments, progress) = saved.swap_remove(0);
        let mut alone = new(policy.clone()).resume(moments.clone(), progress.clone());
        let said = alone.run(&mut |_| Ok(())).unwrap_err().to_string();
        assert!(said.contains("must be given its reference"), "{said}");
        let frozen = policy.clone().with_trainable(|spec| spec.decays());
        let mut other = new(frozen).with_reference(decoder()).unwrap().resume(moments.clone(), progress.clone());
        let said = other.run(&mut |_| Ok(())).unwrap_err().to_string();
        assert!(said.contains("other parameters"), "{said}");
        let mut on = new(policy).with_reference(decoder()).unwrap().resume(moments, progress);
        on.run(&mut |_| Ok(())).unwrap();
        let end = |t: &Trainer<Preference>| t.policy().parameters().0.iter().map(|p| p.to_data()).collect::<Vec<_>>();
        assert_eq!(end(&on), end(&trainer));
    }

    #[test]
    fn a_run_ends_when_nothing_gets_better_and_keeps_the_best() {
        // Too long a step: the loss on what is evaluated falls, and then rises.
        let lessons = |from: usize| {
            let of = |t: Tokens| Lesson { prompt: t.prompt, completion: t.chosen, row: t.row, ..Lesson::default() };
            pairs().into_iter().skip(from).take(5).map(of).collect::<Vec<_>>()
        };
        let settings = Settings {
            learning_rate: 5e-2,
            lr_scheduler_type: crate::Schedule::Constant,
            max_steps: 60,
            eval_steps: 1,
            save_steps: 2,
            early_stopping_patience: 3,
            load_best_model_at_end: true,
            ..Settings::default()
        };
        let run = |settings: Settings| {
            let eval: Option<Units<Supervised>> = Some(Box::new(lessons(5)));
            let mut trainer = Trainer::<Supervised>::new(decoder(), Supervised, settings, lessons(0), eval).unwrap();
            let (mut losses, mut saved) = (Vec::new(), Vec::new());
            trainer
                .run(&mut |event| {
                    match event {
                        Event::Metrics(line) if line.contains_key("eval_loss") => {
                            losses.push(line["eval_loss"].as_f64().unwrap());
                        }
                        Event::Save(state) => saved.push(state.progress.clone()),
                        _ => {}
                    }
                    Ok(())
                })
                .unwrap();
            (losses, saved, trainer)
        };
        let (losses, saved, trainer) = run(settings.clone());
        let least = |of: &mut dyn Iterator<Item = (usize, f64)>| of.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        let (at, metric) = least(&mut losses.iter().copied().enumerate());
        assert!(trainer.stopped_early() && losses.len() == at + 1 + 3 && losses.len() < 60, "{losses:?}");
        let p = trainer.progress();
        assert_eq!((p.best, p.step), (Some(Best { step: at + 1, metric }), losses.len()));
        let (at, metric) = least(&mut losses.iter().copied().enumerate().filter(|(i, _)| i % 2 == 1));
        assert_eq!(p.best_saved, Some(Best { step: at + 1, metric }));
        assert_eq!(saved.last().unwrap().best_saved, p.best_saved);
        // Of a metric that only rises while the loss does, the first is best, and no step is one.
        let high = Settings { greater_is_better: Some(true), early_stopping_patience: 0, ..settings.clone() };
        let (losses, _, trainer) = run(Settings { max_steps: 3, ..high });
        assert!(trainer.progress().best.unwrap().step == 1 && losses[0] > losses[1], "{losses:?}");
        assert!(!trainer.stopped_early());
        // A threshold that nothing exceeds: what is better is the best, and the wait goes on.
        let (losses, _, trainer) = run(Settings { early_stopping_threshold: 100.0, ..settings.clone() });
        assert_eq!((losses.len(), trainer.progress().waited), (4, 3));
        assert!(trainer.progress().best.unwrap().step > 1);
        // Nothing to evaluate on.
        let said = Trainer::<Supervised>::new(decoder(), Supervised, settings, lessons(0), None).err().unwrap();
        assert!(said.to_string().ends_with("there is nothing to evaluate on"), "{said}");
    }

    /// Supervised training whose judgement is short of a coefficient.
    struct Short;

    impl Task for Short {
        type Unit = Lesson;
        type Totals = ();
        fn metrics(&self) -> Vec<&'static str> {
            vec!["loss"]
        }
        fn totals(&self, _batch: &[Lesson]) {}
        fn judge(
            &self,
            units: &[crate::task::Seen<'_, Lesson>],
            (): (),
            _device: &Device,
        ) -> Result<crate::task::Judgement, Error> {
            Ok(crate::task::Judgement { rows: vec![vec![0.0]; units.len()], coefficients: vec![0.0] })
        }
    }

    #[test]
    fn a_task_that_breaks_its_contract_is_named() {
        let lesson = Lesson { prompt: vec![1], completion: vec![2, 3], row: 1, ..Lesson::default() };
        let settings = Settings { max_steps: 1, ..Settings::default() };
        let mut trainer = Trainer::<Short>::new(decoder(), Short, settings, vec![lesson], None).unwrap();
        let said = trainer.run(&mut |_| Ok(())).unwrap_err().to_string();
        assert_eq!(said, "the task laid out or judged 1 coefficients where there are 2");
    }

    /// A text whose key is another each time it is asked: the reference's scores of it are never found again.
    #[derive(Clone)]
    struct Fickle(Lesson, std::rc::Rc<std::cell::Cell<u128>>);

    impl Unit for Fickle {
        fn size(&self, share: bool) -> crate::task::Size {
            self.0.size(share)
        }
        fn lay_out(&self, layout: &mut collimate_model::Layout, share: bool) -> Result<(), collimate_model::Error> {
            self.0.lay_out(layout, share)
        }
        fn place(&self) -> String {
            self.0.place()
        }
        fn key(&self) -> u128 {
            self.1.set(self.1.get() + 1);
            self.1.get()
        }
    }

    /// What wants a reference, and reads none of it.
    struct Compared;

    impl Task for Compared {
        type Unit = Fickle;
        type Totals = ();
        fn metrics(&self) -> Vec<&'static str> {
            vec!["loss"]
        }
        fn needs_reference(&self) -> bool {
            true
        }
        fn totals(&self, _batch: &[Fickle]) {}
        fn judge(
            &self,
            units: &[crate::task::Seen<'_, Fickle>],
            (): (),
            _device: &Device,
        ) -> Result<crate::task::Judgement, Error> {
            let coefficients = units.iter().flat_map(|u| vec![0.0; u.policy[0].log_probs.len()]).collect();
            Ok(crate::task::Judgement { rows: vec![vec![0.0]; units.len()], coefficients })
        }
    }

    #[test]
    fn a_missing_reference_score_is_no_zero() {
        let unit =
            Fickle(Lesson { prompt: vec![1], completion: vec![2, 3], row: 7, ..Lesson::default() }, Default::default());
        let settings = Settings { max_steps: 1, ..Settings::default() };
        let mut trainer = Trainer::<Compared>::new(decoder(), Compared, settings, vec![unit], None).unwrap();
        let said = trainer.run(&mut |_| Ok(())).unwrap_err().to_string();
        assert_eq!(said, "row 7: the reference has no scores of it");
    }

    #[test]
    fn a_supervised_run_learns_its_lessons() {
        let lessons: Vec<_> = pairs()
            .into_iter()
            .map(|t| Lesson { prompt: t.prompt, completion: t.chosen, row: t.row, ..Lesson::default() })
            .collect();
        let settings = Settings {
            learning_rate: 1e-2,
            max_steps: 30,
            logging_steps: 1,
            per_device_train_batch_size: 3,
            gradient_accumulation_steps: 2,
            ..Settings::default()
        };
        let eval: Option<Units<Supervised>> = Some(Box::new(lessons.clone()));
        let all = lines(Trainer::<Supervised>::new(decoder(), Supervised, settings, lessons, eval).unwrap());
        let of = |line: &Map<String, Value>, key: &str| line[key].as_f64().unwrap();
        // A model of weights near 0 takes all 20 tokens for equally likely.
        assert!((of(&all[0], "loss") - 20f64.ln()).abs() < 0.1);
        assert!(of(all.last().unwrap(), "eval_loss") < 1.5, "{:?}", all.last());
    }
}

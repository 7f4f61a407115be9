//! `collimate align`, `sft` and `reward`: one run, whatever is trained.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use collimate_backend::kernels::Kernels;
use collimate_data::hub::{self, Kind};
use collimate_data::{ChatTemplate, Dataset, Lesson, Options, Record as _, Report, Source, Tokenizer, Tokens};
use collimate_model::{Checkpoint, Decoder, Precision, Profile, Selection};
use collimate_train::{
    Best, Error as TrainError, Event, Part, Preference, Rated, Reward, Settings, Source as _, Stored, Supervised, Task,
    Trainer, Units, content, reference_file_name,
};
use collimate_workers::{Joined, Workers};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::card::Card;
use crate::config::{self, Resume, Run, What};
use crate::generations::Watch;
use crate::output::{self, Content, Output, Saved, use_cache};
use crate::progress::{self, Progress};
use crate::say::print;
use crate::signals::{Interrupted, Signals};

/// Reads, trains, saves; nothing is written before everything was read.
pub(crate) fn run(kind: config::Kind, table: Map<String, Value>, quiet: bool, profile: bool) -> Result<()> {
    let profile = if profile { Profile::on() } else { Profile::default() };
    let Joined { workers, leave } = collimate_workers::join()?;
    let (rank, size) = (workers.rank(), workers.size());
    let done = Run::new(kind, table).and_then(|run| train(run, quiet, profile, workers));
    // One that fails leaves without a word: then its launcher stops the others.
    if done.as_ref().err().is_none_or(|e| e.is::<Interrupted>()) {
        leave();
    }
    match size {
        1 => done,
        _ => done.with_context(|| format!("worker {rank} of {size}")),
    }
}

/// As [`run`], of a configuration that was read.
pub(crate) fn train(mut run: Run, quiet: bool, profile: Profile, workers: Arc<dyn Workers>) -> Result<()> {
    // Only what the task is made of is looked at there.
    match std::mem::replace(&mut run.what, What::Sft) {
        What::Align(objective) => go::<Preference>(run, Preference(*objective), quiet, profile, workers),
        What::Sft => go::<Supervised>(run, Supervised, quiet, profile, workers),
        What::Reward(task) => go::<Reward>(run, task, quiet, profile, workers),
    }
}

/// What the command line trains.
trait Trained: Task<Unit: 'static> {
    /// What its data sets hold.
    type Record: Stored + 'static;

    /// Its units, from those of a data set.
    fn units(part: Part<Self::Record>) -> Units<Self>;

    /// The checkpoint that is trained, from the one that was named; new weights are drawn from `seed`.
    fn checkpoint(checkpoint: Checkpoint, _tokenizer: &Tokenizer, _seed: u64) -> Result<Checkpoint> {
        checkpoint.config.writes_text(&checkpoint.folder, "training on its log-probabilities")?;
        Ok(checkpoint)
    }

    /// Whether what is trained writes texts, and so has to stop where its completions did.
    const WRITES: bool = true;
}

impl Trained for Preference {
    type Record = Tokens;

    fn units(part: Part) -> Units<Self> {
        Box::new(part)
    }
}

impl Trained for Supervised {
    type Record = Lesson;

    fn units(part: Part<Lesson>) -> Units<Self> {
        Box::new(part)
    }
}

impl Trained for Reward {
    type Record = Rated;
    const WRITES: bool = false;

    fn units(part: Part<Rated>) -> Units<Self> {
        Box::new(part)
    }

    fn checkpoint(checkpoint: Checkpoint, tokenizer: &Tokenizer, seed: u64) -> Result<Checkpoint> {
        let ends = crate::commands::generate::stops(&checkpoint.config, tokenizer);
        let pads = [tokenizer.pad_id(), tokenizer.bos_id(), tokenizer.unk_id()];
        let pad = pads.into_iter().flatten().find(|id| !ends.contains(id));
        let pad = pad.and_then(|id| Some((id, tokenizer.token(id)?)));
        Ok(checkpoint.with_value_head(seed)?.with_pad_token(pad))
    }
}

fn go<T: Trained>(mut run: Run, task: T, quiet: bool, profile: Profile, workers: Arc<dyn Workers>) -> Result<()> {
    // One worker writes and says what there is to say.
    let leads = workers.rank() == 0;
    let quiet = quiet || !leads;
    if workers.size() > 1 {
        run.effective.insert(output::WORKERS.into(), workers.size().into());
    }
    let signals = Signals::watch()?;
    let mut inputs: Vec<&Path> = vec![&run.model];
    inputs.extend(run.ref_model.as_deref());
    inputs.extend(run.base_model.as_deref());
    let resume = match &run.resume {
        Some(Resume::Latest) => Some(Output::latest(&run.output_dir)?),
        Some(Resume::At(folder)) => Some(folder.clone()),
        None => None,
    };
    let (best_name, _) = run.settings.best_metric(&task.metrics())?;
    let mut output = match leads {
        true => Output::check(&run.output_dir, &inputs, resume.as_deref(), run.overwrite)?,
        false => Output::of_another(&run.output_dir, resume.as_deref()),
    };
    let cache = run.data_options.cache_dir.clone().filter(|_| leads);
    let _cache = cache.as_deref().map(use_cache).transpose()?;
    let (backend, device) = super::device(run.backend.as_deref())?;
    let (precision, _) = run.settings.precision();
    precision.check(&device).with_context(|| format!("backend {backend}"))?;
    let saved = resume.as_deref().map(Saved::open).transpose()?;
    if let (true, Some(best)) = (run.settings.load_best_model_at_end, saved.as_ref().and_then(Saved::best_saved))
        && !output.best(best).is_dir()
    {
        bail!(
            "load_best_model_at_end: the best checkpoint so far, {}, is not there any more",
            output.best(best).display()
        );
    }
    let model = hub::locate(&run.model, Kind::Model)?;
    let ref_model = run.ref_model.as_ref().map(|folder| hub::locate(folder, Kind::Model)).transpose()?;
    let checkpoint = super::open(&model, run.base_model.as_deref())?;
    super::say_text_part(&checkpoint, &model, "trained and saved");
    let tokenizer = Tokenizer::from_folder(checkpoint.tokenizer_folder())?;
    let mut checkpoint = T::checkpoint(checkpoint, &tokenizer, run.settings.seed)?;
    if let Some(lora) = &run.lora {
        checkpoint = checkpoint.with_lora(lora.clone(), run.settings.seed)?;
    }
    let part = match run.trainable.is_empty() && run.freeze.is_empty() {
        true => None,
        false if checkpoint.lora().is_some() => {
            bail!("trainable, freeze: the model is an adapter, which is trained as it is; leave them out")
        }
        false => Some(Selection::new(&checkpoint.inventory, &run.trainable, &run.freeze)?),
    };
    let ref_checkpoint = ref_model.as_deref().map(|folder| super::open(folder, None)).transpose()?;
    // Before anything that takes time: data, and hashes of all that the run reads.
    checkpoint.check()?;
    if let Some(prefix) = checkpoint.stripped()? {
        say!("all names of weights begin with {prefix}, which is left out");
    }
    if let Some(reference) = &ref_checkpoint {
        reference.config.writes_text(&reference.folder, "ref_model")?;
        reference.check()?;
    }
    if let Some(other) = ref_checkpoint.as_ref().map(|r| r.config.vocab_size)
        && other != checkpoint.config.vocab_size
    {
        let own = checkpoint.config.vocab_size;
        bail!(
            "ref_model has a vocabulary of {other} tokens and the model one of {own}; they must read the same tokens"
        );
    }
    let template = run.chat_template()?;
    if let Some(text) = &template {
        checkpoint = checkpoint.with_chat_template(text.clone());
    }
    let template = template.or_else(|| tokenizer.chat_template().map(str::to_owned));
    // A run that goes on, or is repeated from its configuration, sees the date on which it began.
    if run.data_options.template_date.is_none() {
        let earlier = saved.as_ref().and_then(|s| s.said("template_date")?.as_str());
        let date = match (&template, earlier) {
            (_, Some(date)) => Some(date.to_owned()),
            (Some(text), None) => Some(ChatTemplate::new(text, [], None)?).filter(|t| t.is_dated()).map(|t| t.date()),
            (None, None) => None,
        };
        if let Some(date) = date {
            run.set_template_date(date);
        }
    }
    let config = run.to_toml()?;

    let options = &run.data_options;
    let (data, report) = load::<T::Record>(workers.as_ref(), &run.data, &tokenizer, options, quiet)?;
    let eval = match run.eval_data.is_empty() {
        true => None,
        false => Some(load::<T::Record>(workers.as_ref(), &run.eval_data, &tokenizer, options, quiet)?),
    };
    let limit = checkpoint.config.max_position_embeddings;
    // Alone, a completion's last token is no input.
    let longest = |data: &Dataset<T::Record>, i| T::Record::size_of(data.lengths(i), false).longest + 1;
    let long = |data: &Dataset<T::Record>| (0..data.len()).filter(|i| longest(data, *i) > limit).count();
    let units = T::Record::TASK.units();
    let beyond = long(&data) + eval.as_ref().map_or(0, |(e, _)| long(e));
    if beyond > 0 {
        say!(
            "{beyond} {units} are longer than the model's max_position_embeddings {limit}: its rotary positions go on, but \
             it was not trained there (max_length with overlong = \"drop\" leaves them out)"
        );
    }
    let reports = json!({
        "train": report, "eval": eval.as_ref().map(|(_, r)| r), "pairs_beyond_max_position_embeddings": beyond,
    });
    let (train, eval) = match eval {
        Some((eval, _)) => (Part::whole(data), Some(Part::whole(eval))),
        None if run.eval_split > 0.0 => {
            let (train, eval) = Part::split(data, run.eval_split, run.settings.seed)?;
            (train, Some(eval))
        }
        None => (Part::whole(data), None),
    };
    let ends = if T::WRITES { ends(&train, &tokenizer)? } else { Vec::new() };
    checkpoint = checkpoint.with_stop_ids(ends.clone());
    if !quiet {
        for id in ends.iter().filter(|id| !tokenizer.stop_ids().contains(id)) {
            let token = tokenizer.token(*id).unwrap_or_default();
            say!("completions end with {token:?}: generation_config.json of the trained checkpoint stops there too");
        }
    }
    let hash =
        |folder: &Path| content::model(folder).with_context(|| format!("reading {} for its hash", folder.display()));
    // Of an adapter, with its base.
    let whole = |c: &Checkpoint| match c.adapter_folder() {
        Some(adapter) => Ok::<_, anyhow::Error>(content::words(&format!("{} {}", hash(&c.folder)?, hash(adapter)?))),
        None => hash(&c.folder),
    };
    let model_hash = whole(&checkpoint)?;
    let content = Content {
        reference: ref_checkpoint.as_ref().map_or_else(|| Ok(model_hash.clone()), whole)?,
        model: model_hash,
        tokenizer: format!("{:016x}", tokenizer.fingerprint()),
        chat_template: template.as_deref().map(content::words),
        data: content::texts(&train),
        eval_data: eval.as_ref().map(content::texts),
        tokens: content::tokens(&train),
        eval_tokens: eval.as_ref().map(content::tokens),
    };
    // Several machines may have other files under the same names.
    for (rank, other) in collimate_workers::exchange(workers.as_ref(), &content)?.iter().enumerate() {
        if let Some(what) = content.difference(other) {
            bail!("{what} of worker {rank} is not that of this one: all workers must read the same files");
        }
    }

    let longer = saved
        .as_ref()
        .is_some_and(|s| ["max_steps", "num_train_epochs"].iter().any(|k| s.said(k) != run.effective.get(*k)));
    // What is here without a model stays: text, tokenizer, the program itself.
    let process = progress::held().map_or(0, |(now, _)| now as usize);
    let initial = Decoder::load(&checkpoint, &device)?.with_profile(profile.clone());
    let resumed = match (saved, &resume) {
        (Some(saved), Some(folder)) => {
            saved.check(folder, &run.effective, &content)?;
            Some(saved.load(folder, &checkpoint, &initial)?)
        }
        _ => None,
    };
    let mut reference = ref_checkpoint.as_ref().map(|r| Decoder::load(r, &device)).transpose()?;
    // New adapters of other values than 0 are no part of the reference.
    if run.lora.as_ref().is_some_and(|l| !l.begins_as_base()) {
        reference.get_or_insert_with(|| initial.clone().without_adapters());
    }
    let (policy, state) = match resumed {
        Some((policy, moments, progress)) => {
            // The reference is still the model that the run began with.
            reference.get_or_insert(initial);
            (policy.with_profile(profile.clone()), Some((moments, progress)))
        }
        None => (initial, None),
    };
    let policy = match &part {
        Some(part) => {
            let flags: BTreeMap<&str, bool> =
                checkpoint.inventory.specs.iter().map(|s| s.name.as_str()).zip(part.trained.iter().copied()).collect();
            policy.with_trainable(|spec| flags[spec.name.as_str()])
        }
        None => policy,
    };
    let mut watch = None;
    if let Some(generations) = &run.generations {
        // In the numbers of the policy: what these alone make is no divergence.
        let reference = reference.as_ref().unwrap_or(&policy).clone().with_precision(precision, false)?;
        let new = Watch::new(generations, &checkpoint, &tokenizer, options, &ends, reference)?;
        watch = Some(match &resume {
            Some(folder) => new.resumed(folder),
            None => new,
        });
    }
    let (train, eval) = (T::units(train), eval.map(T::units));
    let settings = beside(&run.settings, process)?;
    let mut trainer = Trainer::<T>::among(workers.clone(), policy, task, settings, train, eval)
        .map_err(|e| match e {
            TrainError::Memory { allowed, needed, fixed } => {
                TrainError::Memory { allowed: allowed + process, needed: needed + process, fixed }
            }
            other => other,
        })?
        .with_stop(signals.flag());
    if let Some(generations) = &run.generations {
        trainer = trainer.with_looks(generations.steps);
    }
    if let Some(reference) = reference {
        trainer = trainer.with_reference(reference)?;
    }
    if let Some(cache) = &cache {
        let name = reference_file_name(&content.reference, &backend, precision);
        trainer = trainer.with_reference_file(cache.join(name));
    }
    if let Some((moments, progress)) = state {
        // A run that was killed behind its last checkpoint has only its result to write.
        if progress.step > trainer.steps() || (progress.step == trainer.steps() && longer) {
            bail!(
                "resume_from_checkpoint: {} steps are taken, and the run ends at step {}: max_steps or num_train_epochs \
                 must say more",
                progress.step,
                trainer.steps()
            );
        }
        trainer = trainer.resume(moments, progress);
    }
    if longer && !quiet {
        say!("the run ends at another step than it would have; the learning rate follows the new length");
    }
    if !quiet {
        let parameters = checkpoint.inventory.elements();
        say!(
            "{}: {} parameters on {backend} in {}; {} steps of {} {units}",
            run.model.display(),
            parameters,
            precision.name(),
            trainer.steps(),
            run.settings.per_device_train_batch_size * run.settings.gradient_accumulation_steps * workers.size()
        );
        if workers.size() > 1 {
            let state = if run.settings.zero_stage > 0 { "; the optimiser's state is split over them" } else { "" };
            say!("{} workers: each has its share of a step's {units}, and this one writes{state}", workers.size());
        }
        let kernels = Kernels::on(&device);
        match kernels.linear.half_unit() {
            Some(unit) if precision == Precision::Bf16 => say!("products of bfloat16 by this processor's {unit}"),
            None if precision == Precision::Bf16 && kernels.any() => {
                say!("this processor multiplies bfloat16 no faster than float32: bf16 saves memory, not time");
            }
            _ => {}
        }
        for line in trained(&checkpoint, part.as_ref()) {
            say!("{line}");
        }
        if run.settings.max_memory_mib > 0 {
            let (plan, layers) = (trainer.plan(), trainer.policy().layers_kept());
            let tokens = match plan.tokens {
                0 => "any number of".to_owned(),
                n => format!("at most {n}"),
            };
            say!(
                "max_memory_mib {}: {tokens} tokens and {} rows of logits at a time, {} of {layers} layers recomputed",
                run.settings.max_memory_mib,
                plan.logits / checkpoint.config.head_width(),
                plan.recomputed.min(layers)
            );
        }
        let m = trainer.memory();
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        say!(
            "predicted peak memory {} MiB: program and data {process}, parameters {}, gradients {}, moments {}, activations \
             {}, attention {}, logits {}",
            process + mib(m.total()),
            mib(m.parameters),
            mib(m.gradients),
            mib(m.moments),
            mib(m.activations),
            mib(m.attention),
            mib(m.logits)
        );
    }
    let mut progress = Progress::new(quiet);
    let (mut steps, mut sent) = (Vec::new(), 0);
    let io = |e: anyhow::Error| TrainError::Observer(format!("{e:#}"));
    let mut told = false;
    // A line that can't be written now is no reason to lose the run: it is tried again, at last at the end.
    let mut later = |written: Result<()>| {
        if let Err(e) = written
            && !std::mem::replace(&mut told, true)
        {
            say!("{e:#}; the run goes on, and the lines are written as soon as that is possible");
        }
    };
    let held = signals.hold();
    let trained = trainer.run(&mut |event| {
        progress.event(&event);
        if !leads && !matches!(event, Event::Metrics(_) | Event::Reference { .. } | Event::Look { .. }) {
            return Ok(());
        }
        match event {
            Event::Begin { from, .. } => {
                // What scoring the reference took is no part of a step.
                profile.clear();
                sent = workers.sent();
                output.begin(&config, from, run.generations.is_some(), run.tensorboard).map_err(io)
            }
            Event::Look { policy, step } => {
                let watch = watch.as_mut().expect("looks are asked for where somebody watches");
                let (line, samples) = watch.look(policy, step, workers.as_ref()).map_err(io)?;
                if !leads {
                    return Ok(());
                }
                progress.line(&watch.said(&line));
                later(output.metrics(&line));
                later(output.generations(step, &samples));
                Ok(())
            }
            Event::Step(s) => {
                steps.push(s.seconds);
                later(output.timing(s));
                Ok(())
            }
            Event::Save(state) => {
                output.save(&checkpoint, state, &run.settings, &run.effective, &content).map_err(io)?;
                if let Err(e) = output.rotate(run.settings.save_total_limit, state.progress.best_saved) {
                    say!("an old checkpoint can't be removed: {e:#}; the run goes on");
                }
                Ok(())
            }
            Event::Metrics(line) => {
                if let Some((key, _)) = line.iter().find(|(k, v)| k.starts_with("eval_") && v.is_null()) {
                    let step = &line["step"];
                    return Err(TrainError::Observer(format!(
                        "evaluation at step {step}: {key} is not a finite number; nothing is saved. Lower learning_rate, \
                         or check the evaluation data"
                    )));
                }
                if leads {
                    later(output.metrics(line));
                }
                Ok(())
            }
            // Scores are kept as they come, if they are kept at all.
            Event::Reference { .. } if signals.came().is_some() => Err(TrainError::Stopped(0)),
            Event::Reference { .. } => Ok(()),
        }
    });
    match (trained, signals.came()) {
        (Err(TrainError::Stopped(0)), Some(signal)) => {
            let how = "no step was taken".to_owned();
            return Err(Interrupted { signal, how }.into());
        }
        (Err(TrainError::Stopped(step)), Some(signal)) => {
            let at = output.checkpoint(step);
            let how = format!("step {step} is saved; --resume_from_checkpoint {} goes on from there", at.display());
            return Err(Interrupted { signal, how }.into());
        }
        (trained, _) => trained?,
    }
    if !leads {
        return Ok(());
    }
    if trainer.stopped_early() && !quiet {
        let (p, patience) = (trainer.progress(), run.settings.early_stopping_patience);
        say!("stopped after step {} of {}: {patience} evaluations in a row were no better", p.step, trainer.steps());
    }
    let best = trainer.progress().best_saved.filter(|_| run.settings.load_best_model_at_end);
    let best = best.filter(|b| b.step != trainer.progress().step);
    let loaded = best.map(|best| load_best(&output, best, &checkpoint, trainer.policy(), &run)).transpose()?;
    if let (Some(best), false) = (best, quiet) {
        say!("the result is {}, the best: {} {}", output.best(best).display(), best_name, best.metric);
    }
    let result = loaded.as_ref().unwrap_or_else(|| trainer.policy());
    checkpoint.save(result.parameters(), output.folder()).context("the trained model can't be saved")?;
    let shares = Shares::of(&profile, &steps);
    let mut written = vec![output.finish(), output.report("data_report.json", &reports)];
    written.extend(shares.as_ref().map(|s| output.report("profile.json", s)));
    let name = |source: &Source| source.path.to_string_lossy().into_owned();
    let card = Card {
        kind: run.kind,
        model: &run.model,
        base: &checkpoint.folder,
        adapter: checkpoint.lora().is_some(),
        datasets: run.data.iter().map(name).filter(|n| hub::is_name(n) && !Path::new(n).exists()).collect(),
        config: &run.effective,
        data: &reports,
        backend: &backend,
        best: best.map(|b| b.step),
    };
    written.push(card.write(output.folder()).map(|done| {
        if !done && !quiet {
            say!("README.md is not this program's, or was changed, and stays as it is");
        }
    }));
    let summary = progress.finish();
    let mut text = summary;
    if workers.size() > 1 && !steps.is_empty() {
        let each = (workers.sent() - sent) as f64 / steps.len() as f64;
        text += &format!("\nsent to the other workers: {:.2} MiB a step", each / f64::from(1 << 20));
    }
    text += &format!("\nsaved to {}", output.folder().display());
    if let Some(shares) = shares {
        text += &format!("\n{shares}");
    }
    if let Err(e) = print(&text) {
        say!("{e:#}");
    }
    drop(held);
    let saved = || format!("the trained checkpoint is saved to {}, but not all of the rest", output.folder().display());
    written.into_iter().collect::<Result<()>>().with_context(saved)
}

/// The policy of the best checkpoint, which is still what was saved.
fn load_best(output: &Output, best: Best, run: &Checkpoint, last: &Decoder, config: &Run) -> Result<Decoder> {
    let folder = output.best(best);
    Saved::open(&folder).context("load_best_model_at_end")?;
    let (precision, masters) = config.settings.precision();
    Ok(output::policy(&folder, run, last)?.with_precision(precision, masters)?)
}

/// The settings of a trainer that has what `process` MiB leave of `max_memory_mib`.
fn beside(settings: &Settings, process: usize) -> Result<Settings> {
    let mut settings = settings.clone();
    if settings.max_memory_mib > 0 {
        if settings.max_memory_mib <= process {
            bail!("max_memory_mib {}: program, tokenizer and data alone take {process} MiB", settings.max_memory_mib);
        }
        settings.max_memory_mib -= process;
    }
    Ok(settings)
}

/// What is trained, where that is not all of the network: a line for each pattern, or for the adapters.
fn trained(checkpoint: &Checkpoint, part: Option<&Selection>) -> Vec<String> {
    let (specs, all) = (&checkpoint.inventory.specs, checkpoint.inventory.elements());
    let share = |n: usize| format!("{n} of {all} parameters are trained ({:.2} %)", 100.0 * n as f64 / all as f64);
    if let (Some(lora), Some(adapted)) = (checkpoint.lora(), &checkpoint.inventory.adapted) {
        let own: usize = specs[adapted.first..].iter().map(|s| s.len()).sum();
        let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
        for (weight, _) in &adapted.linear {
            let name = specs[weight.index()].name.rsplit('.').nth(1).unwrap_or_default();
            *by_name.entry(name).or_default() += 1;
        }
        let maps = by_name.iter().map(|(name, n)| format!("{name} × {n}")).collect::<Vec<_>>().join(", ");
        let copies = match adapted.replaced.len() {
            0 => String::new(),
            n => format!("; {n} parameters of {} in full", lora.modules_to_save.join(", ")),
        };
        return vec![format!("adapters of rank {} on {maps}{copies}: {}", lora.r, share(own))];
    }
    let Some(part) = part else { return Vec::new() };
    let line = |what: &str, p: &collimate_model::Picked| {
        format!("{what} \"{}\": {} tensors, {} parameters", p.pattern, p.tensors, p.elements)
    };
    let own: usize = specs.iter().zip(&part.trained).filter(|(_, t)| **t).map(|(s, _)| s.len()).sum();
    let trainable = part.trainable.iter().map(|p| line("trainable", p));
    trainable.chain(part.frozen.iter().map(|p| line("frozen", p))).chain([share(own)]).collect()
}

/// The tokens that end the completions trained on, white space behind them aside: EOS, or a template's end of turn.
fn ends<T: Stored>(train: &Part<T>, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    const UNITS: usize = 1000;
    let special = |id: u32| -> Result<bool> {
        Ok(tokenizer.eos_id() == Some(id)
            || (tokenizer.decode(&[id], true)?.is_empty() && !tokenizer.decode(&[id], false)?.is_empty()))
    };
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    let looked_at = train.len().min(UNITS);
    for i in 0..looked_at {
        // A template may write a line break behind the end of a turn.
        for id in train.get(i).wanted().iter().copied().rev().take(4) {
            if special(id)? {
                *counts.entry(id).or_default() += 1;
                break;
            }
            if !tokenizer.decode(&[id], false)?.trim().is_empty() {
                break;
            }
        }
    }
    // Completions that were cut, or that a template leaves open, end anywhere.
    Ok(counts.into_iter().filter(|(_, n)| 10 * n >= looked_at).map(|(id, _)| id).collect())
}

/// Where the time of the steps went.
#[derive(Serialize)]
struct Shares {
    steps: usize,
    seconds: f64,
    pieces: Vec<Share>,
}

#[derive(Serialize)]
struct Share {
    piece: &'static str,
    calls: u64,
    readings: u64,
    seconds: f64,
    share: f64,
}

impl Shares {
    /// None if nothing was measured. What no piece accounts for is a row of its own.
    fn of(profile: &Profile, steps: &[f64]) -> Option<Self> {
        let seconds: f64 = steps.iter().sum();
        let row = |piece, calls, readings, s: f64| Share { piece, calls, readings, seconds: s, share: s / seconds };
        let pieces = profile.pieces();
        let mut rows: Vec<_> =
            pieces.iter().map(|(name, p)| row(name, p.calls, p.readings, p.time.as_secs_f64())).collect();
        let known: f64 = rows.iter().map(|r| r.seconds).sum();
        // Whatever reads is a piece.
        rows.push(row("everything else", steps.len() as u64, 0, seconds - known));
        (!pieces.is_empty()).then_some(Self { steps: steps.len(), seconds, pieces: rows })
    }
}

impl Display for Shares {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header([
            "piece",
            "calls a step",
            "readings a step",
            "ms a step",
            "share",
        ]);
        let n = self.steps as f64;
        for p in &self.pieces {
            table.add_row([
                p.piece.to_owned(),
                format!("{:.0}", p.calls as f64 / n),
                format!("{:.0}", p.readings as f64 / n),
                format!("{:.2}", p.seconds / n * 1e3),
                format!("{:.1} %", p.share * 100.0),
            ]);
        }
        write!(f, "{table}\n{} steps of {:.3} s", self.steps, self.seconds / n)
    }
}

fn load<T: Stored>(
    workers: &dyn Workers,
    sources: &[Source],
    tokenizer: &Tokenizer,
    options: &Options,
    quiet: bool,
) -> Result<(Dataset<T>, Report)> {
    let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("tokenising {wide_bar} {bytes}/{total_bytes} {msg}");
        ProgressBar::new(0).with_style(style.expect("a valid template"))
    });
    let (data, report) = collimate_data::load_among(workers, sources, tokenizer, options, &mut |p| {
        if let Some(bar) = &bar {
            bar.set_length(p.total_bytes);
            bar.set_position(p.bytes);
            bar.set_message(format!("{} {}", p.pairs, T::TASK.units()));
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if !quiet {
        say!("{}", report.to_string().trim_end());
    }
    Ok((data, report))
}

//! `collimate align`.

use std::fmt::{Display, Formatter};
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Result};
use collimate_data::hub::{self, Kind};
use collimate_data::{Dataset, Lengths, Options, Report, Source, Tokenizer};
use collimate_model::{Checkpoint, Decoder, Profile};
use collimate_train::{Error as TrainError, Event, Part, Preference, Trainer, Units, reference_file_name};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::Run;
use crate::output::{self, Output};
use crate::progress::Progress;

/// Reads, trains, saves; nothing is written before everything was read.
pub(crate) fn run(table: Map<String, Value>, quiet: bool, profile: bool) -> Result<()> {
    align(Run::new(table)?, quiet, if profile { Profile::on() } else { Profile::default() })
}

pub(crate) fn align(run: Run, quiet: bool, profile: Profile) -> Result<()> {
    let mut inputs: Vec<&Path> = vec![&run.model];
    inputs.extend(run.ref_model.as_deref());
    let mut output = Output::check(&run.output_dir, &inputs)?;
    let (backend, device) = super::device(run.backend.as_deref())?;
    let (precision, _) = run.settings.precision();
    precision.check(&device).with_context(|| format!("backend {backend}"))?;
    let config = run.to_toml()?;
    let model = hub::locate(&run.model, Kind::Model)?;
    let ref_model = run.ref_model.as_ref().map(|folder| hub::locate(folder, Kind::Model)).transpose()?;
    let checkpoint = Checkpoint::open(&model)?;
    let tokenizer = Tokenizer::from_folder(&model)?;

    let options = &run.data_options;
    let (data, report) = load(&run.data, &tokenizer, options, quiet)?;
    let eval = match run.eval_data.is_empty() {
        true => None,
        false => Some(load(&run.eval_data, &tokenizer, options, quiet)?),
    };
    let limit = checkpoint.config.max_position_embeddings;
    let long = |data: &Dataset| {
        let longest = |l: Lengths| l.prompt + l.chosen.max(l.rejected);
        (0..data.len()).filter(|i| longest(data.lengths(*i)) > limit).count()
    };
    let beyond = long(&data) + eval.as_ref().map_or(0, |(e, _)| long(e));
    if beyond > 0 {
        eprintln!(
            "{beyond} pairs are longer than the model's max_position_embeddings {limit}: its rotary positions go on, but \
             it was not trained there (max_length with overlong = \"drop\" leaves such pairs out)"
        );
    }
    let reports = json!({
        "train": report, "eval": eval.as_ref().map(|(_, r)| r), "pairs_beyond_max_position_embeddings": beyond,
    });
    let (train, eval) = match eval {
        Some((eval, _)) => (Part::whole(data), Some(Part::whole(eval))),
        None if run.eval_split > 0.0 => {
            let (train, eval) = Part::split(data, run.eval_split, run.settings.seed);
            (train, Some(eval))
        }
        None => (Part::whole(data), None),
    };

    let resumed = run.resume.as_ref().map(|folder| output::resume(folder, &run.effective, &device)).transpose()?;
    let initial = Decoder::load(&checkpoint, &device)?.with_profile(profile.clone());
    let mut reference = match &ref_model {
        Some(folder) => Some(Decoder::load(&Checkpoint::open(folder)?, &device)?),
        None => None,
    };
    let (policy, state) = match resumed {
        Some((policy, moments, progress)) => {
            // The reference is still the model that the run began with.
            reference.get_or_insert(initial);
            (policy.with_profile(profile.clone()), Some((moments, progress)))
        }
        None => (initial, None),
    };
    let eval = eval.map(|e| Box::new(e) as Units<Preference>);
    let mut trainer = Trainer::<Preference>::new(policy, run.objective, run.settings.clone(), train, eval)?;
    if let Some(reference) = reference {
        trainer = trainer.with_reference(reference)?;
    }
    if let Some(cache) = &run.data_options.cache_dir {
        let scored_by = ref_model.as_ref().unwrap_or(&model);
        let name = reference_file_name(scored_by, &backend, precision)
            .with_context(|| format!("reading {} for its hash", scored_by.display()))?;
        trainer = trainer.with_reference_file(cache.join(name));
    }
    if let Some((moments, progress)) = state {
        trainer = trainer.resume(moments, progress);
    }
    if !quiet {
        let parameters = checkpoint.inventory.elements();
        eprintln!(
            "{}: {} parameters on {backend} in {}; {} steps of {} pairs",
            run.model.display(),
            parameters,
            precision.name(),
            trainer.steps(),
            run.settings.per_device_train_batch_size * run.settings.gradient_accumulation_steps
        );
        let m = trainer.memory();
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        eprintln!(
            "predicted peak memory {} MiB: parameters {}, gradients {}, moments {}, activations {}, \
             attention {}, logits {}",
            mib(m.total()),
            mib(m.parameters),
            mib(m.gradients),
            mib(m.moments),
            mib(m.activations),
            mib(m.attention),
            mib(m.logits)
        );
    }
    let mut progress = Progress::new(quiet);
    let mut steps = Vec::new();
    let io = |e: anyhow::Error| TrainError::Observer(format!("{e:#}"));
    trainer.run(&mut |event| {
        progress.event(&event);
        match event {
            Event::Begin { from, .. } => {
                // What scoring the reference took is no part of a step.
                profile.clear();
                output.begin(&config, from).map_err(io)
            }
            Event::Step(s) => {
                steps.push(s.seconds);
                output.timing(s).context("timing.jsonl").map_err(io)
            }
            Event::Save(state) => output.save(&checkpoint, state, &run.effective).map_err(io),
            Event::Metrics(line) => output.metrics(line).context("metrics.jsonl").map_err(io),
            Event::Reference { .. } => Ok(()),
        }
    })?;
    output.report("data_report.json", &reports)?;
    checkpoint.save(trainer.policy().parameters(), output.folder())?;
    let summary = progress.finish();
    println!("{summary}\nsaved to {}", output.folder().display());
    if let Some(profile) = Shares::of(&profile, &steps) {
        output.report("profile.json", &profile)?;
        println!("{profile}");
    }
    Ok(())
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
    seconds: f64,
    share: f64,
}

impl Shares {
    /// None if nothing was measured. What no piece accounts for is a row of its own.
    fn of(profile: &Profile, steps: &[f64]) -> Option<Self> {
        let seconds: f64 = steps.iter().sum();
        let row = |piece, calls, s: f64| Share { piece, calls, seconds: s, share: s / seconds };
        let pieces = profile.pieces();
        let mut rows: Vec<_> = pieces.iter().map(|(name, p)| row(name, p.calls, p.time.as_secs_f64())).collect();
        let known: f64 = rows.iter().map(|r| r.seconds).sum();
        rows.push(row("everything else", steps.len() as u64, seconds - known));
        (!pieces.is_empty()).then_some(Self { steps: steps.len(), seconds, pieces: rows })
    }
}

impl Display for Shares {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["piece", "calls a step", "ms a step", "share"]);
        let n = self.steps as f64;
        for p in &self.pieces {
            table.add_row([
                p.piece.to_owned(),
                format!("{:.0}", p.calls as f64 / n),
                format!("{:.2}", p.seconds / n * 1e3),
                format!("{:.1} %", p.share * 100.0),
            ]);
        }
        write!(f, "{table}\n{} steps of {:.3} s", self.steps, self.seconds / n)
    }
}

fn load(sources: &[Source], tokenizer: &Tokenizer, options: &Options, quiet: bool) -> Result<(Dataset, Report)> {
    let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("tokenising {wide_bar} {bytes}/{total_bytes} {msg}");
        ProgressBar::new(0).with_style(style.expect("a valid template"))
    });
    let (data, report) = collimate_data::load_with(sources, tokenizer, options, &mut |p| {
        if let Some(bar) = &bar {
            bar.set_length(p.total_bytes);
            bar.set_position(p.bytes);
            bar.set_message(format!("{} pairs", p.pairs));
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if !quiet {
        eprintln!("{}", report.to_string().trim_end());
    }
    Ok((data, report))
}

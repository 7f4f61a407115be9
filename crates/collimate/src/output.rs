//! The output folder of a run: one run at a time, and the files of one run.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use collimate_model::files::{Aside, beside, read_at_most, read_settings, sweep, sync_folder};
use collimate_model::{Checkpoint, Decoder, Moments, remove_saved, write_whole};
use collimate_train::{Best, Progress, Settings, State, StepInfo, content};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::card;
use crate::measure::Measured;
use crate::tensorboard::{self, Events};

const CONFIG: &str = "collimate.toml";
pub(crate) const METRICS: &str = "metrics.jsonl";
const TIMING: &str = "timing.jsonl";
const STATE: &str = "collimate_state.json";
/// The same for readers of transformers' checkpoints.
const TRAINER_STATE: &str = "trainer_state.json";
/// Its lines of metrics may be many.
const HISTORY_BYTES: u64 = 1 << 30;
const MOMENTS: &str = "optimizer.safetensors";
const GENERATIONS: &str = "generations.jsonl";
const LOCK: &str = ".collimate.lock";
const CHECKPOINT: &str = "checkpoint-";
/// What is written at the end of a run, beside the model.
const REPORTS: [&str; 2] = ["data_report.json", "profile.json"];

/// An output folder; but for the lock, nothing is written before [`begin`](Self::begin).
pub(crate) struct Output {
    folder: PathBuf,
    /// What was made to hold the lock, from the outermost on; removed again if no run begins.
    made: Vec<PathBuf>,
    _lock: Option<Lock>,
    /// The checkpoint that the run goes on from.
    resume: Option<PathBuf>,
    /// Whether it is one of this folder.
    continued: bool,
    /// Lines of metrics of a run in another folder that this one goes on with.
    earlier: String,
    metrics: Option<Lines>,
    /// Apart from the metrics, which are the same bits each time.
    timing: Option<Lines>,
    /// Texts that were written on the way, where any are asked for.
    generations: Option<Lines>,
    /// The metrics once more, where that is asked for.
    events: Option<Events>,
}

/// A file that says which process writes to a folder. A process that is gone holds no lock, whatever it left.
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let failed = || format!("output_dir {} can't be written", folder.display());
        loop {
            let mut file =
                File::options().read(true).write(true).create(true).truncate(false).open(&path).with_context(failed)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let process = fs::read_to_string(&path).unwrap_or_default();
                    let which = if process.is_empty() { String::new() } else { format!(" (process {process})") };
                    bail!("another run{which} writes to output_dir {}; choose another folder", folder.display());
                }
                // Where the file system has no locks, two runs can't be told apart.
                Err(TryLockError::Error(e)) if e.kind() != ErrorKind::Unsupported => {
                    return Err(e).with_context(failed);
                }
                _ => {}
            }
            if !same_file(&file, &path) {
                // The run that had the lock ended, and removed the file, between the two.
                continue;
            }
            file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).with_context(failed)?;
            return Ok(Self { path, _file: file });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether an open file still has its name.
fn same_file(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let number = |m: io::Result<fs::Metadata>| m.map(|m| (m.dev(), m.ino())).ok();
        number(file.metadata()) == number(fs::metadata(path))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Holds a cache folder in use; clears what killed runs left under way there, if no other run uses it.
pub(crate) fn use_cache(folder: &Path) -> Result<File> {
    let failed = || format!("cache_dir {} can't be written", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    let path = folder.join(LOCK);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).with_context(failed)?;
    if file.try_lock().is_ok() {
        sweep(folder)?;
        for entry in fs::read_dir(folder).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            // Tokens under way: HASH.PROCESS.partial
            if path.extension().is_some_and(|e| e == "partial") {
                fs::remove_file(path).with_context(failed)?;
            }
        }
        file.unlock().with_context(failed)?;
    }
    match file.lock_shared() {
        Err(e) if e.kind() != ErrorKind::Unsupported => Err(e).with_context(failed),
        _ => Ok(file),
    }
}

/// A file of lines that are added one by one. What can't be written now is tried again with the next line.
struct Lines {
    path: PathBuf,
    file: File,
    /// Bytes that are whole lines.
    whole: u64,
    pending: String,
}

impl Lines {
    /// Begins with the lines `kept`.
    fn open(path: PathBuf, kept: &str) -> Result<Self> {
        write_whole(&path, kept.as_bytes())?;
        let file = File::options().append(true).open(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, file, whole: kept.len() as u64, pending: String::new() })
    }

    fn add(&mut self, line: &str) -> Result<()> {
        self.pending += line;
        self.pending.push('\n');
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.file.write_all(self.pending.as_bytes()) {
            // Part of a line may be there.
            let _ = self.file.set_len(self.whole);
            return Err(e).with_context(|| self.path.display().to_string());
        }
        self.whole += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// What a run reads, by its content: hashes, wherever the files lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub model: String,
    pub reference: String,
    pub tokenizer: String,
    pub chat_template: Option<String>,
    /// The texts of the pairs that are trained and evaluated on, in their order.
    pub data: String,
    pub eval_data: Option<String>,
    /// Their tokens, and which of them are scored.
    pub tokens: String,
    pub eval_tokens: Option<String>,
}

impl Content {
    /// The first thing that differs, in words.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let all = [
            (self.model != other.model, "the model"),
            (self.reference != other.reference, "the reference model"),
            (self.tokenizer != other.tokenizer, "the tokenizer"),
            (self.chat_template != other.chat_template, "the chat template"),
            (self.data != other.data, "the data"),
            (self.eval_data != other.eval_data, "the evaluation data"),
            (self.tokens != other.tokens, "the way in which data becomes tokens"),
            (self.eval_tokens != other.eval_tokens, "the way in which evaluation data becomes tokens"),
        ];
        all.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
    }
}

/// What a saved checkpoint holds beside the model and the moments.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    progress: Progress,
    config: Map<String, Value>,
    content: Content,
    /// The hash of each file beside this one.
    files: BTreeMap<String, String>,
}

/// How many workers a run has, in what is saved of several.
pub(crate) const WORKERS: &str = "workers";
/// What makes the units of a worker's step.
const BATCH: [&str; 2] = ["per_device_train_batch_size", "gradient_accumulation_steps"];

/// Keys that may differ between a run and its continuation: where things lie (their content is compared), what decides
/// only what is written when, how far the run goes, and who keeps what of a state that is saved as a whole.
const FREE: [&str; 18] = [
    "zero_stage",
    "base_model",
    "output_dir",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "eval_steps",
    "early_stopping_patience",
    "early_stopping_threshold",
    "report_to",
    "cache_dir",
    "model",
    "ref_model",
    "data",
    "eval_data",
    "chat_template",
    "num_train_epochs",
    "max_steps",
];

/// The step of a checkpoint's folder.
fn step_of(name: &str) -> Option<usize> {
    name.strip_prefix(CHECKPOINT)?.parse().ok()
}

/// The folders of checkpoints in `folder`, with their steps.
fn checkpoints(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("output_dir {}", folder.display()))? {
        let entry = entry?;
        if let Some(step) = step_of(&entry.file_name().to_string_lossy())
            && entry.path().is_dir()
        {
            all.push((step, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// Removes a folder so that it is never seen in part.
fn retire(folder: &Path) -> Result<()> {
    let aside = beside(folder);
    let failed = || folder.display().to_string();
    fs::rename(folder, &aside).with_context(failed)?;
    fs::remove_dir_all(&aside).with_context(failed)
}

fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

impl Output {
    /// Takes `folder` for a run: it is new, empty, or holds an earlier run that `resume` goes on with or `overwrite`
    /// gives up, and none of `inputs`. What a killed run left there before it was in its place is cleared.
    ///
    /// # Errors
    /// A folder that holds something else, that can't be written, or that another run writes to.
    pub fn check(folder: &Path, inputs: &[&Path], resume: Option<&Path>, overwrite: bool) -> Result<Self> {
        let shown = folder.display();
        if folder.exists() && !folder.is_dir() {
            bail!("output_dir {shown} is a file; expected a folder or a new name");
        }
        let place = canonical(folder);
        let continued = resume.and_then(canonical).is_some_and(|r| r.parent() == place.as_deref());
        if let Some(place) = &place {
            for input in inputs.iter().copied().chain(resume.filter(|_| !continued)) {
                let Some(at) = canonical(input) else { continue };
                if at == *place {
                    bail!("output_dir {} is also an input of the run; choose another folder", input.display());
                }
                if at.parent() == Some(place) && at.file_name().is_some_and(|n| step_of(&n.to_string_lossy()).is_some())
                {
                    bail!("output_dir {shown} holds an input of the run, {}; choose another folder", input.display());
                }
            }
        }
        let mut made: Vec<PathBuf> =
            folder.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_owned).collect();
        made.reverse();
        let undo = |made: &[PathBuf]| made.iter().rev().for_each(|f| drop(fs::remove_dir(f)));
        let lock = fs::create_dir_all(folder)
            .with_context(|| format!("output_dir {shown} can't be made"))
            .and_then(|()| Lock::take(folder));
        let lock = match lock {
            Ok(lock) => lock,
            Err(e) => {
                undo(&made);
                return Err(e);
            }
        };
        let (metrics, timing, generations) = (None, None, None);
        let new = Self {
            folder: folder.to_owned(),
            made,
            _lock: Some(lock),
            resume: resume.map(Path::to_owned),
            continued,
            earlier: String::new(),
            metrics,
            timing,
            generations,
            events: None,
        };
        new.examine(overwrite)?;
        Ok(new)
    }

    fn examine(&self, overwrite: bool) -> Result<()> {
        let (folder, shown) = (&self.folder, self.folder.display());
        sweep(folder)?;
        let saved = checkpoints(folder)?;
        for (_, inside) in &saved {
            sweep(inside)?;
        }
        let names = fs::read_dir(folder)
            .with_context(|| format!("output_dir {shown}"))?
            .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        let empty = names.iter().all(|n| n == LOCK);
        if !empty && !folder.join(CONFIG).is_file() {
            bail!("output_dir {shown} holds files that are not of an earlier run; choose another folder");
        }
        let weights = names
            .iter()
            .any(|n| (n.starts_with("model") || n.starts_with("adapter_model")) && n.ends_with(".safetensors"));
        if (weights || !saved.is_empty()) && !self.continued && !overwrite {
            let on = saved.last().map_or_else(String::new, |(_, last)| {
                format!(", resume_from_checkpoint = \"{}\" goes on with it", last.display())
            });
            bail!("output_dir {shown} holds an earlier run; overwrite_output_dir = true replaces it{on}");
        }
        Ok(())
    }

    /// The last checkpoint of a folder.
    ///
    /// # Errors
    /// A folder without one, or that can't be read.
    pub fn latest(folder: &Path) -> Result<PathBuf> {
        let none =
            || anyhow!("resume_from_checkpoint: output_dir {} holds no checkpoint-N to go on from", folder.display());
        if !folder.is_dir() {
            return Err(none());
        }
        checkpoints(folder)?.pop().map(|(_, last)| last).ok_or_else(none)
    }

    /// Removes what an earlier run left behind step `from`, writes the configuration and opens the metrics; lines of the
    /// run that goes on are kept up to step `from`. `generations` says whether texts are written on the way, `events` whether
    /// TensorBoard's are.
    pub fn begin(&mut self, config: &str, from: usize, generations: bool, events: bool) -> Result<()> {
        let from = if self.continued { from } else { 0 };
        for (step, folder) in checkpoints(&self.folder)? {
            if step > from {
                retire(&folder)?;
            }
        }
        remove_saved(&self.folder)?;
        for name in REPORTS.into_iter().chain((!generations).then_some(GENERATIONS)) {
            match fs::remove_file(self.folder.join(name)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).with_context(|| name.to_owned()),
                _ => {}
            }
        }
        card::clear(&self.folder)?;
        // First, as it is what tells a run's folder from others.
        write_whole(&self.folder.join(CONFIG), config.as_bytes())?;
        let open = |name: &str| {
            let path = self.folder.join(name);
            let earlier = if from > 0 { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
            let step = |line: &str| serde_json::from_str::<Value>(line).ok().and_then(|v| v["step"].as_u64());
            let kept = earlier.lines().filter(|l| step(l).is_some_and(|s| s <= from as u64));
            Lines::open(path, &kept.map(|l| format!("{l}\n")).collect::<String>())
        };
        let (metrics, timing) = (open(METRICS)?, open(TIMING)?);
        if let Some(resume) = self.resume.as_ref().filter(|_| !self.continued) {
            self.earlier = history(resume)?;
        }
        self.generations = generations.then(|| open(GENERATIONS)).transpose()?;
        if from == 0 || !events {
            tensorboard::clear(&self.folder)?;
        }
        self.events = events.then(|| Events::open(&self.folder, from)).transpose()?;
        (self.metrics, self.timing) = (Some(metrics), Some(timing));
        self.made.clear();
        Ok(())
    }

    /// Writes the texts of a look after `step` steps.
    pub fn generations(&mut self, step: usize, texts: &[Measured]) -> Result<()> {
        let lines = self.generations.as_mut().expect("begun for texts");
        for text in texts {
            let Value::Object(text) = serde_json::to_value(text)? else { unreachable!("a text is a table") };
            let line: Map<String, Value> = [("step".to_owned(), step.into())].into_iter().chain(text).collect();
            lines.pending += &serde_json::to_string(&line)?;
            lines.pending.push('\n');
        }
        lines.flush()
    }

    /// Writes how long a step took.
    pub fn timing(&mut self, s: &StepInfo) -> Result<()> {
        let line = json!({"step": s.step, "seconds": s.seconds, "tokens": s.tokens}).to_string();
        self.timing.as_mut().expect("begun before steps come").add(&line)
    }

    /// Saves all that a continuation needs, under `checkpoint-STEP`, which appears whole.
    pub fn save(
        &self,
        checkpoint: &Checkpoint,
        state: &State<'_>,
        settings: &Settings,
        config: &Map<String, Value>,
        content: &Content,
    ) -> Result<()> {
        let folder = self.checkpoint(state.progress.step);
        let aside = beside(&folder);
        let theirs = |inside: &Path| self.trainer_state(inside, state, settings);
        let written = write_checkpoint(&aside, checkpoint, state, &theirs, config, content).and_then(|()| {
            if folder.exists() {
                retire(&folder)?;
            }
            fs::rename(&aside, &folder).with_context(|| folder.display().to_string())?;
            Ok(sync_folder(&self.folder)?)
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&aside);
        }
        written
    }

    /// Writes the state as transformers does, with all lines of metrics so far, which are never in memory together.
    fn trainer_state(&self, inside: &Path, state: &State<'_>, settings: &Settings) -> Result<()> {
        let p = &state.progress;
        let lines = self.metrics.as_ref().expect("begun before anything is saved");
        let best = p.best_saved.map(|b| self.best(b).display().to_string());
        let waited = match settings.early_stopping_patience {
            0 => json!({}),
            patience => json!({"EarlyStoppingCallback": {
                "args": {
                    "early_stopping_patience": patience,
                    "early_stopping_threshold": settings.early_stopping_threshold
                },
                "attributes": {"early_stopping_patience_counter": p.waited},
            }}),
        };
        let table = json!({
            "best_global_step": p.best.map(|b| b.step),
            "best_metric": p.best.map(|b| b.metric),
            "best_model_checkpoint": best,
            "epoch": state.epoch,
            "eval_steps": settings.eval_steps,
            "global_step": p.step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": [],
            "logging_steps": settings.logging_steps,
            "max_steps": state.steps,
            "num_input_tokens_seen": p.num_tokens,
            "num_train_epochs": settings.num_train_epochs.ceil(),
            "save_steps": settings.save_steps,
            "stateful_callbacks": waited,
            // Nothing here counts these.
            "total_flos": 0.0,
            "train_batch_size": settings.per_device_train_batch_size,
            "trial_name": null,
            "trial_params": null,
        });
        let text = serde_json::to_string_pretty(&table)?;
        let (head, tail) = text.split_once("\"log_history\": []").expect("it is in the table");
        let failed = || lines.path.display().to_string();
        let written = File::open(&lines.path).with_context(failed)?;
        let size = written.metadata().with_context(failed)?.len() + self.earlier.len() as u64;
        let mut to = Aside::new(&inside.join(TRAINER_STATE), size)?;
        to.write(format!("{head}\"log_history\": [").as_bytes())?;
        let known = self.earlier.lines().map(|l| Ok(l.to_owned()));
        let pending = lines.pending.lines().map(|l| Ok(l.to_owned()));
        for (i, line) in known.chain(BufReader::new(written).lines()).chain(pending).enumerate() {
            let between = if i == 0 { "" } else { "," };
            to.write(format!("{between}\n    {}", line.with_context(failed)?).as_bytes())?;
        }
        to.write(format!("\n  ]{tail}\n").as_bytes())?;
        Ok(to.place()?)
    }

    /// The checkpoint of an evaluation: here, or beside the one that the run goes on from.
    pub fn best(&self, best: Best) -> PathBuf {
        let own = self.checkpoint(best.step);
        match &self.resume {
            Some(resume) if !own.is_dir() => resume.with_file_name(format!("{CHECKPOINT}{}", best.step)),
            _ => own,
        }
    }

    /// Removes the oldest checkpoints until `limit` (0: any number) are left. The last one, the best one and the one that
    /// the run goes on from stay, as with transformers.
    pub fn rotate(&self, limit: usize, best: Option<Best>) -> Result<()> {
        let all = checkpoints(&self.folder)?;
        let (Some(last), true) = (all.last().map(|(step, _)| *step), limit > 0) else { return Ok(()) };
        let from =
            self.resume.as_ref().filter(|_| self.continued).and_then(|r| step_of(&r.file_name()?.to_string_lossy()));
        let stays = |step: &usize| *step == last || Some(*step) == best.map(|b| b.step) || Some(*step) == from;
        let staying = all.iter().filter(|(step, _)| stays(step)).count();
        let excess = all.len() - limit.max(staying).min(all.len());
        all.iter().filter(|(step, _)| !stays(step)).take(excess).try_for_each(|(_, folder)| retire(folder))
    }

    /// Where the state after `step` steps is saved.
    pub fn checkpoint(&self, step: usize) -> PathBuf {
        self.folder.join(format!("{CHECKPOINT}{step}"))
    }

    /// The folder of a run that another process writes: to read there what `resume` goes on from.
    pub fn of_another(folder: &Path, resume: Option<&Path>) -> Self {
        let (metrics, timing, generations) = (None, None, None);
        Self {
            folder: folder.to_owned(),
            made: Vec::new(),
            _lock: None,
            resume: resume.map(Path::to_owned),
            continued: false,
            earlier: String::new(),
            metrics,
            timing,
            generations,
            events: None,
        }
    }

    /// Writes a line of metrics.
    pub fn metrics(&mut self, line: &Map<String, Value>) -> Result<()> {
        let text = serde_json::to_string(line).expect("numbers serialise");
        let written = self.metrics.as_mut().expect("begun before metrics come").add(&text);
        written.and(self.events.as_mut().map_or(Ok(()), |events| events.add(line)))
    }

    /// Writes the lines that could not be written when they came.
    pub fn finish(&mut self) -> Result<()> {
        [&mut self.metrics, &mut self.timing, &mut self.generations]
            .into_iter()
            .flatten()
            .try_for_each(Lines::flush)?;
        self.events.as_mut().map_or(Ok(()), Events::flush)
    }

    /// Writes a report beside the metrics.
    pub fn report(&self, name: &str, report: &impl serde::Serialize) -> Result<()> {
        debug_assert!(REPORTS.contains(&name));
        let text = serde_json::to_string_pretty(report)? + "\n";
        Ok(write_whole(&self.folder.join(name), text.as_bytes())?)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.made.is_empty() {
            // No run began: the folders are there for the lock alone.
            let _ = fs::remove_file(self.folder.join(LOCK));
            self.made.iter().rev().for_each(|f| drop(fs::remove_dir(f)));
        }
    }
}

/// The lines of metrics that the state of a checkpoint holds.
fn history(checkpoint: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct History {
        log_history: Vec<Map<String, Value>>,
    }
    let path = checkpoint.join(TRAINER_STATE);
    let failed = || format!("resume_from_checkpoint: {} can't be read", path.display());
    let bytes = read_at_most(&path, HISTORY_BYTES).with_context(failed)?;
    let all: History = serde_json::from_slice(&bytes).with_context(failed)?;
    Ok(all.log_history.into_iter().map(|line| format!("{}\n", Value::Object(line))).collect())
}

fn write_checkpoint(
    folder: &Path,
    checkpoint: &Checkpoint,
    state: &State<'_>,
    trainer_state: &dyn Fn(&Path) -> Result<()>,
    config: &Map<String, Value>,
    content: &Content,
) -> Result<()> {
    checkpoint.save(state.policy.parameters(), folder)?;
    checkpoint.save_moments(state.moments, &folder.join(MOMENTS))?;
    trainer_state(folder)?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let hash = content::file(&path).with_context(|| path.display().to_string())?;
        files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), hash);
    }
    let saved = Saved { progress: state.progress.clone(), config: config.clone(), content: content.clone(), files };
    Ok(write_whole(&folder.join(STATE), serde_json::to_string_pretty(&saved)?.as_bytes())?)
}

impl Saved {
    /// Reads the state in the folder of a checkpoint, and checks that the files beside it are those it was saved with.
    ///
    /// # Errors
    /// A folder that is no checkpoint, or one with a file that is missing or another.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = read_settings(&path)
            .with_context(|| format!("resume_from_checkpoint: {} can't be read", path.display()))?;
        let saved: Self = serde_json::from_str(&text).map_err(|e| {
            anyhow!("resume_from_checkpoint: {} is not a state that this version saved: {e}", path.display())
        })?;
        for (name, hash) in &saved.files {
            let file = folder.join(name);
            let found = content::file(&file)
                .with_context(|| format!("resume_from_checkpoint: {} can't be read", file.display()))?;
            if found != *hash {
                bail!(
                    "resume_from_checkpoint: {} is not the file that was saved with {} at step {}",
                    file.display(),
                    path.display(),
                    saved.progress.step
                );
            }
        }
        Ok(saved)
    }

    /// The best of the checkpoints that the run had saved.
    pub fn best_saved(&self) -> Option<Best> {
        self.progress.best_saved
    }

    /// The value that a key had.
    pub fn said(&self, key: &str) -> Option<&Value> {
        self.config.get(key)
    }

    /// Checks that a run is the same as the one that was saved, as far as that goes for going on with it.
    ///
    /// # Errors
    /// Names the key, or what is read, that differs.
    pub fn check(&self, folder: &Path, config: &Map<String, Value>, content: &Content) -> Result<()> {
        let keys = config.keys().chain(self.config.keys());
        let workers = |c: &Map<String, Value>| c.get(WORKERS).and_then(Value::as_u64).unwrap_or(1);
        let units = |c: &Map<String, Value>| {
            let sizes = BATCH.iter().map(|k| c.get(*k).and_then(Value::as_u64).unwrap_or(1));
            sizes.fold(workers(c), u64::saturating_mul)
        };
        // Another number of workers, where a step has as many units as before.
        let shared = workers(config) != workers(&self.config);
        if shared && units(config) != units(&self.config) {
            bail!(
                "resume_from_checkpoint: a step of {} workers has {} units here, and {} was saved with {} units a step: \
                 per_device_train_batch_size and gradient_accumulation_steps can make them equal",
                workers(config),
                units(config),
                folder.display(),
                units(&self.config)
            );
        }
        let free = |k: &str| FREE.contains(&k) || (shared && (k == WORKERS || BATCH.contains(&k)));
        let differs = |k: &&String| !free(k) && config.get(*k) != self.config.get(*k);
        if let Some(key) = keys.into_iter().find(differs) {
            let said = |v: Option<&Value>| v.map_or("not set".to_owned(), ToString::to_string);
            bail!(
                "resume_from_checkpoint: `{key}` is {}, but {} was saved with {}; a run goes on only as it was",
                said(config.get(key)),
                folder.display(),
                said(self.config.get(key))
            );
        }
        if let Some(what) = self.content.difference(content) {
            bail!(
                "resume_from_checkpoint: {what} is not what {} was saved with; a run goes on only as it was",
                folder.display()
            );
        }
        Ok(())
    }

    /// The model, the moments and the counters.
    ///
    /// # Errors
    /// Files that are not of one step, or not of a checkpoint.
    pub fn load(self, folder: &Path, run: &Checkpoint, initial: &Decoder) -> Result<(Decoder, Moments, Progress)> {
        let device = initial.device();
        let checkpoint = opened(folder, run)?;
        let moments = checkpoint.load_moments(&folder.join(MOMENTS), device)?;
        if moments.steps != self.progress.step as u64 {
            bail!(
                "resume_from_checkpoint: {} is of step {}, {STATE} of step {}",
                folder.join(MOMENTS).display(),
                moments.steps,
                self.progress.step
            );
        }
        Ok((policy(folder, run, initial)?, moments, self.progress))
    }
}

/// A checkpoint of a run; of adapters, the base is there already.
fn opened(folder: &Path, run: &Checkpoint) -> Result<Checkpoint> {
    Ok(if run.lora().is_some() { run.clone() } else { Checkpoint::open(folder)? })
}

/// The model that a run has saved in `folder`; `other` is one of the same run.
pub(crate) fn policy(folder: &Path, run: &Checkpoint, other: &Decoder) -> Result<Decoder> {
    let device = other.device();
    Ok(match run.lora() {
        Some(_) => {
            let tensors = run.load_adapter(folder, other.parameters(), device)?;
            Decoder::new(run.config.clone(), tensors, device)
        }
        None => Decoder::load(&opened(folder, run)?, device)?,
    })
}

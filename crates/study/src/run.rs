//! Runs what a plan asks for: each stage and each cell is a command of its own, run once, and never again when it is
//! finished.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3Default;

use crate::{Cell, Error, Plan};

/// What the study's folder was made with.
const STUDY: &str = "study.json";
/// Beside the outputs of a finished step.
const DONE: &str = "done.json";
/// The measurements of a cell.
pub(crate) const SAMPLES: &str = "samples.jsonl";
/// The folder of a cell's trained policy.
pub(crate) const POLICY: &str = "policy";
/// How long a child that was asked to end may take to save what it has.
const GRACE: Duration = Duration::from_secs(60);

/// Whoever runs a study: the program that has the commands, and the ways to the outside.
pub struct Host<'a> {
    /// The program.
    pub program: PathBuf,
    /// Writes a file so that it appears whole.
    pub write: &'a (dyn Fn(&Path, &[u8]) -> io::Result<()> + Sync),
    /// Whether a signal has come.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
    /// Says a line of progress.
    pub say: &'a (dyn Fn(&str) + Sync),
}

/// One command of a study.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its stage or cell.
    pub name: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The configuration file that it reads, with its text.
    pub config: Option<(PathBuf, String)>,
    /// The folder or file that it writes; removed where the step did not finish.
    pub output: PathBuf,
    /// Says that it is finished.
    done: PathBuf,
}

/// All commands of a study, in the order in which they may run.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// One after the other: worlds, the SFT policy, the reward model.
    pub stages: Vec<Step>,
    /// The SFT policy's own answers, once for each world.
    pub references: Vec<Step>,
    /// Each cell's training and measurement.
    pub cells: Vec<[Step; 2]>,
}

/// A value as a flag or in a table takes it.
fn inline(v: &Value) -> String {
    match v {
        Value::Array(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let quoted = |k: &str| match k.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                true => k.to_owned(),
                false => inline(&k.into()),
            };
            let each = table.iter().map(|(k, v)| format!("{} = {}", quoted(k), inline(v)));
            format!("{{{}}}", each.collect::<Vec<_>>().join(", "))
        }
        Value::String(s) => toml::Value::String(s.clone()).to_string(),
        other => other.to_string(),
    }
}

fn flags(args: &mut Vec<String>, table: &Map<String, Value>) {
    for (key, value) in table {
        let mut give = |v: &Value| {
            args.push(format!("--{key}"));
            args.push(v.as_str().map_or_else(|| inline(v), str::to_owned));
        };
        match value {
            Value::Array(list) if list.iter().all(Value::is_string) => list.iter().for_each(&mut give),
            // A switch.
            Value::Bool(true) if key == "quiet" => args.push("--quiet".into()),
            v => give(v),
        }
    }
}

/// The folder of a world.
pub(crate) fn world_folder(plan: &Plan, world: usize) -> PathBuf {
    match plan.worlds.len() {
        0 | 1 => plan.output_dir.join("world"),
        _ => plan.output_dir.join(format!("world-{}", world + 1)),
    }
}

/// The policy that every cell begins from.
pub(crate) fn sft_folder(plan: &Plan) -> PathBuf {
    plan.model.as_ref().map_or_else(|| plan.output_dir.join("sft"), PathBuf::from)
}

/// Puts the folders of stages in their places.
pub(crate) fn placed(plan: &Plan, world: usize, text: &str) -> String {
    text.replace("{world}", &world_folder(plan, world).display().to_string())
        .replace("{sft}", &sft_folder(plan).display().to_string())
        .replace("{reward_model}", &plan.output_dir.join("reward_model").display().to_string())
}

fn placed_value(plan: &Plan, world: usize, v: &Value) -> Value {
    match v {
        Value::String(s) => placed(plan, world, s).into(),
        Value::Array(list) => list.iter().map(|v| placed_value(plan, world, v)).collect(),
        Value::Object(table) => placed_table(plan, world, table).into(),
        other => other.clone(),
    }
}

fn placed_table(plan: &Plan, world: usize, table: &Map<String, Value>) -> Map<String, Value> {
    table.iter().map(|(k, v)| (k.clone(), placed_value(plan, world, v))).collect()
}

/// The folder of a cell.
pub(crate) fn cell_folder(plan: &Plan, cell: &Cell) -> PathBuf {
    plan.output_dir.join("cells").join(&cell.id)
}

/// Where the answers of the policy that cells of a world begin from are.
pub(crate) fn reference_samples(plan: &Plan, world: usize) -> PathBuf {
    let name = if plan.worlds.len() > 1 { format!("reference-{}", world + 1) } else { "reference".into() };
    plan.output_dir.join(name).join(SAMPLES)
}

/// The configuration of a cell's run.
pub fn cell_keys(plan: &Plan, cell: &Cell) -> Map<String, Value> {
    let mut keys = placed_table(plan, cell.world, &cell.keys);
    keys.insert("model".into(), sft_folder(plan).display().to_string().into());
    keys.insert("output_dir".into(), cell_folder(plan, cell).join(POLICY).display().to_string().into());
    keys
}

fn measure(plan: &Plan, world: usize, policy: &Path, objective: Option<&Path>, out: &Path) -> Vec<String> {
    let path = |p: &Path| p.display().to_string();
    let reward = placed_value(plan, world, &plan.reward);
    let g = &plan.generation;
    let mut args = vec!["measure".to_owned()];
    let mut give = |key: &str, value: String| args.extend([format!("--{key}"), value]);
    give("model", path(policy));
    give("reference", path(&sft_folder(plan)));
    give("prompts", placed(plan, world, &plan.prompts));
    give("reward", reward.as_str().map_or_else(|| inline(&reward), str::to_owned));
    give("max_new_tokens", g.max_new_tokens.to_string());
    give("num_return_sequences", g.num_return_sequences.to_string());
    give("temperature", "1".into());
    give("seed", g.seed.to_string());
    if let Some(backend) = plan.effective.get("backend").and_then(Value::as_str) {
        give("backend", backend.to_owned());
    }
    if let Some(file) = objective {
        give("objective-from", path(file));
    }
    give("output", path(out));
    args
}

impl Steps {
    /// The commands of a plan.
    pub fn of(plan: &Plan) -> Self {
        let root = &plan.output_dir;
        let stage = |name: &str, command: &str, table: &Map<String, Value>, world: usize, output: PathBuf| {
            let mut args = vec![command.to_owned()];
            flags(&mut args, &placed_table(plan, world, table));
            args.extend(["--output_dir".to_owned(), output.display().to_string()]);
            let done = root.join("stages").join(format!("{name}.json"));
            Step { name: name.to_owned(), args, config: None, output, done }
        };
        let mut stages = Vec::new();
        for (i, dials) in plan.worlds.iter().enumerate() {
            let folder = world_folder(plan, i);
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            stages.push(stage(&name, "world", dials, i, folder));
        }
        if let Some(sft) = &plan.sft {
            stages.push(stage("sft", "sft", sft, 0, root.join("sft")));
        }
        if let Some(reward) = &plan.reward_model {
            let mut reward = reward.clone();
            reward.entry("model").or_insert("{sft}".into());
            stages.push(stage("reward_model", "reward", &reward, 0, root.join("reward_model")));
        }
        let references = (0..plan.worlds.len().max(1)).map(|world| {
            let output = reference_samples(plan, world);
            let done = output.with_file_name(DONE);
            let args = measure(plan, world, &sft_folder(plan), None, &output);
            Step { name: "the SFT policy's answers".into(), args, config: None, output, done }
        });
        let cells = plan.cells.iter().map(|cell| {
            let folder = cell_folder(plan, cell);
            let file = folder.join("run.toml");
            let keys = Value::Object(cell_keys(plan, cell));
            let text = toml::to_string(&keys).expect("a study's values came from TOML");
            let policy = folder.join(POLICY);
            let samples = folder.join(SAMPLES);
            let effective = policy.join("collimate.toml");
            [
                Step {
                    name: cell.id.clone(),
                    args: vec!["align".into(), file.display().to_string(), "--quiet".into()],
                    config: Some((file, text)),
                    output: policy.clone(),
                    done: folder.join("trained.json"),
                },
                Step {
                    name: cell.id.clone(),
                    args: measure(plan, cell.world, &policy, Some(&effective), &samples),
                    config: None,
                    output: samples,
                    done: folder.join(DONE),
                },
            ]
        });
        Self { stages, references: references.collect(), cells: cells.collect() }
    }
}

impl Step {
    /// The command as a shell takes it.
    pub fn command(&self) -> String {
        let quoted = |a: &String| match a.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,+".contains(c)) {
            true if !a.is_empty() => a.clone(),
            _ => format!("'{}'", a.replace('\'', "'\\''")),
        };
        format!("collimate {}", self.args.iter().map(quoted).collect::<Vec<_>>().join(" "))
    }

    /// A hash of all that it is told, wherever the study lies.
    fn hash(&self, root: &Path) -> String {
        let here = root.display().to_string();
        let mut hash = Xxh3Default::new();
        for text in self.args.iter().chain(self.config.as_ref().map(|c| &c.1)) {
            hash.update(text.replace(&here, "{study}").as_bytes());
            hash.update(&[0]);
        }
        format!("{:032x}", hash.digest128())
    }

    /// Whether it is finished; the mark of another configuration is a fault.
    fn finished(&self, root: &Path) -> Result<bool, Error> {
        let mark = match fs::read_to_string(&self.done) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            read => read.map_err(Error::io(&self.done))?,
        };
        let said = serde_json::from_str::<Value>(&mark).ok().and_then(|v| v["config"].as_str().map(str::to_owned));
        if said.as_deref() != Some(&*self.hash(root)) {
            return Err(Error::Key(format!(
                "{} is of another configuration than `{}`; choose another output_dir",
                self.done.display(),
                self.command()
            )));
        }
        Ok(self.output.exists())
    }
}

/// The hash of a file, or of all files of a folder.
fn content(path: &Path) -> io::Result<String> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
        files.retain(|f| f.is_file() && f.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')));
        files.sort();
    }
    let mut hash = Xxh3Default::new();
    let mut buffer = vec![0; 1 << 20];
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        let mut read = File::open(file)?;
        loop {
            match read.read(&mut buffer)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(format!("{:032x}", hash.digest128()))
}

/// What a study reads from outside its folder: path and key.
fn inputs(plan: &Plan) -> Vec<(String, PathBuf)> {
    let mut all = vec![("prompts".to_owned(), plan.prompts.clone())];
    all.extend(plan.model.clone().map(|m| ("model".to_owned(), m)));
    for key in ["model", "folder"] {
        let path = plan.reward.get(key).and_then(Value::as_str);
        all.extend(path.map(|p| (format!("reward.{key}"), p.to_owned())));
    }
    for cell in &plan.cells {
        match &cell.keys["data"] {
            Value::String(s) => all.push(("data".into(), s.clone())),
            other => {
                for one in other.as_array().map_or(std::slice::from_ref(other), Vec::as_slice) {
                    let path = one.as_str().or_else(|| one["path"].as_str());
                    all.extend(path.map(|p| ("data".to_owned(), p.to_owned())));
                }
            }
        }
    }
    for (at, stage) in [("sft", &plan.sft), ("reward_model", &plan.reward_model)] {
        for key in ["model", "data"] {
            let path = stage.as_ref().and_then(|s| s.get(key)).and_then(Value::as_str);
            all.extend(path.map(|p| (format!("{at}.{key}"), p.to_owned())));
        }
    }
    all.retain(|(_, path)| !path.contains('{') && !path.contains("://"));
    all.sort();
    all.dedup();
    all.into_iter().map(|(k, p)| (k, PathBuf::from(p))).collect()
}

/// Checks that a folder is of this study, and makes it so where it is new.
fn claim(plan: &Plan, host: &Host<'_>) -> Result<(), Error> {
    let root = &plan.output_dir;
    fs::create_dir_all(root).map_err(Error::io(root))?;
    let mut hashes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, path) in inputs(plan) {
        // A name on a hub has no file here.
        if path.exists() {
            let hash = content(&path).map_err(Error::io(&path))?;
            hashes.entry(key).or_default().push(hash);
        } else if key == "prompts" {
            return Err(Error::Key(format!("{key}: there is no {}", path.display())));
        }
    }
    let own = json!({"config": plan.effective, "content": hashes});
    let file = root.join(STUDY);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let earlier: Value = serde_json::from_str(&text)
                .map_err(|e| Error::Key(format!("{}: not a study of this version: {e}", file.display())))?;
            if let Some((key, now, then)) = Plan::difference(&own["config"], &earlier["config"]) {
                return Err(Error::Key(format!(
                    "output_dir {} holds a study of another configuration: `{key}` is {now}, and was {then}; choose another \
                     folder",
                    root.display()
                )));
            }
            if let Some((key, ..)) = Plan::difference(&own["content"], &earlier["content"]) {
                return Err(Error::Key(format!(
                    "{key}: the content is another than when output_dir {} was begun; choose another folder",
                    root.display()
                )));
            }
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let mut names = fs::read_dir(root).map_err(Error::io(root))?.filter_map(Result::ok);
            if names.any(|e| !e.file_name().to_string_lossy().starts_with('.')) {
                let shown = root.display();
                return Err(Error::Key(format!(
                    "output_dir {shown} holds files that are of no study; choose another folder"
                )));
            }
            let text = serde_json::to_string_pretty(&own).expect("a table serialises") + "\n";
            (host.write)(&file, text.as_bytes()).map_err(Error::io(&file))
        }
        Err(e) => Err(Error::io(&file)(e)),
    }
}

/// Asks a child to end as a signal would, and waits for it.
fn end(child: &mut Child) {
    if cfg!(unix) {
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).stderr(Stdio::null()).status();
        let until = Instant::now() + GRACE;
        while asked.as_ref().is_ok_and(|s| s.success()) && Instant::now() < until {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The checkpoint with most steps in a run's folder.
fn newest(folder: &Path) -> Option<PathBuf> {
    let step = |p: &PathBuf| p.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).filter(|p| step(p).is_some()).max_by_key(step)
}

/// Opens a step's log and holds it until no process that an earlier call left behind writes to it. The step inherits it as
/// its output and with it the lock, which ends with the step itself, whatever becomes of the study.
fn hold(log: &Path, host: &Host<'_>, stopped: &dyn Fn() -> bool) -> Result<File, Error> {
    let file = File::options().create(true).truncate(false).write(true).open(log).map_err(Error::io(log))?;
    let mut told = false;
    while let Err(e) = file.try_lock() {
        match e {
            TryLockError::WouldBlock if stopped() => return Err(Error::Stopped { done: 0, cells: 0 }),
            TryLockError::WouldBlock => {
                if !std::mem::replace(&mut told, true) {
                    (host.say)(&format!(
                        "waiting for what an earlier call left running: it writes to {}",
                        log.display()
                    ));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            // A file system without locks.
            TryLockError::Error(_) => break,
        }
    }
    file.set_len(0).map_err(Error::io(log))?;
    Ok(file)
}

fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// What a failed command said last: its error, or its last lines.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    match text.rfind("error: ") {
        Some(at) => text[at + 7..].trim().to_owned(),
        None => {
            let lines: Vec<&str> = text.lines().rev().take(5).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        }
    }
}

/// Runs a step unless it is finished. Whether it had to run.
fn step(step: &Step, threads: usize, plan: &Plan, host: &Host<'_>, halt: &AtomicBool) -> Result<bool, Error> {
    let root = &plan.output_dir;
    if step.finished(root)? {
        return Ok(false);
    }
    let stopped = || (host.stopped)() || halt.load(Ordering::SeqCst);
    let mut args = step.args.clone();
    for folder in [step.output.parent(), step.done.parent()].into_iter().flatten() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let log = step.done.with_extension("log");
    let file = hold(&log, host, &stopped)?;
    match newest(&step.output) {
        Some(checkpoint) => args.extend(["--resume_from_checkpoint".into(), checkpoint.display().to_string()]),
        None => remove(&step.output)?,
    }
    if let Some((file, text)) = &step.config {
        (host.write)(file, text.as_bytes()).map_err(Error::io(file))?;
    }
    let failed = |said: String| Error::Child { name: step.name.clone(), command: step.command(), said };
    let mut child = Command::new(&host.program)
        .args(&args)
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(Error::io(&log))?)
        .stderr(file)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if stopped() => {
                end(&mut child);
                return Err(Error::Stopped { done: 0, cells: 0 });
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(e) => return Err(failed(e.to_string())),
        }
    };
    if !status.success() {
        // The terminal's signal goes to the children too.
        if stopped() {
            return Err(Error::Stopped { done: 0, cells: 0 });
        }
        let said = last_words(&log);
        return Err(failed(if said.is_empty() { status.to_string() } else { said }));
    }
    if !step.output.exists() {
        return Err(failed(format!("it wrote no {}", step.output.display())));
    }
    let mark = json!({"config": step.hash(root), "command": step.command()});
    (host.write)(&step.done, format!("{mark}\n").as_bytes()).map_err(Error::io(&step.done))?;
    Ok(true)
}

/// How many cells run at a time: what the study says, or as many as there are cores and memory for.
pub fn jobs(plan: &Plan) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(jobs) = plan.jobs {
        return jobs;
    }
    let weights: u64 = fs::read_dir(sft_folder(plan))
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .filter_map(|p| fs::metadata(p).ok())
        .map(|m| m.len())
        .sum();
    // Weights of the policy and the reference, gradients, two moments, and activations of about the weights' size.
    let each = plan.memory.map_or(6 * weights + (64 << 20), |mib| mib << 20).max(1);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib << 10);
    cores.min((available / each) as usize).max(1)
}

fn duration(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// Every cell begins from the same policy: what it learns from must not depend on a world's dial.
fn one_policy(plan: &Plan) -> Result<(), Error> {
    let of_world = |table: &Map<String, Value>| table.values().any(|v| v.to_string().contains("{world}"));
    let Some(sft) = plan.sft.as_ref().filter(|s| plan.worlds.len() > 1 && of_world(s)) else { return Ok(()) };
    for key in ["model", "data"] {
        let Some(path) = sft.get(key).and_then(Value::as_str) else { continue };
        let hash = |world| {
            let path = PathBuf::from(placed(plan, world, path));
            content(&path).map_err(Error::io(&path))
        };
        let first = hash(0)?;
        for world in 1..plan.worlds.len() {
            if hash(world)? != first {
                return Err(Error::Key(format!(
                    "sft.{key}: {} differs between the study's worlds, and every cell begins from one SFT policy; make a study \
                     for each value of that dial",
                    placed(plan, world, path)
                )));
            }
        }
    }
    Ok(())
}

/// Runs all that is not finished. `begun` is called after the stages and before the first cell.
///
/// # Errors
/// The first step that fails, with what it said; a folder of another study; [`Error::Stopped`] after a signal.
pub fn run(plan: &Plan, host: &Host<'_>, begun: &dyn Fn() -> Result<(), Error>) -> Result<(), Error> {
    claim(plan, host)?;
    let steps = Steps::of(plan);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let halt = AtomicBool::new(false);
    let finished = |cell: &[Step; 2]| cell[1].finished(&plan.output_dir);
    let count = || steps.cells.iter().filter(|c| finished(c).unwrap_or(false)).count();
    let told = |e: Error| match e {
        Error::Stopped { .. } => Error::Stopped { done: count(), cells: steps.cells.len() },
        e => e,
    };
    let first = |all: &[Step]| -> Result<(), Error> {
        for one in all {
            let begin = Instant::now();
            if step(one, cores, plan, host, &halt).map_err(told)? {
                (host.say)(&format!("{}: {}", one.name, duration(begin.elapsed())));
            }
        }
        Ok(())
    };
    first(&steps.stages)?;
    one_policy(plan)?;
    begun()?;
    // A prompt or a reward that won't do is found before any cell is trained.
    first(&steps.references)?;
    // Before a cell runs, all marks are looked at.
    let mut queue: VecDeque<(&str, &[Step])> = VecDeque::new();
    for cell in &steps.cells {
        if !finished(cell)? {
            queue.push_back((&cell[0].name, cell));
        }
    }
    let (all, total, jobs) = (steps.cells.len(), queue.len(), jobs(plan).min(queue.len()).max(1));
    if total == 0 {
        return Ok(());
    }
    (host.say)(&format!("{total} of {all} cells to run, {jobs} at a time"));
    let threads = (cores / jobs).max(1);
    let begin = Instant::now();
    let queue = Mutex::new(queue);
    let ran = Mutex::new(0_usize);
    let fault: Mutex<Option<Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    if (host.stopped)() || halt.load(Ordering::SeqCst) {
                        return;
                    }
                    let Some((name, steps)) = queue.lock().expect("no thread panics").pop_front() else { return };
                    let began = Instant::now();
                    if let Err(e) = steps.iter().try_for_each(|s| step(s, threads, plan, host, &halt).map(drop)) {
                        let mut fault = fault.lock().expect("no thread panics");
                        // A step that others' failure has stopped says nothing new.
                        if fault.is_none() || !matches!(e, Error::Stopped { .. }) {
                            fault.get_or_insert(e);
                        }
                        halt.store(true, Ordering::SeqCst);
                        return;
                    }
                    let mut ran = ran.lock().expect("no thread panics");
                    *ran += 1;
                    let left = begin.elapsed().mul_f64((total - *ran) as f64 / *ran as f64);
                    let of = format!("{} of {total}", *ran);
                    (host.say)(&format!("{of}: {name} in {}, {} left", duration(began.elapsed()), duration(left)));
                }
            });
        }
    });
    match fault.into_inner().expect("no thread panics") {
        Some(e) => Err(told(e)),
        None if (host.stopped)() => Err(Error::Stopped { done: count(), cells: all }),
        None => Ok(()),
    }
}

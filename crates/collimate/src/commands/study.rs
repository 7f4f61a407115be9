//! `collimate study`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use collimate_core::methods::{Setting, describe};
use collimate_data::{Options, Source, Tokenizer, prompts};
use collimate_model::{Checkpoint, write_whole};
use collimate_study::{Error, Host, Method, Plan, Steps, Vocabulary, report, run::cell_keys};
use serde_json::{Map, Value};

use crate::config::{self, KEYS, Kind, Run};
use crate::output::Lock;
use crate::say::print;
use crate::signals::{Interrupted, Signals};

pub(crate) fn command() -> Command {
    Command::new("study")
        .about("Run a grid of methods from one policy, and show length against score at matched KL")
        .long_about(
            "Run a grid of methods, averagings, β and seeds from one SFT policy on the same pairs; let each policy answer \
             held-out prompts, score the answers, and write tables, figures and a report.\n\n\
             Every run is a `collimate` command of its own. A finished one is never run again: a study that was stopped \
             goes on when the same command is given again. docs/src/study.md has the keys of STUDY.toml.\n\nExample:\n  \
             collimate study study.toml --output_dir out/study",
        )
        .args([
            Arg::new("study").value_name("STUDY").required(true).value_parser(value_parser!(PathBuf)).help("A TOML file"),
            Arg::new("output_dir").long("output_dir").alias("output-dir").value_name("FOLDER").help("Where it all goes"),
            Arg::new("jobs").long("jobs").value_name("N").value_parser(value_parser!(u64).range(1..)).help(
                "Cells that run at a time [default: as many as there are cores and memory for]",
            ),
            Arg::new("dry_run").long("dry_run").alias("dry-run").action(ArgAction::SetTrue).help(
                "Print the commands that the study would run, and run nothing",
            ),
            Arg::new("report_only").long("report_only").alias("report-only").action(ArgAction::SetTrue).help(
                "Make the tables, the figures and the report of what is finished, and run nothing",
            ),
        ])
}

/// What a study's file may speak of, in this program.
fn vocabulary() -> Result<Vocabulary> {
    let number = |s: Setting| match s {
        Setting::Number(x) => Some(x),
        Setting::Whole(n) => Some(n as f64),
        _ => None,
    };
    let methods = describe()?.into_iter().map(|m| Method {
        name: m.name.into(),
        averaging: m.averaging.into(),
        formula: m.formula.into(),
        parameters: m.parameters.iter().map(|p| (p.key.to_owned(), number(p.default))).collect(),
    });
    let keys = |kind: Kind| KEYS.iter().filter(|k| kind.has(k.name)).map(|k| k.name.to_owned()).collect();
    Ok(Vocabulary {
        methods: methods.collect(),
        run: keys(Kind::Align),
        sft: keys(Kind::Sft),
        reward_model: keys(Kind::Reward),
        world: super::world::dials(),
    })
}

/// Refuses prompts that the model can't take, where both are there before the study runs.
fn prompts_fit(plan: &Plan) -> Result<()> {
    let of_sft = plan.sft.as_ref().and_then(|s| s.get("model")).and_then(Value::as_str);
    let Some(model) = plan.model.as_deref().or(of_sft).map(Path::new).filter(|m| m.is_dir()) else { return Ok(()) };
    if !Path::new(&plan.prompts).is_file() {
        return Ok(());
    }
    let limit = Checkpoint::open(model)?.config.max_position_embeddings;
    let tokenizer = Tokenizer::from_folder(model)?;
    let source = Source::from(PathBuf::from(&plan.prompts));
    for prompt in prompts(&source, &tokenizer, &Options::default()).context("prompts")? {
        let (row, tokens) = (prompt.row, prompt.ids.len());
        if tokens >= limit {
            bail!("prompts: {}: row {row} has {tokens} tokens, and the model takes {limit}", plan.prompts);
        }
    }
    Ok(())
}

/// The plan of a study's table; its paths are relative to the folder of `path`, the file that the table is from.
pub(crate) fn plan(mut table: Map<String, Value>, path: &Path, output_dir: Option<&str>) -> Result<Plan> {
    if let Some(out) = output_dir {
        // A flag's path is relative to where the command is given.
        table.insert("output_dir".into(), std::path::absolute(out)?.display().to_string().into());
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut plan = Plan::new(table, folder, &vocabulary()?).with_context(|| path.display().to_string())?;
    plan.output_dir = std::path::absolute(&plan.output_dir)?;
    // Every configuration is read before anything is run.
    // A reward of a stage is read by the command that uses it.
    let of_stage = |v: &Value| v.as_str().is_some_and(|s| s.contains('{'));
    if !plan.reward.as_object().is_some_and(|r| r.values().any(of_stage)) {
        collimate_reward::read(&plan.reward).with_context(|| path.display().to_string())?;
    }
    prompts_fit(&plan)?;
    for cell in &plan.cells {
        Run::new(Kind::Align, cell_keys(&plan, cell))
            .with_context(|| format!("{}: cell {}", path.display(), cell.id))?;
    }
    Ok(plan)
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let path = m.get_one::<PathBuf>("study").expect("required");
    let mut table = config::read_table(path)?;
    if let Some(jobs) = m.get_one::<u64>("jobs") {
        table.insert("jobs".into(), (*jobs).into());
    }
    let plan = plan(table, path, m.get_one::<String>("output_dir").map(String::as_str))?;
    if m.get_flag("dry_run") {
        let steps = Steps::of(&plan);
        let all = steps.stages.iter().chain(&steps.references).chain(steps.cells.iter().flatten());
        return print(&all.map(|s| s.command()).collect::<Vec<_>>().join("\n"));
    }
    carry_out(&plan, m.get_flag("report_only"))
}

/// Runs what is not finished, unless only the report is wanted, and prints the table.
pub(crate) fn carry_out(plan: &Plan, report_only: bool) -> Result<()> {
    let root = &plan.output_dir;
    if root.exists() && !root.is_dir() {
        bail!("output_dir {} is a file; expected a folder or a new name", root.display());
    }
    let signals = Signals::watch()?;
    std::fs::create_dir_all(root).with_context(|| format!("output_dir {} can't be made", root.display()))?;
    let _lock = Lock::take(root)?;
    let write = |path: &Path, bytes: &[u8]| write_whole(path, bytes).map_err(std::io::Error::other);
    let held = signals.hold();
    let host = Host {
        program: std::env::current_exe().context("where this program is")?,
        write: &write,
        stopped: &|| signals.came().is_some(),
        say: &|line| say!("{line}"),
    };
    if !report_only {
        let ran = collimate_study::run::run(plan, &host, &|| report::predict(plan, &host));
        match (ran, signals.came()) {
            (Err(Error::Stopped { done, cells }), Some(signal)) => {
                let how = format!("{done} of {cells} cells are finished; the same command goes on from there");
                return Err(Interrupted { signal, how }.into());
            }
            (ran, _) => ran?,
        }
    }
    drop(held);
    print(&report::write(plan, &vocabulary()?, &host)?)
}

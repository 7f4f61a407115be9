//! The `collimate` command.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use collimate_core::objective::Method;
use collimate_core::trl;
use serde_json::{Map, Value};

use crate::commands;
use crate::config::{self, KEYS, Key, Kind};
use crate::from_trl;
use crate::signals::Interrupted;

/// Runs the command line of this process; a fault is one paragraph on standard error and a failing exit code.
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            if let Some((flag, instead)) = of_trl(&e) {
                say!("error: {flag} is TRL's, and not a flag here: {instead}");
                return ExitCode::from(2);
            }
            if let Some((flag, here, there)) = of_another(&e) {
                say!("error: {flag} is a flag of `collimate {}`, and not of `collimate {}`", there.name(), here.name());
                return ExitCode::from(2);
            }
            e.exit()
        }
    };
    match dispatch(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if let Some(stopped) = e.downcast_ref::<Interrupted>() {
                say!("{stopped}");
                return ExitCode::from(128 + stopped.signal);
            }
            // Whoever reads the output has heard enough.
            let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
            if e.root_cause().downcast_ref().is_some_and(closed) {
                return ExitCode::SUCCESS;
            }
            // Some errors say their cause themselves.
            let said = e.chain().map(ToString::to_string).reduce(|all, cause| match all.ends_with(&cause) {
                true => all,
                false => format!("{all}: {cause}"),
            });
            say!("error: {}", said.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

/// The flag that the command line has and its command has not.
fn unknown(e: &clap::Error) -> Option<&str> {
    match e.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if e.kind() == ErrorKind::UnknownArgument => Some(flag),
        _ => None,
    }
}

/// The flag of TRL's that the command line has and this program has not, with what to write instead.
fn of_trl(e: &clap::Error) -> Option<(String, &'static str)> {
    let flag = unknown(e)?;
    Some((flag.to_owned(), from_trl::instead(flag.trim_start_matches('-'))?))
}

/// The flag of a command that trains, given to another one that does.
fn of_another(e: &clap::Error) -> Option<(String, Kind, Kind)> {
    let flag = unknown(e)?;
    let here = std::env::args().nth(1)?;
    let here = Kind::ALL.into_iter().find(|k| k.name() == here)?;
    let there = here.elsewhere(&flag.trim_start_matches('-').replace('-', "_"))?;
    Some((flag.to_owned(), here, there))
}

/// The command line, for help and completion.
pub fn command() -> Command {
    Command::new("collimate")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Align language models from preference pairs, on summed or on length-averaged log-likelihoods")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(training(
            Kind::Align,
            "Align a checkpoint on preference pairs",
            "collimate align --model my-model --data pairs.jsonl --method averaged-dpo --beta 2 --learning_rate 1e-6 \
             --output_dir aligned",
        ))
        .subcommand(training(
            Kind::Sft,
            "Fine-tune a checkpoint on texts",
            "collimate sft --model my-model --data texts.jsonl --output_dir tuned",
        ))
        .subcommand(training(
            Kind::Reward,
            "Train a reward model on preference pairs",
            "collimate reward --model my-model --data pairs.jsonl --output_dir rewards",
        ))
        .subcommand(commands::generate::command())
        .subcommand(commands::merge::command())
        .subcommand(
            Command::new("methods")
                .about("List the methods, losses, averagings, optimality operators and rewards that are linked")
                .arg(json()),
        )
        .subcommand(
            Command::new("backends")
                .about("List the tensor backends that are linked, and which are usable on this machine")
                .arg(switch("capabilities", "Print what each can do"))
                .arg(json()),
        )
        .subcommand(commands::data::command())
        .subcommand(commands::measure::command())
        .subcommand(commands::score::command())
        .subcommand(commands::label::command())
        .subcommand(commands::world::command())
        .subcommand(commands::demo::command())
        .subcommand(commands::study::command())
        .subcommand(commands::plot::command())
        .subcommand(commands::shell::completions_command())
        .subcommand(commands::shell::man_command())
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn json() -> Arg {
    switch("json", "Print JSON")
}

/// Keys whose flag may be given several times.
const LISTS: [&str; 6] = ["data", "eval_data", "trainable", "freeze", "lora_target_modules", "lora_modules_to_save"];

pub(crate) fn flag(key: &'static str, help: String, heading: &'static str) -> Arg {
    // Several data sets, or one.
    let action = if LISTS.contains(&key) { ArgAction::Append } else { ArgAction::Set };
    let arg = Arg::new(key).long(key).value_name("VALUE").help(help).help_heading(heading).action(action);
    // A value may begin with a dash: a number below 0 is refused by its key, not by the parser.
    let arg = arg.allow_hyphen_values(true);
    if key.contains('_') { arg.alias(key.replace('_', "-")) } else { arg }
}

/// The parameters of all methods, each with the methods that have it.
fn parameters() -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    for m in Method::all() {
        for p in m.parameters {
            if !all.iter().any(|(k, _)| *k == p.key) {
                all.push((p.key, format!("{} (see `collimate methods` for defaults)", p.about)));
            }
        }
    }
    for key in trl::KEYS {
        if !all.iter().any(|(k, _)| *k == key) {
            let about = "As in TRL's DPOConfig, with TRL's meaning; loss_type stands in place of method";
            all.push((key, about.to_owned()));
        }
    }
    all.sort();
    all
}

fn training(kind: Kind, about: &'static str, example: &str) -> Command {
    let long = format!(
        "{about}.\n\n\
         Every key below can be set in a TOML file (CONFIG), as a flag, or both: flags win. Dashes are accepted for \
         underscores. The run's effective configuration is written to the output folder as collimate.toml and repeats \
         the run.\n\nExample:\n  {example}"
    );
    let config =
        Arg::new("config").value_name("CONFIG").help("A TOML file of keys").value_parser(clap::value_parser!(PathBuf));
    let keys = KEYS.iter().filter(|k| kind.has(k.name)).map(|k| flag(k.name, k.help.to_owned(), k.heading));
    let parameters = if kind == Kind::Align { parameters() } else { Vec::new() };
    let parameters = parameters.into_iter().map(|(k, about)| flag(k, about, "Parameters of the method"));
    Command::new(kind.name()).about(about).long_about(long).arg(config).args(keys).args(parameters).args([
        switch("quiet", "Print the summary only").short('q'),
        switch("profile", "Measure where the time of a step goes: printed at the end, and written to profile.json"),
    ])
}

fn dispatch(matches: &ArgMatches) -> Result<()> {
    match matches.subcommand() {
        Some((name, m)) if let Some(kind) = Kind::ALL.into_iter().find(|k| k.name() == name) => {
            commands::train::run(kind, table(kind, m)?, m.get_flag("quiet"), m.get_flag("profile"))
        }
        Some(("merge", m)) => commands::merge::run(m),
        Some(("generate", m)) => commands::generate::run(m),
        Some(("methods", m)) => commands::methods::run(m.get_flag("json")),
        Some(("backends", m)) => commands::backends::run(m.get_flag("capabilities"), m.get_flag("json")),
        Some(("data", m)) => commands::data::run(m),
        Some(("measure", m)) => commands::measure::run(m),
        Some(("score", m)) => commands::score::run(m),
        Some(("label", m)) => commands::label::run(m),
        Some(("world", m)) => commands::world::run(m),
        Some(("demo", m)) => commands::demo::run(m),
        Some(("study", m)) => commands::study::run(m),
        Some(("plot", m)) => commands::plot::run(m),
        Some(("completions", m)) => commands::shell::completions(m),
        Some(("man", m)) => commands::shell::man(m),
        _ => bail!("no command given; see --help"),
    }
}

/// The keys of a run: the file's, with the flags over them.
fn table(kind: Kind, m: &ArgMatches) -> Result<Map<String, Value>> {
    let mut table = match m.get_one::<PathBuf>("config") {
        Some(path) => config::read_file(path)?,
        None => Map::new(),
    };
    let parameters = if kind == Kind::Align { parameters() } else { Vec::new() };
    let parameters = parameters.iter().map(|(name, _)| Key { name, heading: "", help: "", text: false });
    for key in KEYS.iter().copied().filter(|k| kind.has(k.name)).chain(parameters) {
        let given = m.get_many::<String>(key.name).into_iter().flatten().collect::<Vec<_>>();
        if let [_, _, ..] = given[..] {
            table.insert(key.name.to_owned(), given.into_iter().map(|v| config::flag_value(&key, v)).collect());
        } else if let [given] = given[..] {
            // A method by name and a triple in the file exclude each other: what the flag says goes.
            match key.name {
                "method" => ["objective", "loss_type"].map(|k| table.remove(k)),
                "objective" => ["method", "loss_type"].map(|k| table.remove(k)),
                "loss_type" => ["objective", "method"].map(|k| table.remove(k)),
                _ => [None, None],
            };
            table.insert(key.name.to_owned(), config::flag_value(&key, given));
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}

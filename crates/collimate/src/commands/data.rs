//! `collimate data inspect`.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command};
use collimate_data::{Options, Source, Task, Tokenizer, inspect::inspect_for};
use serde_json::Map;

use crate::config::{self, DATA, KEYS};
use crate::say::print;

pub(crate) fn command() -> Command {
    let keys =
        KEYS.iter().filter(|k| k.heading == DATA).map(|k| crate::cli::flag(k.name, k.help.to_owned(), k.heading));
    let inspect = Command::new("inspect")
        .about("Show what is in data before training on it")
        .long_about(
            "Show what is in data before training on it: its format, lengths, the share of pairs whose chosen is the \
             longer, the dirt that was found, and some rows with what is scored of them.",
        )
        .args([
            Arg::new("files").value_name("FILE").required(true).num_args(1..).help("Files or folders of rows"),
            Arg::new("task").long("task").value_name("TASK").value_parser(["align", "sft"]).help(
                "What the rows are for: align (pairs) or sft (supervised rows, or the chosen side of pairs) [default: pairs \
                 where the first row is one, else supervised]",
            ),
            Arg::new("model").long("model").value_name("FOLDER").help("Count tokens with this checkpoint's tokenizer"),
            Arg::new("samples")
                .long("samples")
                .value_name("N")
                .default_value("3")
                .value_parser(clap::value_parser!(u32))
                .help("Rows to show"),
            Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON"),
            Arg::new("svg").long("svg").value_name("FILE").help("Draw the length distributions into this file"),
        ])
        .args(keys);
    Command::new("data").about("Look at data").subcommand_required(true).subcommand(inspect)
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let Some(("inspect", m)) = m.subcommand() else { unreachable!("a command is required") };
    let sources: Vec<Source> = m.get_many::<String>("files").expect("required").map(Source::from).collect();
    let tokenizer = m.get_one::<String>("model").map(|f| Tokenizer::from_folder(&PathBuf::from(f))).transpose()?;
    let given = KEYS.iter().filter(|k| k.heading == DATA);
    let mut table: Map<_, _> = given
        .filter_map(|k| m.get_one::<String>(k.name).map(|v| (k.name.to_owned(), config::flag_value(k, v))))
        .collect();
    // As the training commands have it, so that both say the same of a row.
    table.entry("max_length").or_insert(config::MAX_LENGTH.into());
    let options: Options = config::section(table, "")?;
    options.validate()?;
    let samples = *m.get_one::<u32>("samples").expect("it has a default") as usize;
    let task = m.get_one::<String>("task").map(|t| if t == "sft" { Task::Sft } else { Task::Align });
    let found = inspect_for(task, &sources, tokenizer.as_ref(), &options, samples)?;
    if let Some(path) = m.get_one::<String>("svg") {
        collimate_model::write_whole(&PathBuf::from(path), found.svg().as_bytes())?;
    }
    if m.get_flag("json") {
        return print(&serde_json::to_string_pretty(&found)?);
    }
    print(found.terminal(std::io::stdout().is_terminal()).trim_end())
}

//! `collimate completions` and `collimate man`: what a shell and a reader of manuals want of the command line.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use clap_mangen::Man;
use collimate_model::write_whole;

use crate::say::print;

pub(crate) fn completions_command() -> Command {
    Command::new("completions").about("Print the completions of a shell").arg(
        Arg::new("shell").value_name("SHELL").help("Which shell").required(true).value_parser(value_parser!(Shell)),
    )
}

pub(crate) fn man_command() -> Command {
    Command::new("man").about("Print the manual page, or write one for each command").arg(
        Arg::new("output")
            .long("output")
            .value_name("FOLDER")
            .help("Where collimate.1, collimate-align.1 and the others go")
            .value_parser(value_parser!(PathBuf)),
    )
}

pub(crate) fn completions(m: &ArgMatches) -> Result<()> {
    let shell: Shell = *m.get_one("shell").expect("required");
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::command(), "collimate", &mut text);
    print(String::from_utf8(text)?.trim_end())
}

fn page(of: Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(of).render(&mut text)?;
    Ok(text)
}

pub(crate) fn man(m: &ArgMatches) -> Result<()> {
    let mut all = crate::cli::command();
    all.build();
    let Some(folder) = m.get_one::<PathBuf>("output") else {
        return print(String::from_utf8(page(all)?)?.trim_end());
    };
    fs::create_dir_all(folder).with_context(|| format!("output {}", folder.display()))?;
    let pages = all.get_subcommands().cloned().chain([all.clone()]);
    for one in pages {
        // With its command before it.
        let name = one.get_display_name().unwrap_or_else(|| one.get_name()).to_owned();
        write_whole(&folder.join(format!("{name}.1")), &page(one.name(name.clone()))?)?;
    }
    print(&folder.display().to_string())
}

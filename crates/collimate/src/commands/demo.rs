//! `collimate demo`: a small study, with nothing else needed.

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value};

use super::study;

/// The study, as `collimate study` reads it.
const STUDY: &str = include_str!("../../../../examples/study/first.toml");

pub(crate) fn command() -> Command {
    Command::new("demo")
        .about("A small study: DPO with and without averaging, under labels that like length and labels that dislike it")
        .long_about(
            "A small study: DPO on summed and on averaged log-likelihoods, four values of β, two seeds, under labels that \
             like length and under labels that dislike it.\n\nNothing is needed but this program: the world that it is \
             about is made here. It is `collimate study examples/study/first.toml`; the folder that is written holds the \
             report, with every command and configuration. What was stopped goes on when the command is given again.",
        )
        .args([
            Arg::new("output_dir")
                .long("output_dir")
                .alias("output-dir")
                .default_value("out/demo")
                .help("Where it all goes"),
            Arg::new("backend").long("backend").value_name("NAME").help("Tensors: see `collimate backends`"),
        ])
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let mut table: Map<String, Value> = toml::from_str(STUDY).context("examples/study/first.toml")?;
    if let Some(backend) = m.get_one::<String>("backend") {
        super::device(Some(backend))?;
        table.insert("backend".into(), backend.clone().into());
    }
    let out = m.get_one::<String>("output_dir").map(String::as_str);
    study::carry_out(&study::plan(table, Path::new("examples/study/first.toml"), out)?, false)
}

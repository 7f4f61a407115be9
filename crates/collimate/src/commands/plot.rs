//! `collimate plot`: the curves of runs, as SVG and as one page.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Command, value_parser};
use collimate_model::write_whole;
use collimate_study::curves::{self, Run};

use crate::say::print;

const PAGE: &str = "index.html";
/// What tells a page of this command from others.
const MARK: &str = "<meta name=\"generator\" content=\"collimate plot\">";

pub(crate) fn command() -> Command {
    Command::new("plot")
        .about("Draw the curves of runs: SVGs, and one page that asks for nothing else")
        .long_about(
            "Draw the curves of runs, from their metrics.jsonl: SVGs, and one page, index.html, that asks for nothing \
             else. A run may still go on.\n\nExample:\n  collimate plot aligned again --output curves",
        )
        .args([
            Arg::new("runs")
                .value_name("RUN")
                .help("Output folders of runs, 1 to 6")
                .required(true)
                .num_args(1..)
                .value_parser(value_parser!(PathBuf)),
            Arg::new("output")
                .long("output")
                .value_name("FOLDER")
                .help("Where index.html and the SVGs go")
                .default_value("curves")
                .value_parser(value_parser!(PathBuf)),
        ])
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let output: &Path = m.get_one::<PathBuf>("output").expect("it has a default");
    let paths: Vec<&PathBuf> = m.get_many("runs").expect("required").collect();
    let mut runs = paths.iter().map(|p| Run::read(p)).collect::<Result<Vec<_>, _>>()?;
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    runs.iter().for_each(|r| *named.entry(r.name.clone()).or_default() += 1);
    // Folders of one name are told apart by their paths.
    for (run, path) in runs.iter_mut().zip(&paths).filter(|(r, _)| named[&r.name] > 1) {
        run.name = path.display().to_string();
    }
    let figures = curves::figures(&runs)?;
    let page = output.join(PAGE);
    if fs::read_to_string(&page).is_ok_and(|text| !text.contains(MARK)) {
        bail!("{} is not a page of this command; --output names another folder", page.display());
    }
    fs::create_dir_all(output).with_context(|| format!("output {}", output.display()))?;
    for figure in &figures {
        write_whole(&output.join(format!("{}.svg", figure.id)), figure.file().as_bytes())?;
    }
    write_whole(&page, curves::page(&runs, &figures).as_bytes())?;
    print(&page.display().to_string())
}

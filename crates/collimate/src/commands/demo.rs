//! `collimate demo`.

use anyhow::Result;
use clap::{ArgMatches, Command};

pub(crate) fn command() -> Command {
    Command::new("demo").about("Train a small model and align it, all from this program alone")
}

pub(crate) fn run(_m: &ArgMatches) -> Result<()> {
    anyhow::bail!("not yet")
}

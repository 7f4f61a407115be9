//! `collimate merge`: an adapter made a part of its base.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::say::print;

pub(crate) fn command() -> Command {
    let value = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .alias(name.replace('_', "-"))
            .value_name("FOLDER")
            .help(help)
            .value_parser(value_parser!(PathBuf))
    };
    Command::new("merge")
        .about("Make an adapter a part of its base: a checkpoint folder that needs neither")
        .long_about(
            "Make an adapter a part of its base: W + sBA in place of W, in float32, in a checkpoint folder that needs \
             neither.\n\nExample:\n  collimate merge --model adapter --output_dir whole",
        )
        .args([
            value("model", "The adapter: a folder with adapter_config.json").required(true),
            value("base_model", "Where its base is, if not where the adapter says"),
            value("output_dir", "Where the checkpoint goes: a new folder, or an empty one").required(true),
            Arg::new("backend").long("backend").value_name("NAME").help("Tensors: see `collimate backends`"),
        ])
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let path = |key: &str| m.get_one::<PathBuf>(key).map(PathBuf::as_path);
    let (model, output) = (path("model").expect("required"), path("output_dir").expect("required"));
    if output.exists()
        && output.read_dir().with_context(|| format!("output_dir {}", output.display()))?.next().is_some()
    {
        bail!("output_dir {} is not empty; choose another folder", output.display());
    }
    let checkpoint = super::open(model, path("base_model"))?;
    if checkpoint.lora().is_none() {
        bail!("{} is no adapter: there is no adapter_config.json in it, or a config.json beside it", model.display());
    }
    let (_, device) = super::device(m.get_one::<String>("backend").map(String::as_str))?;
    let tensors = checkpoint.load(&device)?;
    let base: &Path = &checkpoint.folder.clone();
    let (whole, merged) = checkpoint.merge(&tensors);
    whole.save(&merged, output)?;
    print(&format!("{} and {} in one, saved to {}", base.display(), model.display(), output.display()))
}

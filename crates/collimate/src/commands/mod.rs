//! One file per command.

pub(crate) mod backends;
pub(crate) mod data;
pub(crate) mod demo;
pub(crate) mod generate;
pub(crate) mod label;
pub(crate) mod measure;
pub(crate) mod merge;
pub(crate) mod methods;
pub(crate) mod plot;
pub(crate) mod score;
pub(crate) mod shell;
pub(crate) mod study;
pub(crate) mod train;
pub(crate) mod world;

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use collimate_backend::Backend;
use collimate_data::hub::{self, Kind};
use collimate_model::Checkpoint;

/// Says of the text part of a vision-language model in `folder` that it alone is `done`.
pub(crate) fn say_text_part(checkpoint: &Checkpoint, folder: &Path, done: &str) {
    if let Some(whole) = &checkpoint.config.text_of {
        say!("{} is a {whole}: its text part is what is {done}, without its vision part", folder.display());
    }
}

/// Opens the checkpoint, or the adapter with its base, that was named; `base` says where the base is, if not where the
/// adapter says.
pub(crate) fn open(named: &Path, base: Option<&Path>) -> Result<Checkpoint> {
    let folder = hub::locate(named, Kind::Model)?;
    let base = match (base, Checkpoint::named_base(&folder)?) {
        (Some(base), _) => Some(hub::locate(base, Kind::Model)?),
        (None, Some(said)) if hub::is_name(&said) && !folder.join(&said).exists() && !Path::new(&said).exists() => {
            Some(hub::locate(Path::new(&said), Kind::Model).with_context(|| {
                format!("{} is an adapter of {said}; base_model says where that is", folder.display())
            })?)
        }
        (None, _) => None,
    };
    Ok(Checkpoint::open_with(&folder, base.as_deref())?)
}

/// Opens the backend of that name, or the first usable one; with the name that it goes by.
pub(crate) fn device(name: Option<&str>) -> Result<(String, Device)> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => Backend::preferred()
            .context("no backend that is linked is usable here; see `collimate backends`")?
            .name
            .to_owned(),
    };
    let device = Backend::device(&name)?;
    Ok((name, device))
}

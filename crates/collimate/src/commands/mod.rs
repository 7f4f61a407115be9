//! One file per command.

pub(crate) mod backends;
pub(crate) mod data;
pub(crate) mod demo;
pub(crate) mod generate;
pub(crate) mod label;
pub(crate) mod measure;
pub(crate) mod methods;
pub(crate) mod score;
pub(crate) mod study;
pub(crate) mod train;
pub(crate) mod world;

use anyhow::{Context, Result};
use burn::tensor::Device;
use collimate_backend::Backend;

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

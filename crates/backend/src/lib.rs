//! The plug-in point for tensor backends.
//!
//! A backend is a name, a description and a device factory, registered at link time:
//!
//! ```
//! use collimate_backend::{Backend, Capabilities, Found};
//!
//! inventory::submit! { Backend {
//!     name: "flex-again",
//!     about: "pure-Rust CPU tensors",
//!     rank: 60,
//!     capabilities: Capabilities {
//!         kernels: true, f64: true, bf16: true, f16: true, several: false, deterministic: true,
//!     },
//!     devices: || Ok(vec![Found { name: "flex-again".into(), about: "this machine's CPU".into() }]),
//!     open: |_index| unimplemented!("open the device"),
//! } }
//! # fn main() { assert!(Backend::find("flex-again").is_ok()); }
//! ```
//!
//! Beside it, the same crate may register [kernels] for pieces of the network that run faster on its devices than
//! tensor operations do.
//!
//! A plug-in crate that is linked but never named is dropped by the linker: whoever wants one says
//! `use collimate_backend_ndarray as _;`.

pub mod kernels;
mod reading;

pub use reading::{read, read_all, readings};

use burn::tensor::Device;

/// A device that is usable on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What `--backend` takes to choose it: the backend's name, with `:index` behind it where there are several.
    pub name: String,
    /// What it is.
    pub about: String,
}

impl Found {
    /// The devices of a backend that may have several: one goes by the backend's name, more by `name:index`.
    pub fn numbered(backend: &str, abouts: impl IntoIterator<Item = String>) -> Vec<Self> {
        let abouts: Vec<String> = abouts.into_iter().collect();
        let alone = abouts.len() == 1;
        let found = abouts.into_iter().enumerate().map(|(i, about)| {
            let name = if alone { backend.to_owned() } else { format!("{backend}:{i}") };
            Self { name, about }
        });
        found.collect()
    }
}

/// What not every backend can do, as the plug-in declares it. The tests hold it against what the devices do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Pieces of the decoder run on hand-made [kernels], not as tensor operations.
    pub kernels: bool,
    /// There are tensors of f64, in which the loss of a step is then computed.
    pub f64: bool,
    /// There are tensors of bf16, with all arithmetic.
    pub bf16: bool,
    /// There are tensors of f16, with all arithmetic.
    pub f16: bool,
    /// There may be several devices, chosen as `name:0`, `name:1` …
    pub several: bool,
    /// The same run gives the same bits each time.
    pub deterministic: bool,
}

impl Capabilities {
    /// Each by the name that it is listed under, in the order in which they are listed.
    pub fn each(&self) -> [(&'static str, bool); 6] {
        let Self { kernels, f64, bf16, f16, several, deterministic } = *self;
        [
            ("hand-made kernels", kernels),
            ("loss in f64", f64),
            ("bf16", bf16),
            ("f16", f16),
            ("several devices", several),
            ("same bits each time", deterministic),
        ]
    }
}

/// A tensor backend.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// The name in configuration.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The usable backend of the lowest rank is the default.
    pub rank: u32,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The devices that are usable here, or the reason why there are none. Never panics.
    pub devices: fn() -> Result<Vec<Found>, String>,
    /// Opens the device of that index.
    pub open: fn(usize) -> Device,
}

inventory::collect!(Backend);

/// Why a device could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No backend of that name is linked.
    #[error("unknown backend \"{name}\"; this program has: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names linked, separated by commas.
        known: String,
    },
    /// The backend is linked, but not usable on this machine.
    #[error("backend \"{name}\" can't be used here: {reason}")]
    Unusable {
        /// The name asked for.
        name: String,
        /// The backend's own reason.
        reason: String,
    },
    /// The backend is usable, but has no device of that index.
    #[error("backend \"{name}\" has no device {index}; there are: {known}")]
    NoDevice {
        /// The backend's name.
        name: String,
        /// The index asked for.
        index: String,
        /// The devices found, separated by commas.
        known: String,
    },
}

impl Backend {
    /// All backends linked into this program, in order of rank.
    pub fn all() -> Vec<&'static Backend> {
        let mut all: Vec<_> = inventory::iter::<Backend>.into_iter().collect();
        all.sort_by_key(|b| (b.rank, b.name));
        all
    }

    /// The backend of that name.
    ///
    /// # Errors
    /// [`Error::Unknown`], with the names that are linked.
    pub fn find(name: &str) -> Result<&'static Backend, Error> {
        let all = Self::all();
        all.iter().find(|b| b.name == name).copied().ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            known: all.iter().map(|b| b.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Opens a device by name: `flex`, or `cuda:1` for the second of several.
    ///
    /// # Errors
    /// If no such backend is linked, it is not usable here, or it lacks that device.
    pub fn device(name: &str) -> Result<Device, Error> {
        let (backend, index) = name.split_once(':').map_or((name, "0"), |(b, i)| (b, i));
        let backend = Self::find(backend)?;
        let found = (backend.devices)().map_err(|reason| Error::Unusable { name: backend.name.to_owned(), reason })?;
        match index.parse::<usize>() {
            Ok(i) if i < found.len() => Ok((backend.open)(i)),
            _ => Err(Error::NoDevice {
                name: backend.name.to_owned(),
                index: index.to_owned(),
                known: found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The usable backend of the lowest rank.
    pub fn preferred() -> Option<&'static Backend> {
        Self::all().into_iter().find(|b| (b.devices)().is_ok_and(|d| !d.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    inventory::submit! { Backend {
        name: "absent",
        about: "never usable",
        rank: 99,
        capabilities: Capabilities {
            kernels: false, f64: false, bf16: false, f16: false, several: true, deterministic: false,
        },
        devices: || Err("no such hardware".into()),
        open: |_| unreachable!("it has no device"),
    } }

    #[test]
    fn faults_are_named() {
        let said = Backend::device("nope").unwrap_err().to_string();
        assert_eq!(said, "unknown backend \"nope\"; this program has: absent");
        let said = Backend::device("absent").unwrap_err().to_string();
        assert_eq!(said, "backend \"absent\" can't be used here: no such hardware");
        assert!(Backend::preferred().is_none());
    }

    #[test]
    fn devices_are_numbered_where_there_are_several() {
        let names = |n: usize| {
            let found = Found::numbered("gpu", (0..n).map(|i| format!("card {i}")));
            found.into_iter().map(|f| f.name).collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["gpu"]);
        assert_eq!(names(3), ["gpu:0", "gpu:1", "gpu:2"]);
    }
}

//! What makes the book and checks it: equations tied to code and tests, a page for each method, every key.
//!
//! `collimate-docs` writes all made parts of `docs/src` and the equations that rustdoc shows; the test of this crate
//! fails where they differ from what it would write. `finish` and `check` are of the built site.

pub mod equations;
pub mod figures;
pub mod generate;
pub mod math;
pub mod methods;
pub mod plot;
pub mod reference;
pub mod site;

use std::path::PathBuf;

/// The repository's root, when run by cargo.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("../..")
}

/// A page of the book, whose Rust is run.
#[cfg(doctest)]
macro_rules! page {
    ($path:literal) => {
        const _: () = {
            #[doc = include_str!(concat!("../../../docs/src/", $path))]
            #[allow(dead_code)]
            struct Page;
        };
    };
}

#[cfg(doctest)]
include!("pages.rs");
#[cfg(doctest)]
const _: () = {
    #[doc = include_str!("../../../README.md")]
    #[allow(dead_code)]
    struct Readme;
};

//! Preference data: files to pairs to tokens.
//!
//! [`load`] reads preference data in any of the known [formats](Format), tokenises it with the [`Tokenizer`] of a
//! checkpoint under explicit [`Options`], and returns a [`Dataset`] together with a [`Report`] of everything that was
//! left out, cut or merged on the way. Nothing is lost without a line in the report, and by default nothing is lost:
//! the first row that cannot be used as it is stops the run with an [`Error`] that names file, row and field.

mod bounded;
mod card;
mod columnar;
mod dataset;
mod encode;
mod error;
mod folder;
mod format;
pub mod hub;
pub mod inspect;
mod load;
pub mod options;
mod pages;
mod prompts;
mod quiet;
pub mod report;
mod source;
mod template;
mod tokenizer;

pub use dataset::{Dataset, Lengths};
pub use encode::{Tokens, template_path};
pub use error::{Error, Place};
pub use format::{Example, Row};
pub use inspect::{Inspection, inspect};
pub use load::{Progress, load, load_with, read};
pub use options::{Dirt, Format, Options};
pub use prompts::{Prompt, prompts};
pub use report::Report;
pub use source::Source;
pub use template::{ChatTemplate, Rendered};
pub use tokenizer::{DecodeStream, Special, Tokenizer};

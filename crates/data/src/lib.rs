//! Preference and supervised data: files to rows to tokens.
//!
//! [`load`] reads preference data in any of the known [formats](Format), tokenises it with the [`Tokenizer`] of a
//! checkpoint under explicit [`Options`], and returns a [`Dataset`] together with a [`Report`] of everything that was
//! left out, cut or merged on the way; [`load_lessons`] does the same with rows of which one side is learnt. Nothing is lost without a line in the report, and by default nothing is lost:
//! the first row that cannot be used as it is stops the run with an [`Error`] that names file, row and field.

mod bounded;
mod card;
mod classes;
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

pub use dataset::{Dataset, Lengths, LessonLengths, Lessons, Record};
pub use encode::{Lesson, Rated, Tokens, template_path};
pub use error::{Error, Place};
pub use format::{Example, Row};
pub use inspect::{Inspection, inspect};
pub use load::{Progress, load, load_among, load_lessons, load_with, read};
pub use options::{Dirt, Format, Options, Task};
pub use prompts::{Answer, Prompt, prompts};
pub use report::Report;
pub use source::Source;
pub use template::{ChatTemplate, Rendered};
pub use tokenizer::{DecodeStream, Special, Tokenizer};

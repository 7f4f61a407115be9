//! What can go wrong with data, said so that the row can be found and mended.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::options::Dirt;

/// Where a row came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// 1-based: the line in JSONL, the element in a JSON array, the record in Parquet.
    pub row: usize,
}

impl Place {
    /// Row `row` (1-based) of `file`.
    pub fn new(file: &Path, row: usize) -> Self {
        Self { file: file.to_owned(), row }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, row {}", self.file.display(), self.row)
    }
}

/// Everything this crate refuses. Each message is one paragraph that names the file, the row, the field and what was
/// expected, as far as they apply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file or folder could not be opened, read, written or renamed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: "open", "read", "write".
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not what its content or its options say.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A row that is not a JSON object.
    #[error("{place}: not a JSON object: {message} ({})", Dirt::MalformedRow.hint())]
    Json {
        /// The row.
        place: Place,
        /// The reason, with its place inside the row.
        message: String,
    },
    /// A row of another kind of file (CSV, Parquet, Arrow) that cannot be read, or is too large.
    #[error("{place}: {message} ({})", Dirt::MalformedRow.hint())]
    Malformed {
        /// The row.
        place: Place,
        /// What it is, and what was expected.
        message: String,
    },
    /// A row that lacks a field.
    #[error("{place}: no field `{field}`; {expected}; the row has {} ({})", list(found), Dirt::MissingField.hint())]
    MissingField {
        /// The row.
        place: Place,
        /// The field that is missing.
        field: String,
        /// What the format asks for.
        expected: String,
        /// The fields that the row has.
        found: Vec<String>,
    },
    /// A row that the policies refuse.
    #[error("{place}: field `{field}`: {message}{}", hint(*dirt))]
    Row {
        /// The row.
        place: Place,
        /// The field.
        field: String,
        /// What was found and what was expected.
        message: String,
        /// The kind of dirt, where a policy exists for it.
        dirt: Option<Dirt>,
    },
    /// A chat template that does not compile, or refuses a conversation.
    #[error(
        "chat template{}: {message}{}",
        place.as_ref().map(|p| format!(", {p}")).unwrap_or_default(),
        hint(place.as_ref().map(|_| Dirt::RefusedByTemplate))
    )]
    Template {
        /// The row that was rendered, if one was.
        place: Option<Place>,
        /// The engine's reason, or the template's own.
        message: String,
    },
    /// The first row that the policies refuse, and how many others of its file they would.
    #[error("{first}; {others}")]
    Dirty {
        /// The first.
        first: Box<Error>,
        /// What else is in the file, and what leaves all of it out.
        others: String,
    },
    /// Workers that read together, and don't do the same.
    #[error(transparent)]
    Workers(#[from] collimate_workers::Error),
    /// A key of [`Options`](crate::Options) with a value outside its range.
    #[error("data option `{key}`: {message}")]
    Option {
        /// The key.
        key: &'static str,
        /// The rule.
        message: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), message: message.into() }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "no fields at all".to_owned(),
        _ => names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
    }
}

fn hint(dirt: Option<Dirt>) -> String {
    dirt.map(|d| format!(" ({})", d.hint())).unwrap_or_default()
}

//! What can be wrong with a study.

use std::io;
use std::path::{Path, PathBuf};

/// A fault, in words for whoever wrote the study or gave its files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of the study's file, or a combination of keys.
    #[error("{0}")]
    Key(String),
    /// A file that can't be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of another form than expected.
    #[error("{path}, line {line}: {what}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A command of the study that failed.
    #[error("{name}: `{command}` failed: {said}")]
    Child {
        /// The stage or cell.
        name: String,
        /// What was run.
        command: String,
        /// What it said of it.
        said: String,
    },
    /// A signal came; the same command goes on.
    #[error("stopped; {done} of {cells} cells are finished")]
    Stopped {
        /// Cells that are finished.
        done: usize,
        /// All cells.
        cells: usize,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

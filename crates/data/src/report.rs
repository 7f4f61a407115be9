//! What loading did, in numbers: nothing is lost without a line here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::options::{Dirt, Format, Task};

/// What loading did with the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What rows were made into: what `pairs` below counts.
    pub task: Task,
    /// The files read, in order.
    pub files: Vec<FileReport>,
    /// Files of a folder that were not read (other splits, other types).
    pub files_not_read: Vec<PathBuf>,
    /// Rows read.
    pub rows: usize,
    /// Blank lines between rows.
    pub blank_lines: usize,
    /// Pairs tokenised and kept, each source counted once.
    pub pairs: usize,
    /// Pairs in one epoch, after the weights of the sources.
    pub pairs_per_epoch: usize,
    /// Columns that no format uses, with the number of rows that had them.
    pub columns_not_read: BTreeMap<String, usize>,
    /// Columns that `columns` renames, and no row had.
    pub columns_not_found: BTreeSet<String>,
    /// The dirt found, by kind.
    pub dirt: BTreeMap<Dirt, DirtReport>,
    /// Pairs tokenised with the completion apart from the prompt (`boundary = "separate"`).
    pub boundary_separate: usize,
    /// Pairs whose boundary moved back to the last common token (`boundary = "merge"`).
    pub boundary_merged: usize,
    /// Prompt tokens that moved over into the completions by it.
    pub boundary_tokens_moved: usize,
    /// Pairs of which the prompt was cut.
    pub prompts_truncated: usize,
    /// Completions (chosen and rejected counted apart) that were cut.
    pub completions_truncated: usize,
    /// Tokens lost by cutting prompts.
    pub prompt_tokens_lost: usize,
    /// Tokens lost by cutting completions.
    pub completion_tokens_lost: usize,
    /// Tokens, EOS included, of the pairs that were left out for length (`overlong = "drop"`).
    pub tokens_dropped: usize,
    /// Prompts that began with BOS themselves, where a second one was not added.
    pub bos_not_doubled: usize,
    /// Completions that began with BOS, which was left out.
    pub bos_left_out: usize,
    /// Completions that ended with EOS themselves, where a second one was not added.
    pub eos_not_doubled: usize,
    /// Completions without EOS at their end: the chat template writes none, or they were cut.
    pub completions_without_eos: usize,
    /// Tokens kept.
    pub tokens: TokenTotals,
    /// Taken from the cache of an earlier run.
    pub from_cache: bool,
}

/// One file of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its format; none where it had no rows.
    pub format: Option<Format>,
    /// Rows read.
    pub rows: usize,
    /// Pairs kept.
    pub pairs: usize,
}

/// One kind of dirt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DirtReport {
    /// Rows that had it.
    pub found: usize,
    /// Rows left out for it. A row with several kinds is left out for the first of them.
    pub dropped: usize,
    /// The first rows that had it: file and 1-based row.
    pub examples: Vec<(PathBuf, usize)>,
    /// What is wrong with the first of them.
    pub first: String,
}

/// Token counts over what was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenTotals {
    /// In prompts, each pair's counted once.
    pub prompt: u64,
    /// In chosen completions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chosen: u64,
    /// In rejected completions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: u64,
    /// In what lessons teach, masked tokens included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub completion: u64,
    /// Of the longest prompt + completion.
    pub longest: usize,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Report {
    /// Rows left out, for whatever reason.
    pub fn dropped(&self) -> usize {
        self.dirt.values().map(|d| d.dropped).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.task.units();
        for file in &self.files {
            let format = file.format.map_or("no rows", Format::name);
            writeln!(f, "{}: {format}, {} rows, {} {units}", file.path.display(), file.rows, file.pairs)?;
        }
        write!(f, "{} rows, {} {units}", self.rows, self.pairs)?;
        if self.pairs_per_epoch != self.pairs {
            write!(f, ", {} per epoch by weight", self.pairs_per_epoch)?;
        }
        let t = self.tokens;
        write!(f, "; {} prompt, ", t.prompt)?;
        match self.task {
            Task::Align | Task::Reward => write!(f, "{} chosen, {} rejected", t.chosen, t.rejected)?,
            Task::Sft => write!(f, "{} completion", t.completion)?,
        }
        write!(f, " tokens, longest {}", t.longest)?;
        if self.from_cache {
            write!(f, " (from the cache)")?;
        }
        for (dirt, d) in &self.dirt {
            write!(f, "\n{}: {} rows, {} dropped", dirt.words(), d.found, d.dropped)?;
            if let Some((_, row)) = d.examples.first() {
                write!(f, " (first: row {row}: {})", d.first)?;
            }
        }
        let lines: [(usize, &str); 13] = [
            (self.boundary_separate, "pairs tokenised apart from their prompt"),
            (self.boundary_merged, "pairs whose boundary moved to the last common token"),
            (self.boundary_tokens_moved, "prompt tokens moved into the completions"),
            (self.prompts_truncated, "prompts truncated"),
            (self.prompt_tokens_lost, "prompt tokens lost"),
            (self.completions_truncated, "completions truncated"),
            (self.completion_tokens_lost, "completion tokens lost"),
            (self.tokens_dropped, "tokens in the pairs dropped for length"),
            (self.bos_not_doubled, "prompts had BOS already"),
            (self.bos_left_out, "completions began with BOS, which was left out"),
            (self.eos_not_doubled, "completions had EOS already"),
            (self.completions_without_eos, "completions end without EOS"),
            (self.blank_lines, "blank lines"),
        ];
        for (n, words) in lines.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, "\n{n} {words}")?;
        }
        if !self.columns_not_read.is_empty() {
            let names: Vec<_> = self.columns_not_read.iter().map(|(c, n)| format!("{c} ({n})")).collect();
            write!(f, "\ncolumns not read (rows): {}", names.join(", "))?;
        }
        if !self.columns_not_found.is_empty() {
            let names: Vec<_> = self.columns_not_found.iter().map(String::as_str).collect();
            write!(f, "\ncolumns to rename that no row has: {}", names.join(", "))?;
        }
        if !self.files_not_read.is_empty() {
            let names: Vec<_> = self.files_not_read.iter().map(|p| p.display().to_string()).collect();
            write!(f, "\nfiles not read: {}", names.join(", "))?;
        }
        Ok(())
    }
}

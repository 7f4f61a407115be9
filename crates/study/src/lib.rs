//! Studies: a grid of alignment runs from one policy on one set of pairs, measured on held-out prompts.
//!
//! [`Plan`] reads a study's file, [`run`] runs its commands, [`Results`] holds what the measurements say, with intervals,
//! and [`report`] draws and tells it; [`curves`] draws what any runs have measured. Nothing here trains: each run is a command of its own.

pub mod curves;
mod error;
pub mod figures;
pub mod plan;
pub mod predictions;
pub mod report;
pub mod results;
pub mod run;
pub mod samples;
pub mod statistics;

pub use error::Error;
pub use plan::{Analysis, Cell, Generation, Method, Plan, Vocabulary};
pub use results::Results;
pub use run::{Host, Step, Steps};

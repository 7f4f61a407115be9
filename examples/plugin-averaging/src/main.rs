//! `collimate` with one more averaging operator: linking the crate is all it takes.

use std::process::ExitCode;

use discounted_averaging as _;

fn main() -> ExitCode {
    collimate::cli::main()
}

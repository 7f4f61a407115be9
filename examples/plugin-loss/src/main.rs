//! `collimate` with one more loss: linking the crate is all it takes.

use std::process::ExitCode;

use exponential_loss as _;

fn main() -> ExitCode {
    collimate::cli::main()
}

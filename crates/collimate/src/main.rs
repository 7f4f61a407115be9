//! The `collimate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    collimate::cli::main()
}

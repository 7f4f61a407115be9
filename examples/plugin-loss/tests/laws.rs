//! The laws of the whole project, over what this crate adds as well.

use exponential_loss as _;

#[path = "../../../tests/laws.rs"]
mod laws;

fn main() {
    laws::main();
}

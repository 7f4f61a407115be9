//! The laws of the whole project, over what this crate adds as well.

use discounted_averaging as _;

#[path = "../../../tests/laws.rs"]
mod laws;

fn main() {
    laws::main();
}

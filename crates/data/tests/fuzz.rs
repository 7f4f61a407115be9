//! The fuzzer's targets without the fuzzer: its seeds, and a fixed series of changes to them.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

#[path = "../../../tests/fuzz/src/lib.rs"]
mod targets;

/// One change: what stands between two places, replaced by a piece of another seed or a byte.
type Change = (Index, usize, Index, Index, usize, Option<u8>);

fn changed(seeds: &[Vec<u8>], first: Index, changes: &[Change]) -> Vec<u8> {
    let mut bytes = first.get(seeds).clone();
    for (at, length, other, from, n, byte) in changes {
        let at = at.index(bytes.len() + 1);
        let end = (at + length).min(bytes.len());
        let other = other.get(seeds);
        let from = from.index(other.len() + 1);
        let piece = match byte {
            Some(byte) => vec![*byte],
            None => other[from..(from + n).min(other.len())].to_vec(),
        };
        bytes.splice(at..end, piece);
    }
    bytes
}

fn feed(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 3, "{} seeds for {target}", seeds.len());
    seeds.iter().for_each(|seed| run(seed));
    let change = (any::<Index>(), 0..6_usize, any::<Index>(), any::<Index>(), 0..24_usize, any::<Option<u8>>());
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(&(any::<Index>(), vec(change, 1..6)), |(first, changes)| {
            run(&changed(&seeds, first, &changes));
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{target}: {e}"));
}

#[test]
fn rows() {
    feed("rows", targets::rows);
}

#[test]
fn templates() {
    feed("templates", targets::templates);
}

#[test]
fn configuration() {
    feed("configuration", targets::configuration);
}

#[test]
fn columnar() {
    feed("columnar", targets::columnar);
}

#[test]
fn tokenizer() {
    feed("tokenizer", targets::tokenizer);
}

//! The look at data before training.

mod common;

use collimate_data::{Dirt, Options, Tokenizer, inspect};
use common::{byte_tokenizer, file, shared};

#[test]
fn hh_rlhf_has_its_length_bias() {
    let Some(data) = shared() else { return };
    let source = [data.join("hh-rlhf/derived/helpful_standard.jsonl.gz").into()];
    let seen = inspect(&source, None, &Options::default(), 1).unwrap();
    // The figures stand in STATS.json beside the data, made by a Python script.
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(data.join("STATS.json")).unwrap()).unwrap();
    let stats = &stats["hh-helpful derived standard"];
    let close = |got: f64, key: &str| {
        let expected = stats[key].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{key}: {got}, expected {expected}");
    };
    close(seen.report.pairs as f64, "rows");
    close(seen.chosen.mean, "mean_chars_chosen");
    close(seen.rejected.mean, "mean_chars_rejected");
    close(seen.chosen_longer, "frac_chosen_longer");
    close(seen.equally_long, "frac_equal_length");
    assert_eq!(seen.unit, "characters");

    let tokenizer = Tokenizer::from_folder(&data.join("stories260k-hf")).unwrap();
    let options = Options { max_length: Some(512), ..Options::default() };
    let seen = inspect(&source, Some(&tokenizer), &options, 3).unwrap();
    assert_eq!((seen.unit, seen.samples.len(), seen.report.pairs), ("tokens", 3, 2339));
    assert_eq!(seen.chosen.bins.iter().sum::<usize>(), 2339);
    let (max, overlong) = seen.overlong.unwrap();
    assert!(max == 512 && overlong > 0 && overlong < 2339, "{overlong}");
}

#[test]
fn dirt_is_counted_not_refused() {
    let Some(data) = shared() else { return };
    let raw = [data.join("hh-rlhf/helpful-base-test.jsonl.gz").into()];
    let seen = inspect(&raw, None, &Options::default(), 0).unwrap();
    let found = |dirt: Dirt| seen.report.dirt[&dirt].found;
    assert_eq!([Dirt::DifferingPrompts, Dirt::IdenticalPair, Dirt::EmptyRejected].map(found), [9, 2, 4]);
    let text = seen.terminal(false);
    assert!(text.contains("prompts that differ: 9 rows") && text.contains("differing_prompts"), "{text}");
    // tinystories merges across the boundary, which `error` would refuse.
    let tokenizer = Tokenizer::from_folder(&data.join("tinystories-656k-bf16")).unwrap();
    let short = [data.join("hh-rlhf/derived/helpful_standard_short300.jsonl").into()];
    let seen = inspect(&short, Some(&tokenizer), &Options::default(), 0).unwrap();
    assert_eq!(seen.report.dirt[&Dirt::Boundary].found, seen.report.boundary_merged);
    assert!(seen.report.boundary_merged > 290);
}

#[test]
fn what_is_scored_shows() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = [
        r#"{"prompt":"p\u001b[2J","chosen":"é","rejected":"no"}"#,
        r#"{"prompt":"<&","chosen":"a","rejected":"b"}"#,
        r#"{"prompt":"p","chosen":"","rejected":"b"}"#,
    ];
    let (_g, path) = file("pairs.jsonl", rows.join("\n"));
    let seen = inspect(&[path.into()], Some(&tokenizer), &Options::default(), 2).unwrap();
    let sample = &seen.samples[0];
    let texts = |side: &[collimate_data::inspect::Piece]| side.iter().map(|p| p.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&sample.chosen), ["", "é", "</s>"], "a character of two bytes comes with its second");
    assert!(sample.chosen.iter().all(|p| p.scored) && sample.prompt.iter().all(|p| !p.scored));
    assert_eq!((seen.report.rows, seen.report.pairs, seen.report.dirt[&Dirt::EmptyChosen].found), (3, 2, 1));
    // 3 tokens against 3, 2 against 2.
    assert_eq!((seen.chosen_longer, seen.equally_long), (0.0, 1.0));
    assert_eq!((seen.chosen.min, seen.chosen.max, seen.chosen.bin_width), (2, 3, 1));
    assert_eq!(seen.chosen.bins, [0, 0, 1, 1]);

    let coloured = seen.terminal(true);
    assert!(coloured.contains("\x1b[32m") && coloured.contains("\x1b[31m") && coloured.contains("\x1b[2m"));
    let plain = seen.terminal(false);
    assert!(!plain.contains('\x1b') && plain.contains("\\u{1b}"), "control characters are spelled out: {plain}");
    let svg = seen.svg();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<rect").count(), 1 + 2 + 2 * 2, "background, legend, and two bars for each side");
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["samples"][0]["chosen"][1]["text"], "é");
}

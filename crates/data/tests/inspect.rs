//! The look at data before training.

mod common;

use collimate_data::{Dirt, Options, Tokenizer, inspect};
use common::{byte_tokenizer, file};

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
    assert_eq!((seen.chosen_longer, seen.equally_long), (Some(0.0), Some(1.0)));
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

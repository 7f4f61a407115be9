//! Rows of `prompt`, `chosen`, `rejected` strings: the ids, and every refusal.

mod common;

use std::io::Write;

use collimate_data::options::{Overlong, Policy};
use collimate_data::{Options, Source, Tokenizer, load};
use common::{byte_tokenizer, file};

#[test]
fn bos_and_eos_stand_exactly_once() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = concat!(
        r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#,
        "\n",
        r#"{"prompt": "<s>a", "chosen": "b</s>", "rejected": "d</s></s>"}"#,
    );
    let (_g, path) = file("pairs.jsonl", rows);
    let (dataset, report) = load(&[path.into()], &tokenizer, &Options::default()).unwrap();
    let id = |c: u8| 3 + u32::from(c);
    for (pair, last) in dataset.iter().zip([b'c', b'd']) {
        assert_eq!(pair.prompt, [1, id(b'a')]);
        assert_eq!(pair.chosen, [id(b'b'), 2]);
        assert_eq!(pair.rejected, [id(last), 2]);
    }
    assert_eq!((report.bos_not_doubled, report.eos_not_doubled), (1, 2));
}

/// Templates applied to prompt, chosen and rejected one by one leave a BOS in front of each.
#[test]
fn special_tokens_in_strings_are_found_by_their_ids() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    use collimate_data::Dirt::*;
    let run = |prompt: &str, chosen: &str, rejected: &str, options: &Options| {
        let row = serde_json::json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
        let (_g, path) = file("pairs.jsonl", row.to_string());
        load(&[path.into()], &tokenizer, options)
    };
    let id = |text: &str| text.bytes().map(|b| 3 + u32::from(b)).collect::<Vec<_>>();
    for (prompt, chosen, rejected, counts) in [
        ("<s>ab", "<s>y", "<s>n", (1, 2, 0)),
        ("<s><s>ab", "y</s></s>", "n", (1, 0, 1)),
        ("ab", "<s><s>y</s>", "n", (0, 1, 1)),
    ] {
        let (set, report) = run(prompt, chosen, rejected, &Options::default()).unwrap();
        let pair = set.get(0);
        assert_eq!((pair.prompt, pair.chosen), ([vec![1], id("ab")].concat(), [id("y"), vec![2]].concat()), "{prompt}");
        assert_eq!(pair.rejected, [id("n"), vec![2]].concat());
        assert_eq!((report.bos_not_doubled, report.bos_left_out, report.eos_not_doubled), counts);
        assert!(report.dirt.is_empty(), "{report}");
    }
    for (prompt, chosen, dirt, words) in [
        (" <s>ab", "y", InnerBos, "`prompt`: <s> stands at token 3 of 5"),
        ("<s>a<s>b", "y", InnerBos, "`prompt`: <s> stands at token 3 of 4"),
        ("ab", "y<s>z", InnerBos, "`chosen`: <s> stands at token 2 of 4"),
        ("ab", "y</s>z", InnerEos, "`chosen`: </s> stands at token 2 of 4"),
        ("ab", "</s>", EmptyChosen, "`chosen`: an empty completion but for special tokens"),
        ("ab", "<s></s>", EmptyChosen, "`chosen`: an empty completion but for special tokens"),
        ("ab", "n</s>", IdenticalPair, "`rejected`: the same tokens as `chosen`"),
        ("ab", "<s>n", IdenticalPair, "`rejected`: the same tokens as `chosen`"),
    ] {
        let error = run(prompt, chosen, "n", &Options::default()).unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains(words), "{words:?} is not in {error:?}");
        let error = run(prompt, chosen, "n", &Options { dirty_rows: Policy::Drop, ..Options::default() }).unwrap_err();
        let words = format!("{}: 1 rows, 1 dropped", dirt.words());
        assert!(error.to_string().contains("no pair is left") && error.to_string().contains(&words), "{error}");
    }
    // A prompt may have turns that were written by hand, EOS and all.
    let (set, report) = run("a</s>b", "y", "n", &Options::default()).unwrap();
    assert_eq!((set.get(0).prompt, report.dirt.len()), ([vec![1], id("a"), vec![2], id("b")].concat(), 0));
}

/// What no text can tell: two characters that are one token.
#[test]
fn pairs_of_the_same_tokens_are_no_pairs() {
    let (_t, folder) = byte_tokenizer();
    let text = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    std::fs::write(folder.join("tokenizer.json"), text.replace("\"byte_fallback\":true", "\"byte_fallback\":false"))
        .unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (_g, path) = file("pairs.jsonl", r#"{"prompt": "p", "chosen": "é", "rejected": "è"}"#);
    let error = load(&[path.into()], &tokenizer, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("the same tokens as `chosen`") && error.contains("identical_pair"), "{error}");
}

#[test]
fn ids_beyond_the_models_vocabulary_are_found() {
    let (_t, folder) = byte_tokenizer();
    std::fs::write(folder.join("config.json"), r#"{"vocab_size": 100}"#).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = [GOOD, r#"{"prompt": "aaaa", "chosen": "b", "rejected": "~"}"#].join("\n");
    std::fs::write(folder.join("config.json"), r#"{"vocab_size": 110}"#).unwrap();
    let wide = Tokenizer::from_folder(&folder).unwrap();
    let (_g, path) = file("pairs.jsonl", rows);
    let run = |tokenizer, options: &Options| load(&[path.clone().into()], tokenizer, options);
    let error = run(&wide, &Options::default()).unwrap_err().to_string();
    for part in ["row 2", "`rejected`", "<0x7E>", "id 129", "the model knows 110", "unknown_id"] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    let (set, report) = run(&wide, &Options { unknown_id: Policy::Drop, ..Options::default() }).unwrap();
    assert_eq!((set.len(), report.dropped()), (1, 1));
    assert!(run(&tokenizer, &Options::default()).unwrap_err().to_string().contains("row 1"), "a is 100");
}

#[test]
fn gzip_and_zstd_and_arrays_hold_the_same_pairs() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = [r#"{"prompt":"p","chosen":"é","rejected":"n"}"#, r#"{"prompt":"q","chosen":"y\n","rejected":"z"}"#];
    let lines = rows.join("\n") + "\n";
    let gzip = |text: &str| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    let array = format!("\n [{}]\n", rows.join(",\n"));
    let forms: [(&str, Vec<u8>); 7] = [
        ("a.jsonl", lines.clone().into_bytes()),
        ("b.jsonl", lines.replace('\n', "\r\n\r\n").into_bytes()),
        ("c.jsonl.gz", gzip(&lines)),
        ("d.jsonl.zst", zstd::encode_all(lines.as_bytes(), 0).unwrap()),
        ("e.json", array.clone().into_bytes()),
        ("f.json.gz", gzip(&array)),
        ("g.jsonl", [b"\xef\xbb\xbf", lines.as_bytes()].concat()),
    ];
    let pairs = |name: &str, bytes: &[u8]| {
        let (_g, path) = file(name, bytes);
        let (dataset, _) = load(&[path.into()], &tokenizer, &Options::default()).unwrap();
        dataset.iter().map(|t| (t.prompt, t.chosen, t.rejected, t.key)).collect::<Vec<_>>()
    };
    let first = pairs(forms[0].0, &forms[0].1);
    assert_eq!(first.len(), 2);
    for (name, bytes) in &forms[1..] {
        assert_eq!(pairs(name, bytes), first, "{name}");
    }
}

/// The message that loading `rows` gives.
fn refusal(rows: &str, options: &Options) -> String {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (_g, path) = file("pairs.jsonl", rows);
    let error = load(&[path.clone().into()], &tokenizer, options).unwrap_err();
    error.to_string().replace(&path.display().to_string(), "pairs.jsonl")
}

const GOOD: &str = r#"{"prompt": "aaaa", "chosen": "b", "rejected": "c"}"#;

#[test]
fn refusals_name_file_row_and_field() {
    let default = Options::default();
    for (row, parts) in [
        (r#"{"prompt": "a", "chosen": "b"}"#, &["no field `rejected`", "`prompt`, `chosen`"][..]),
        (r#"{"prompt": "a", "chosen": "b", "#, &["not a JSON object", "EOF"]),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c"} 7"#, &["not a JSON object", "one object per line"]),
        (r#"{"prompt": "a", "chosen": "b", "chosen": "c", "rejected": "d"}"#, &["`chosen` stands twice"]),
        (r#"["a"]"#, &["not a JSON object"]),
        (r#"{"prompt": "a", "chosen": "b", "rejected": true}"#, &["`rejected`", "a string", "boolean true"]),
        (r#"{"prompt": null, "chosen": "b", "rejected": "c"}"#, &["`prompt`", "a string", "null"]),
        (r#"{"prompt": "a", "chosen": " \n", "rejected": "c"}"#, &["`chosen`", "empty completion", "empty_completion"]),
        (r#"{"prompt": "a", "chosen": "c", "rejected": "c"}"#, &["`rejected`", "same as `chosen`", "identical_pair"]),
        (r#"{"prompt": "a", "chosen": "b</s>b", "rejected": "c"}"#, &["`chosen`", "</s>", "inner_eos"]),
    ] {
        let message = refusal(&format!("{GOOD}\n\n{row}\n{GOOD}"), &default);
        assert!(message.contains("pairs.jsonl, row 3"), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
        assert!(!message.contains('\n'), "more than one paragraph: {message}");
    }
}

#[test]
fn overlong_pairs_are_an_error_unless_told_otherwise() {
    // 1 BOS + 4 bytes of prompt, 1 byte and EOS of completion: 7 tokens.
    let with = |max_length, overlong| Options { max_length: Some(max_length), overlong, ..Options::default() };
    for (max, field) in [(6, "`chosen`"), (5, "`prompt`"), (4, "`prompt`")] {
        let message = refusal(GOOD, &with(max, Overlong::Error));
        for part in ["pairs.jsonl, row 1", field, &format!("max_length is {max}"), "5 tokens of prompt"] {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
    let message = refusal(GOOD, &with(5, Overlong::TruncateCompletion));
    assert!(message.contains("`prompt`") && message.contains("no room for a completion"), "{message}");
    let message = refusal(GOOD, &with(3, Overlong::TruncatePrompt));
    assert!(message.contains("`chosen`") && message.contains("no room for a prompt"), "{message}");
    let message = refusal(GOOD, &Options { max_length: Some(1), ..Options::default() });
    assert!(message.contains("`max_length`") && message.contains("at least 2"), "{message}");
}

#[test]
fn files_that_are_not_there_or_hold_nothing() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let message =
        |path: &std::path::Path| load(&[Source::from(path)], &tokenizer, &Options::default()).unwrap_err().to_string();
    let missing = folder.join("none.jsonl");
    assert!(message(&missing).contains("none.jsonl: cannot open"), "{}", message(&missing));
    let (_g, empty) = file("empty.jsonl", "");
    assert!(message(&empty).contains("empty.jsonl: the file is empty"), "{}", message(&empty));
    let (_g, blank) = file("blank.jsonl", "\n\n");
    assert!(message(&blank).contains("no pair is left of 0 rows"), "{}", message(&blank));
    let (guard, _) = file("notes.txt", "x");
    assert!(message(guard.path()).contains("no data files here"), "{}", message(guard.path()));
    let error = Tokenizer::from_folder(guard.path()).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.json here"), "{error}");
}

#[test]
fn dropped_rows_are_counted() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = [
        GOOD,
        r#"{"prompt": "a", "chosen": "", "rejected": " "}"#,
        r#"{"prompt": "a", "chosen": "x", "rejected": "x"}"#,
        r#"{"prompt": "a", "chosen": "x", "rejected": 1}"#,
        GOOD,
    ];
    let (_g, path) = file("pairs.jsonl", rows.join("\n"));
    let options = Options {
        empty_completion: Policy::Drop,
        identical_pair: Policy::Drop,
        wrong_type: Policy::Drop,
        ..Options::default()
    };
    let (dataset, report) = load(&[path.into()], &tokenizer, &options).unwrap();
    assert_eq!((dataset.len(), report.rows, report.dropped()), (2, 5, 3));
    assert_eq!(dataset.key(0), dataset.key(1), "the key is that of the text");
    use collimate_data::Dirt::*;
    let found: Vec<_> = report.dirt.iter().map(|(kind, d)| (*kind, d.found, d.dropped)).collect();
    assert_eq!(
        found,
        [(WrongType, 1, 1), (EmptyChosen, 1, 1), (EmptyRejected, 1, 0), (IdenticalPair, 1, 1), (DuplicateRow, 1, 0),]
    );
    assert_eq!(report.rows, report.pairs + report.dropped());
}

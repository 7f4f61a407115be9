//! What the tests of this crate share.
#![allow(dead_code)] // not every test uses all of it

use std::path::{Path, PathBuf};

use collimate_data::{Error, Example, Format, Options, Report, Source, Tokenizer, inspect, load, load_lessons, read};

/// The folder of real material beside the repository, if it is there.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("COLLIMATE_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    Some(folder.join("data")).filter(|data| data.is_dir())
}

/// Writes `text` to `name` in a folder of its own.
pub fn file(name: &str, text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// A tokenizer of bytes with <unk> 0, <s> 1 and </s> 2; the byte b has id 3 + b. BOS goes before every text.
pub fn byte_tokenizer() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut vocab = serde_json::Map::new();
    for (id, token) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
        vocab.insert(token.to_owned(), id.into());
    }
    for byte in 0..256 {
        vocab.insert(format!("<0x{byte:02X}>"), (3 + byte).into());
    }
    let added: Vec<_> = ["<unk>", "<s>", "</s>"]
        .into_iter()
        .enumerate()
        .map(|(id, content)| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                               "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": false, "byte_fallback": true, "vocab": vocab,
                  "merges": []},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

/// Loads `bytes` as a file of rows, for a tokenizer of bytes: nothing may be lost without a count, and tokens keep the rules.
/// Says whether the file loads.
pub fn check(tokenizer: &Tokenizer, bytes: &[u8], options: &Options) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(seen) = inspect(&[path.clone().into()], Some(tokenizer), options, 2) {
        assert!(seen.svg().ends_with("</svg>\n"));
        assert!(!seen.terminal(false).contains('\x1b'));
        assert_eq!(seen.report.rows, seen.report.pairs + seen.report.dropped());
        assert_eq!(seen.chosen.bins.iter().sum::<usize>(), seen.report.pairs);
    }
    learn(tokenizer, &path, options);
    let options = Options { cache_dir: Some(folder.path().join("cache")), ..options.clone() };
    let (dataset, report) = match load(&[path.clone().into()], tokenizer, &options) {
        Ok(loaded) => loaded,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let left = std::fs::read_dir(folder.path().join("cache")).map_or(0, Iterator::count);
            assert!(left == 0 || error.to_string().contains("no pair is left"), "a half-written cache: {error}");
            return false;
        }
    };
    assert_eq!(report.rows, report.pairs + report.dropped());
    assert_eq!(dataset.len(), report.pairs);
    let totals =
        dataset.iter().fold((0, 0, 0), |t, p| (t.0 + p.prompt.len(), t.1 + p.chosen.len(), t.2 + p.rejected.len()));
    let told = (report.tokens.prompt as usize, report.tokens.chosen as usize, report.tokens.rejected as usize);
    assert_eq!(totals, told);
    for (i, pair) in dataset.iter().enumerate() {
        assert!(!pair.prompt.is_empty() && !pair.chosen.is_empty() && !pair.rejected.is_empty());
        let longest = pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
        assert!(options.max_length.is_none_or(|max| longest <= max), "{} tokens", longest);
        assert!(pair.chosen.iter().chain(&pair.rejected).chain(&pair.prompt).all(|id| *id < 259));
        assert_eq!(pair.chosen_mask.is_some(), options.assistant_only_loss && pair.chosen_mask.is_some());
        for (side, mask) in [(&pair.chosen, &pair.chosen_mask), (&pair.rejected, &pair.rejected_mask)] {
            if let Some(mask) = mask {
                assert_eq!(mask.len(), side.len());
            } else if matches!(report.files[0].format, Some(Format::Standard | Format::ImplicitStandard)) {
                let eos = side.iter().filter(|id| **id == 2).count();
                assert!(eos == 1 && side.last() == Some(&2) || eos == 0 && report.completions_truncated > 0);
            }
        }
        assert_eq!(dataset.lengths(i).chosen, pair.chosen.len());
    }
    let (again, second) = load(&[path.into()], tokenizer, &options).unwrap();
    assert!(second.from_cache);
    assert!(again.iter().eq(dataset.iter()));
    true
}

/// The same of the file's lessons.
fn learn(tokenizer: &Tokenizer, path: &Path, options: &Options) {
    let none = Options::default();
    let options = Options {
        identical_pair: none.identical_pair,
        identical_after_truncation: none.identical_after_truncation,
        ..options.clone()
    };
    let Ok((lessons, report)) = load_lessons(&[path.into()], tokenizer, &options) else { return };
    assert_eq!((report.rows, report.pairs), (lessons.len() + report.dropped(), lessons.len()));
    let totals = lessons.iter().fold((0, 0), |t, l| (t.0 + l.prompt.len(), t.1 + l.completion.len()));
    assert_eq!(totals, (report.tokens.prompt as usize, report.tokens.completion as usize));
    for lesson in lessons.iter() {
        assert!(!lesson.prompt.is_empty() && !lesson.completion.is_empty());
        assert!(options.max_length.is_none_or(|max| lesson.prompt.len() + lesson.completion.len() <= max));
        if let Some(mask) = &lesson.mask {
            assert_eq!(mask.len(), lesson.completion.len());
            assert!(mask.contains(&true), "nothing is learnt");
        }
    }
}

/// The examples of a file, and the report on them.
pub fn examples(path: &Path, options: &Options) -> Result<(Vec<Example>, Report), Error> {
    let mut out = Vec::new();
    let report = read(&[Source::from(path)], options, &mut |_, example| {
        out.push(example);
        Ok(())
    })?;
    Ok((out, report))
}

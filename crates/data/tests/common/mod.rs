//! What the tests of this crate share.
#![allow(dead_code)] // not every test uses all of it

use std::io::Write;
use std::path::PathBuf;

/// The folder of real material beside the repository, or None after saying that the test is skipped.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("COLLIMATE_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let data = folder.join("data");
    if data.is_dir() {
        return Some(data);
    }
    // Past the capture of test output, which eprintln! does not get by.
    let _ = writeln!(std::io::stderr(), "SKIPPED: no {} (set COLLIMATE_SHARED)", data.display());
    None
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

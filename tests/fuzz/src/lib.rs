//! What the fuzzer feeds: bytes become a file of rows and its options, a file of Arrow or Parquet, a tokenizer, a chat
//! template and its messages, or the configuration of data sets. Whatever comes, nothing may panic, hang or lose a row without a count.
//!
//! `crates/data/tests/fuzz.rs` runs the same without the fuzzer.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use collimate_data::options::{AssistantPrompt, Boundary, Duplicates, ImplicitPrompt, Overlong, Policy};
use collimate_data::{ChatTemplate, Format, Options, Row, Source, Tokenizer, load, read};
use serde_json::{Value, json};

#[path = "../../../crates/data/tests/common/mod.rs"]
mod common;

use common::check;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let (_guard, path) = common::byte_tokenizer();
    Tokenizer::from_folder(&path).expect("the tokenizer is sound")
});

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
}

/// The first bytes choose the options, the others are the file.
pub fn rows(bytes: &[u8]) {
    const HEAD: usize = 8;
    let Some((head, file)) = bytes.split_at_checked(HEAD) else { return };
    // Those are for `columnar`.
    if [&b"PAR1"[..], b"ARROW1", b"\xff\xff\xff\xff"].iter().any(|magic| file.starts_with(magic)) {
        return;
    }
    check(&TOKENIZER, file, &options(head));
}

fn options(head: &[u8]) -> Options {
    use Overlong::*;
    fn one<T: Copy>(of: &[T], byte: u8) -> T {
        of[byte as usize % of.len()]
    }
    let policy = |bit: u8| if (head[6] >> bit) & 1 == 0 { Policy::Drop } else { Policy::Error };
    let formats = [
        None,
        None,
        Some(Format::Standard),
        Some(Format::Conversational),
        Some(Format::ImplicitStandard),
        Some(Format::ImplicitConversational),
        Some(Format::Alpaca),
        Some(Format::Sharegpt),
        Some(Format::LlamafactoryV1),
        Some(Format::Axolotl),
        Some(Format::MsSwift),
        Some(Format::Openai),
        Some(Format::NemoRl),
    ];
    let templates = [
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{{ eos_token }}\
         {% endgeneration %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
        "{% for m in messages %}{{ m.content | trim }}{% endfor %}",
        "{{ messages | tojson }}{{ tools | tojson }}",
    ];
    Options {
        format: one(&formats, head[0]),
        max_length: (head[1] < 128).then_some(2 + head[1] as usize),
        overlong: one(&[Error, Drop, TruncatePrompt, TruncateCompletion, TruncateCompletionKeepEos], head[2]),
        boundary: one(&[Boundary::Error, Boundary::Separate, Boundary::Merge], head[3]),
        implicit_prompt: one(&[ImplicitPrompt::Auto, ImplicitPrompt::Turn, ImplicitPrompt::CommonPrefix], head[4]),
        duplicate_row: one(&[Duplicates::Keep, Duplicates::Drop, Duplicates::Error], head[5]),
        empty_completion: policy(0),
        empty_prompt: policy(1),
        identical_pair: policy(2),
        differing_prompts: policy(3),
        wrong_type: policy(4),
        identical_after_truncation: policy(5),
        untruncatable: policy(6),
        inner_eos: policy(7),
        chat_template: Some(one(&templates, head[7] >> 1).to_owned()),
        assistant_only_loss: head[7] & 1 == 1,
        dirty_rows: if head[7] & 64 == 0 { Policy::Error } else { Policy::Drop },
        assistant_prompt: if head[7] & 32 == 0 { AssistantPrompt::Error } else { AssistantPrompt::Continue },
        template_date: Some("2024-01-01".to_owned()),
        ..Options::default()
    }
}

/// A file of Arrow or Parquet, whatever it holds: what its readers panic at is an error here.
pub fn columnar(bytes: &[u8]) {
    if ![&b"PAR1"[..], b"ARROW1", b"\xff\xff\xff\xff"].iter().any(|magic| bytes.starts_with(magic)) {
        return;
    }
    FOLDER.with(|folder| {
        let path = folder.path().join("rows.columnar");
        std::fs::write(&path, bytes).expect("it can be written");
        let mut rows = 0;
        let options = Options { dirty_rows: Policy::Drop, ..Options::default() };
        let read = read(&[path.clone().into()], &options, &mut |_, _| {
            rows += 1;
            Ok(())
        });
        match read {
            Ok(report) => assert_eq!((report.rows, report.pairs), (rows + report.dropped(), rows)),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        std::fs::remove_file(path).expect("it is there");
    });
}

/// tokenizer.json, and after bytes 0 tokenizer_config.json and config.json: what becomes a tokenizer makes the same ids of a
/// text each time, and streams what it decodes.
pub fn tokenizer(bytes: &[u8]) {
    let mut parts = bytes.split(|b| *b == 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        if let Some(part) = parts.next() {
            std::fs::write(folder.path().join(name), part).expect("it can be written");
        }
    }
    let tokenizer = match Tokenizer::from_folder(folder.path()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for text in ["", "Hi there", "<s>a</s> é\u{1f980}\n"] {
        let Ok(ids) = tokenizer.encode(text, true) else { continue };
        assert_eq!(tokenizer.encode(text, true).ok().as_ref(), Some(&ids));
        let _ = tokenizer.special_in(text);
        let Ok(decoded) = tokenizer.decode(&ids, false) else { continue };
        let mut stream = tokenizer.decode_stream(false);
        let pieces: Result<String, _> = ids.iter().map(|id| stream.push(*id)).collect();
        if let (Ok(pieces), Ok(rest)) = (pieces, stream.finish()) {
            // A decoder that takes back what it said earlier cannot be streamed.
            if decoded.starts_with(&pieces) {
                assert_eq!(pieces + &rest, decoded, "{text:?}");
            }
        }
    }
}

/// A template, and after a byte 0 the JSON of its messages.
pub fn templates(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (template, messages) = text.split_once('\0').unwrap_or((text, ""));
    let messages: Vec<Value> = serde_json::from_str(messages).unwrap_or_else(|_| {
        vec![json!({"role": "user", "content": "q"}), json!({"role": "assistant", "content": "a"})]
    });
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let Ok(template) = ChatTemplate::new(template, special, Some("2024-01-01")) else { return };
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    for (tools, prompt) in [(None, true), (Some(&tools), false)] {
        match template.render(&messages, tools, &Row::new(), prompt) {
            Ok(rendered) => {
                let mut end = 0;
                for span in rendered.assistant {
                    assert!(span.start >= end && !rendered.text[span.clone()].is_empty(), "{span:?}");
                    end = span.end;
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// TOML or JSON of the keys about data, and after bytes 0 what a folder may say of itself: its README, `state.json` and
/// `dataset_dict.json`.
pub fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        FOLDER.with(|folder| configure(text, folder.path()));
    }
}

fn configure(text: &str, folder: &Path) {
    let mut parts = text.split('\0');
    let config = parts.next().unwrap_or_default();
    furnish(folder);
    for name in ["README.md", "state.json", "dataset_dict.json"] {
        let path = folder.join(name);
        match parts.next().filter(|text| !text.is_empty()) {
            Some(text) => std::fs::write(path, text).expect("it can be written"),
            None => drop(std::fs::remove_file(path)),
        }
    }
    let table = match toml::from_str::<toml::Table>(config) {
        Ok(table) => serde_json::to_value(table).ok(),
        Err(_) => serde_json::from_str(config).ok(),
    };
    let Some(Value::Object(mut table)) = table else { return };
    let sources = match table.remove("data") {
        Some(Value::Array(all)) => all,
        Some(one) => vec![one],
        None => vec![json!({"path": "."})],
    };
    let sources: Result<Vec<Source>, _> = sources.into_iter().map(serde_json::from_value).collect();
    let (Ok(mut sources), Ok(options)) = (sources, serde_json::from_value::<Options>(Value::Object(table))) else {
        return;
    };
    let again = serde_json::from_value::<Vec<Source>>(serde_json::to_value(&sources).expect("JSON"));
    assert_eq!(again.expect("what was written is read"), sources);
    let again = serde_json::from_value::<Options>(serde_json::to_value(&options).expect("JSON"));
    assert_eq!(again.expect("what was written is read"), options);
    // Nothing is read or written but in the folder.
    for source in &mut sources {
        let inner = folder.join(source.path.file_name().unwrap_or_default());
        source.path = if inner.exists() { inner } else { folder.to_owned() };
    }
    let template = options.chat_template.filter(|t| t.contains('{'));
    let options = Options { cache_dir: None, chat_template: template, ..options };
    if let Ok(report) = read(&sources, &options, &mut |_, _| Ok(())) {
        assert_eq!(report.rows, report.pairs + report.dropped());
    }
    match load(&sources, &TOKENIZER, &options) {
        Ok((data, report)) => {
            assert_eq!(report.rows, report.pairs + report.dropped());
            assert_eq!(data.len(), report.pairs_per_epoch);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A few rows under names that configurations speak of.
fn furnish(folder: &Path) {
    let files: [(&str, &str); 5] = [
        ("train.jsonl", r#"{"prompt": "p", "chosen": "y", "rejected": "n"}"#),
        ("test.jsonl", r#"{"question": "p", "chosen": "y", "rejected": "n", "score": 1}"#),
        (
            "en/part-1.json",
            r#"[{"prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "y"}], "rejected": [{"role": "assistant", "content": "n"}]}]"#,
        ),
        ("en/deep/part-2.jsonl", r#"{"instruction": "p", "input": "", "chosen": "y", "rejected": "n"}"#),
        ("notes.txt", "x"),
    ];
    for (name, text) in files {
        let path: PathBuf = folder.join(name);
        if !path.exists() {
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            std::fs::write(path, text).expect("it can be written");
        }
    }
}

//! Tokenizers under many configurations, against the ids that transformers 5 makes with them.

use collimate_data::Tokenizer;
use serde_json::{Value, json};

#[path = "common/mod.rs"]
mod common;

fn write(folder: &std::path::Path, name: &str, content: &Value) {
    std::fs::write(folder.join(name), content.to_string()).unwrap();
}

/// A folder with the tokenizer of the byte tests, changed by `change`.
fn changed(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, std::path::PathBuf) {
    let (guard, folder) = common::byte_tokenizer();
    let mut json: Value = serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    change(&mut json);
    write(&folder, "tokenizer.json", &json);
    (guard, folder)
}

#[test]
fn ids_are_those_of_transformers() {
    let table = include_str!("../../../tests/fixtures/tokenizers/table.json");
    let table: Value = serde_json::from_str(table).unwrap();
    let texts: Vec<_> = table["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let cases = table["cases"].as_array().unwrap();
    assert!(cases.len() > 250, "{}", cases.len());
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut tokenizer = table["bases"][case["base"].as_str().unwrap()].clone();
        if case["post_processor"] == json!(false) {
            tokenizer["post_processor"] = Value::Null;
        }
        write(folder.path(), "tokenizer.json", &tokenizer);
        write(folder.path(), "tokenizer_config.json", &case["config"]);
        write(folder.path(), "config.json", &case["model"]);
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        for (text, ids) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let got = json!(tokenizer.encode(text, true).unwrap());
            assert_eq!(got, *ids, "{text:?} under {} {} {}", case["base"], case["config"], case["model"]);
        }
        assert_eq!(tokenizer.bos_token(), case["bos"].as_str(), "{} {}", case["config"], case["model"]);
    }
}

#[test]
fn classes_that_are_not_followed_are_refused() {
    let (_g, folder) = common::byte_tokenizer();
    let names = json!({"bos_token": "<s>", "eos_token": "</s>"});
    for (class, model_type, refused) in [
        ("T5Tokenizer", "llama", true),
        ("BertTokenizerFast", "gpt2", true),
        ("T5Tokenizer", "mistral", false),
        ("T5Tokenizer", "qwen2", false),
        ("PreTrainedTokenizerFast", "llama", false),
        ("BloomTokenizerFast", "llama", false),
    ] {
        let mut config = names.clone();
        config["tokenizer_class"] = json!(class);
        write(&folder, "tokenizer_config.json", &config);
        write(&folder, "config.json", &json!({"model_type": model_type}));
        match Tokenizer::from_folder(&folder) {
            Ok(_) => assert!(!refused, "{class} of {model_type}"),
            Err(e) => {
                let said = e.to_string();
                let name = class.trim_end_matches("Fast");
                let parts = ["tokenizer_config.json: `tokenizer_class` is ", name, "PreTrainedTokenizerFast"];
                assert!(refused && parts.iter().all(|part| said.contains(part)), "{class} of {model_type}: {said}");
            }
        }
    }
    // What config.json says of the class counts where tokenizer_config.json says nothing.
    write(&folder, "tokenizer_config.json", &names);
    write(&folder, "config.json", &json!({"model_type": "llama", "tokenizer_class": "T5Tokenizer"}));
    Tokenizer::from_folder(&folder).unwrap_err();
}

#[test]
fn random_tokenizers_are_refused() {
    let (_g, folder) = changed(|json| json["model"]["dropout"] = json!(0.1));
    let said = Tokenizer::from_folder(&folder).unwrap_err().to_string();
    for part in ["tokenizer.json", "`model.dropout` is 0.1", "set it to null"] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    let (_g, folder) = changed(|json| json["model"]["dropout"] = json!(0.0));
    Tokenizer::from_folder(&folder).unwrap();
}

#[test]
fn tokenizers_that_make_their_reader_panic_are_refused() {
    let unknown = json!([{"SpecialToken": {"id": "<gone>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let (_a, post) = changed(|json| json["post_processor"]["single"] = unknown);
    let nonsense = json!({"type": "Precompiled", "precompiled_charsmap": "AAAAgP////8A"});
    let (_b, normaliser) = changed(|json| json["normalizer"] = nonsense);
    for folder in [post, normaliser] {
        let said = match Tokenizer::from_folder(&folder) {
            Err(e) => e.to_string(),
            Ok(tokenizer) => {
                tokenizer.encode("ab\u{e9}", true).map(|ids| format!("{ids:?}")).unwrap_or_else(|e| e.to_string())
            }
        };
        assert!(said.contains("tokenizer.json"), "{said}");
    }
}

#[test]
fn special_tokens_in_texts_are_found() {
    let (_g, folder) = common::byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    assert_eq!(tokenizer.special_in("a</s>b<s>").unwrap(), [2, 1]);
    assert_eq!(tokenizer.special_in("a < s > b").unwrap(), [0_u32; 0]);
    assert_eq!(tokenizer.special_in("<unk>").unwrap(), [0_u32; 0], "what is unknown is no special token of a text");
    assert!(tokenizer.is_special(2) && !tokenizer.is_special(70));
}

/// Byte fallback makes errors of all bytes in a row where one is wrong.
#[test]
fn streamed_bytes_are_the_decoded_text() {
    let (_g, folder) = changed(|json| {
        json["model"]["vocab"]["x"] = json!(259);
    });
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let byte = |b: u8| 3 + u32::from(b);
    let x = 259;
    for ids in [
        vec![x, byte(0xe2), byte(0x82), byte(0xac), x],
        vec![x, byte(0xff), x, x],
        vec![byte(0xe2), byte(0x82), byte(0xac), byte(0xff), x, byte(b'a'), x],
        vec![byte(0xe2), byte(0x82)],
        vec![byte(0xe2), x, byte(0x82), 2, x],
        vec![],
    ] {
        for skip in [true, false] {
            let mut stream = tokenizer.decode_stream(skip);
            let mut text: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
            text += &stream.finish().unwrap();
            assert_eq!(text, tokenizer.decode(&ids, skip).unwrap(), "{ids:?}");
        }
    }
}

//! Real data in the forms that it comes in, and every format by a row of its own.

mod common;

use std::path::Path;

use collimate_data::options::{ImplicitPrompt, Policy};
use collimate_data::{Dirt, Error, Example, Format, Options, Report, Row, Source, read};
use common::{file, shared};
use serde_json::{Value, json};

fn examples(path: &Path, options: &Options) -> Result<(Vec<Example>, Report), Error> {
    let mut out = Vec::new();
    let report = read(&[Source::from(path)], options, &mut |_, example| {
        out.push(example);
        Ok(())
    })?;
    Ok((out, report))
}

fn dropping() -> Options {
    Options {
        empty_completion: Policy::Drop,
        identical_pair: Policy::Drop,
        differing_prompts: Policy::Drop,
        ..Options::default()
    }
}

fn counts(report: &Report) -> Vec<(Dirt, usize, usize)> {
    report.dirt.iter().map(|(kind, d)| (*kind, d.found, d.dropped)).collect()
}

/// An hh-rlhf dialogue as the messages that it stands for.
fn dialogue(text: &str) -> Vec<(String, String)> {
    text.split("\n\nHuman:")
        .skip(1)
        .flat_map(|turn| {
            let mut said = turn.split("\n\nAssistant:");
            let user = ("user".to_owned(), said.next().unwrap_or_default().trim().to_owned());
            std::iter::once(user).chain(said.map(|t| ("assistant".to_owned(), t.trim().to_owned())))
        })
        .collect()
}

fn turns(messages: &[Value]) -> Vec<(String, String)> {
    let text = |m: &Value, key: &str| m[key].as_str().unwrap().trim().to_owned();
    messages.iter().map(|m| (text(m, "role"), text(m, "content"))).collect()
}

#[test]
fn hh_rlhf_is_the_same_in_every_form() {
    let Some(data) = shared() else { return };
    let folder = data.join("hh-rlhf");
    let load = |name: &str| examples(&folder.join(name), &dropping()).unwrap();

    let (standard, report) = load("derived/helpful_standard.jsonl.gz");
    assert_eq!((standard.len(), report.files[0].format), (2339, Some(Format::Standard)));
    assert_eq!(counts(&report), []);
    let (parquet, report) = load("derived/helpful_standard.parquet");
    assert_eq!(report.files[0].format, Some(Format::Standard));
    assert!(parquet == standard, "Parquet and JSONL differ");

    // The raw file has the same pairs, and 15 rows with dirt: 9 + 2 + 4, counted by splitting each side at the last
    // "\n\nAssistant:" in a Python script.
    let (raw, report) = load("helpful-base-test.jsonl.gz");
    assert_eq!((report.rows, report.files[0].format), (2354, Some(Format::ImplicitStandard)));
    assert_eq!(
        counts(&report),
        [(Dirt::DifferingPrompts, 9, 9), (Dirt::EmptyRejected, 4, 4), (Dirt::IdenticalPair, 2, 2)]
    );
    assert!(raw == standard, "raw and derived differ");

    let (chat, report) = load("derived/helpful_conversational.parquet");
    assert_eq!((chat.len(), report.files[0].format), (2333, Some(Format::Conversational)));
    // The conversational file was made without the 6 dialogues in which one side speaks twice.
    let alternates = |example: &&Example| {
        let Example::Plain { prompt, .. } = example else { return false };
        let speakers: Vec<_> = dialogue(prompt).into_iter().map(|(who, _)| who).collect();
        speakers.iter().enumerate().all(|(i, who)| who == ["user", "assistant"][i % 2])
    };
    let alternating: Vec<_> = standard.iter().filter(alternates).collect();
    assert_eq!(alternating.len(), 2333);
    for (chat, plain) in chat.iter().zip(alternating) {
        let (Example::Chat { prompt: p, chosen: c, rejected: r, .. }, Example::Plain { prompt, chosen, rejected }) =
            (chat, plain)
        else {
            panic!("{chat:?}\n{plain:?}");
        };
        for (side, text) in [(c, chosen), (r, rejected)] {
            let whole: Vec<_> = p.iter().chain(side).cloned().collect();
            assert_eq!(turns(&whole), dialogue(&format!("{prompt}{text}")));
        }
    }
    let (implicit, report) = load("derived/helpful_implicit_500.jsonl");
    assert_eq!(report.files[0].format, Some(Format::ImplicitConversational));
    assert_eq!(implicit.len(), 500);
    assert!(implicit == chat[..500], "implicit and explicit prompts differ");
}

#[test]
fn llama_factory_is_the_same_in_every_form() {
    let Some(data) = shared() else { return };
    let folder = data.join("llamafactory-dpo");
    let load = |name: &str| examples(&folder.join(name), &Options::default()).unwrap();
    let (sharegpt, report) = load("dpo_en_demo.json");
    assert_eq!((sharegpt.len(), report.files[0].format), (300, Some(Format::Sharegpt)));
    let (lines, report) = load("dpo_en_conversational.jsonl");
    assert_eq!(report.files[0].format, Some(Format::Conversational));
    assert!(lines == sharegpt, "JSONL and ShareGPT differ");
    let (parquet, _) = load("dpo_en_conversational.parquet");
    assert!(parquet == sharegpt, "Parquet and ShareGPT differ");
    let (first, report) = load("v1_dpo_demo.jsonl");
    assert_eq!((first.len(), report.files[0].format), (10, Some(Format::LlamafactoryV1)));
    let Example::Chat { prompt, chosen, .. } = &first[0] else { panic!() };
    assert_eq!((turns(prompt).len(), chosen.len()), (2, 1), "system and user, then the answer");
}

#[test]
fn pandalm_reports_its_empty_answers() {
    let Some(data) = shared() else { return };
    let path = data.join("pandalm/pandalm_pairs.jsonl");
    let error = examples(&path, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("empty completion") && error.contains("pandalm_pairs.jsonl, row "), "{error}");
    let (pairs, report) = examples(&path, &dropping()).unwrap();
    // 888 rows; 51 + 1 + 1 counted by a Python script, of which the last was left out for its empty side already or not.
    assert_eq!(report.dirt[&Dirt::EmptyRejected].found, 51);
    assert_eq!(report.dirt[&Dirt::EmptyChosen].found, 1);
    assert_eq!(report.rows, 888);
    assert_eq!(pairs.len() + report.dropped(), 888);
    assert_eq!(report.columns_not_read, [("agreement".to_owned(), 888), ("idx".to_owned(), 888)].into());
    assert!(report.to_string().contains("empty rejected: 51 rows"), "{report}");
}

#[test]
fn rejection_sampled_rows_load() {
    let Some(data) = shared() else { return };
    let path = data.join("hh-rlhf/helpful-rejection-sampled-test.older-revision.jsonl.gz");
    let (pairs, report) = examples(&path, &dropping()).unwrap();
    // 3 + 32, by the same Python script.
    assert_eq!(counts(&report)[..2], [(Dirt::DifferingPrompts, 3, 3), (Dirt::IdenticalPair, 32, 32)]);
    assert_eq!(pairs.len(), 2749 - 35);
}

fn one(row: Value, options: &Options) -> Result<Example, String> {
    let (_g, path) = file("rows.jsonl", row.to_string());
    let name = path.display().to_string();
    let (mut all, _) = examples(&path, options).map_err(|e| e.to_string().replace(&name, "rows.jsonl"))?;
    Ok(all.remove(0))
}

fn plain(prompt: &str, chosen: &str, rejected: &str) -> Example {
    Example::Plain { prompt: prompt.into(), chosen: chosen.into(), rejected: rejected.into() }
}

fn chat(prompt: Value, chosen: Value, rejected: Value) -> Example {
    let list = |v: Value| v.as_array().unwrap().clone();
    Example::Chat {
        prompt: list(prompt),
        chosen: list(chosen),
        rejected: list(rejected),
        tools: None,
        chat_template_kwargs: Row::new(),
    }
}

#[test]
fn implicit_prompts_are_cut_at_words() {
    let cut = |rule, a: &str, b: &str| {
        one(json!({"chosen": a, "rejected": b}), &Options { implicit_prompt: rule, ..Options::default() })
    };
    use ImplicitPrompt::{Auto, CommonPrefix, Turn};
    assert_eq!(cut(Auto, "Q: a? A: the cat", "Q: a? A: the car"), Ok(plain("Q: a? A: the", " cat", " car")));
    assert_eq!(cut(CommonPrefix, "Q: a? A: the cat", "Q: a? A: the car"), Ok(plain("Q: a? A: the ca", "t", "r")));
    assert_eq!(cut(CommonPrefix, "Q: x", "Q: y"), Ok(plain("Q:", " x", " y")));
    let (a, b) = ("\n\nHuman: h\n\nAssistant: the cat", "\n\nHuman: h\n\nAssistant: the car");
    assert_eq!(cut(Auto, a, b), Ok(plain("\n\nHuman: h\n\nAssistant:", " the cat", " the car")));
    assert_eq!(cut(Turn, a, b), cut(Auto, a, b));
    let error = cut(Turn, "x", "y").unwrap_err();
    assert!(error.contains("row 1") && error.contains("Assistant:"), "{error}");
    let error = cut(Auto, "x", "y").unwrap_err();
    assert!(error.contains("begin with the prompt") && error.contains("differing_prompts"), "{error}");
    let error = cut(Auto, a, "\n\nHuman: g\n\nAssistant: no").unwrap_err();
    assert!(error.contains("they part at character 10, \"h"), "{error}");
    // Cut inside a character of several bytes, and one side the beginning of the other.
    assert_eq!(cut(CommonPrefix, "ä ö", "ä ü"), Ok(plain("ä", " ö", " ü")));
    assert!(cut(Auto, "same. more", "same.").unwrap_err().contains("empty completion"));
}

#[test]
fn every_format_by_a_row() {
    let o = Options::default();
    let user = json!({"role": "user", "content": "q"});
    let (yes, no) = (json!({"role": "assistant", "content": "y"}), json!({"role": "assistant", "content": "n"}));
    let expected = chat(json!([user]), json!([yes]), json!([no]));

    let rows = [
        json!({"prompt": [user], "chosen": [yes], "rejected": [no]}),
        json!({"prompt": [user], "chosen": yes, "rejected": no}),
        json!({"chosen": [user, yes], "rejected": [user, no]}),
        json!({"prompt": "q", "chosen": [user, yes], "rejected": [user, no]}),
        json!({"instruction": "q", "input": "", "chosen": "y", "rejected": "n"}),
        json!({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "y"},
               "rejected": {"from": "gpt", "value": "n"}}),
        json!({"chosen_messages": [{"role": "user", "content": [{"type": "text", "value": "q"}], "loss_weight": 0},
                                   {"role": "assistant", "content": "y", "loss_weight": 1}],
               "rejected_messages": [{"role": "user", "content": "q", "loss_weight": 0},
                                     {"role": "assistant", "content": "n", "loss_weight": 1.0}]}),
    ];
    for row in rows {
        assert_eq!(one(row.clone(), &o).as_ref(), Ok(&expected), "{row}");
    }
    let alpaca = json!({"instruction": "q", "input": "i", "system": "s", "history": [["a", "b"]], "chosen": "y",
                        "rejected": "n"});
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    let prompt = json!([said("system", "s"), said("user", "a"), said("assistant", "b"), said("user", "q\ni")]);
    assert_eq!(one(alpaca, &o), Ok(chat(prompt, json!([yes]), json!([no]))));

    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let row = json!({"prompt": [user], "chosen": [yes], "rejected": [no], "tools": tools.to_string(),
                     "chat_template_kwargs": {"enable_thinking": false}});
    let Ok(Example::Chat { tools: got, chat_template_kwargs, .. }) = one(row, &o) else { panic!() };
    assert_eq!(got, Some(tools));
    assert_eq!(chat_template_kwargs["enable_thinking"], json!(false));

    let renamed = Options { columns: [("question".into(), "prompt".into())].into(), ..o.clone() };
    let row = json!({"question": "p", "chosen": "y", "rejected": "n"});
    assert_eq!(one(row, &renamed), Ok(plain("p", "y", "n")));
}

#[test]
fn refusals_of_messages_name_the_field() {
    let o = Options::default();
    let user = json!({"role": "user", "content": "q"});
    let (yes, no) = (json!({"role": "assistant", "content": "y"}), json!({"role": "assistant", "content": "n"}));
    let image = json!({"role": "user", "content": [{"type": "image"}]});
    for (row, parts) in [
        (
            json!({"prompt": [{"role": "user", "content": 3}], "chosen": [yes], "rejected": [no]}),
            ["prompt[0].content", "the number 3"],
        ),
        (json!({"prompt": [{"content": "x"}], "chosen": [yes], "rejected": [no]}), ["prompt[0].role", "a string"]),
        (json!({"prompt": [image], "chosen": [yes], "rejected": [no]}), ["prompt[0].content", "text"]),
        (json!({"prompt": [user], "chosen": "y", "rejected": [no]}), ["`chosen`", "a list of messages"]),
        (json!({"prompt": [user], "chosen": [user, yes], "rejected": [no]}), ["`chosen`", "turn of the user"]),
        (json!({"prompt": [user, yes], "chosen": [yes], "rejected": [no]}), ["`prompt`", "the assistant's"]),
        (json!({"prompt": "p", "chosen": [yes], "rejected": [no]}), ["`prompt`", "ambiguous"]),
        (json!({"prompt": "p", "instruction": "p", "chosen": "y", "rejected": "n"}), ["ambiguous", "`format`"]),
        (
            json!({"chosen": [user, yes], "rejected": [{"role": "user", "content": "other"}, no]}),
            ["message 1", "differing_prompts"],
        ),
        (
            json!({"prompt": [user], "chosen": [yes], "rejected": [{"role": "assistant", "content": " "}]}),
            ["`rejected`", "empty"],
        ),
        (json!({"prompt": [user], "chosen": [yes], "rejected": [no], "tools": "{"}), ["`tools`", "not JSON"]),
        (json!({"text": "x"}), ["no field `chosen`", "has `text`"]),
        (
            json!({"conversations": [{"from": "alien", "value": "x"}], "chosen": {"from": "gpt", "value": "y"}, "rejected": {"from": "gpt", "value": "n"}}),
            ["conversations.from", "alien"],
        ),
    ] {
        let error = one(row.clone(), &o).unwrap_err();
        assert!(error.contains("rows.jsonl, row 1"), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let forced = Options { format: Some(Format::Conversational), ..o.clone() };
    let error = one(json!({"prompt": "p", "chosen": "y", "rejected": "n"}), &forced).unwrap_err();
    assert!(error.contains("`prompt`") && error.contains("messages"), "{error}");
    let renamed = Options { columns: [("question".into(), "promt".into())].into(), ..o };
    let error = one(json!({"question": "p", "chosen": "y", "rejected": "n"}), &renamed).unwrap_err();
    assert!(error.contains("`columns`") && error.contains("promt") && error.contains("prompt"), "{error}");
}

#[test]
fn folders_are_read_by_split() {
    let row = |p: &str| json!({"prompt": p, "chosen": "y", "rejected": "n"}).to_string();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("data/train-00001-of-00002.jsonl", &row("b"));
    write("data/train-00000-of-00002.jsonl", &row("a"));
    write("data/test-00000-of-00001.jsonl", &row("c"));
    write("dataset_infos.json", "{}");
    write("README.md", "---");
    let prompts = |split: &str| {
        let options = Options { split: split.into(), ..Options::default() };
        examples(folder.path(), &options).map(|(all, report)| {
            let prompt = |e| if let Example::Plain { prompt, .. } = e { prompt } else { String::new() };
            (all.into_iter().map(prompt).collect::<String>(), report.files_not_read.len())
        })
    };
    assert_eq!(prompts("train").unwrap(), ("ab".into(), 3));
    assert_eq!(prompts("test").unwrap(), ("c".into(), 4));
    let error = prompts("validation").unwrap_err().to_string();
    assert!(error.contains("no files of the split `validation`; there are test, train (`split` chooses)"), "{error}");
}

#[test]
fn broken_files_are_named() {
    let error = |name: &str, bytes: &[u8]| {
        let (_g, path) = file(name, bytes);
        examples(&path, &Options::default()).unwrap_err().to_string()
    };
    assert!(error("a.parquet", b"PAR1 and nothing").contains("a.parquet: not a Parquet file"));
    assert!(error("e.arrow", b"ARROW1 and nothing").contains("e.arrow: not an Arrow file"));
    assert!(
        error("f.arrow", b"\xff\xff\xff\xff and nothing").contains("f.arrow: an Arrow stream without its end mark")
    );
    assert!(error("g.arrow", b"\xff\xff\xff\xff").contains("g.arrow: an Arrow stream without its end mark"));
    let ended = b"\xff\xff\xff\xff\x08\0\0\0 nothing\xff\xff\xff\xff\0\0\0\0";
    assert!(error("h.arrow", ended).contains("h.arrow: not an Arrow file"));
    assert!(error("b.jsonl.gz", b"\x1f\x8b\x08\x00 and nothing").contains("b.jsonl.gz: cannot read"));
    assert!(error("c.json", b"[{\"prompt\": \"p\",").contains("c.json, row 1: not a JSON object: EOF"));
    assert!(error("d.json", b"[3]").contains("d.json, row 1: not a JSON object"));
}

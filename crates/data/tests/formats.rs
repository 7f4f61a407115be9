//! Real data in the forms that it comes in, and every format by a row of its own.

mod common;

use std::path::Path;

use collimate_data::options::{ImplicitPrompt, Policy};
use collimate_data::{Dirt, Error, Example, Format, Options, Report, Row};
use common::{examples, file};
use serde_json::{Value, json};

fn counts(report: &Report) -> Vec<(Dirt, usize, usize)> {
    report.dirt.iter().map(|(kind, d)| (*kind, d.found, d.dropped)).collect()
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
        (json!({"prompt": "p", "chosen": [user, yes], "rejected": [user, no]}), ["`prompt`", "ambiguous"]),
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
    assert!(error.contains("`chosen`") && error.contains("messages"), "{error}");
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

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The layouts of other projects, by a row each as their documentation has it.
#[test]
fn layouts_of_other_projects() {
    let o = Options::default();
    let (user, yes, no) = (said("user", "q"), said("assistant", "y"), said("assistant", "n"));
    let expected = Ok(chat(json!([user]), json!([yes]), json!([no])));
    let side = |m: &Value| json!([user, m]);
    for row in [
        json!({"messages": [user, yes], "rejected_response": "n"}),
        json!({"messages": [user, yes], "rejected_messages": [user, no]}),
        json!({"input": {"messages": [user], "tools": [], "parallel_tool_calls": true}, "preferred_output": [yes],
               "non_preferred_output": [no]}),
        json!({"context": [user], "completions": [{"rank": 1, "completion": [no]}, {"rank": 0, "completion": [yes]}],
               "task_name": "x"}),
        json!({"messages": [user], "chosen": yes, "rejected": no}),
        json!({"instruction": "q", "input": "", "output": ["y", "n"]}),
        json!({"conversations": [user], "chosen": yes, "rejected": no}),
        json!({"dataset": "d", "chosen": side(&yes), "rejected": side(&no), "chosen_rating": 5.0}),
        // ultrafeedback_binarized: `messages` repeats `chosen`.
        json!({"prompt": "q", "messages": side(&yes), "chosen": side(&yes), "rejected": side(&no), "score_chosen": 1}),
        // A string can only be what the user said; null is as good as nothing.
        json!({"prompt": "q", "chosen": [yes], "rejected": [no]}),
        json!({"prompt": null, "chosen": side(&yes), "rejected": side(&no)}),
        // Messages as text of JSON, as CSV has to hold them.
        json!({"prompt": json!([user]).to_string(), "chosen": json!([yes]).to_string(), "rejected": no.to_string()}),
        json!({"chosen": side(&yes).to_string(), "rejected": side(&no).to_string()}),
    ] {
        assert_eq!(one(row.clone(), &o), expected, "{row}");
    }
    let refused = |row: Value, parts: &[&str]| {
        let error = one(row, &o).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    };
    refused(
        json!({"chosen_conversations": side(&yes), "rejected_conversations": side(&no)}),
        &[r#"`columns = {chosen_conversations = "chosen", rejected_conversations = "rejected"}` reads"#],
    );
    refused(
        json!({"question": "q", "response_j": "y", "response_k": "n"}),
        &[r#"`columns = {question = "prompt", response_j = "chosen", response_k = "rejected"}`"#],
    );
    refused(
        json!({"system": "s", "question": "q", "chosen_response": "y", "rejected_response": "n"}),
        &[r#"{question = "instruction", chosen_response = "chosen", rejected_response = "rejected"}"#],
    );
    refused(
        json!({"prompt": "q", "chosen": ["y"], "rejected": ["n"]}),
        &["`chosen`", "list of 1 strings", "the string"],
    );
    refused(
        json!({"context": [user], "completions": [{"rank": 0, "completion": [yes]}]}),
        &["`completions`", "two of {rank, completion}"],
    );
    refused(json!({"messages": [user], "rejected_response": "n"}), &["`messages`", "the assistant's answer"]);
    refused(
        json!({"prompt": "q", "chosen": "[{'role': 'assistant', 'content': 'y'}]", "rejected": "n"}),
        &["`chosen`", "as Python prints them", "json.dumps"],
    );
    refused(
        json!({"prompt": "q", "chosen": "[{\"role\": \"assistant\", \"content\": \"y}]", "rejected": "n"}),
        &["`chosen`", "cannot be read"],
    );
    // Text that merely begins like messages is text.
    let plain_json = json!({"prompt": "q", "chosen": "[{\"a\": 1}]", "rejected": "{x}"});
    assert_eq!(one(plain_json, &o), Ok(plain("q", "[{\"a\": 1}]", "{x}")));
}

/// Every `columns` line of a refusal reads the row that was refused.
#[test]
fn texts_that_nothing_reads_are_refused_with_what_reads_them() {
    let row = |system: Option<&str>, column: &str| {
        let mut row = json!({column: "How is it?", "chosen": "A thing.", "rejected": "A name.", "id": "x1"});
        if let Some(system) = system {
            row["system"] = system.into();
        }
        row
    };
    let columns =
        |theirs: &str, ours: &str| Options { columns: [(theirs.into(), ours.into())].into(), ..Options::default() };
    for column in ["question", "input", "what_they_asked"] {
        let error = one(row(None, column), &Options::default()).unwrap_err();
        for part in [
            &format!("`{column}`: text that nothing reads"),
            "ambiguous",
            &format!("`columns = {{{column} = \"prompt\"}}`"),
            "`format = \"implicit-standard\"`",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert_eq!(one(row(None, column), &columns(column, "prompt")), Ok(plain("How is it?", "A thing.", "A name.")));
        let error = one(row(Some("Be brief."), column), &Options::default()).unwrap_err();
        assert!(error.contains(&format!("`columns = {{{column} = \"instruction\"}}`")), "{error}");
        let expected = chat(
            json!([said("system", "Be brief."), said("user", "How is it?")]),
            json!([said("assistant", "A thing.")]),
            json!([said("assistant", "A name.")]),
        );
        assert_eq!(one(row(Some("Be brief."), column), &columns(column, "instruction")), Ok(expected));
        let forced = Options { format: Some(Format::ImplicitStandard), ..Options::default() };
        assert_eq!(one(row(None, column), &forced), Ok(plain("A", " thing.", " name.")));
    }
    // What can be no prompt, or repeats it, or stands beside hh-rlhf's turns, is no doubt.
    for more in [json!({"source": "s"}), json!({"asked": "Q: a?"}), json!({"n": 3, "none": null, "empty": " "})] {
        let mut row = json!({"chosen": "Q: a? yes", "rejected": "Q: a? no"});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(one(row.clone(), &Options::default()), Ok(plain("Q: a?", " yes", " no")), "{row}");
    }
    let turns =
        json!({"chosen": "\n\nHuman: h\n\nAssistant: y", "rejected": "\n\nHuman: h\n\nAssistant: n", "note": "x"});
    assert_eq!(one(turns, &Options::default()), Ok(plain("\n\nHuman: h\n\nAssistant:", " y", " n")));
    // A later row of the file.
    let rows = [json!({"chosen": "Q: a? yes", "rejected": "Q: a? no"}), row(None, "question")];
    let (_g, path) = file("rows.jsonl", rows.map(|r| r.to_string()).join("\n"));
    let error = examples(&path, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("row 2") && error.contains("`question`"), "{error}");
    // The system's text beside a prompt.
    let asked = json!({"system": "s", "prompt": "p", "chosen": "y", "rejected": "n"});
    let error = one(asked.clone(), &Options::default()).unwrap_err();
    assert!(error.contains("`system`") && error.contains("`columns = {prompt = \"instruction\"}`"), "{error}");
    assert!(
        matches!(one(asked.clone(), &columns("prompt", "instruction")), Ok(Example::Chat { prompt, .. }) if prompt.len() == 2)
    );
    let forced = Options { format: Some(Format::Standard), ..Options::default() };
    assert_eq!(one(asked, &forced), Ok(plain("p", "y", "n")));
    let (user, yes, no) = (said("user", "q"), said("assistant", "y"), said("assistant", "n"));
    let error = one(json!({"system": "s", "prompt": [user], "chosen": [yes], "rejected": [no]}), &Options::default());
    assert!(error.unwrap_err().contains("make it the first message"));
    let error = one(json!({"ask": "q", "chosen": [yes], "rejected": [no]}), &Options::default()).unwrap_err();
    assert!(error.contains("`columns = {ask = \"prompt\"}`"), "{error}");
}

#[test]
fn roles_of_other_projects_are_named_with_ours() {
    let user = said("user", "q");
    let yes = said("assistant", "y");
    for (role, ours) in [("model", "assistant"), ("Assistant", "assistant"), ("gpt", "assistant"), ("ai", "assistant")]
    {
        for row in [
            json!({"prompt": [user], "chosen": [said(role, "y")], "rejected": [said(role, "n")]}),
            json!({"chosen": [user, said(role, "y")], "rejected": [user, said(role, "n")]}),
            json!({"prompt": [user, said(role, "x"), user], "chosen": [yes], "rejected": [said("assistant", "n")]}),
        ] {
            let error = one(row, &Options::default()).unwrap_err();
            assert!(
                error.contains(&format!("the role {role:?}")) && error.contains(&format!("write {ours:?}")),
                "{error}"
            );
        }
    }
    let row = json!({"prompt": [said("Human", "q")], "chosen": [yes], "rejected": [said("assistant", "n")]});
    assert!(one(row, &Options::default()).unwrap_err().contains("write \"user\""));
}

#[test]
fn nulls_of_jsonl_stay() {
    let call = |arguments: Value| {
        json!([{"role": "assistant", "content": "", "name": null,
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}]}])
    };
    let tools = json!([{"function": {"name": "f", "parameters": {"default": null, "enum": ["a", null]}}}]);
    let row = json!({"prompt": [said("user", "q")], "chosen": call(json!({"day": null, "n": [null]})),
                     "rejected": call(json!({"day": 1})), "tools": tools});
    let Ok(Example::Chat { chosen, tools: got, .. }) = one(row.clone(), &Options::default()) else { panic!() };
    assert_eq!((json!(chosen), got), (row["chosen"].clone(), Some(tools)));
}

#[test]
fn empty_completions_are_found_however_they_are_written() {
    let user = said("user", "q");
    let yes = said("assistant", "y");
    let options = Options { empty_completion: Policy::Drop, ..Options::default() };
    let empty = [
        said("assistant", ""),
        said("assistant", " \u{200b}\n\u{feff}"),
        json!({"role": "assistant", "content": "", "tool_calls": []}),
        json!({"role": "assistant", "content": null, "tool_calls": []}),
        json!({"role": "assistant", "content": null}),
        json!({"role": "assistant"}),
        json!({"role": "assistant", "content": [{"type": "text", "text": " "}], "tool_calls": null}),
        json!({"role": "assistant", "content": [], "reasoning_content": ""}),
    ];
    for (n, message) in empty.iter().enumerate() {
        let row = json!({"prompt": [user], "chosen": [yes], "rejected": [message]});
        let whole = json!({"chosen": [user, yes], "rejected": [user, message]});
        for row in [row, whole] {
            let (_g, path) = file("rows.jsonl", row.to_string());
            let (pairs, report) = examples(&path, &options).unwrap();
            assert_eq!((pairs.len(), counts(&report)), (0, vec![(Dirt::EmptyRejected, 1, 1)]), "{n}: {row}");
        }
    }
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]});
    let thought = json!({"role": "assistant", "content": "", "reasoning_content": "hm"});
    for message in [call, thought] {
        one(json!({"prompt": [user], "chosen": [yes], "rejected": [message]}), &Options::default()).unwrap();
    }
    // In a prompt, and beside what says something, nothing is expected to be empty.
    let silent = json!({"role": "assistant", "content": null});
    let error =
        one(json!({"prompt": [user, silent, user], "chosen": [yes], "rejected": [said("assistant", "n")]}), &options);
    assert!(error.unwrap_err().contains("`prompt[1].content`"));
    let error = one(json!({"prompt": [user], "chosen": [yes, silent], "rejected": [said("assistant", "n")]}), &options);
    assert!(error.unwrap_err().contains("`chosen.content`"));
}

#[test]
fn files_of_other_kinds_hold_the_same_rows() {
    let expected = [plain("p, q", "y\n\"1\"", "n"), plain("q", "z", "")];
    let options = Options { empty_completion: Policy::Drop, ..Options::default() };
    for (name, text) in [
        ("a.csv", "prompt,chosen,rejected\n\"p, q\",\"y\n\"\"1\"\"\",n\n"),
        ("b.tsv", "\u{feff}rejected\tprompt\tchosen\nn\tp, q\t\"y\n\"\"1\"\"\"\n"),
        ("c.json", "{\n  \"prompt\": \"p, q\",\n  \"chosen\": \"y\\n\\\"1\\\"\",\n  \"rejected\": \"n\"\n}\n"),
        ("d.json", "\n[\n {\n  \"prompt\": \"p, q\",\n  \"chosen\": \"y\\n\\\"1\\\"\", \"rejected\": \"n\"\n }\n]"),
    ] {
        let (_g, path) = file(name, text);
        assert_eq!(examples(&path, &options).unwrap().0, expected[..1], "{name}");
    }
    let messages = json!([said("user", "q, \"r\"")]).to_string().replace('"', "\"\"");
    let answer = |text| json!([said("assistant", text)]).to_string().replace('"', "\"\"");
    let text = format!("prompt,chosen,rejected\n\"{messages}\",\"{}\",\"{}\"\n", answer("y"), answer("n"));
    let (_g, path) = file("chat.csv", text);
    let (pairs, report) = examples(&path, &options).unwrap();
    assert_eq!(report.files[0].format, Some(Format::Conversational));
    assert_eq!(
        pairs,
        [chat(json!([said("user", "q, \"r\"")]), json!([said("assistant", "y")]), json!([said("assistant", "n")]))]
    );
    let (_g, path) = file("odd.csv", "prompt,chosen,rejected\np,y\np,y,n\n");
    let error = examples(&path, &options).unwrap_err().to_string();
    assert!(error.contains("odd.csv, row 1") && error.contains("2 columns; expected the 3"), "{error}");
    let (pairs, report) = examples(&path, &Options { malformed_row: Policy::Drop, ..options }).unwrap();
    assert_eq!((pairs.len(), counts(&report)), (1, vec![(Dirt::MalformedRow, 1, 1)]));
    // Broken rows of an array or of several lines do not hide those after them.
    let drop = Options { malformed_row: Policy::Drop, ..Options::default() };
    for (name, text) in [
        ("e.json", r#"[{"prompt": x}, 3, {"prompt": "p", "chosen": "y", "rejected": "n"}]"#),
        ("f.json", "{\n\"prompt\": x}\n3\n{\n\"prompt\": \"p\",\n\"chosen\": \"y\", \"rejected\": \"n\"}"),
    ] {
        let (_g, path) = file(name, text);
        let (pairs, report) = examples(&path, &drop).unwrap();
        assert_eq!((pairs, counts(&report)), (vec![plain("p", "y", "n")], vec![(Dirt::MalformedRow, 2, 2)]), "{name}");
    }
}

#[test]
fn numbers_that_json_lacks_matter_only_where_they_are_read() {
    let rows = r#"{"prompt": "p", "chosen": "y", "rejected": "n", "score": NaN, "more": [-Infinity]}
{"prompt": NaN, "chosen": "y", "rejected": "n"}"#;
    let (_g, path) = file("rows.jsonl", rows);
    let error = examples(&path, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("row 2") && error.contains("`prompt`") && error.contains("NaN"), "{error}");
    let (pairs, report) = examples(&path, &Options { wrong_type: Policy::Drop, ..Options::default() }).unwrap();
    assert_eq!((pairs.len(), report.columns_not_read["score"]), (1, 1));
}

/// Each kind of row that can't be used stops the run, is left out by its own option, and by the one for all.
#[test]
fn one_lever_for_all_dirt() {
    let good = r#"{"prompt": "p", "chosen": "y", "rejected": "n"}"#;
    let dirty = [
        r#"{"prompt": "p", "chosen": "y"}"#,
        r#"{"prompt": "p", "chosen": "y", "rejected": "n""#,
        r#"{"prompt": "p", "chosen": "y", "rejected": "n", "x": {"a": 1, "a": 2}}"#,
        r#"{"prompt": "p", "chosen": "\ud83d", "rejected": "n"}"#,
        r#"{"prompt": "p", "chosen": ["y"], "rejected": "n"}"#,
        r#"{"prompt": "p", "chosen": "", "rejected": "n"}"#,
        r#"{"prompt": "p", "chosen": "n", "rejected": "n"}"#,
    ];
    // The first row may be the dirty one: the format is told from the first that can be read.
    let text = dirty.iter().flat_map(|row| [*row, good]).collect::<Vec<_>>().join("\n");
    let (_g, path) = file("rows.jsonl", text);
    let error = examples(&path, &Options::default()).unwrap_err().to_string();
    for part in [
        "row 1: no field `rejected`",
        "missing_field",
        "7 of the 14 rows of this file",
        "3 malformed rows",
        "1 missing fields",
        "1 wrong type",
        "1 empty chosen",
        "`dirty_rows = \"drop\"`",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    let all = Options { dirty_rows: Policy::Drop, ..Options::default() };
    let (pairs, report) = examples(&path, &all).unwrap();
    assert_eq!((pairs.len(), report.rows, report.dropped()), (7, 14, 7));
    assert_eq!(counts(&report)[..2], [(Dirt::MalformedRow, 3, 3), (Dirt::MissingField, 1, 1)]);
    let each = Options {
        malformed_row: Policy::Drop,
        missing_field: Policy::Drop,
        wrong_type: Policy::Drop,
        empty_completion: Policy::Drop,
        identical_pair: Policy::Drop,
        ..Options::default()
    };
    assert_eq!(examples(&path, &each).unwrap().1, report);
    let seen = collimate_data::inspect(&[path.into()], None, &Options::default(), 0).unwrap();
    assert_eq!((&seen.report.dirt, seen.stops.len()), (&report.dirt, 5));
    let text = seen.terminal(false);
    for part in
        ["malformed rows: 3 rows, 3 dropped (first: row 3: EOF", "training would stop at: malformed rows, missing"]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    // A file of which no row is like a known one is not a file whose rows may all be left out.
    let (_g, path) = file("other.jsonl", "{\"question\": \"q\", \"win\": \"y\", \"lose\": \"n\"}\n".repeat(3));
    let said = |error: Error| error.to_string();
    for error in [
        said(examples(&path, &all).unwrap_err()),
        said(collimate_data::inspect(&[path.into()], None, &Options::default(), 0).unwrap_err()),
    ] {
        assert!(error.contains("other.jsonl, row 1") && error.contains("win = \"chosen\""), "{error}");
    }
}

#[test]
fn rows_beyond_a_bound_are_refused_before_they_are_in_memory() {
    let long = format!("{{\"prompt\": \"{}\", \"chosen\": \"y\", \"rejected\": \"n\"}}", "a".repeat(9 << 20));
    let good = r#"{"prompt": "p", "chosen": "y", "rejected": "n"}"#;
    let gzip = |text: &str| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut out, text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    let lines = format!("{long}\n{good}");
    let array = format!("[{long}, {good}]");
    let csv = format!("prompt,chosen,rejected\n{},y,n\np,y,n\n", "a".repeat(9 << 20));
    for (name, bytes) in [
        ("a.jsonl", lines.clone().into_bytes()),
        ("b.jsonl.gz", gzip(&lines)),
        ("c.json", array.into_bytes()),
        ("d.csv", csv.into_bytes()),
    ] {
        let (_g, path) = file(name, bytes);
        let error = examples(&path, &Options::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}, row 1")) && error.contains("8 MiB"), "{error}");
        let (pairs, _) = examples(&path, &Options { dirty_rows: Policy::Drop, ..Options::default() }).unwrap();
        assert_eq!(pairs, [plain("p", "y", "n")], "{name}");
    }
}

#[test]
fn rows_of_csv_that_are_too_long_are_called_what_they_are() {
    let (good, other) = (["p", "y", "n"], ["q", "y", "n"]);
    let text = |rows: &[[&str; 3]], by: &str| rows.iter().map(|row| row.join(by) + "\n").collect::<String>();
    let (long, longer) = ("a".repeat(9 << 20), "a".repeat(17 << 20));
    let head = ["prompt", "chosen", "rejected"];
    for (name, by, kind) in [("a.csv", ",", "CSV"), ("b.tsv", "\t", "TSV")] {
        let (_g, path) = file(name, text(&[head, good, [&long, "y", "n"], other], by));
        let error = examples(&path, &Options::default()).unwrap_err().to_string();
        let said = format!("{name}, row 2: a {kind} row of 9.0 MiB; expected at most 8 MiB (`malformed_row");
        assert!(error.contains(&said) && !error.contains("JSON"), "{error}");
        let drop = Options { malformed_row: Policy::Drop, ..Options::default() };
        let (pairs, report) = examples(&path, &drop).unwrap();
        assert_eq!((pairs.len(), counts(&report)), (2, vec![(Dirt::MalformedRow, 1, 1)]));
        // The end of a row that is longer still is not looked for.
        let (_g, path) = file(name, text(&[head, good, [&longer, "y", "n"], other], by));
        let error = examples(&path, &drop).unwrap_err().to_string();
        let said = format!("{name}: row 2: a {kind} row of more than 16 MiB; expected at most 8 MiB");
        assert!(error.contains(&said) && !error.contains("malformed_row"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let writer = std::thread::spawn({
        let path = path.clone();
        move || std::fs::write(path, r#"{"prompt": "p", "chosen": "y", "rejected": "n"}"#).unwrap()
    });
    assert_eq!(examples(&path, &Options::default()).unwrap().0, [plain("p", "y", "n")]);
    writer.join().unwrap();
    let error = examples(Path::new("/dev/null"), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("/dev/null: neither a file, a folder nor a pipe"), "{error}");
}

/// The table at the end of docs/src/data.md names tests that are there.
#[test]
fn promises_have_their_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(folder.join("../../docs/src/data.md")).unwrap();
    let (_, table) = page.split_once("## What holds it to this").unwrap();
    let mut named = 0;
    for row in table.lines().filter_map(|row| row.strip_prefix("| ")?.split(" | ").nth(1)) {
        for test in row.split('`').filter(|t| t.contains("::")) {
            let (file, name) = test.split_once("::").unwrap();
            let text = std::fs::read_to_string(folder.join(format!("tests/{file}.rs"))).unwrap();
            assert!(text.contains(&format!("fn {name}(")), "{test}");
            named += 1;
        }
    }
    assert!(named > 15, "{named}");
}

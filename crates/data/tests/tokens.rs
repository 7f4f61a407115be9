//! Token ids against golden encodings, and what the policies do to them.

mod common;

use collimate_data::options::{AssistantPrompt, Boundary, Duplicates, Overlong, Policy};
use collimate_data::{Dirt, Options, Source, Tokenizer, load, load_with};
use common::{byte_tokenizer, file};
use serde_json::{Value, json};

#[test]
fn special_tokens_are_found_wherever_they_are_named() {
    let (_t, folder) = byte_tokenizer();
    std::fs::write(folder.join("generation_config.json"), r#"{"eos_token_id": [2, 0]}"#).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    assert_eq!(tokenizer.stop_ids(), [2, 0]);
    // Only ids, as in a checkpoint without tokenizer_config.json.
    std::fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.eos_token(), tokenizer.bos_id()), (Some(2), Some("</s>"), None));
    std::fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": "<nope>"}"#).unwrap();
    let error = Tokenizer::from_folder(&folder).unwrap_err().to_string();
    assert!(error.contains("`eos_token`") && error.contains("<nope>"), "{error}");
    std::fs::write(
        folder.join("tokenizer_config.json"),
        r#"{"eos_token": "</s>", "bos_token": "<s>", "add_bos_token": false}"#,
    )
    .unwrap();
    // As transformers 5 has it; tests/tokenizers.rs has a table of what it does.
    assert_eq!(
        Tokenizer::from_folder(&folder).unwrap().prefix(),
        [1],
        "the post-processor wins over the configuration"
    );
    // No EOS anywhere: data cannot be loaded.
    std::fs::write(folder.join("tokenizer_config.json"), "{}").unwrap();
    std::fs::write(folder.join("generation_config.json"), "{}").unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (_g, path) = file("a.jsonl", r#"{"prompt":"p","chosen":"a","rejected":"b"}"#);
    let error = load(&[path.into()], &tokenizer, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("eos_token"), "{error}");
}

#[test]
fn truncation_loses_what_it_reports_and_no_more() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = [
        r#"{"prompt":"abcdef","chosen":"xyz","rejected":"w"}"#,
        r#"{"prompt":"ab","chosen":"x","rejected":"w"}"#,
        r#"{"prompt":"ab","chosen":"xxxxxy","rejected":"xxxxxz"}"#,
    ];
    let (_g, path) = file("pairs.jsonl", rows.join("\n"));
    let run = |max_length, overlong, untruncatable, identical_after_truncation| {
        let options = Options {
            max_length: Some(max_length),
            overlong,
            untruncatable,
            identical_after_truncation,
            ..Options::default()
        };
        load(&[path.clone().into()], &tokenizer, &options).map_err(|e| e.to_string())
    };
    let id = |text: &str| text.bytes().map(|b| 3 + u32::from(b)).collect::<Vec<_>>();
    let (all, plain) = load(&[path.clone().into()], &tokenizer, &Options::default()).unwrap();
    assert_eq!(plain.tokens.longest, 11, "BOS, 6, 3, EOS");
    assert_eq!(all.lengths(0).chosen, 4);

    // 8 = BOS + 3 of prompt + xyz + EOS; the third pair's completions alone have 7, so 1 is left: no room.
    let (set, report) = run(8, Overlong::TruncatePrompt, Policy::Drop, Policy::Error).unwrap();
    assert_eq!(set.len(), 2);
    assert_eq!(set.get(0).prompt, [vec![1], id("def")].concat());
    assert_eq!(set.get(0).rejected, [id("w"), vec![2]].concat(), "the same prompt for both");
    assert_eq!((report.prompts_truncated, report.prompt_tokens_lost, report.completion_tokens_lost), (1, 3, 0));
    assert_eq!((report.dirt[&Dirt::Overlong].found, report.dirt[&Dirt::Untruncatable].dropped), (2, 1));

    let (set, report) = run(9, Overlong::TruncateCompletion, Policy::Error, Policy::Drop).unwrap();
    assert_eq!((set.get(0).chosen, set.get(0).rejected), (id("xy"), [id("w"), vec![2]].concat()));
    assert_eq!(
        (report.completions_truncated, report.completion_tokens_lost, report.completions_without_eos),
        (3, 4, 3)
    );
    assert_eq!(set.len(), 3, "6 of 7 tokens are left: xxxxxy and xxxxxz still differ");

    let (set, report) = run(9, Overlong::TruncateCompletionKeepEos, Policy::Error, Policy::Drop).unwrap();
    assert_eq!(set.get(0).chosen, [id("x"), vec![2]].concat());
    assert_eq!((set.len(), report.dirt[&Dirt::IdenticalAfterTruncation].dropped), (2, 1), "xxxxx both");
    assert_eq!(report.completions_without_eos, 0);
    let error = run(9, Overlong::TruncateCompletionKeepEos, Policy::Error, Policy::Error).unwrap_err();
    assert!(error.contains("row 3") && error.contains("identical_after_truncation"), "{error}");
    let error = run(7, Overlong::TruncateCompletion, Policy::Error, Policy::Error).unwrap_err();
    assert!(error.contains("row 1") && error.contains("no room for a completion"), "{error}");

    let (set, report) = run(7, Overlong::Drop, Policy::Error, Policy::Error).unwrap();
    assert_eq!((set.len(), report.dirt[&Dirt::Overlong].dropped, report.tokens_dropped), (1, 2, 11 + 10));
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}";

#[test]
fn conversations_go_through_the_template() {
    let (_t, folder) = byte_tokenizer();
    let row = json!({"prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "y"}], "rejected": [{"role": "assistant", "content": "né"}]});
    let (_g, path) = file("pairs.jsonl", row.to_string());
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let error = load(&[path.clone().into()], &tokenizer, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("row 1") && error.contains("no chat template"), "{error}");

    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (set, report) = load(&[path.clone().into()], &tokenizer, &Options::default()).unwrap();
    let id = |text: &str| text.bytes().map(|b| 3 + u32::from(b)).collect::<Vec<_>>();
    let pair = set.get(0);
    assert_eq!(pair.prompt, [vec![1], id("u:q;a:")].concat());
    assert_eq!((pair.chosen, pair.chosen_mask), ([id("y"), vec![2]].concat(), None));
    assert_eq!(pair.rejected, [id("né"), vec![2]].concat());
    assert_eq!((report.bos_not_doubled, report.completions_without_eos), (0, 0));

    // A template given in the options goes before the checkpoint's, as text or as a file, whatever it is called.
    let text = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let given = ["other.jinja", "other.j2", "other.txt", "other"].map(|name| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    });
    for template in given.into_iter().chain([text.to_owned()]) {
        let options = Options { chat_template: Some(template), ..Options::default() };
        let (set, report) = load(&[path.clone().into()], &tokenizer, &options).unwrap();
        assert_eq!((set.get(0).prompt, set.get(0).chosen), (id("q"), id("y")));
        assert_eq!(report.completions_without_eos, 2, "this template writes none");
        let options = Options { assistant_only_loss: true, ..options };
        let error = load(&[path.clone().into()], &tokenizer, &options).unwrap_err().to_string();
        assert!(error.contains("assistant_only_loss") && error.contains("generation"), "{error}");
    }
    let refusing =
        Options { chat_template: Some("{{ raise_exception('no users here') }}".into()), ..Options::default() };
    let error = load(&[path.clone().into()], &tokenizer, &refusing).unwrap_err().to_string();
    assert!(error.contains("pairs.jsonl, row 1") && error.contains("no users here"), "{error}");
    let mut replacing = Options::default();
    replacing.chat_template_kwargs.insert("messages".into(), json!([]));
    let error = load(&[path.into()], &tokenizer, &replacing).unwrap_err().to_string();
    assert!(error.contains("chat_template_kwargs") && error.contains("`messages`"), "{error}");
}

#[test]
fn templates_that_are_no_files_are_named() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (_g, path) = file("pairs.jsonl", r#"{"prompt": "p", "chosen": "y", "rejected": "n"}"#);
    let options = Options { chat_template: Some("none/chatml.j2".into()), ..Options::default() };
    let error = load(&[path.into()], &tokenizer, &options).unwrap_err().to_string();
    assert!(error.starts_with("none/chatml.j2: cannot read"), "{error}");
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// What a template would print as Python does, or leave out without a word, is refused.
#[test]
fn messages_that_a_template_does_not_know_are_refused() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let parts = json!({"role": "user", "content": [{"type": "text", "text": "q"}]});
    let (yes, no) = (said("assistant", "y"), said("assistant", "n"));
    let known = "{% for m in messages %}{% if m.role == 'user' or m.role == 'assistant' %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}";
    let by_part = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}\n{% endfor %}";
    let run = |row: Value, template: &str| {
        let (_g, path) = file("pairs.jsonl", row.to_string());
        let options = Options { chat_template: Some(template.into()), boundary: Boundary::Merge, ..Options::default() };
        load(&[path.into()], &tokenizer, &options).map(|(set, _)| set.len()).map_err(|e| e.to_string())
    };
    let refused = |row: Value, template: &str, words: &[&str]| {
        let error = run(row, template).unwrap_err();
        for part in words.iter().chain(&["row 1", "refused_by_template"]) {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    };
    let row = json!({"prompt": [parts], "chosen": [yes], "rejected": [no]});
    refused(row.clone(), known, &["content in parts", "write `content` as one string"]);
    let stripping = "{% for m in messages %}{{ m.content.strip() }}\n{% endfor %}";
    refused(row.clone(), stripping, &["`content` as one string"]);
    assert_eq!(run(row, by_part), Ok(1));

    let speech = "naïve \\ \"q\"\n🙂";
    let content = json!([{"type": "text", "text": "a"}, {"type": "text", "text": speech}]);
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties":
        {"x": {"type": "text", "text": "a"}, "type": {"type": "text"}}}}});
    let row = json!({"prompt": [{"role": "user", "content": content}], "chosen": [yes], "rejected": [no]});
    let printing = |what: &str, filter: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{{{{ {what} | tojson{filter} }}}}{{% endif %}}\n{{% endfor %}}"
        )
    };
    for what in ["m", "m.content", "m.content[1]"] {
        for filter in ["", "(indent=2)", "(ensure_ascii=true)"] {
            let said = r#"content in parts as it is, [{"type": "text", …; write `content` as one string"#;
            refused(row.clone(), &printing(what, filter), &[said]);
        }
    }
    // Tools and calls that are printed as JSON have such types and texts too.
    let all = "{{ tools | tojson }}{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}\n{% endfor %}";
    let call = json!({"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"type": "text", "x": 1, "text": speech}}}]});
    let mut calls = row;
    calls["tools"] = json!([tool]);
    calls["prompt"] = json!([{"role": "user", "content": [{"type": "text", "text": speech}]}, call, said("user", "b")]);
    assert_eq!(run(calls, all), Ok(1));

    let tool = json!({"prompt": [said("user", "q"), said("tool", "4")], "chosen": [yes], "rejected": [no]});
    refused(tool.clone(), known, &["nothing of messages of the role \"tool\""]);
    assert_eq!(run(tool, by_part), Ok(1));
    let system = json!({"prompt": [said("system", "s"), said("user", "q")], "chosen": [yes], "rejected": [no]});
    refused(system, known, &["nothing of messages of the role \"system\""]);
}

#[test]
fn strings_have_no_turns_that_could_be_scored_alone() {
    let (_t, folder) = byte_tokenizer();
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let options = Options { assistant_only_loss: true, ..Options::default() };
    for row in [json!({"prompt": "q", "chosen": "y", "rejected": "n"}), json!({"chosen": "q y", "rejected": "q n"})] {
        let (_g, path) = file("pairs.jsonl", row.to_string());
        let error = load(&[path.clone().into()], &tokenizer, &options).unwrap_err().to_string();
        assert!(error.contains("row 1: field `chosen`: a string") && error.contains("expected messages"), "{error}");
        assert_eq!(load(&[path.into()], &tokenizer, &Options::default()).unwrap().0.len(), 1);
    }
}

/// Special tokens are the template's to write.
#[test]
fn special_tokens_in_messages_are_found() {
    let (_t, folder) = byte_tokenizer();
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let run = |prompt: &str, chosen: &str| {
        let row = json!({"prompt": [said("user", prompt)], "chosen": [said("assistant", chosen)],
                         "rejected": [said("assistant", "n")]});
        let (_g, path) = file("pairs.jsonl", row.to_string());
        load(&[path.into()], &tokenizer, &Options::default()).map(|(_, report)| report).map_err(|e| e.to_string())
    };
    for (prompt, chosen, words) in [
        ("q", "y</s>", "`chosen`: the text of a message has </s>, which is EOS"),
        ("q", "Go</s> away", "`chosen`: the text of a message has </s>"),
        ("q", "<s>y", "`chosen`: the text of a message has <s>, which is BOS"),
        ("a<s>", "y", "`prompt`: the text of a message has <s>"),
        ("q", "</s>", "`chosen`: an empty completion but for special tokens"),
        ("q", "n", "same as `chosen`"),
    ] {
        let error = run(prompt, chosen).unwrap_err();
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
    let report = run("a</s>", "y").unwrap();
    assert_eq!((report.dirt[&Dirt::InnerSpecial].found, report.pairs), (1, 1), "counted, and kept");
}

#[test]
fn a_prompt_that_ends_in_the_assistants_turn_may_go_on() {
    let (_t, folder) = byte_tokenizer();
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let row = json!({"prompt": [said("user", "q"), said("assistant", "I am")],
                     "chosen": [said("assistant", " well")], "rejected": [said("assistant", " sad")]});
    let (_g, path) = file("pairs.jsonl", row.to_string());
    let run = |assistant_prompt| {
        let options = Options { assistant_prompt, ..Options::default() };
        load(&[path.clone().into()], &tokenizer, &options).map_err(|e| e.to_string())
    };
    let error = run(AssistantPrompt::Error).unwrap_err();
    assert!(error.contains("the last message is the assistant's") && error.contains("\"continue\""), "{error}");
    assert!(run(AssistantPrompt::Drop).unwrap_err().contains("1 rows, 1 dropped"));
    let (set, report) = run(AssistantPrompt::Continue).unwrap();
    let id = |text: &str| text.bytes().map(|b| 3 + u32::from(b)).collect::<Vec<_>>();
    let pair = set.get(0);
    assert_eq!(pair.prompt, [vec![1], id("u:q;a:I am")].concat());
    assert_eq!((pair.chosen, pair.rejected), ([id(" well"), vec![2]].concat(), [id(" sad"), vec![2]].concat()));
    assert_eq!(report.dirt[&Dirt::AssistantPrompt].found, 1);
}

/// One row that a template refuses, between two that it takes.
#[test]
fn rows_that_a_template_refuses_are_left_out_when_asked() {
    let (_t, folder) = byte_tokenizer();
    let template =
        "{% if messages[0].role == messages[1].role %}{{ raise_exception('roles must alternate') }}{% endif %}";
    std::fs::write(
        folder.join("chat_template.jinja"),
        format!("{{% if messages | length > 1 %}}{template}{{% endif %}}{TEMPLATE}"),
    )
    .unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let row = |prompt: Value| {
        json!({"prompt": prompt, "chosen": [said("assistant", "y")], "rejected": [said("assistant", "n")]}).to_string()
    };
    let user = said("user", "q");
    let rows = [row(json!([user])), row(json!([user, user])), row(json!([user]))].join("\n");
    let (_g, path) = file("pairs.jsonl", rows);
    let error = load(&[path.clone().into()], &tokenizer, &Options::default()).unwrap_err().to_string();
    assert!(
        error.contains("row 2") && error.contains("must alternate") && error.contains("refused_by_template"),
        "{error}"
    );
    let options = Options { refused_by_template: Policy::Drop, ..Options::default() };
    let (set, report) = load(&[path.clone().into()], &tokenizer, &options).unwrap();
    assert_eq!((set.len(), report.dirt[&Dirt::RefusedByTemplate].dropped), (2, 1));
    let seen = collimate_data::inspect(&[path.into()], Some(&tokenizer), &Options::default(), 0).unwrap();
    assert_eq!((seen.report.pairs, seen.stops), (2, vec![Dirt::RefusedByTemplate]));
}

#[test]
fn only_generation_blocks_are_scored_when_asked() {
    let (_t, folder) = byte_tokenizer();
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    let row = json!({"prompt": [said("user", "q")],
        "chosen": [said("assistant", "y"), said("user", "w"), said("assistant", "zz")],
        "rejected": [said("assistant", "n")]});
    let (guard, path) = file("pairs.jsonl", row.to_string());
    let options =
        Options { assistant_only_loss: true, cache_dir: Some(guard.path().join("cache")), ..Options::default() };
    for from_cache in [false, true] {
        let (set, report) = load(&[path.clone().into()], &tokenizer, &options).unwrap();
        assert_eq!(report.from_cache, from_cache);
        let pair = set.get(0);
        // y </s> u : w ; a : z z </s>
        let scored = [true, true, false, false, false, false, false, false, true, true, true];
        assert_eq!(pair.chosen_mask.as_deref(), Some(&scored[..]));
        assert_eq!(pair.rejected_mask, Some(vec![true, true]));
        assert!(pair.chosen.iter().all(|id| *id < 259));
    }
}

#[test]
fn the_cache_is_found_again_and_only_when_nothing_changed() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows =
        "{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"\"}\n{\"prompt\":\"p\",\"chosen\":\"é\",\"rejected\":\"b\"}";
    let (guard, path) = file("pairs.jsonl", rows);
    let cache = guard.path().join("a/b");
    let options = Options { empty_completion: Policy::Drop, cache_dir: Some(cache.clone()), ..Options::default() };
    let run = |options: &Options| {
        let mut told = Vec::new();
        let (set, report) =
            load_with::<collimate_data::Tokens>(&[path.clone().into()], &tokenizer, options, &mut |p| told.push(p))
                .unwrap();
        (set.iter().collect::<Vec<_>>(), report, told)
    };
    let (first, report, told) = run(&options);
    assert!(!report.from_cache && first.len() == 1);
    let last = told.last().unwrap();
    assert_eq!((last.bytes, last.total_bytes, last.rows, last.pairs), (rows.len() as u64, rows.len() as u64, 2, 1));
    let (second, again, told) = run(&options);
    assert!(again.from_cache && told.is_empty());
    assert_eq!(second, first);
    assert_eq!(collimate_data::Report { from_cache: false, ..again }, report, "the report is that of the first run");
    // Without a cache the tokens are the same.
    assert_eq!(run(&Options { cache_dir: None, ..options.clone() }).0, first);

    let files = || {
        let mut all: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    };
    assert_eq!(files().len(), 1, "nothing is left beside it");
    assert!(!run(&Options { max_length: Some(100), ..options.clone() }).1.from_cache, "other options");
    std::fs::write(&path, format!("{rows}\n\n")).unwrap();
    assert!(!run(&options).1.from_cache, "other data");
    assert_eq!(files().len(), 3);

    // A cut or changed file is not trusted, but written anew: its tokens, and what comes after them.
    for damage in [
        |b: &mut Vec<u8>| b[1] ^= 1,
        |b: &mut Vec<u8>| b.truncate(b.len() - 9),
        |b: &mut Vec<u8>| {
            let n = b.len();
            b[n - 100] ^= 1;
        },
    ] {
        for file in files() {
            let mut bytes = std::fs::read(&file).unwrap();
            damage(&mut bytes);
            std::fs::write(&file, bytes).unwrap();
        }
        let (pairs, report, _) = run(&options);
        assert!(!report.from_cache);
        assert_eq!(pairs, first);
        assert!(run(&options).1.from_cache);
    }

    // A run that fails leaves nothing.
    let strict = Options { empty_completion: Policy::Error, ..options };
    let before = files();
    load(&[path.clone().into()], &tokenizer, &strict).unwrap_err();
    assert_eq!(files(), before);
}

#[test]
fn weights_repeat_and_thin_out_sources() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = |tag: &str, n: usize| {
        let row = |i| format!("{{\"prompt\":\"{tag}{i}\",\"chosen\":\"a\",\"rejected\":\"b\"}}\n");
        (0..n).map(row).collect::<String>()
    };
    let (_a, first) = file("a.jsonl", rows("a", 10));
    let (_b, second) = file("b.jsonl", rows("b", 4));
    let run = |weights: [f64; 2], seed| {
        let sources =
            [(&first, weights[0]), (&second, weights[1])].map(|(p, weight)| Source { weight, ..p.clone().into() });
        let options = Options { seed, ..Options::default() };
        load(&sources, &tokenizer, &options)
    };
    let (set, report) = run([0.5, 2.25], 0).unwrap();
    assert_eq!((report.rows, report.pairs, report.pairs_per_epoch), (14, 14, 5 + 2 * 4 + 1));
    let per_file = |n| set.iter().filter(|t| t.file == n).count();
    assert_eq!((set.len(), per_file(0), per_file(1)), (14, 5, 9));
    let keys = |set: &collimate_data::Dataset| (0..set.len()).map(|i| set.key(i)).collect::<Vec<_>>();
    assert_eq!(keys(&run([0.5, 2.25], 0).unwrap().0), keys(&set), "seeded");
    assert_ne!(keys(&run([0.5, 2.25], 1).unwrap().0), keys(&set), "another seed, another half");
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        let error = run([1.0, weight], 0).unwrap_err().to_string();
        assert!(error.contains("b.jsonl: weight"), "{error}");
    }
}

#[test]
fn duplicates_by_policy() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let row = r#"{"prompt":"p","chosen":"a","rejected":"b"}"#;
    let (_g, path) = file("pairs.jsonl", format!("{row}\n{row}\n"));
    let run =
        |duplicate_row| load(&[path.clone().into()], &tokenizer, &Options { duplicate_row, ..Options::default() });
    let (kept, _) = run(Duplicates::Keep).unwrap();
    assert_eq!(kept.len(), 2);
    let copy = collimate_data::Dataset::from_tokens(kept.iter()).unwrap();
    assert!(copy.iter().eq(kept.iter()));
    let (set, report) = run(Duplicates::Drop).unwrap();
    assert_eq!((set.len(), report.dirt[&Dirt::DuplicateRow].dropped), (1, 1));
    let error = run(Duplicates::Error).unwrap_err().to_string();
    assert!(error.contains("row 2") && error.contains("duplicate_row"), "{error}");
}

#[test]
fn options_are_read_strictly() {
    let read = |toml: Value| serde_json::from_value::<Options>(toml).map_err(|e| e.to_string());
    let options = read(json!({"max_length": 512, "overlong": "truncate-prompt", "boundary": "merge"})).unwrap();
    assert_eq!(
        options,
        Options {
            max_length: Some(512),
            overlong: Overlong::TruncatePrompt,
            boundary: Boundary::Merge,
            ..Options::default()
        }
    );
    let error = read(json!({"max_lenght": 512})).unwrap_err();
    assert!(error.contains("max_lenght") && error.contains("max_length"), "{error}");
    let error = read(json!({"overlong": "truncate"})).unwrap_err();
    assert!(error.contains("truncate-prompt"), "{error}");
    let written = serde_json::to_value(&options).unwrap();
    assert_eq!(read(written).unwrap(), options);
}

//! Supervised rows: what is learnt of them, in every layout, and what of it is TRL's.

mod common;

use std::path::{Path, PathBuf};

use collimate_data::inspect::inspect_for;
use collimate_data::options::{Boundary, Duplicates, Leniency, Overlong, Policy};
use collimate_data::{
    Dirt, Error, Format, Lesson, LessonLengths, Lessons, Options, Report, Task, Tokenizer, load, load_lessons,
};
use common::{byte_tokenizer, file};
use serde_json::{Value, json};

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}\
                        {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}\
                        {% endif %};{% endfor %}{% if add_generation_prompt %}a:{% endif %}";

fn lines(rows: &[Value]) -> String {
    rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

fn chat() -> Options {
    Options { chat_template: Some(TEMPLATE.to_owned()), ..Options::default() }
}

fn learn(rows: &[Value], options: &Options) -> Result<(Lessons, Report), Error> {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (_g, path) = file("rows.jsonl", lines(rows));
    load_lessons(&[path.into()], &tokenizer, options)
}

fn refusal(rows: &[Value], options: &Options) -> String {
    learn(rows, options).unwrap_err().to_string()
}

/// Text of ids of the tokenizer of bytes: <s> is ^, </s> is $.
fn text(ids: impl IntoIterator<Item = u32>) -> String {
    ids.into_iter()
        .map(|id| ['?', '^', '$'].get(id as usize).copied().unwrap_or((id.saturating_sub(3) as u8) as char))
        .collect()
}

/// What is read, and what is learnt, with a dot for each token that is not.
fn shown(lesson: &Lesson) -> (String, String) {
    let learnt = lesson.completion.iter().enumerate();
    let learnt =
        learnt.map(|(i, id)| if lesson.mask.as_ref().is_none_or(|m| m[i]) { *id } else { 3 + u32::from(b'.') });
    (text(lesson.prompt.iter().copied()), text(learnt))
}

#[test]
fn ids_and_labels_are_those_of_trl() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let golden: Value =
        serde_json::from_slice(&std::fs::read(fixtures.join("golden-sft/lessons.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_folder(&fixtures.join("stories260k-hf")).unwrap();
    let (mut examples, mut doubled) = (0, 0);
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let ours = &case["options"];
        let options = Options {
            chat_template: golden["chat_template"].as_str().map(str::to_owned),
            // As TRL's SFTTrainer: the completion begins where the two part.
            boundary: Boundary::Merge,
            max_length: ours["max_length"].as_u64().map(|n| n as usize),
            overlong: if ours["max_length"].is_null() { Overlong::Error } else { Overlong::TruncateCompletion },
            completion_only_loss: ours["completion_only_loss"].as_bool(),
            assistant_only_loss: ours["assistant_only_loss"] == true,
            ..Options::default()
        };
        let (_g, path) = file("rows.jsonl", lines(case["rows"].as_array().unwrap()));
        let (lessons, _) = load_lessons(&[path.into()], &tokenizer, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let theirs = case["examples"].as_array().unwrap();
        assert_eq!(lessons.len(), theirs.len(), "{name}");
        for (lesson, theirs) in lessons.iter().zip(theirs) {
            let list = |key: &str| -> Vec<i64> {
                theirs[key].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
            };
            let (mut ids, mut labels) = (list("input_ids"), list("labels"));
            // TRL puts a second BOS before one that the text has.
            if ids.starts_with(&[1, 1]) {
                (ids, labels) = (ids[1..].to_vec(), labels[1..].to_vec());
                doubled += 1;
            }
            let mut ours: Vec<_> = lesson.prompt.iter().map(|id| (i64::from(*id), -100)).collect();
            ours.extend(lesson.completion.iter().enumerate().map(|(i, id)| {
                let learnt = lesson.mask.as_ref().is_none_or(|m| m[i]);
                (i64::from(*id), if learnt { i64::from(*id) } else { -100 })
            }));
            // Nothing predicts the first token: TRL shifts its label away.
            labels[0] = -100;
            let theirs: Vec<_> = ids.into_iter().zip(labels).collect();
            ours.truncate(if options.max_length.is_some() { theirs.len() } else { usize::MAX });
            assert_eq!(ours, theirs, "{name}, row {}", lesson.row);
            examples += 1;
        }
    }
    assert_eq!((examples, doubled), (49, 5));
}

/// Each layout by a row of its own: what is read, and what is learnt.
#[test]
fn every_layout_by_a_row() {
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let asked = json!([said("user", "q")]);
    let answer = json!([said("assistant", "y")]);
    let whole = json!([said("user", "q"), said("assistant", "y")]);
    let worse = json!([said("user", "q"), said("assistant", "n")]);
    let turns = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "y"}]);
    for (row, format, prompt, completion) in [
        (json!({"prompt": "q", "completion": "y"}), Format::PromptCompletion, "^q", "y$"),
        (json!({"prompt": asked, "completion": answer}), Format::PromptCompletion, "^u:q;a:", "y$;"),
        (json!({"prompt": "q", "completion": answer}), Format::PromptCompletion, "^u:q;a:", "y$;"),
        (
            json!({"prompt": asked.to_string(), "completion": answer.to_string()}),
            Format::PromptCompletion,
            "^u:q;a:",
            "y$;",
        ),
        (json!({"text": "qy"}), Format::Text, "^", "qy$"),
        (json!({"text": "<s>qy</s>"}), Format::Text, "^", "qy$"),
        (json!({"messages": whole}), Format::Messages, "^", "u:q;a:y$;"),
        (json!({"messages": turns}), Format::Messages, "^", "u:q;a:y$;"),
        (json!({"prompt": "q", "messages": whole}), Format::Messages, "^", "u:q;a:y$;"),
        (json!({"conversations": turns}), Format::Sharegpt, "^", "u:q;a:y$;"),
        (json!({"system": "s", "conversations": turns}), Format::Sharegpt, "^", "s:s;u:q;a:y$;"),
        (json!({"instruction": "q", "input": "", "output": "y"}), Format::Alpaca, "^u:q;a:", "y$;"),
        (
            json!({"instruction": "q", "input": "r", "output": "y", "system": "s", "history": [["a", "b"]]}),
            Format::Alpaca,
            "^s:s;u:a;a:b$;u:q\nr;a:",
            "y$;",
        ),
        // The chosen side of pairs.
        (json!({"prompt": "q", "chosen": "y", "rejected": "n"}), Format::Standard, "^q", "y$"),
        (json!({"prompt": "q", "chosen": "y", "rejected": "y"}), Format::Standard, "^q", "y$"),
        (json!({"prompt": "q", "chosen": "y", "rejected": ""}), Format::Standard, "^q", "y$"),
        (
            json!({"prompt": asked, "chosen": answer, "rejected": [said("assistant", "n")]}),
            Format::Conversational,
            "^u:q;a:",
            "y$;",
        ),
        (json!({"chosen": "q y", "rejected": "q n"}), Format::ImplicitStandard, "^q", " y$"),
        (json!({"chosen": whole, "rejected": worse}), Format::ImplicitConversational, "^u:q;a:", "y$;"),
        (json!({"instruction": "q", "input": "", "chosen": "y", "rejected": "n"}), Format::Alpaca, "^u:q;a:", "y$;"),
        (json!({"instruction": "q", "output": ["y", "n"]}), Format::Alpaca, "^u:q;a:", "y$;"),
        (
            json!({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "y"},
                   "rejected": {"from": "gpt", "value": "n"}}),
            Format::Sharegpt,
            "^u:q;a:",
            "y$;",
        ),
        (
            json!({"chosen_messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "value": "y"}]}],
                   "rejected_messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "n"}]}),
            Format::LlamafactoryV1,
            "^u:q;a:",
            "y$;",
        ),
        (
            json!({"messages": asked, "chosen": said("assistant", "y"), "rejected": said("assistant", "n")}),
            Format::Axolotl,
            "^u:q;a:",
            "y$;",
        ),
        (json!({"messages": whole, "rejected_response": "n"}), Format::MsSwift, "^u:q;a:", "y$;"),
        (json!({"messages": whole, "rejected_messages": worse}), Format::MsSwift, "^u:q;a:", "y$;"),
        (
            json!({"input": {"messages": asked}, "preferred_output": answer, "non_preferred_output": [said("assistant", "n")]}),
            Format::Openai,
            "^u:q;a:",
            "y$;",
        ),
        (
            json!({"context": asked, "completions": [{"rank": 1, "completion": [said("assistant", "n")]},
                                                     {"rank": 0, "completion": answer}]}),
            Format::NemoRl,
            "^u:q;a:",
            "y$;",
        ),
    ] {
        let (lessons, report) = learn(std::slice::from_ref(&row), &chat()).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!((report.files[0].format, report.pairs, report.task), (Some(format), 1, Task::Sft), "{row}");
        let lesson = lessons.get(0);
        assert_eq!(shown(&lesson), (prompt.to_owned(), completion.to_owned()), "{row}");
        let lengths = LessonLengths { prompt: lesson.prompt.len(), completion: lesson.completion.len() };
        assert_eq!((lessons.lengths(0), lessons.key(0)), (lengths, lesson.key));
        let totals = report.tokens;
        assert_eq!((totals.prompt as usize, totals.completion as usize), (lengths.prompt, lengths.completion));
        assert_eq!((totals.chosen, totals.rejected), (0, 0));
        assert!(report.to_string().contains("1 rows, 1 lessons"), "{report}");
    }
}

#[test]
fn the_two_loss_options_say_what_is_learnt() {
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let two = json!([said("user", "q"), said("assistant", "y"), said("user", "r"), said("assistant", "z")]);
    let with =
        |completion_only_loss, assistant_only_loss| Options { completion_only_loss, assistant_only_loss, ..chat() };
    let run = |row: Value, options: &Options| shown(&learn(&[row], options).unwrap().0.get(0));
    let strings = json!({"prompt": "q", "completion": "y"});
    assert_eq!(run(strings.clone(), &with(Some(true), false)), ("^q".into(), "y$".into()));
    assert_eq!(run(strings.clone(), &with(Some(false), false)), ("^".into(), "qy$".into()));
    let pair = json!({"prompt": "q", "chosen": "y", "rejected": "n"});
    assert_eq!(run(pair, &with(Some(false), false)), ("^".into(), "qy$".into()));
    let messages = json!({"messages": two});
    assert_eq!(run(messages.clone(), &with(None, true)), ("^".into(), "......y$.......z$.".into()));
    let (prompt, completion) = two.as_array().unwrap().split_at(3);
    let apart = json!({"prompt": prompt, "completion": completion});
    assert_eq!(run(apart.clone(), &with(None, true)), ("^u:q;a:y$;u:r;a:".into(), "z$.".into()));
    assert_eq!(run(apart.clone(), &with(Some(false), true)), ("^".into(), "......y$.......z$.".into()));
    assert_eq!(run(apart, &with(Some(false), false)), ("^".into(), "u:q;a:y$;u:r;a:z$;".into()));

    let said = refusal(&[messages], &with(Some(true), false));
    assert!(said.contains("row 1") && said.contains("`messages`") && said.contains("leave the key out"), "{said}");
    let said = refusal(&[strings], &with(None, true));
    assert!(said.contains("`completion`: a string") && said.contains("expected messages"), "{said}");
}

#[test]
fn rows_that_say_too_little_or_too_much_are_refused_with_what_reads_them() {
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    for (row, parts) in [
        (
            json!({"question": "q", "answer": "y"}),
            &["no field `completion`", r#"{question = "prompt", answer = "completion"}"#][..],
        ),
        (
            json!({"instruction": "q", "context": "c", "response": "y"}),
            &[r#"{response = "output", context = "input"}"#],
        ),
        (
            json!({"system_prompt": "s", "question": "q", "response": "y"}),
            &[r#"{question = "instruction", response = "output", system_prompt = "system"}"#],
        ),
        (json!({"conversation": [said("user", "q")]}), &[r#"{conversation = "messages"}"#]),
        (json!({"completion": "y"}), &["no field `prompt`", "what has no prompt is `text`"]),
        (json!({"instruction": "q", "output": "y", "text": "qy"}), &["`output`, `text`", "set `format`"]),
        (json!({"prompt": "q", "completion": "y", "label": false}), &["`label`", "good or bad"]),
        (
            json!({"prompt": "q", "completion": "y", "system": "s"}),
            &["`system`", r#"{prompt = "instruction", completion = "output"}"#],
        ),
        (json!({"text": "y", "system": "s"}), &["`system`", "beside `text`"]),
        (json!({"text": "y", "prompt": "q"}), &["`prompt`", r#"text = "completion""#]),
        (
            json!({"messages": [said("assistant", "y")], "question": "q"}),
            &["`question`", "begin with the assistant's turn"],
        ),
        (
            json!({"messages": [said("user", "q"), {"role": "assistant", "content": "y", "weight": 0}]}),
            &["`weight` of 0", "not read"],
        ),
        (json!({"messages": [said("human", "q")]}), &["write \"user\""]),
        (json!({"prompt": [said("user", "q")], "completion": [said("user", "y")]}), &["a turn of the user"]),
        (json!({"prompt": "q", "completion": 3}), &["`completion`: expected"]),
        (json!({"prompt": "q", "completion": " "}), &["`completion`: an empty completion", "empty_completion"]),
        (json!({"text": "</s>"}), &["`text`: an empty completion", "empty_completion"]),
        (json!({"messages": []}), &["`messages`: an empty completion"]),
        (json!({"text": "a<s>b"}), &["`text`: <s> stands at token 3 of 5"]),
        (json!({"prompt": "q", "completion": "y</s>z"}), &["`completion`: </s> stands at token 2 of 4"]),
        (json!({"chosen": "same", "rejected": "same"}), &["can't be told where the prompt ends"]),
    ] {
        let error = refusal(std::slice::from_ref(&row), &chat());
        for part in ["rows.jsonl, row 1"].iter().chain(parts) {
            assert!(error.contains(part), "{part:?} is not in {error:?} ({row})");
        }
    }
    // Where turns are written by hand, EOS stands between them; it is counted, and learnt.
    let (lessons, report) = learn(&[json!({"text": "ab</s>cd"})], &Options::default()).unwrap();
    assert_eq!(shown(&lessons.get(0)), ("^".into(), "ab$cd$".into()));
    assert_eq!(report.dirt[&Dirt::InnerSpecial].found, 1);
    let strict = Options { inner_special: Leniency::Error, ..Options::default() };
    assert!(refusal(&[json!({"text": "ab</s>cd"})], &strict).contains("`text`: the text has </s>"));
}

/// Nothing is accepted without effect, and each task names what it does not read.
#[test]
fn options_of_the_other_task_are_refused() {
    let rows = [json!({"prompt": "q", "chosen": "y", "rejected": "n"})];
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (_g, path) = file("rows.jsonl", lines(&rows));
    let set = |key: &str| {
        let mut table = serde_json::to_value(Options::default()).unwrap();
        table[key] = if key == "completion_only_loss" { true.into() } else { "drop".into() };
        serde_json::from_value::<Options>(table).unwrap()
    };
    for key in Task::Align.unread_options() {
        let error = load(&[path.clone().into()], &tokenizer, &set(key)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("data option `{key}`: is for supervised rows")), "{error}");
        load_lessons(&[path.clone().into()], &tokenizer, &set(key)).unwrap();
    }
    for key in Task::Sft.unread_options() {
        let error = load_lessons(&[path.clone().into()], &tokenizer, &set(key)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("data option `{key}`: is for pairs")), "{error}");
        load(&[path.clone().into()], &tokenizer, &set(key)).unwrap();
    }
    let text = Options { format: Some(Format::Text), ..Options::default() };
    let error = load(&[path.into()], &tokenizer, &text).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl: data option `format`: \"text\" is for supervised training"), "{error}");
    let (_g, path) = file("rows.jsonl", r#"{"prompt": "q", "completion": "y"}"#);
    let error = load(&[path.into()], &tokenizer, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("no field `chosen`; such rows are for supervised training"), "{error}");
}

#[test]
fn truncation_cuts_what_is_learnt_and_no_more() {
    let of = |overlong, max_length| Options { overlong, max_length: Some(max_length), ..chat() };
    let rows = [json!({"prompt": "qqqq", "completion": "yyyy"})];
    let run = |overlong, n| learn(&rows, &of(overlong, n)).map(|(l, r)| (shown(&l.get(0)), r));
    let (all, report) = run(Overlong::TruncateCompletion, 7).unwrap();
    assert_eq!(all, ("^qqqq".into(), "yy".into()));
    assert_eq!(
        (report.completions_truncated, report.completion_tokens_lost, report.completions_without_eos),
        (1, 3, 1)
    );
    assert_eq!(run(Overlong::TruncateCompletionKeepEos, 7).unwrap().0, ("^qqqq".into(), "y$".into()));
    assert_eq!(run(Overlong::TruncatePrompt, 7).unwrap().0, ("^q".into(), "yyyy$".into()));
    let error = run(Overlong::Error, 7).unwrap_err().to_string();
    assert!(error.contains("5 tokens of prompt + 5 of completion; max_length is 7"), "{error}");
    let texts = [json!({"text": "abcdef"})];
    assert_eq!(
        shown(&learn(&texts, &of(Overlong::TruncateCompletion, 4)).unwrap().0.get(0)),
        ("^".into(), "abc".into())
    );
    let error = refusal(&texts, &of(Overlong::TruncatePrompt, 4));
    assert!(error.contains("`text`: no prompt that could be cut: all of it is learnt"), "{error}");
    let error = refusal(&texts, &of(Overlong::Error, 4));
    assert!(error.contains("`text`: 8 tokens; max_length is 4"), "{error}");
    // TRL leaves such rows out without a word.
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let late = [json!({"messages": [said("user", "qqqqqqqq"), said("assistant", "y")]})];
    let options = Options { assistant_only_loss: true, ..of(Overlong::TruncateCompletion, 6) };
    let error = refusal(&late, &options);
    assert!(error.contains("`messages`: nothing of it is scored in the tokens that max_length 6 leaves"), "{error}");
    let options = Options { untruncatable: Policy::Drop, max_length: Some(8), ..options };
    let two = [late[0].clone(), json!({"messages": [said("user", ""), said("assistant", "y")]})];
    let (lessons, report) = learn(&two, &options).unwrap();
    assert_eq!((lessons.len(), report.dirt[&Dirt::Untruncatable].dropped), (1, 1));
}

/// One row, as pairs and as lessons: each from a file of its own, found again.
#[test]
fn caches_of_pairs_and_lessons_are_kept_apart() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let row = json!({"prompt": [said("user", "q")], "chosen": [said("assistant", "y")], "rejected": [said("assistant", "n")]});
    let (guard, path) = file("rows.jsonl", lines(&[row.clone(), row]));
    let cache = guard.path().join("cache");
    let options = Options { cache_dir: Some(cache.clone()), assistant_only_loss: true, ..chat() };
    let sources = [path.into()];
    let (lessons, first) = load_lessons(&sources, &tokenizer, &options).unwrap();
    let all: Vec<Lesson> = lessons.iter().collect();
    let (pairs, report) = load(&sources, &tokenizer, &options).unwrap();
    assert!(!first.from_cache && !report.from_cache);
    let (again, second) = load_lessons(&sources, &tokenizer, &options).unwrap();
    assert!(second.from_cache && again.iter().eq(all.iter().cloned()));
    assert!(load(&sources, &tokenizer, &options).unwrap().1.from_cache);
    assert_eq!((pairs.get(0).prompt, pairs.get(0).chosen), (lessons.get(0).prompt, lessons.get(0).completion));
    assert_eq!(lessons.get(0).mask, Some(vec![true, true, false]));
    assert_eq!(lessons.key(0), lessons.key(1), "the same row twice");
    // One under the other's name is not taken for it.
    let named = |end: &str| -> PathBuf {
        let all = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path());
        all.into_iter().find(|p| p.extension().is_some_and(|e| e == end)).unwrap()
    };
    let (pairs, lessons) = (named("pairs"), named("lessons"));
    std::fs::remove_file(&lessons).unwrap(); // it may still be mapped
    std::fs::copy(pairs, lessons).unwrap();
    let (fresh, third) = load_lessons(&sources, &tokenizer, &options).unwrap();
    assert!(!third.from_cache && fresh.iter().eq(all));
    let once = Options { duplicate_row: Duplicates::Drop, ..options };
    assert_eq!(load_lessons(&sources, &tokenizer, &once).unwrap().0.len(), 1);
}

/// `inspect` says of rows what training on them would.
#[test]
fn a_look_at_lessons_gives_the_verdict_of_training() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let rows = [json!({"prompt": "q", "completion": "yes"}), json!({"prompt": "r", "completion": ""})];
    let (_g, path) = file("rows.jsonl", lines(&rows));
    let sources = [path.into()];
    let look = |task, options: &Options| inspect_for(task, &sources, Some(&tokenizer), options, 1);
    for task in [None, Some(Task::Sft)] {
        let seen = look(task, &Options::default()).unwrap();
        assert_eq!((seen.report.task, seen.report.pairs), (Task::Sft, 1));
        assert_eq!((seen.completion.max, seen.prompt.max, seen.total.max), (4, 2, 6));
        assert_eq!((seen.stops.clone(), seen.chosen_longer), (vec![Dirt::EmptyCompletion], None));
        assert!(load_lessons(&sources, &tokenizer, &Options::default()).is_err());
        let shown = seen.terminal(false);
        for part in ["1 lessons", "completion (4 tokens, 4 scored)", "training would stop at: empty completion"] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        assert!(!shown.contains("chosen") && seen.svg().contains("Completion lengths of 1 lessons<"), "{shown}");
        let said = serde_json::to_value(&seen).unwrap();
        assert!(said.get("chosen").is_none() && said["samples"][0].get("rejected").is_none(), "{said}");
        assert_eq!(said["completion"]["max"], 4);
    }
    let dropping = Options { empty_completion: Policy::Drop, ..Options::default() };
    assert!(look(None, &dropping).unwrap().stops.is_empty());
    assert_eq!(load_lessons(&sources, &tokenizer, &dropping).unwrap().0.len(), 1);
    assert!(look(Some(Task::Align), &Options::default()).unwrap_err().to_string().contains("no field `chosen`"));

    let (_g, path) = file("pairs.jsonl", r#"{"prompt": "q", "chosen": "y", "rejected": "n"}"#);
    let sources = [path.into()];
    let look = |task| inspect_for(task, &sources, Some(&tokenizer), &Options::default(), 1).unwrap();
    assert_eq!(look(None).report.task, Task::Align);
    let chosen = look(Some(Task::Sft));
    assert_eq!((chosen.report.task, chosen.completion.max), (Task::Sft, 2));
}

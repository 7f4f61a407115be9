//! Whatever rows, templates and options come: no panic, nothing lost without a count, and tokens that keep the rules.
//!
//! A fixed seed, so that CI runs the same cases each time. `COLLIMATE_FUZZ_SECONDS=600 cargo test --release
//! -p collimate-data --test properties -- --nocapture` goes on with fresh seeds for that long. `tests/fuzz` holds the same
//! rules to what a fuzzer finds by coverage.

mod common;

use std::time::{Duration, Instant};

use collimate_data::options::{Boundary, Duplicates, ImplicitPrompt, Overlong, Policy};
use collimate_data::{ChatTemplate, Format, Options, Row, Tokenizer};
use common::{byte_tokenizer, check};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "[ -~]{0,12}",
        1 => ".{0,6}",
        1 => prop::sample::select(vec![
            "", " ", "\n", "</s>", "<s>", "<unk>", "\n\nAssistant:", "\n\nHuman: x", "é", "🦀", "\u{fdd0}", "\u{0}", "{{", "{%",
        ]).prop_map(str::to_owned),
    ];
    vec(part, 0..4).prop_map(|parts| parts.concat())
}

fn message() -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["user", "assistant", "system", "tool", "gpt", "human", ""]);
    (role, text(), 0..8_u8).prop_map(|(role, text, kind)| match kind {
        0 => json!({"from": role, "value": text}),
        1 => json!({"role": role, "content": [{"type": "text", "text": text}]}),
        2 => json!({"role": role, "content": null, "tool_calls": [{"function": {"name": text, "arguments": {}}}]}),
        3 => json!({"role": role, "content": [{"type": "text", "value": text}], "loss_weight": 1.0}),
        _ => json!({"role": role, "content": text}),
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
        message(),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| vec(inner, 0..4).prop_map(Value::from))
}

fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// Rows of one kind, as most files have them.
fn rows() -> impl Strategy<Value = Vec<Value>> {
    let fields =
        vec!["prompt", "chosen", "rejected", "conversations", "instruction", "tools", "chosen_messages", "idx"];
    let answer = || (text(), "[a-z]{1,3}").prop_map(|(a, b)| a + &b);
    let standard = (text(), answer(), answer()).prop_map(|(p, c, r)| json!({"prompt": p, "chosen": c, "rejected": r}));
    let implicit = (text(), answer(), answer()).prop_map(|(p, c, r)| {
        let turn = format!("\n\nHuman: {p}\n\nAssistant:");
        json!({"chosen": format!("{turn}{c}"), "rejected": format!("{turn}{r}")})
    });
    let chat = (text(), answer(), answer()).prop_map(|(p, c, r)| {
        json!({"prompt": [said("user", &p)], "chosen": [said("assistant", &c)], "rejected": [said("assistant", &r)]})
    });
    let messages = (vec(message(), 0..3), vec(message(), 0..3), vec(message(), 0..3))
        .prop_map(|(p, c, r)| json!({"prompt": p, "chosen": c, "rejected": r}));
    let shared = (vec(message(), 0..3), message(), message())
        .prop_map(|(p, c, r)| json!({"conversations": p, "chosen": c, "rejected": r}));
    let lessons = prop_oneof![
        (text(), answer()).prop_map(|(p, c)| json!({"prompt": p, "completion": c})),
        text().prop_map(|t| json!({"text": t})),
        vec(message(), 0..4).prop_map(|m| json!({"messages": m})),
    ];
    let wild = vec((prop::sample::select(fields), value()), 0..6)
        .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()));
    prop_oneof![
        4 => vec(standard, 0..12),
        2 => vec(implicit, 0..12),
        4 => vec(chat, 0..12),
        1 => vec(messages, 0..4),
        1 => vec(shared, 0..4),
        1 => vec(prop_oneof![wild, value()], 0..4),
        3 => vec(lessons, 0..6),
    ]
}

/// Rows, how they are laid out in the file, and bytes to damage it with.
fn files() -> impl Strategy<Value = Vec<u8>> {
    (rows(), 0..6_u8, vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)).prop_map(|(rows, layout, damage)| {
        let lines: Vec<_> = rows.iter().map(Value::to_string).collect();
        let mut bytes = match layout {
            0 => format!("[{}]", lines.join(",")).into_bytes(),
            1 => zstd::encode_all(lines.join("\n").as_bytes(), 1).unwrap(),
            2 => lines.join("\r\n\n").into_bytes(),
            _ => lines.join("\n").into_bytes(),
        };
        // Mostly whole files: damage is caught early and hides what comes after.
        if layout >= 4 {
            for (at, byte) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
        }
        bytes
    })
}

fn template() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{% for m in messages %}",
        "{% endfor %}",
        "{{ m.content }}",
        "{{ m['role'] }}",
        "{{ bos_token }}",
        "{{ eos_token }}",
        "{% generation %}",
        "{%- endgeneration -%}",
        "{% if m.role == 'user' %}",
        "{% else %}",
        "{% endif %}",
        "{{ messages | tojson(indent=1) }}",
        "{{ m.content.strip().split('a')[-1] }}",
        "{{ strftime_now('%Y %q') }}",
        "{{ raise_exception('no') }}",
        "{% break %}",
        "{# c #}",
        "{% set ns = namespace(a=1) %}",
        "{{ messages[0]['content'][::-1] }}",
        "x\n  ",
        "{% macro f(a) %}{{ a }}{% endmacro %}",
        "{{ 1 / 0 }}",
        "{{ 'a' * 99 }}",
        "{{ range(9) | list }}",
        "{{",
        "%}",
    ]);
    prop_oneof![
        20 => Just("{{ bos_token }}{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}".to_owned()),
        3 => vec(piece, 0..10).prop_map(|p| p.concat()),
        1 => ".{0,40}",
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let policy = || prop_oneof![1 => Just(Policy::Error), 12 => Just(Policy::Drop)];
    use Overlong::*;
    let overlong =
        prop::sample::select(vec![Error, Drop, TruncatePrompt, TruncateCompletion, TruncateCompletionKeepEos]);
    let boundary = prop::sample::select(vec![Boundary::Error, Boundary::Separate, Boundary::Merge]);
    let implicit = prop::sample::select(vec![ImplicitPrompt::Auto, ImplicitPrompt::Turn, ImplicitPrompt::CommonPrefix]);
    let duplicates = prop::sample::select(vec![Duplicates::Keep, Duplicates::Drop, Duplicates::Error]);
    let formats =
        vec![Format::Standard, Format::Conversational, Format::ImplicitStandard, Format::Alpaca, Format::Sharegpt];
    let format = prop_oneof![12 => Just(None), 1 => prop::sample::select(formats).prop_map(Some)];
    (
        (
            prop_oneof![3 => Just(None), 2 => (0..60_usize).prop_map(Some)],
            overlong,
            boundary,
            implicit,
            duplicates,
            format,
        ),
        (policy(), policy(), policy(), policy(), policy(), policy(), policy(), policy()),
        (template(), prop::bool::weighted(0.05), any::<u64>()),
    )
        .prop_map(|(a, p, t)| Options {
            max_length: a.0,
            overlong: a.1,
            boundary: a.2,
            implicit_prompt: a.3,
            duplicate_row: a.4,
            format: a.5,
            empty_completion: p.0,
            empty_prompt: p.1,
            identical_pair: p.2,
            differing_prompts: p.3,
            wrong_type: p.4,
            identical_after_truncation: p.5,
            untruncatable: p.6,
            inner_eos: p.7,
            chat_template: Some(t.0),
            assistant_only_loss: t.1,
            seed: t.2,
            ..Options::default()
        })
}

fn hunt(runner: &mut TestRunner, tokenizer: &Tokenizer) -> (usize, usize) {
    let (mut cases, mut loaded) = (0, 0);
    let counts = std::cell::RefCell::new((&mut cases, &mut loaded));
    runner
        .run(&(files(), options()), |(bytes, options)| {
            let ok = check(tokenizer, &bytes, &options);
            let mut counts = counts.borrow_mut();
            *counts.0 += 1;
            *counts.1 += usize::from(ok);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    runner
        .run(&(template(), vec(value(), 0..3)), |(template, messages)| {
            if let Ok(template) = ChatTemplate::new(&template, [("eos_token", "</s>")], Some("2024-01-01"))
                && let Ok(rendered) = template.render(&messages, None, &Row::new(), true)
            {
                for span in rendered.assistant {
                    prop_assert!(!rendered.text[span].is_empty());
                }
            }
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    (cases, loaded)
}

#[test]
fn nothing_panics_and_nothing_is_lost() {
    let (_t, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let config = |cases| Config { cases, failure_persistence: None, ..Config::default() };
    let fixed = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let (cases, loaded) = hunt(&mut TestRunner::new_with_rng(config(400), fixed), &tokenizer);
    assert!(loaded * 5 > cases, "only {loaded} of {cases} cases load: too few to learn from");
    let Ok(seconds) = std::env::var("COLLIMATE_FUZZ_SECONDS") else { return };
    let until = Instant::now() + Duration::from_secs(seconds.parse().expect("COLLIMATE_FUZZ_SECONDS is a number"));
    let (mut cases, mut loaded) = (0, 0);
    while Instant::now() < until {
        let (c, l) = hunt(&mut TestRunner::new(config(200)), &tokenizer);
        (cases, loaded) = (cases + c, loaded + l);
    }
    println!("{cases} files, {loaded} of them loaded, and as many templates; no panic");
}

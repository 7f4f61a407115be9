//! Chat templates against renders made by transformers 5.23.

mod common;

use collimate_data::{ChatTemplate, Row};
use common::shared;
use serde_json::{Value, json};

#[test]
fn renders_are_those_of_transformers() {
    let Some(data) = shared() else { return };
    let golden = std::fs::read(data.join("chat-templates/golden_renders_shared.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let special = ["bos_token", "eos_token", "unk_token", "pad_token"];
    let special = special.map(|name| (name, golden["context"][name].as_str().unwrap()));
    let (mut texts, mut spans, mut errors, mut wrong) = (0, 0, 0, Vec::new());
    for case in golden["renders"].as_array().unwrap() {
        let name = format!("{} {} {}", case["template"], case["conversation"], case["add_generation_prompt"]);
        let source = std::fs::read_to_string(data.join(case["template"].as_str().unwrap())).unwrap();
        // The golden file was rendered on this day.
        let template = ChatTemplate::new(&source, special, Some("2026-11-22")).unwrap();
        let messages = golden["conversations"][case["conversation"].as_str().unwrap()].as_array().unwrap();
        let rendered = template.render(messages, None, &Row::new(), case["add_generation_prompt"] == json!(true));
        match (rendered, &case["text"], &case["error"]) {
            (Err(_), Value::Null, Value::String(_)) => errors += 1,
            (Ok(r), Value::String(text), Value::Null) if r.text == *text => {
                texts += 1;
                if let Some(expected) = case["assistant_char_spans"].as_array() {
                    // Golden spans count characters, ours bytes.
                    let chars = |byte: usize| r.text[..byte].chars().count();
                    let got: Vec<_> = r.assistant.iter().map(|s| json!([chars(s.start), chars(s.end)])).collect();
                    if got == *expected {
                        spans += 1;
                    } else {
                        wrong.push(format!("{name}: spans {got:?}, expected {expected:?}"));
                    }
                }
            }
            (got, ..) => wrong.push(format!("{name}: {got:?}, expected {} {}", case["text"], case["error"])),
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    // 155 + 149 texts, 149 of them with spans, and 14 errors stand in the file.
    assert_eq!((texts, spans, errors), (304, 149, 14));
}

fn render(template: &str, messages: Value) -> Result<String, String> {
    let template =
        ChatTemplate::new(template, [("eos_token", "</s>")], Some("2024-07-26")).map_err(|e| e.to_string())?;
    let rendered = template.render(messages.as_array().unwrap(), None, &Row::new(), false);
    rendered.map(|r| r.text).map_err(|e| e.to_string())
}

/// Expected values are what jinja2 3.1.6 prints under transformers' settings.
#[test]
fn python_in_templates() {
    let messages = json!([{"role": "user", "content": " a<b>\u{e9}'\n", "n": [1, 2.0, null, true], "d": {"k": "v"}}]);
    for (template, expected) in [
        ("{{ messages[0].content.strip().upper() }}", "A<B>É'"),
        ("{{ messages[0].content.split('<')[-1] }}", "b>é'\n"),
        (
            "{{ messages[0] | tojson }}",
            "{\"role\": \"user\", \"content\": \" a<b>é'\\n\", \"n\": [1, 2.0, null, true], \"d\": {\"k\": \"v\"}}",
        ),
        ("{{ messages[0].d | tojson(indent=2) }}", "{\n  \"k\": \"v\"\n}"),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", "\"\\u00e9\""),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}{% endif %}{{ m }}{% endfor %}", "13"),
        ("  {% if true %}\nx\n  {% endif %}\ny\n", "x\ny"),
        ("{{ eos_token }}{{ missing }}", "</s>"),
        ("{{ messages[0].get('x', 'none') }}{{ messages[0].d.items() | list | length }}", "none1"),
        ("{{ messages[0].content is sequence }}{{ none }}{{ true }}", "TrueNoneTrue"),
        ("{{ messages[::-1] | length }}{{ messages[1:] | length }}", "10"),
        ("{{ [1,'a',none,{'k':1.5}] }}", "[1, 'a', None, {'k': 1.5}]"),
        ("{{ 'x' ~ true ~ none ~ 1.0 }}", "xTrueNone1.0"),
        ("{{ none is iterable }}{{ {} is sequence }}{{ 7 // 2 }}{{ 7 / 2 }}{{ -7 % 3 }}", "FalseTrue33.52"),
        ("{{ ['b','a']|sort|join(',') }}{{ {'b':1,'a':2}|dictsort }}", "a,b[('a', 2), ('b', 1)]"),
        (
            "{{ 'a b'.title() }}{{ 'abc'[1] }}{{ 'abc'[-2:] }}{{ 'x'.replace('x','y') }}{{'a,b'.split(',')}}",
            "A Bbbcy['a', 'b']",
        ),
        (
            "{{ messages|map(attribute='role')|list }}{{ messages|selectattr('role','equalto','user')|list|length }}",
            "['user']1",
        ),
        (
            "{{ {'a':1}|items|list }}{{ 'abc'|length }}{{ 3|string }}{{ 'é'|upper }}{{ 'a'|default('b') }}{{ x|default('b') }}",
            "[('a', 1)]33Éab",
        ),
        (
            "{{ 'A'.lower().startswith('a') }}{{ 'abc'.find('c') }}{{ 'a\nb'.splitlines() }}{{ '  a '.lstrip() }}|",
            "True2['a', 'b']a |",
        ),
        ("{{ 0.1+0.2 }}{{ 5 is number }}{{ '5'|int + 1 }}", "0.30000000000000004True6"),
        ("{{ ('a','b') }}{{ 'x' if false }}{{ [1,2]|first }}{{ loop is defined }}", "('a', 'b')1False"),
        ("{{ '{} {}'.format(1,'b') }}{{ 'x\ny'|indent(2, true) }}", "1 b  x\n  y"),
    ] {
        assert_eq!(render(template, messages.clone()).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn refusals_say_the_templates_words() {
    let one = json!([{"role": "user", "content": "x"}]);
    let error = render("{{ raise_exception('roles must alternate') }}", one.clone()).unwrap_err();
    assert!(error.contains("roles must alternate"), "{error}");
    let error = render("{% for %}", one.clone()).unwrap_err();
    assert!(error.contains("chat template") && error.contains("line 1"), "{error}");
    let error = render("{{ 'a' + messages[0].missing }}", one.clone()).unwrap_err();
    assert!(error.contains("line 1"), "{error}");
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(99) %}{% endfor %}{% endfor %}{% endfor %}";
    let error = render(endless, one.clone()).unwrap_err();
    assert!(error.contains("fuel"), "{error}");
    let error = ChatTemplate::new("", [], Some("tomorrow")).unwrap_err().to_string();
    assert!(error.contains("template_date") && error.contains("YYYY-MM-DD"), "{error}");
}

#[test]
fn generation_blocks_keep_white_space_and_comments_as_they_are() {
    let template = "{#- {% generation %} marks -#}\n{% for m in messages %}\n  {%- generation -%}\n {{ m.content }}\n  {%- endgeneration %}\n;{% endfor %}";
    let template = ChatTemplate::new(template, [], None).unwrap();
    assert!(template.marks_generation());
    let messages = [json!({"content": "ä"}), json!({"content": ""}), json!({"content": "b"})];
    let rendered = template.render(&messages, None, &Row::new(), false).unwrap();
    assert_eq!(rendered.text, "ä;;b;");
    assert_eq!(rendered.assistant, [0..2, 4..5], "bytes, and nothing for an empty block");
    let error = template.render(&[json!({"content": "\u{fdd0}"})], None, &Row::new(), false).unwrap_err();
    assert!(error.to_string().contains("U+FDD0"), "{error}");
}

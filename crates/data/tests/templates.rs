//! Chat templates against renders made by transformers 5.23.

use collimate_data::{ChatTemplate, Row};
use serde_json::{Value, json};

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

/// Line ends are those of Jinja2, which knows but one.
#[test]
fn line_ends_are_one_character() {
    let messages = json!([{"role": "user", "content": "x\r\ny"}]);
    for template in [
        "{% for m in messages %}\r\n{{ m.role }}:\r\n{{ m.content }}\r{% endfor %}",
        "{% for m in messages %}\n{{ m.role }}:\n{{ m.content }}\n{% endfor %}",
    ] {
        assert_eq!(render(template, messages.clone()).as_deref(), Ok("user:\nx\r\ny\n"), "the text's own stay");
    }
}

/// Each of these would take gigabytes, a day, or the whole stack.
#[test]
fn templates_have_a_budget() {
    let one = json!([{"role": "user", "content": "x"}]);
    let set = |start: &str, body: &str| {
        format!("{{% set n = namespace(x={start}) %}}{{% for i in range(60) %}}{{% set n.x = {body} %}}{{% endfor %}}")
    };
    for template in [
        "{% set n = namespace() %}{% set n.a = n %}{{ n }}".to_owned(),
        "{% set n = namespace() %}{% set n.a = [{'k': n}] %}{{ n | tojson }}".to_owned(),
        "{{ '{:>10000000000}'.format(1) }}".to_owned(),
        "{{ '{:{}}'.format(1, 10000000000) }}".to_owned(),
        set("'aaaaaaaaaaaaaaaa'", "n.x ~ n.x") + "{{ n.x | length }}",
        set("'aaaaaaaaaaaaaaaa'", "n.x + n.x"),
        set("'a'", "n.x.replace('a', 'aaaaaaaaaaaaaaaaaaaaaaaa')"),
        set("'a'", "n.x.join([n.x, n.x, n.x])"),
        set("'a'", "n.x * 1000"),
        set("[1]", "n.x + n.x") + "{{ n.x | length }}",
        set("[1]", "[n.x, n.x]") + "{{ n.x }}",
        set("[1]", "{'a': n.x, 'b': n.x}") + "{{ n.x | tojson }}",
        "{% macro m(x, n) %}{% if n %}{{ m([x, x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ m([1], 40) }}".to_owned(),
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}".to_owned(),
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}{{ n.x }}".to_owned(),
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}".to_owned(),
    ] {
        let start = std::time::Instant::now();
        let error = render(&template, one.clone()).unwrap_err();
        assert!(start.elapsed().as_secs() < 10, "{:?}: {template}", start.elapsed());
        assert!(!error.is_empty(), "{template}");
    }
    let error = ChatTemplate::new(&"x".repeat(5 << 20), [], None).unwrap_err().to_string();
    assert!(error.contains("at most 4 MiB"), "{error}");
    // A long conversation is far from it.
    let turns: Vec<_> =
        (0..2000).map(|i| json!({"role": (["user", "assistant"][i % 2]), "content": "word ".repeat(500)})).collect();
    let text = render(
        "{% set n = namespace(l=[]) %}{% for m in messages %}{% set n.l = n.l + [m.role] %}{{ m.content | trim }}{% endfor %}{{ n.l | length }}",
        json!(turns),
    );
    assert_eq!(text.map(|t| t.len()), Ok(2000 * 2499 + 4));
}

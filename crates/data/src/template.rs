//! Chat templates: from messages to the text that the model reads, as `transformers` renders it.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, Error as JinjaError, ErrorKind, State};
use serde_json::Value;

use crate::format::Row;
use crate::{Error, Tokenizer};

/// Stand around the text of a `{% generation %}` block. Unicode keeps these two code points free of any meaning, so no
/// text has them; a conversation that does is refused.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';
/// What one rendering may take: a step costs one, and so do 64 bytes of what it makes or reads. 256 MiB in all.
const FUEL: u64 = 4 << 20;
/// Values inside each other, and values in one that a template makes, at most. The engine itself counts only what it makes
/// at each step, and what is made of few parts many times over may be endless.
const DEPTH: usize = 64;
const VALUES: usize = 1 << 20;
/// Bytes of a template's text, at most.
const SOURCE: usize = 4 << 20;
/// Columns that a number may be padded to.
const WIDTH: usize = 10_000;

/// A compiled chat template.
///
/// It is rendered as `transformers` renders it: Jinja with `trim_blocks`, `lstrip_blocks` and loop controls, Python's
/// string methods, `raise_exception`, `strftime_now`, a `tojson` that escapes nothing, and `{% generation %}` blocks.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Vec<(&'static str, String)>,
    generation: bool,
    dated: bool,
    day: Option<Date>,
}

/// A conversation, rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The bytes of `text` that stand in `{% generation %}` blocks: what the model itself says.
    pub assistant: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Compiles the text of a template. `special` are the special tokens that it may name (`bos_token` …), `date` is
    /// what `strftime_now` says, `YYYY-MM-DD`; none is today (UTC).
    ///
    /// # Errors
    /// A template that does not compile, or a date that is none.
    pub fn new<'s>(
        text: &str,
        special: impl IntoIterator<Item = (&'static str, &'s str)>,
        date: Option<&str>,
    ) -> Result<Self, Error> {
        if text.len() > SOURCE {
            let message = format!("{} bytes; expected at most {} MiB", text.len(), SOURCE >> 20);
            return Err(Error::Template { place: None, message });
        }
        // As Jinja2 reads them.
        let text = &text.replace("\r\n", "\n").replace('\r', "\n");
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failure)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(method);
        environment.set_formatter(|out, state, value| {
            measure(state, value, 0)?;
            minijinja::escape_formatter(out, state, value)
        });
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_filter(MARK, |body: String| format!("{OPEN}{body}{CLOSE}"));
        environment.add_filter(CHECK, |state: &State, value: Jinja| measure(state, &value, 0).map(|()| value));
        environment.add_filter(CHECK_INNER, |state: &State, value: Jinja| measure(state, &value, 1).map(|()| value));
        environment.add_test("sequence", |v: &Jinja| {
            // Python's strings and dicts are sequences to Jinja's test.
            matches!(v.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
        });
        environment.add_test("iterable", |v: &Jinja| {
            // None is not; the engine thinks it is.
            use ValueKind::{Iterable, Map, Seq, String, Undefined};
            matches!(v.kind(), Seq | Map | String | Iterable | Undefined)
        });
        environment.add_function("raise_exception", |message: String| -> Result<String, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        let day = date.map(day_of).transpose()?;
        environment.add_function("strftime_now", move |format: String| -> Result<String, JinjaError> {
            strftime(&format, clock(day)).ok_or_else(|| {
                JinjaError::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}) is not supported"))
            })
        });
        let (marked, generation) = mark(text);
        environment.add_template_owned(NAME, marked).map_err(failure)?;
        let special = special.into_iter().map(|(name, text)| (name, text.to_owned())).collect();
        Ok(Self { environment, special, generation, dated: text.contains("strftime_now"), day })
    }

    /// The template of a checkpoint, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn of(tokenizer: &Tokenizer, date: Option<&str>) -> Result<Option<Self>, Error> {
        tokenizer.chat_template().map(|text| Self::new(text, tokenizer.special_tokens(), date)).transpose()
    }

    /// Whether the template marks what the assistant says with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        self.generation
    }

    /// Whether the template asks for today's date.
    pub fn is_dated(&self) -> bool {
        self.dated
    }

    /// The date that `strftime_now` tells, `YYYY-MM-DD`.
    pub fn date(&self) -> String {
        clock(self.day).to_zoned(TimeZone::UTC).date().to_string()
    }

    /// Renders `messages`, `{role, content, …}` each. With `add_generation_prompt` the text ends where the assistant
    /// is to speak. `kwargs` are further variables.
    ///
    /// # Errors
    /// What the template refuses (`raise_exception`, an undefined field), `kwargs` that would replace the conversation, and
    /// conversations with U+FDD0 or U+FDD1.
    pub fn render(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        kwargs: &Row,
        add_generation_prompt: bool,
    ) -> Result<Rendered, Error> {
        let mut context = Row::new();
        for (name, text) in &self.special {
            context.insert((*name).to_owned(), Value::String(text.clone()));
        }
        context.insert("messages".to_owned(), Value::Array(messages.to_vec()));
        context.insert("tools".to_owned(), tools.cloned().unwrap_or(Value::Null));
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), Value::Bool(add_generation_prompt));
        for (key, value) in kwargs {
            if RESERVED.contains(&key.as_str()) {
                return Err(Error::Template {
                    place: None,
                    message: format!("`chat_template_kwargs` sets `{key}`, which is set from the conversation"),
                });
            }
            context.insert(key.clone(), value.clone());
        }
        let template = self.environment.get_template(NAME).map_err(failure)?;
        let marked = template.render(Serde(&context)).map_err(failure)?;
        if !self.generation {
            return Ok(Rendered { text: marked, assistant: Vec::new() });
        }
        unmark(&marked)
    }
}

const RESERVED: [&str; 3] = ["messages", "tools", "add_generation_prompt"];
const NAME: &str = "chat_template";
const MARK: &str = "collimate_generation";
const CHECK: &str = "collimate_check";
/// For what becomes a part of a namespace.
const CHECK_INNER: &str = "collimate_check_inner";

fn failure(e: JinjaError) -> Error {
    // The engine's message, and the line it stands at; a template's own words come as they are.
    let detail = match (e.kind(), e.detail()) {
        (_, Some(detail)) => detail.to_owned(),
        (ErrorKind::OutOfFuel, None) => "takes more time or memory than a template may (out of fuel)".to_owned(),
        (kind, None) => kind.to_string(),
    };
    let message = match e.line() {
        Some(line) => format!("{detail} (line {line} of the template)"),
        None => detail,
    };
    Error::Template { place: None, message }
}

/// The bytes of `rest`, the inside of a tag, up to its end: `%}` outside of texts.
fn tag_length(rest: &str) -> usize {
    let (mut quote, mut escaped) = (None, false);
    for (i, c) in rest.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if rest[i..].starts_with("%}") => return i,
            None => {}
        }
    }
    rest.len()
}

/// The assignment that a `set` tag makes, with a check around its value; None for a block that is set.
fn checked(assignment: &str) -> Option<String> {
    let (target, value) = assignment.split_once('=')?;
    let body = value.trim_end();
    let sign = body.ends_with(['-', '+']);
    let (body, sign) = if sign { body.split_at(body.len() - 1) } else { (body, "") };
    let body = body.trim_end();
    let check = if target.contains('.') { CHECK_INNER } else { CHECK };
    Some(format!("{target}= ({body}) | {check} {sign}"))
}

/// Turns `{% generation %}` blocks, which the engine does not know, into filter blocks that put marks around their
/// text: the same kind of tag, so that white space around it is treated the same. What `{% set %}` gives a name to is
/// checked on the way.
fn mark(template: &str) -> (String, bool) {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let (mut found, mut raw) = (false, false);
    // Comments may talk about the tag; they stay as they are.
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("{#") {
            let end = if raw { 2 } else { rest.find("#}").map_or(rest.len(), |n| n + 2) };
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        out.push_str("{%");
        rest = &rest[2..];
        let sign = rest.len() - rest.trim_start_matches(['-', '+']).len();
        let word = rest[sign..].trim_start();
        let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
        let tag = match &word[..end] {
            "endraw" => {
                raw = false;
                continue;
            }
            _ if raw => continue,
            "raw" => {
                raw = true;
                continue;
            }
            "generation" => format!(" filter {MARK} "),
            "endgeneration" => " endfilter ".to_owned(),
            "set" => {
                let inner = &word[end..][..tag_length(&word[end..])];
                if let Some(assignment) = checked(inner) {
                    out.push_str(&rest[..sign]);
                    out.push_str(" set");
                    out.push_str(&assignment);
                    rest = &word[end + inner.len()..];
                }
                continue;
            }
            _ => continue,
        };
        found = true;
        out.push_str(&rest[..sign]);
        out.push_str(&tag);
        rest = word[end..].trim_start();
    }
    out.push_str(rest);
    (out, found)
}

fn too_much(what: &str) -> JinjaError {
    JinjaError::new(ErrorKind::OutOfFuel, format!("more than a template may make: {what}"))
}

/// Refuses values that are too deep, too many or endless, before they are walked by what does not count.
fn measure(state: &State, value: &Jinja, depth: usize) -> Result<(), JinjaError> {
    let mut left = VALUES;
    walk(value, depth, &mut left)?;
    // Visiting is work.
    state.consume_fuel((VALUES - left) as u64 / 8)
}

fn walk(value: &Jinja, depth: usize, left: &mut usize) -> Result<(), JinjaError> {
    let Some(object) = value.as_object() else { return Ok(()) };
    if depth > DEPTH {
        return Err(too_much(&format!("values more than {DEPTH} deep in each other")));
    }
    // One inside another may be that other.
    if depth > 0 && object.type_name().ends_with("::Namespace") {
        return Err(too_much("a namespace inside another value"));
    }
    let mut visit = |value: &Jinja| {
        *left = left.checked_sub(1).ok_or_else(|| too_much(&format!("{VALUES} values in one")))?;
        walk(value, depth + 1, left)
    };
    match object.repr() {
        minijinja::value::ObjectRepr::Map => {
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                visit(&key)?;
                visit(&value)?;
            }
        }
        minijinja::value::ObjectRepr::Seq | minijinja::value::ObjectRepr::Iterable => {
            for value in object.try_iter().into_iter().flatten() {
                visit(&value)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Python's methods of strings, lists and dicts, of which some are asked for their size before they make it.
fn method(state: &mut State, value: &Jinja, name: &str, args: &[Jinja]) -> Result<Jinja, JinjaError> {
    let size = |bytes: usize| state.consume_fuel(bytes as u64 / 64);
    match (value.as_str(), name) {
        (Some(text), "format") => {
            let widths = text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
            let wide = widths.map(|n| n.parse().unwrap_or(usize::MAX)).any(|n| n > WIDTH);
            if wide || (text.contains(":{") && args.iter().any(|n| n.as_usize().is_some_and(|n| n > WIDTH))) {
                return Err(too_much(&format!("a column of more than {WIDTH} characters")));
            }
            args.iter().try_for_each(|value| measure(state, value, 0))?;
        }
        (Some(text), "replace") => {
            if let [old, new, ..] = args
                && let (Some(old), Some(new)) = (old.as_str(), new.as_str())
            {
                let times = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
                size(text.len().saturating_add(times.saturating_mul(new.len())))?;
            }
        }
        (Some(joiner), "join") => {
            let mut bytes = 0_usize;
            for item in args.first().and_then(|list| list.try_iter().ok()).into_iter().flatten() {
                measure(state, &item, 0)?;
                bytes = bytes.saturating_add(joiner.len() + item.as_str().map_or(8, str::len));
                if bytes > 1 << 20 {
                    size(bytes)?;
                    bytes = 0;
                }
            }
            size(bytes)?;
        }
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn unmark(marked: &str) -> Result<Rendered, Error> {
    let mut out = Rendered { text: String::with_capacity(marked.len()), assistant: Vec::new() };
    let mut open = None;
    for c in marked.chars() {
        match (c, open) {
            (OPEN, None) => open = Some(out.text.len()),
            (CLOSE, Some(start)) => {
                open = None;
                if start < out.text.len() {
                    out.assistant.push(start..out.text.len());
                }
            }
            (OPEN | CLOSE, _) => {
                return Err(Error::Template {
                    place: None,
                    message:
                        "U+FDD0 or U+FDD1 in the conversation, which mark `{% generation %}` blocks here; or such \
                              blocks inside each other"
                            .to_owned(),
                });
            }
            (c, _) => out.text.push(c),
        }
    }
    Ok(out)
}

/// `json.dumps(value, ensure_ascii=False, indent=…, separators=…, sort_keys=…)`.
fn tojson(state: &State, value: &Jinja, kwargs: Kwargs) -> Result<String, JinjaError> {
    measure(state, value, 0)?;
    let bad = |what: &str| JinjaError::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let indent = match kwargs.get::<Option<Jinja>>("indent")? {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => match (v.as_str(), v.as_usize()) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(n)) if n <= 64 => Some(" ".repeat(n)),
            _ => return Err(bad("`indent` must be a number up to 64 or a string")),
        },
    };
    let separators = match kwargs.get::<Option<Jinja>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let pair: Vec<String> = pair.try_iter()?.map(|v| v.to_string()).collect();
            <[String; 2]>::try_from(pair).map_err(|_| bad("`separators` must be a pair"))?
        }
        _ if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        _ => [", ".to_owned(), ": ".to_owned()],
    };
    let sort = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    if value.is_undefined() {
        return Err(bad("the value is undefined"));
    }
    let json = serde_json::to_value(value).map_err(|e| bad(&e.to_string()))?;
    let mut out = String::new();
    Dump { ascii, indent, separators, sort }.write(&json, 0, &mut out);
    Ok(out)
}

struct Dump {
    ascii: bool,
    indent: Option<String>,
    separators: [String; 2],
    sort: bool,
}

impl Dump {
    fn write(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Number(n) => match n.as_f64() {
                Some(x) if n.is_f64() => out.push_str(&python_float(x)),
                _ => out.push_str(&n.to_string()),
            },
            Value::String(text) => self.string(text, out),
            Value::Array(list) => {
                self.items('[', ']', list.iter(), depth, out, |dump, v, out| dump.write(v, depth + 1, out));
            }
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort {
                    entries.sort_by_key(|(k, _)| *k);
                }
                self.items('{', '}', entries.into_iter(), depth, out, |dump, (k, v), out| {
                    dump.string(k, out);
                    out.push_str(&dump.separators[1]);
                    dump.write(v, depth + 1, out);
                });
            }
        }
    }

    fn items<T>(
        &self,
        open: char,
        close: char,
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        out: &mut String,
        mut each: impl FnMut(&Self, T, &mut String),
    ) {
        let empty = items.len() == 0;
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        for (i, item) in items.enumerate() {
            if i > 0 {
                out.push_str(&self.separators[0]);
            }
            line(out, depth + 1);
            each(self, item, out);
        }
        if !empty {
            line(out, depth);
        }
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        use std::fmt::Write;
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// `repr(x)`: the shortest digits that read back as `x`, with an exponent below 1e-4 and from 1e16.
fn python_float(x: f64) -> String {
    let (_, exponent) = match format!("{x:e}").split_once('e') {
        Some((digits, exponent)) => (digits.to_owned(), exponent.parse::<i32>().unwrap_or(0)),
        None => return x.to_string(),
    };
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let text = format!("{x:e}");
        let (digits, _) = text.split_once('e').unwrap_or((&text, ""));
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let text = x.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// The beginning of `day` (UTC), or now.
fn clock(day: Option<Date>) -> Timestamp {
    let begin = |day: Date| day.to_zoned(TimeZone::UTC).map(|z| z.timestamp());
    day.and_then(|day| begin(day).ok()).unwrap_or_else(Timestamp::now)
}

fn day_of(date: &str) -> Result<Date, Error> {
    let plain = date.len() == 10 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let day = if plain { date.parse().ok() } else { None };
    day.ok_or_else(|| Error::Option {
        key: "template_date",
        message: format!("{date:?} is no date; expected YYYY-MM-DD"),
    })
}

/// Python's `strftime` in the C locale, UTC; None for a directive that is not known there.
fn strftime(format: &str, now: Timestamp) -> Option<String> {
    let mut directives = format.split('%');
    directives.next();
    while let Some(directive) = directives.next() {
        if directive.is_empty() {
            directives.next()?; // %% stands for itself, and text after it
            continue;
        }
        if !directive.strip_prefix('-').unwrap_or(directive).starts_with(|c| "YymdeHIMSpBbhAajFTZz".contains(c)) {
            return None;
        }
    }
    jiff::fmt::strtime::format(format, &now.to_zoned(TimeZone::UTC)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values printed by Python's `time.strftime(format, time.gmtime(seconds))`.
    #[test]
    fn dates_are_pythons() {
        for (seconds, format, expected) in [
            (0, "%d %b %Y %H:%M:%S %A %j", "01 Jan 1970 00:00:00 Thursday 001"),
            (1_709_164_800, "%Y-%m-%d %a %j %-d", "2024-02-29 Thu 060 29"),
            (1_735_689_599, "%B %-m %I %p", "December 12 11 PM"),
            (1_735_689_599, "100%% %y %e %h %F %T %Z %z %M%%Q", "100% 24 31 Dec 2024-12-31 23:59:59 UTC +0000 59%Q"),
        ] {
            let now = Timestamp::from_second(seconds).unwrap();
            assert_eq!(strftime(format, now).as_deref(), Some(expected));
        }
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!((strftime("%Q", now), strftime("%", now)), (None, None));
        let begin = |date: &str| day_of(date).ok().map(|day| clock(Some(day)).as_second());
        assert_eq!(begin("2024-02-29"), Some(1_709_164_800));
        assert_eq!(begin("1970-01-01"), Some(0));
        for none in ["2023-02-29", "2024-2-9", "2024-01-01T00:00", "today", ""] {
            assert_eq!(begin(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_set_is_checked() {
        let marked = |text: &str| mark(text).0;
        assert_eq!(marked("{%- set a = b['%}'] -%}x"), "{%- set a = ( b['%}']) | collimate_check -%}x");
        assert_eq!(marked("{% set a %}x{% endset %}"), "{% set a %}x{% endset %}");
        assert_eq!(marked("{% raw %}{% set a = 1 %}{% endraw %}"), "{% raw %}{% set a = 1 %}{% endraw %}");
    }

    /// Values printed by Python's `repr`.
    #[test]
    fn floats_are_pythons() {
        for (x, expected) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
        ] {
            assert_eq!(python_float(x), expected);
        }
    }
}

//! Chat templates: from messages to the text that the model reads, as `transformers` renders it.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, Error as JinjaError, ErrorKind};
use serde_json::Value;

use crate::format::Row;
use crate::{Error, Tokenizer};

/// Stand around the text of a `{% generation %}` block. Unicode keeps these two code points free of any meaning, so no
/// text has them; a conversation that does is refused.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';
/// Steps of the template engine before a template counts as one that never ends.
const FUEL: u64 = 50_000_000;

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
    day: Option<i64>,
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
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failure)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_filter(MARK, |body: String| format!("{OPEN}{body}{CLOSE}"));
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
        let day = match date {
            None => None,
            Some(date) => Some(day_of(date).ok_or_else(|| Error::Option {
                key: "template_date",
                message: format!("{date:?} is no date; expected YYYY-MM-DD"),
            })?),
        };
        environment.add_function("strftime_now", move |format: String| -> Result<String, JinjaError> {
            let seconds = clock(day);
            strftime(&format, seconds).ok_or_else(|| {
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
        let (y, m, d) = civil(clock(self.day).div_euclid(86_400));
        format!("{y:04}-{m:02}-{d:02}")
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

fn failure(e: JinjaError) -> Error {
    // The engine's message, and the line it stands at; a template's own words come as they are.
    let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
    let message = match e.line() {
        Some(line) => format!("{detail} (line {line} of the template)"),
        None => detail,
    };
    Error::Template { place: None, message }
}

/// Turns `{% generation %}` blocks, which the engine does not know, into filter blocks that put marks around their
/// text: the same kind of tag, so that white space around it is treated the same.
fn mark(template: &str) -> (String, bool) {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut found = false;
    // Comments may talk about the tag; they stay as they are.
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("{#") {
            let end = rest.find("#}").map_or(rest.len(), |n| n + 2);
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
            "generation" => format!(" filter {MARK} "),
            "endgeneration" => " endfilter ".to_owned(),
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
fn tojson(value: &Jinja, kwargs: Kwargs) -> Result<String, JinjaError> {
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

/// Seconds since 1970: the beginning of `day`, or now.
fn clock(day: Option<i64>) -> i64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    day.map_or_else(now, |day| day * 86_400)
}

/// Days from 1970-01-01 of `YYYY-MM-DD`.
fn day_of(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let (y, m, d) =
        (parts.next()?.parse::<i64>().ok()?, parts.next()?.parse::<i64>().ok()?, parts.next()?.parse::<i64>().ok()?);
    if parts.next().is_some() || !(1..=9999).contains(&y) || !(1..=12).contains(&m) || !(1..=31).contains(&d) {
        return None;
    }
    // Days from civil, for the proleptic Gregorian calendar with years that begin in March.
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let day = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    (civil(day) == (if m <= 2 { y + 1 } else { y }, m, d)).then_some(day)
}

/// Year, month and day of a day since 1970-01-01.
fn civil(day: i64) -> (i64, i64, i64) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, (mp + 2) % 12 + 1);
    (yoe + era * 400 + i64::from(m <= 2), m, d)
}

/// Python's `strftime` in the C locale, UTC; None for a directive that is not known.
fn strftime(format: &str, seconds: i64) -> Option<String> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let day = seconds.div_euclid(86_400);
    let (hour, minute, second) =
        (seconds.rem_euclid(86_400) / 3600, seconds.rem_euclid(3600) / 60, seconds.rem_euclid(60));
    let (y, m, d) = civil(day);
    let month = MONTHS[(m - 1) as usize];
    let weekday = DAYS[(day + 4).rem_euclid(7) as usize];
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (directive, plain) = match chars.next()? {
            '-' => (chars.next()?, true),
            c => (c, false),
        };
        let number = |n: i64| if plain { n.to_string() } else { format!("{n:02}") };
        out.push_str(&match directive {
            'Y' => format!("{y:04}"),
            'y' => number(y % 100),
            'm' => number(m),
            'd' => number(d),
            'e' => format!("{d:2}"),
            'H' => number(hour),
            'I' => number(hour12),
            'M' => number(minute),
            'S' => number(second),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'j' => {
                let first = day_of(&format!("{y:04}-01-01"))?;
                let n = day - first + 1;
                if plain { n.to_string() } else { format!("{n:03}") }
            }
            'F' => format!("{y:04}-{m:02}-{d:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        });
    }
    Some(out)
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
        ] {
            assert_eq!(strftime(format, seconds).as_deref(), Some(expected));
        }
        assert_eq!(strftime("%Q", 0), None);
        assert_eq!(day_of("2024-02-29"), Some(1_709_164_800 / 86_400));
        assert_eq!(day_of("2023-02-29"), None);
        assert_eq!(day_of("1970-01-01"), Some(0));
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

//! What a `config.json` says of rotary positions, in the old style and in the new.

use serde_json::Value;

use super::Reader;
use crate::error::Error;
use crate::rotary::{RopeScaling, Rotary};

/// What an architecture does with rotary positions, where `config.json` doesn't say it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turning {
    /// The base of the frequencies.
    pub theta: f64,
    /// The default of the part of a head that turns; none: all of it does, always.
    pub part: Option<f64>,
    /// Whether neighbours are pairs, not halves.
    pub interleaved: bool,
}

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
    /// The part of a head that turns.
    pub part: f64,
    pub interleaved: bool,
}

impl Rope {
    /// Whether it goes no further than the context of the first training.
    pub fn is_long(&self) -> bool {
        matches!(self.scaling, RopeScaling::Long { .. })
    }

    /// It, in heads of that width.
    pub fn rotary(&self, head: usize) -> Rotary {
        Rotary::new(turning(head, self.part), self.theta, &self.scaling).within(head, self.interleaved)
    }
}

/// The columns of a head that turn, as transformers rounds them.
fn turning(head: usize, part: f64) -> usize {
    (head as f64 * part) as usize
}

/// Base, scaling and part, from either style of keys.
///
/// # Errors
/// A type of scaling that is not there, and keys that it doesn't know.
pub fn rope(r: &mut Reader<'_>, max_position: usize, default: Turning) -> Result<Rope, Error> {
    let theta = r.number("rope_theta", default.theta)?;
    if r.flag("rope_interleaved", false)? {
        return Err(
            r.refuse("rope_interleaved", "interleaved rotary positions are not implemented for this architecture")
        );
    }
    let part = r.number("partial_rotary_factor", default.part.unwrap_or(1.0))?;
    let default = Turning { theta, part: default.part.map(|_| part), ..default };
    if default.part.is_none() && part != 1.0 {
        return Err(
            r.refuse("partial_rotary_factor", format!("only 1 is implemented for this architecture, got {part}"))
        );
    }
    // Old style: rope_scaling beside rope_theta; new style: rope_parameters with both.
    let old = r.get("rope_scaling").cloned();
    let new = r.get("rope_parameters").cloned();
    match (new, old) {
        // Of two, the old one is what transformers takes.
        (_, Some(v)) => rope_of(r, "rope_scaling", &v, max_position, default),
        (Some(v), None) => rope_of(r, "rope_parameters", &v, max_position, default),
        (None, None) => rope_of(r, "rope_parameters", &Value::Object(serde_json::Map::new()), max_position, default),
    }
}

/// The same, where the first context stands beside the tables; "su" and "yarn" are older names of "longrope" there.
///
/// # Errors
/// As [`rope`], and a type other than `default` and `longrope`.
pub fn long(r: &mut Reader<'_>, max_position: usize, original: usize, default: Turning) -> Result<Rope, Error> {
    let theta = r.number("rope_theta", default.theta)?;
    let part = r.number("partial_rotary_factor", default.part.unwrap_or(1.0))?;
    let key = if r.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
    r.get("rope_parameters");
    let empty = || Value::Object(serde_json::Map::new());
    let mut table = r.get(key).cloned().unwrap_or_else(empty);
    if let Some(t) = table.as_object_mut() {
        let kind = ["rope_type", "type"].iter().find_map(|k| t.get(*k)?.as_str()).unwrap_or("default").to_owned();
        match &*kind {
            "default" => {
                t.shift_remove("original_max_position_embeddings");
            }
            "longrope" | "su" | "yarn" => {
                t.insert("rope_type".into(), "longrope".into());
                t.entry("original_max_position_embeddings").or_insert_with(|| original.into());
            }
            other => {
                let why = format!("expected one of default, longrope, got \"{other}\"");
                return Err(r.refuse(&format!("{key}.rope_type"), why));
            }
        }
    }
    rope_of(r, key, &table, max_position, Turning { theta, part: Some(part), ..default })
}

/// The same, where a type `dynamic` with a fixed `alpha` stretches the base, whatever the length of a text.
///
/// # Errors
/// As [`rope`], and `alpha` without the width of a head.
pub fn stretched(r: &mut Reader<'_>, max_position: usize, default: Turning) -> Result<Rope, Error> {
    let key = if r.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
    let table = r.get(key).cloned().unwrap_or_default();
    let kind = ["rope_type", "type"].iter().find_map(|k| table.get(*k)?.as_str());
    let alpha = table.get("alpha").and_then(Value::as_f64).filter(|a| *a > 0.0);
    let (Some("dynamic"), Some(alpha)) = (kind, alpha) else { return rope(r, max_position, default) };
    r.get("rope_parameters");
    let theta = r.number("rope_theta", default.theta)?;
    let theta = table.get("rope_theta").and_then(Value::as_f64).unwrap_or(theta);
    let d = r.size("head_dim", None)? as f64;
    let theta = sound(r, theta * alpha.powf(d / (d - 2.0)))?;
    Ok(Rope { theta, scaling: RopeScaling::None, part: 1.0, interleaved: default.interleaved })
}

/// Those of layers that see all tokens and of layers with a window, whose tables lie side by side in the new style. In the
/// old one, `rope_scaling` is of the former alone; `local` is the base of the latter.
///
/// # Errors
/// As [`rope`].
pub fn by_type(r: &mut Reader<'_>, max_position: usize, default: Turning, local: f64) -> Result<Vec<Rope>, Error> {
    let empty = Value::Object(serde_json::Map::new());
    let tables = r.get("rope_parameters").cloned().unwrap_or_else(|| empty.clone());
    let flat = |t: &Value| !["full_attention", "sliding_attention"].iter().any(|k| t.get(*k).is_some());
    if tables.as_object().is_none_or(|t| !t.is_empty() && flat(&tables)) {
        let why = format!("expected the tables full_attention and sliding_attention, got {tables}");
        return Err(r.refuse("rope_parameters", why));
    }
    if let Some((odd, v)) = tables
        .as_object()
        .and_then(|t| t.iter().find(|(k, _)| !["full_attention", "sliding_attention"].contains(&k.as_str())))
    {
        return Err(r.refuse(&format!("rope_parameters.{odd}"), format!("is not the name of a layer type (value {v})")));
    }
    let theta = r.number("rope_theta", default.theta)?;
    let scaling = r.get("rope_scaling").cloned();
    let full = match &scaling {
        Some(table) => rope_of(r, "rope_scaling", table, max_position, Turning { theta, ..default })?,
        None => {
            let table = tables.get("full_attention").unwrap_or(&empty);
            rope_of(r, "rope_parameters.full_attention", table, max_position, Turning { theta, ..default })?
        }
    };
    let table = tables.get("sliding_attention").unwrap_or(&empty);
    let local = Turning { theta: local, ..default };
    Ok(vec![full, rope_of(r, "rope_parameters.sliding_attention", table, max_position, local)?])
}

/// One table.
fn rope_of(r: &Reader<'_>, key: &str, given: &Value, max_position: usize, default: Turning) -> Result<Rope, Error> {
    let Some(table) = given.as_object() else {
        return Err(r.refuse(key, format!("expected a table, got {given}")));
    };
    let mut used = vec!["rope_type", "type", "rope_theta"];
    let number = |used: &mut Vec<&'static str>, name: &'static str, default: Option<f64>| {
        used.push(name);
        match table.get(name).filter(|v| !v.is_null()) {
            None => default.ok_or_else(|| r.refuse(&format!("{key}.{name}"), "is missing; expected a number")),
            Some(v) => {
                let divides = ["factor", "original_max_position_embeddings"].contains(&name);
                let number = v.as_f64().filter(|n| *n > 0.0 || (*n == 0.0 && !divides));
                let rule = if divides { "above 0" } else { "of 0 or more" };
                number.ok_or_else(|| r.refuse(&format!("{key}.{name}"), format!("expected a number {rule}, got {v}")))
            }
        }
    };
    let theta = number(&mut used, "rope_theta", Some(default.theta))?;
    let part = match default.part {
        Some(part) => number(&mut used, "partial_rotary_factor", Some(part))?,
        None => 1.0,
    };
    if part > 1.0 {
        return Err(r.refuse(&format!("{key}.partial_rotary_factor"), format!("expected at most 1, got {part}")));
    }
    let original =
        |used: &mut Vec<&'static str>| number(used, "original_max_position_embeddings", Some(max_position as f64));
    let kind = match ["rope_type", "type"].iter().find_map(|k| table.get(*k).filter(|v| !v.is_null())) {
        None => "default",
        Some(v) => {
            v.as_str().ok_or_else(|| r.refuse(&format!("{key}.rope_type"), format!("expected a name, got {v}")))?
        }
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: number(&mut used, "factor", None)? },
        "dynamic" => {
            number(&mut used, "factor", None)?;
            RopeScaling::Dynamic
        }
        "llama3" => RopeScaling::Llama3 {
            factor: number(&mut used, "factor", None)?,
            low_freq_factor: number(&mut used, "low_freq_factor", None)?,
            high_freq_factor: number(&mut used, "high_freq_factor", None)?,
            original: number(&mut used, "original_max_position_embeddings", None)?,
        },
        "yarn" => {
            let original = original(&mut used)?;
            let factor = number(&mut used, "factor", Some(max_position as f64 / original))?;
            let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
            let m = number(&mut used, "mscale", Some(0.0))?;
            let m_all = number(&mut used, "mscale_all_dim", Some(0.0))?;
            let implied =
                if m != 0.0 && m_all != 0.0 { mscale(factor, m) / mscale(factor, m_all) } else { mscale(factor, 1.0) };
            let truncate = match table.get("truncate") {
                None | Some(Value::Null) => true,
                Some(v) => v
                    .as_bool()
                    .ok_or_else(|| r.refuse(&format!("{key}.truncate"), format!("expected true or false, got {v}")))?,
            };
            used.push("truncate");
            RopeScaling::Yarn {
                factor,
                beta_fast: number(&mut used, "beta_fast", Some(32.0))?,
                beta_slow: number(&mut used, "beta_slow", Some(1.0))?,
                original,
                attention_factor: number(&mut used, "attention_factor", Some(implied))?,
                truncate,
            }
        }
        "longrope" => {
            let original = original(&mut used)?;
            let factor = number(&mut used, "factor", Some(max_position as f64 / original))?;
            let implied = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
            let list = |name: &'static str| {
                let all = table.get(name).and_then(Value::as_array);
                let all: Option<Vec<f64>> =
                    all.and_then(|a| a.iter().map(|v| v.as_f64().filter(|f| *f > 0.0)).collect());
                all.ok_or_else(|| r.refuse(&format!("{key}.{name}"), "expected a list of numbers above 0"))
            };
            let factors = list("short_factor")?;
            list("long_factor")?;
            used.extend(["short_factor", "long_factor"]);
            RopeScaling::Long { factors, attention_factor: number(&mut used, "attention_factor", Some(implied))? }
        }
        other => {
            let known = "default, linear, dynamic, llama3, yarn, longrope";
            return Err(r.refuse(&format!("{key}.rope_type"), format!("expected one of {known}, got \"{other}\"")));
        }
    };
    let neutral = |k: &str, v: &Value| v.is_null() || (k == "partial_rotary_factor" && v.as_f64() == Some(1.0));
    if let Some((odd, v)) = table.iter().find(|(k, v)| !used.contains(&k.as_str()) && !neutral(k, v)) {
        let why = format!("rope type \"{kind}\" does not know the key (value {v})");
        return Err(r.refuse(&format!("{key}.{odd}"), why));
    }
    Ok(Rope { theta: sound(r, theta)?, scaling, part, interleaved: default.interleaved })
}

fn sound(r: &Reader<'_>, theta: f64) -> Result<f64, Error> {
    let holds = theta > 0.0 && theta.is_finite();
    if holds { Ok(theta) } else { Err(r.refuse("rope_theta", format!("must be above 0, got {theta}"))) }
}

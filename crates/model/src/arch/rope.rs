//! What a `config.json` says of rotary positions, in the old style and in the new.

use serde_json::Value;

use super::Reader;
use crate::error::Error;
use crate::rotary::RopeScaling;

/// Base and scaling of the frequencies; `base` is the architecture's default.
///
/// # Errors
/// A type of scaling that is not there, and keys that it doesn't know.
pub fn rope(r: &mut Reader<'_>, max_position: usize, base: f64) -> Result<(f64, RopeScaling), Error> {
    let mut theta = r.number("rope_theta", base)?;
    if r.flag("rope_interleaved", false)? {
        return Err(r.refuse("rope_interleaved", "interleaved rotary positions are not implemented"));
    }
    let partial = r.number("partial_rotary_factor", 1.0)?;
    if partial != 1.0 {
        return Err(r.refuse("partial_rotary_factor", format!("only 1 is implemented, got {partial}")));
    }
    // Old style: rope_scaling beside rope_theta; new style: rope_parameters with both.
    let old = r.get("rope_scaling").cloned();
    let new = r.get("rope_parameters").cloned();
    let (key, given) = match (new, old) {
        // Of two, the old one is what transformers takes.
        (_, Some(v)) => ("rope_scaling", v),
        (Some(v), None) => ("rope_parameters", v),
        (None, None) => return Ok((sound(r, theta)?, RopeScaling::None)),
    };
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
    theta = number(&mut used, "rope_theta", Some(theta))?;
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
        other => {
            let known = "default, linear, dynamic, llama3, yarn";
            return Err(r.refuse(&format!("{key}.rope_type"), format!("expected one of {known}, got \"{other}\"")));
        }
    };
    let neutral = |k: &str, v: &Value| v.is_null() || (k == "partial_rotary_factor" && v.as_f64() == Some(1.0));
    if let Some((odd, v)) = table.iter().find(|(k, v)| !used.contains(&k.as_str()) && !neutral(k, v)) {
        let why = format!("rope type \"{kind}\" does not know the key (value {v})");
        return Err(r.refuse(&format!("{key}.{odd}"), why));
    }
    Ok((sound(r, theta)?, scaling))
}

fn sound(r: &Reader<'_>, theta: f64) -> Result<f64, Error> {
    let holds = theta > 0.0 && theta.is_finite();
    if holds { Ok(theta) } else { Err(r.refuse("rope_theta", format!("must be above 0, got {theta}"))) }
}

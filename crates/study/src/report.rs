//! What a study writes: predictions before the first cell; tables, figures and a report after the last.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;
use serde_json::{Value, json};

use crate::figures::{self, PAGE, STYLE, conditions};
use crate::plan::Vocabulary;
use crate::predictions::{self, Outcome, Prediction};
use crate::results::{Comparison, Measured, Quantity, Row, Verdict};
use crate::run::cell_keys;
use crate::statistics::curve::MATCHED;
use crate::statistics::{Interval, Metric};
use crate::{Error, Host, Plan, Results, Steps};

/// What the study expected; never written twice.
const PREDICTIONS: &str = "predictions.json";
const REPORT: &str = "report.html";

fn put(host: &Host<'_>, path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    (host.write)(path, text.as_bytes()).map_err(Error::io(path))
}

fn json(of: &impl Serialize) -> String {
    serde_json::to_string_pretty(of).expect("results serialise") + "\n"
}

/// Writes what the study expects, before it is measured.
///
/// # Errors
/// A file that can't be read or written.
pub fn predict(plan: &Plan, host: &Host<'_>) -> Result<(), Error> {
    let root = &plan.output_dir;
    let file = root.join(PREDICTIONS);
    if !file.exists() {
        let all = predictions::of(plan)?;
        put(host, &root.join("predictions.md"), &predictions::markdown(&all))?;
        put(host, &file, &json(&all))?;
    }
    Ok(())
}

/// A number of three figures or so, as tables have it.
fn number(x: f64) -> String {
    let digits = match x.abs() {
        a if a >= 99.95 => 0,
        a if a >= 9.995 => 1,
        a if a >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{x:.digits$}");
    // No zero with a sign.
    let text =
        if text.trim_start_matches('-').chars().all(|c| "0.".contains(c)) { text.replace('-', "") } else { text };
    text.replace('-', "−")
}

fn bracket(i: Interval) -> String {
    format!("[{}, {}]", number(i.low), number(i.high))
}

fn said(i: Option<Interval>) -> String {
    i.map_or("–".into(), |i| format!("{} {}", number(i.value), bracket(i)))
}

fn verdict(c: &Comparison) -> &'static str {
    match (c.verdict, c.quantity) {
        (Verdict::More, Quantity::Length) => "summed is longer",
        (Verdict::Less, Quantity::Length) => "summed is shorter",
        (Verdict::More, Quantity::Score) => "summed scores higher",
        (Verdict::Less, Quantity::Score) => "summed scores lower",
        (Verdict::Overlap, _) => "intervals overlap",
        (Verdict::NotCompared, _) => "not compared",
    }
}

fn outcome(o: Outcome) -> &'static str {
    match o {
        Outcome::Held => "as expected",
        Outcome::Failed => "the opposite",
        Outcome::Open => "the interval covers 0",
        Outcome::NotJudged => "not judged",
    }
}

/// How the predictions came out, in a sentence.
fn tally(outcomes: &[Outcome]) -> String {
    let count = |o: Outcome| outcomes.iter().filter(|x| **x == o).count();
    format!(
        "Of {} predictions {} came as expected, {} the other way; in {} the interval covers 0, and {} could not be judged.",
        outcomes.len(),
        count(Outcome::Held),
        count(Outcome::Failed),
        count(Outcome::Open),
        count(Outcome::NotJudged)
    )
}

fn values(row: &Row, metrics: &[Metric]) -> Vec<[String; 2]> {
    let value = |m: &Metric| match row.get(m.name()).copied().flatten() {
        Some(i) => [number(i.value), bracket(i)],
        None => ["–".into(), String::new()],
    };
    metrics.iter().map(value).collect()
}

/// Rows of the table at matched KL.
fn compared(results: &Results, quantity: Quantity) -> Vec<Value> {
    let mut rows = Vec::new();
    for c in results.comparisons.iter().filter(|c| c.quantity == quantity) {
        let family = match c.curve.is_empty() {
            true => c.family.clone(),
            false => format!("{} ({})", c.family, c.curve),
        };
        let mut each = Vec::new();
        for at in &c.at {
            each.push(json!({
                "condition": c.condition, "family": family, "kl": number(at.kl), "sum": number(at.sum),
                "mean": number(at.mean), "difference": said(at.difference), "verdict": "",
            }));
        }
        let range = |r: Option<(f64, f64)>| r.map_or("none".into(), |(a, b)| format!("{} to {}", number(a), number(b)));
        let kl = match (c.at.first(), c.at.last()) {
            (Some(a), Some(b)) => format!("{} to {}", number(a.kl), number(b.kl)),
            _ => "none in common".into(),
        };
        let reach = |i: usize| if c.at.is_empty() { format!("KL {}", range(c.ranges[i])) } else { String::new() };
        rows.push(json!({
            "condition": c.condition, "family": family, "kl": kl, "sum": reach(0), "mean": reach(1),
            "difference": said(c.difference), "verdict": verdict(c), "whole": true,
        }));
        rows.append(&mut each);
    }
    rows
}

/// Writes tables, figures and the report of what is finished; returns what to say of it.
///
/// # Errors
/// A file that can't be read or written.
pub fn write(plan: &Plan, vocabulary: &Vocabulary, host: &Host<'_>) -> Result<String, Error> {
    let results = Results::new(plan, vocabulary)?;
    let root = &plan.output_dir;
    let file = root.join(PREDICTIONS);
    let predicted: Vec<Prediction> = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| Error::Line {
            path: file.clone(),
            line: e.line(),
            what: e.to_string(),
        })?,
        Err(_) => Vec::new(),
    };
    let outcomes: Vec<Outcome> = predicted.iter().map(|p| predictions::outcome(p, &results)).collect();
    let judged: Vec<Value> =
        predicted.iter().zip(&outcomes).map(|(p, o)| json!({"prediction": p, "outcome": o})).collect();
    let mut whole = serde_json::to_value(&results).expect("results serialise");
    whole["predictions"] = judged.into();
    put(host, &root.join("results.json"), &json(&whole))?;
    put(host, &root.join("results.csv"), &results.csv(&plan.analysis.metrics))?;

    let mut exact = BTreeMap::new();
    for cell in &plan.cells {
        let condition = cell.condition_text();
        if !exact.contains_key(&condition)
            && let Some(optimum) = predictions::optimum(plan, cell)?
        {
            exact.insert(condition, optimum);
        }
    }
    let figures = figures::all(plan, &results, &exact);
    for figure in &figures {
        put(host, &root.join("figures").join(format!("{}.svg", figure.id)), &figure.file())?;
    }

    let metrics = &plan.analysis.metrics;
    let row = |m: &Measured| {
        json!({
            "name": m.name, "condition": m.condition, "method": m.method, "setting": m.setting,
            "values": values(&m.metrics, metrics),
        })
    };
    let sft = results.sft.iter().enumerate().map(|(i, r)| {
        let condition = match results.sft.len() {
            1 => String::new(),
            _ => plan.cells.iter().find(|c| c.world == i).map(|c| c.condition_text()).unwrap_or_default(),
        };
        json!({"condition": condition, "method": "SFT policy", "setting": "", "values": values(r, metrics)})
    });
    let settings: Vec<Value> = sft.chain(results.settings.iter().map(row)).collect();
    let cells: Vec<Value> = results.cells.iter().map(row).collect();
    let lines: Vec<Value> = predicted
        .iter()
        .zip(&outcomes)
        .map(|(p, o)| {
            let c = results
                .comparisons
                .iter()
                .find(|c| c.family == p.family && c.condition == p.condition && c.quantity.name() == p.quantity);
            json!({
                "condition": p.condition, "family": p.family, "quantity": p.quantity, "sentence": p.sentence(), "outcome": outcome(*o),
                "difference": said(c.and_then(|c| c.difference)),
            })
        })
        .collect();
    let has_conditions = conditions(&results).iter().any(|c| !c.is_empty());
    let titles = [("Length, in tokens", Quantity::Length), ("Score", Quantity::Score)];
    let compared: Vec<Value> =
        titles.iter().map(|(t, q)| json!({"title": t, "rows": compared(&results, *q)})).collect();
    let steps = Steps::of(plan);
    let all = steps.stages.iter().chain(&steps.references).chain(steps.cells.iter().flatten());
    let commands = all.map(|s| s.command()).collect::<Vec<_>>().join("\n");
    let toml = |v: &Value| toml::to_string(v).expect("a study's values came from TOML");
    let configurations =
        plan.cells.iter().map(|c| format!("# {}\n{}", c.id, toml(&cell_keys(plan, c).into()))).collect::<Vec<_>>();
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let page = json!({
        "name": plan.name,
        "finished": [results.finished.0, results.finished.1],
        "seeds": results.seeds,
        "prompts": results.prompts,
        "samples": results.samples,
        "confidence": format!("{}", (1000.0 * results.confidence).round() / 10.0),
        "matched": MATCHED,
        "style": format!("{PAGE}{STYLE}"),
        "predictions": lines,
        "tally": tally(&outcomes),
        "has_conditions": has_conditions,
        "compared": compared,
        "figures": figures,
        "metrics": metrics.iter().map(|m| m.title()).collect::<Vec<_>>(),
        "settings": settings,
        "cells": cells,
        "max_new_tokens": plan.generation.max_new_tokens,
        "reward": plan.reward.as_str().map_or_else(|| plan.reward.to_string(), str::to_owned),
        "config": toml(&plan.effective.clone().into()),
        "commands": commands,
        "configurations": configurations.join("\n"),
    });
    let page = environment
        .render_named_str(REPORT, include_str!("report.html"), Serde(page))
        .expect("the page's template is part of the program, and is tested");
    put(host, &root.join(REPORT), &page)?;
    Ok(format!("{}\n{}", summary(&results), root.join(REPORT).display()))
}

/// A table for a terminal: what happened to length and score, and the verdicts.
fn summary(results: &Results) -> String {
    let metrics = [Metric::Length, Metric::Score, Metric::Kl];
    let mut rows = vec![["", "", "tokens", "score", "KL, nats"].map(String::from).to_vec()];
    let cell = |r: &Row, m: Metric| said(r.get(m.name()).copied().flatten());
    for condition in conditions(results) {
        if !condition.is_empty() {
            rows.push(vec![condition.clone()]);
        }
        let sft = &results.sft[0];
        rows.push([vec!["SFT policy".into(), String::new()], metrics.map(|m| cell(sft, m)).to_vec()].concat());
        for s in results.settings.iter().filter(|s| s.condition == condition) {
            let head = vec![s.method.clone(), s.setting.clone()];
            rows.push([head, metrics.map(|m| cell(&s.metrics, m)).to_vec()].concat());
        }
    }
    let width = |i: usize| {
        rows.iter().filter(|r| r.len() > 1).filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |r: &Vec<String>| {
        let cells = r.iter().enumerate().map(|(i, c)| match r.len() {
            1 => c.clone(),
            _ => format!("{c:<0$}", widths[i]),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = rows.iter().map(line).collect::<Vec<_>>().join("\n");
    let compared: Vec<String> = results
        .comparisons
        .iter()
        .map(|c| {
            let of = if c.condition.is_empty() { String::new() } else { format!(" ({})", c.condition) };
            let (family, what) = (&c.family, c.quantity.name());
            format!("{family}{of}, {what}: {}, {}", said(c.difference), verdict(c))
        })
        .collect();
    if !compared.is_empty() {
        out += &format!("\n\nAt matched KL, summed − averaged:\n{}", compared.join("\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_three_figures() {
        let all = [123.456, 99.96, 12.345, 1.234, 0.12345, -0.0001, -2.5, 0.0].map(number);
        assert_eq!(all, ["123", "100", "12.3", "1.23", "0.123", "0.000", "−2.50", "0.000"]);
    }
}

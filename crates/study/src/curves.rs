//! Curves of training runs, from the `metrics.jsonl` of their output folders: figures, and a page of its own.

use std::fs;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::figures::{Figure, PAGE, Panel, STYLE, Scale, legend};

/// Points of a curve; more lines than that are averaged.
const POINTS: usize = 300;

/// A figure: its file's name, its title, and what its panels show, by the key of a metric.
type Shown = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const FIGURES: &[Shown] = &[
    (
        "learning",
        "Learning",
        &[
            ("loss", "Loss"),
            ("rewards/margins", "Margin of rewards"),
            ("margin", "Margin of rewards"),
            ("rewards/accuracies", "Accuracy"),
            ("accuracy", "Accuracy"),
        ],
    ),
    (
        "probability",
        "Probability",
        &[
            ("logratios/chosen", "ln π/μ of chosen texts, nats"),
            ("logratios/rejected", "ln π/μ of rejected texts, nats"),
            ("logps/chosen", "ln π of chosen texts, nats"),
            ("logps/rejected", "ln π of rejected texts, nats"),
            ("logps", "ln π of texts, nats"),
            ("mean_reward", "Mean reward"),
        ],
    ),
    (
        "texts",
        "Texts written on the way",
        &[
            ("generations/tokens", "Tokens of a text"),
            ("generations/score", "Score"),
            ("generations/kl", "KL to the reference, nats"),
            ("generations/repetition", "Repetition"),
            ("generations/ended", "Share that ended"),
        ],
    ),
    (
        "lengths",
        "Lengths trained on",
        &[
            ("completion_tokens/chosen", "Tokens of chosen texts"),
            ("completion_tokens/rejected", "Tokens of rejected texts"),
            ("completion_tokens", "Tokens of texts"),
        ],
    ),
    ("optimiser", "Optimiser", &[("grad_norm", "Norm of the gradient"), ("learning_rate", "Learning rate")]),
];

/// What a run has measured.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it is called on a page.
    pub name: String,
    /// Lines of metrics, each with its `step`.
    pub lines: Vec<Map<String, Value>>,
}

impl Run {
    /// Reads an output folder, or a file of metrics; the run may still go on.
    ///
    /// # Errors
    /// A file that can't be read, a line that is no table, or none at all.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = if path.is_dir() { path.join("metrics.jsonl") } else { path.to_owned() };
        let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
        let mut lines = Vec::new();
        // What has no end of line is still being written.
        for (i, line) in text.split_inclusive('\n').enumerate().filter(|(_, l)| l.ends_with('\n')) {
            let wrong = |what: String| Error::Line { path: file.clone(), line: i + 1, what };
            let table: Map<String, Value> = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
            if table.get("step").and_then(Value::as_u64).is_none() {
                return Err(wrong("expected a line of metrics with its `step`".into()));
            }
            lines.push(table);
        }
        if lines.is_empty() {
            return Err(Error::Key(format!("{}: no line of metrics yet", file.display())));
        }
        let shown = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = shown.file_name().map_or_else(|| shown.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, lines })
    }

    /// A metric over steps.
    fn points(&self, key: &str) -> Vec<(f64, f64)> {
        let point = |l: &Map<String, Value>| Some((l["step"].as_f64()?, l.get(key)?.as_f64()?));
        self.lines.iter().filter_map(point).collect()
    }

    fn last(&self, key: &str) -> Option<f64> {
        self.points(key).last().map(|p| p.1)
    }
}

/// At most [`POINTS`] points: means of as many neighbours each.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |of: &[(f64, f64)]| {
        let n = of.len() as f64;
        (of.iter().map(|p| p.0).sum::<f64>() / n, of.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(size).map(mean).collect()
}

/// The power of ten that numbers of that size are given in, and how that is written.
fn power(largest: f64) -> (f64, String) {
    let e = largest.log10().floor();
    if largest == 0.0 || !e.is_finite() || (-3.0..5.0).contains(&e) {
        return (1.0, String::new());
    }
    let digits = "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().collect::<Vec<_>>();
    let raised: String =
        format!("{}", e as i32).chars().map(|c| c.to_digit(10).map_or('⁻', |d| digits[d as usize])).collect();
    (10f64.powf(e), format!(" · 10{raised}"))
}

/// One metric of all runs, training drawn through and evaluation dashed; None where no run has it.
fn panel(runs: &[Run], key: &str, title: &str) -> Option<String> {
    let evaluated = format!("eval_{key}");
    let lines: Vec<_> = runs.iter().map(|r| (thinned(&r.points(key)), thinned(&r.points(&evaluated)))).collect();
    let all = || lines.iter().flat_map(|(a, b)| a.iter().chain(b));
    all().next()?;
    let (unit, written) = power(all().map(|p| p.1.abs()).fold(0.0, f64::max));
    let scaled = |points: &[(f64, f64)]| points.iter().map(|(x, y)| (*x, y / unit)).collect::<Vec<_>>();
    let (x, y) = (Scale::of(all().map(|p| p.0)), Scale::of(all().map(|p| p.1 / unit)));
    let mut panel = Panel::new(title, "", "optimiser step", &format!("{key}{written}"), x, y);
    for (i, (trained, evaluated)) in lines.iter().enumerate() {
        let class = format!("c{}", i % COLOURS);
        panel.line(&class, "", &scaled(trained));
        panel.line(&format!("{class} mean"), "exact", &scaled(evaluated));
        // A line wants two.
        for only in [trained, evaluated].into_iter().filter(|l| l.len() == 1) {
            panel.dot(&class, scaled(only)[0]);
        }
    }
    Some(panel.done())
}

const COLOURS: usize = 6;

/// The figures of those metrics that the runs have.
///
/// # Errors
/// No run, or more than there are colours.
pub fn figures(runs: &[Run]) -> Result<Vec<Figure>, Error> {
    if runs.is_empty() || runs.len() > COLOURS {
        return Err(Error::Key(format!("{} runs: expected 1 to {COLOURS} of them", runs.len())));
    }
    let has = |key: &str| runs.iter().any(|r| !r.points(key).is_empty());
    let most = runs.iter().map(|r| r.lines.iter().filter(|l| l.contains_key("loss")).count()).max().unwrap_or(0);
    let averaged = match most.div_ceil(POINTS) {
        0 | 1 => String::new(),
        n => format!(" A point is the mean of up to {n} lines of metrics."),
    };
    let figure = |(id, title, panels): &Shown| {
        // Where there is a reference, what counts is the distance from it.
        let aside = |key: &str| key.starts_with("logps/") && has("logratios/chosen");
        let shown = panels.iter().filter(|(key, _)| !aside(key));
        let shown: Vec<_> = shown.filter_map(|(key, title)| Some((key, panel(runs, key, title)?))).collect();
        if shown.is_empty() {
            return None;
        }
        let evaluated = shown.iter().any(|(key, _)| has(&format!("eval_{key}")));
        let mut items: Vec<_> =
            runs.iter().enumerate().map(|(i, r)| (format!("c{}", i % COLOURS), "", r.name.clone())).collect();
        if evaluated {
            items.push(("k mean".into(), "exact", "evaluation".into()));
        }
        let dashed = if evaluated { " Dashed: on the evaluation data." } else { "" };
        Some(Figure {
            id,
            title: (*title).into(),
            caption: format!("Over optimiser steps.{dashed}{averaged}"),
            panels: shown.into_iter().map(|(_, svg)| svg).collect(),
            legend: legend(&items),
        })
    };
    Ok(FIGURES.iter().filter_map(figure).collect())
}

/// One page with all of it, which asks for nothing else.
pub fn page(runs: &[Run], figures: &[Figure]) -> String {
    let number = |v: Option<f64>| v.map_or("–".to_owned(), |v| format!("{v:.4}").replace('-', "−"));
    let rows: Vec<Value> = runs
        .iter()
        .enumerate()
        .map(|(i, r)| {
            let losses = r.points("loss");
            let least = r.points("eval_loss").into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
            json!({
                "name": r.name,
                "class": format!("c{}", i % COLOURS),
                "steps": r.lines.iter().filter_map(|l| l["step"].as_u64()).max(),
                "epoch": r.last("epoch").map_or("–".to_owned(), |e| format!("{e:.2}")),
                "tokens": r.last("num_tokens").map(|n| n as u64),
                "first": number(losses.first().map(|p| p.1)),
                "last": number(losses.last().map(|p| p.1)),
                "least": number(least.map(|p| p.1)),
                "at": least.map(|p| p.0 as u64),
                "accuracy": number(r.last("rewards/accuracies").or_else(|| r.last("accuracy"))),
            })
        })
        .collect();
    let names: Vec<_> = runs.iter().map(|r| r.name.as_str()).collect();
    let page = json!({
        "title": names.join(", "), "style": format!("{PAGE}{STYLE}"), "figures": figures, "runs": rows,
        "evaluated": rows.iter().any(|r| !r["at"].is_null()),
        "compared": rows.iter().any(|r| r["accuracy"] != "–"),
    });
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment
        .render_named_str("curves.html", include_str!("curves.html"), Serde(page))
        .expect("the page's template is part of the program, and is tested")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_become_means_and_small_numbers_powers() {
        let points: Vec<_> = (0..1000).map(|i| (i as f64, 2.0 * i as f64)).collect();
        let few = thinned(&points);
        assert_eq!((few.len(), few[0]), (250, (1.5, 3.0)));
        assert_eq!(thinned(&points[..3]), points[..3]);
        assert_eq!(power(3e-6), (1e-6, " · 10⁻⁶".to_owned()));
        assert_eq!((power(0.5).0, power(0.0).0, power(99_999.0).0), (1.0, 1.0, 1.0));
    }

    #[test]
    fn a_line_under_way_is_left_and_a_broken_one_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("metrics.jsonl");
        fs::write(&file, "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.4,\"st").unwrap();
        let run = Run::read(folder.path()).unwrap();
        assert_eq!(run.points("loss"), [(1.0, 0.5)]);
        fs::write(&file, "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.4}\n").unwrap();
        assert!(Run::read(folder.path()).unwrap_err().to_string().contains("metrics.jsonl, line 2: expected a line"));
        fs::write(&file, "").unwrap();
        assert!(Run::read(folder.path()).unwrap_err().to_string().ends_with("no line of metrics yet"));
        assert!(figures(&vec![run; 7]).unwrap_err().to_string().starts_with("7 runs: expected 1 to 6"));
    }
}

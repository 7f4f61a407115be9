//! What a study expects, stated before its first cell: the sign of summed − averaged at matched KL, from the exact optimum
//! where there is one, and else from which way the labels' lengths lean.
//!
//! The theory: under *mean* the optimum is π* = μ exp(n (R − λ)/β). At equal KL it follows a length bias of the labels less
//! than that of *sum*, in both directions, and pays in quality; without a bias it lengthens a little of its own accord.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Plan;
use crate::results::{Quantity, Results, Verdict, family};
use crate::run::placed;
use crate::statistics::curve::{Curve, MATCHED, Point, matched};
use crate::{Cell, Error};

/// What is expected of one comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The condition in words.
    pub condition: String,
    /// The family: `dpo`.
    pub family: String,
    /// `length` or `score`.
    pub quantity: String,
    /// Whether the summed method should have `more` or `less` than the averaged one at equal KL; nothing: it depends.
    pub summed_has: Option<String>,
    /// From what this follows.
    pub because: String,
}

/// How a prediction came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The interval lies on the side that was expected.
    Held,
    /// It lies on the other side.
    Failed,
    /// It covers 0.
    Open,
    /// There was nothing to compare, or nothing was predicted.
    NotJudged,
}

/// A point of the exact optimum.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(from = "Row")]
pub struct Optimal {
    /// KL(π*‖μ), nats.
    pub kl: f64,
    /// Mean tokens.
    pub length: f64,
    /// Mean quality.
    pub quality: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    List(f64, f64, f64),
    Table { kl: f64, length: f64, quality: f64 },
}

impl From<Row> for Optimal {
    fn from(row: Row) -> Self {
        match row {
            Row::List(kl, length, quality) | Row::Table { kl, length, quality } => Self { kl, length, quality },
        }
    }
}

/// The exact optimum over β, by the name of the averaging.
pub type Optimum = BTreeMap<String, Vec<Optimal>>;

/// The exact optimum of a cell's world, if the study has one.
///
/// # Errors
/// A file that can't be read, or is none.
pub fn optimum(plan: &Plan, cell: &Cell) -> Result<Option<Optimum>, Error> {
    let Some(path) = &plan.optimum else { return Ok(None) };
    let placed = placed(plan, cell.world, path);
    let of_world = path.starts_with("{world}");
    let path = Path::new(&placed);
    // Not every world has one.
    if of_world && !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let read = serde_json::from_str(&text);
    read.map(Some).map_err(|e| Error::Line { path: path.to_owned(), line: e.line(), what: e.to_string() })
}

/// The curve of an exact optimum.
pub fn exact_curve(points: &[Optimal], quantity: Quantity) -> Curve {
    let y = |p: &Optimal| if quantity == Quantity::Length { p.length } else { p.quality };
    Curve::new(points.iter().map(|p| Point { kl: p.kl, y: y(p) }).collect())
}

/// Which side of the pairs is longer, as far as that is seen from JSONL rows: (chosen longer, rejected longer).
fn longer(path: &Path) -> Option<(u64, u64)> {
    fn length(v: &Value) -> usize {
        match v {
            Value::String(s) => s.chars().count(),
            Value::Array(turns) => turns.iter().map(|t| length(&t["content"])).sum(),
            _ => 0,
        }
    }
    let text = fs::read_to_string(path).ok()?;
    let rows = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let mut sides = (0, 0);
    for row in rows {
        match length(&row["chosen"]).cmp(&length(&row["rejected"])) {
            std::cmp::Ordering::Greater => sides.0 += 1,
            std::cmp::Ordering::Less => sides.1 += 1,
            std::cmp::Ordering::Equal => {}
        }
    }
    (sides.0 + sides.1 > 0).then_some(sides)
}

/// (summed − averaged is more, why) of length and score.
type Expected = [(Option<bool>, String); 2];

fn by_optimum(optimum: &Optimum) -> Option<Expected> {
    let (sum, mean) = (optimum.get("sum")?, optimum.get("mean")?);
    Some(Quantity::ALL.map(|quantity| {
        let (a, b) = (exact_curve(sum, quantity), exact_curve(mean, quantity));
        let kls = matched(&a, &b);
        // At the ends curves may meet.
        let apart: Vec<f64> = kls[kls.len().min(1)..].iter().filter_map(|kl| Some(a.at(*kl)? - b.at(*kl)?)).collect();
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        let same = apart.len() + 1 == MATCHED && apart.iter().all(|d| d.signum() == mean.signum() && d.abs() > 1e-6);
        let because = match (same, kls.last()) {
            (true, Some(to)) => format!(
                "the exact optimum: summed − averaged is {mean:+.3} in the mean of KL {:.2} to {to:.2}, of one sign throughout",
                kls[1]
            ),
            (false, Some(_)) => "the exact optimum: the sign depends on the KL".to_owned(),
            (_, None) => "the exact optima reach no KL in common".to_owned(),
        };
        (same.then_some(mean > 0.0), because)
    }))
}

fn by_labels(path: &Path) -> Expected {
    let Some((chosen, rejected)) = longer(path) else {
        let why = "the pairs' lengths are not seen from JSONL rows of chosen and rejected".to_owned();
        return [(None, why.clone()), (None, why)];
    };
    let n = (chosen + rejected) as f64;
    let share = chosen as f64 / n;
    let said = format!("the chosen text is the longer one in {:.0} % of pairs", 100.0 * share);
    let quality = (Some(true), format!("{said}; at equal KL averaging pays in quality"));
    // Two standard errors of a fair coin.
    let length = match (share - 0.5) * n.sqrt() {
        z if z > 1.0 => (Some(true), format!("{said}: averaging follows a length bias of the labels less")),
        z if z < -1.0 => (Some(false), format!("{said}: averaging follows a length bias of the labels less")),
        _ => (Some(false), format!("{said}, no bias to speak of: averaging lengthens a little of its own accord")),
    };
    [length, quality]
}

/// Predictions for every pair of a summed and an averaged method, in each condition.
///
/// # Errors
/// A file that can't be read.
pub fn of(plan: &Plan) -> Result<Vec<Prediction>, Error> {
    let mut all: Vec<Prediction> = Vec::new();
    for cell in plan.cells.iter().filter(|c| c.method == family(&c.method)) {
        let (condition, family) = (cell.condition_text(), family(&cell.method).to_owned());
        let twin = format!("averaged-{family}");
        if all.iter().any(|p| p.condition == condition && p.family == family)
            || plan.cells.iter().all(|c| c.method != twin)
        {
            continue;
        }
        let expected = match optimum(plan, cell)?.as_ref().and_then(by_optimum) {
            Some(expected) => expected,
            None => match &cell.keys["data"] {
                Value::String(path) => by_labels(Path::new(&placed(plan, cell.world, path))),
                _ => by_labels(Path::new("")),
            },
        };
        for (quantity, (more, because)) in Quantity::ALL.into_iter().zip(expected) {
            let summed_has = more.map(|m| if m { "more" } else { "less" }.to_owned());
            let quantity = quantity.name().to_owned();
            all.push(Prediction {
                condition: condition.clone(),
                family: family.clone(),
                quantity,
                summed_has,
                because,
            });
        }
    }
    Ok(all)
}

/// How a prediction came out.
pub fn outcome(p: &Prediction, results: &Results) -> Outcome {
    let compared = results
        .comparisons
        .iter()
        .find(|c| c.family == p.family && c.condition == p.condition && c.quantity.name() == p.quantity);
    match (p.summed_has.as_deref(), compared.map(|c| c.verdict)) {
        (Some("more"), Some(Verdict::More)) | (Some("less"), Some(Verdict::Less)) => Outcome::Held,
        (Some(_), Some(Verdict::More | Verdict::Less)) => Outcome::Failed,
        (Some(_), Some(Verdict::Overlap)) => Outcome::Open,
        _ => Outcome::NotJudged,
    }
}

/// Predictions in words, for a reader of the folder.
pub fn markdown(all: &[Prediction]) -> String {
    let mut out =
        "# What this study expects\n\nWritten before its first cell was run. Compared are a summed method and its \
                   averaged twin where both reach the same KL to the SFT policy.\n\n"
            .to_owned();
    for p in all {
        out += &format!("- {}: {}\n", p.title(), p.sentence());
    }
    if all.is_empty() {
        out += "Nothing: no method is there both summed and averaged.\n";
    }
    out
}

impl Prediction {
    /// What it is of.
    pub fn title(&self) -> String {
        let of = format!("{}, {}", self.family, self.quantity);
        if self.condition.is_empty() { of } else { format!("{of}, {}", self.condition) }
    }

    /// What it says.
    pub fn sentence(&self) -> String {
        let (family, because) = (&self.family, &self.because);
        let what = match (&*self.quantity, self.summed_has.as_deref()) {
            (_, None) => return format!("no sign is predicted ({because})."),
            ("length", Some("more")) => {
                format!("at equal KL {family} should write longer answers than averaged-{family}")
            }
            ("length", _) => format!("at equal KL {family} should write shorter answers than averaged-{family}"),
            (_, Some("more")) => format!("at equal KL {family} should score higher than averaged-{family}"),
            _ => format!("at equal KL {family} should score lower than averaged-{family}"),
        };
        format!("{what} ({because}).")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_optimum_says_the_sign() {
        let text = r#"{"sum": [[0.0, 10.0, 0.5], [0.2, 13.8, 0.67], [0.5, 16.0, 0.7]],
            "mean": [{"kl": 0.0, "length": 10.0, "quality": 0.5}, {"kl": 0.4, "length": 14.0, "quality": 0.66}]}"#;
        let [(length, why), (score, _)] = by_optimum(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((length, score), (Some(true), Some(true)));
        assert!(why.contains("KL 0.10 to 0.40"), "{why}");
    }

    #[test]
    fn labels_say_it_where_there_is_no_optimum() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pairs.jsonl");
        let rows = |long: usize, short: usize| {
            let row = |c: &str, r: &str| format!("{{\"prompt\": \"p\", \"chosen\": \"{c}\", \"rejected\": \"{r}\"}}\n");
            fs::write(&file, row("long", "s").repeat(long) + &row("s", "long").repeat(short)).unwrap();
            by_labels(&file)[0].0
        };
        assert_eq!((rows(80, 20), rows(20, 80), rows(52, 48)), (Some(true), Some(false), Some(false)));
        assert_eq!(by_labels(&folder.path().join("none"))[0].0, None);
    }
}

//! Figures as SVG. Colours are classes, so that a page and a file of its own have them in light and in dark.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use serde::Serialize;
use serde_json::Value;

use crate::Plan;
use crate::predictions::{Optimum, exact_curve};
use crate::results::{Measured, Quantity, Results};
use crate::run::{POLICY, cell_folder};
use crate::statistics::{Curve, Interval, Metric};

/// Of a panel.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 48.0;

/// The style of all figures; a page puts it in its own.
pub const STYLE: &str = "\
.fig{color-scheme:light dark;--ink:#1d2430;--soft:#5b6472;--grid:#d9dde3;--c0:#1f5fbf;--c1:#b4520a;--c2:#1b7a4b;--c3:#7a3fb5;\
--c4:#a3236b;--c5:#4d6b00;font:13px system-ui,sans-serif}\
@media (prefers-color-scheme:dark){.fig{--ink:#e6e9ee;--soft:#a3acb9;--grid:#3a414c;--c0:#7db2ff;--c1:#f5a15c;--c2:#5fd39a;\
--c3:#c9a6ff;--c4:#ff8fc4;--c5:#bcd64a}}\
@media print{.fig{--ink:#000;--soft:#444;--grid:#ccc;--c0:#1f5fbf;--c1:#b4520a;--c2:#1b7a4b;--c3:#7a3fb5;--c4:#a3236b;--c5:#4d6b00}}\
.fig text{fill:var(--ink)}.fig .soft{fill:var(--soft)}.fig .title{font-weight:600}\
.fig .grid{stroke:var(--grid);stroke-width:1}.fig .line{fill:none;stroke:currentColor;stroke-width:1.6}\
.fig .mean .line{stroke-width:3}.fig .exact{stroke-dasharray:6 4}.fig .bar{stroke:currentColor;stroke-width:1;opacity:.4}\
.fig .sum .mark{fill:var(--page,Canvas);stroke:currentColor;stroke-width:1.8}.fig .mark{fill:currentColor}\
.fig .area{fill:var(--soft);opacity:.28}.fig .k{color:var(--ink)}.fig .c0{color:var(--c0)}.fig .c1{color:var(--c1)}\
.fig .c2{color:var(--c2)}.fig .c3{color:var(--c3)}.fig .c4{color:var(--c4)}.fig .c5{color:var(--c5)}";

/// The style of a page around them.
pub(crate) const PAGE: &str = include_str!("page.css");

/// A figure: panels that can stand side by side or below each other.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The name of its file.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// Each an SVG of its own.
    pub panels: Vec<String>,
    /// What lines and marks mean, an SVG too.
    pub legend: String,
}

impl Figure {
    /// The whole figure as one file.
    pub fn file(&self) -> String {
        let columns = self.panels.len().clamp(1, 2);
        let rows = self.panels.len().div_ceil(columns);
        let legend = height_of(&self.legend);
        let (w, h) = (WIDTH * columns as f64, HEIGHT * rows as f64 + legend);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
             style=\"background:Canvas;color-scheme:light dark\"><title>{}</title><style>{STYLE}</style>\n",
            escape(&self.title)
        );
        for (i, panel) in self.panels.iter().enumerate() {
            let (x, y) = ((i % columns) as f64 * WIDTH, (i / columns) as f64 * HEIGHT);
            out += &panel.replacen(
                "<svg ",
                &format!("<svg x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" "),
                1,
            );
        }
        let y = HEIGHT * rows as f64;
        out += &self.legend.replacen("<svg ", &format!("<svg y=\"{y}\" width=\"{WIDTH}\" height=\"{legend}\" "), 1);
        out + "</svg>\n"
    }
}

fn height_of(svg: &str) -> f64 {
    let view = svg.split("viewBox=\"").nth(1).and_then(|s| s.split('"').next()).unwrap_or("0 0 0 0");
    view.split(' ').nth(3).and_then(|h| h.parse().ok()).unwrap_or(0.0)
}

/// Text as XML has it.
pub(crate) fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What of a text fits above a panel.
fn fitting(text: &str) -> String {
    const MOST: usize = 44;
    if text.chars().count() <= MOST { text.to_owned() } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

/// From where to where an axis goes, and its ticks.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    digits: usize,
}

impl Scale {
    /// That of values: whole steps of 1, 2 or 5.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = match (low.is_finite(), high - low > 1e-9) {
            (false, _) => (0.0, 1.0),
            (true, true) => (low, high),
            (true, false) => (low - 0.5, high + 0.5),
        };
        let pad = 0.06 * (high - low);
        let (from, to) = (low - pad, high + pad);
        let raw = (to - from) / 5.0;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
        let first = (from / step).ceil() as i64;
        let ticks = (first..).map(|i| i as f64 * step).take_while(|t| *t <= to + 1e-9 * step).collect();
        Self { from, to, ticks, digits: (-step.log10().floor()).clamp(0.0, 6.0) as usize }
    }

    /// That of values which begin at 0, as counts and shares do.
    fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        Self { from: 0.0, ..Self::of(values.chain([0.0])) }
    }

    fn share(&self, v: f64) -> f64 {
        (v - self.from) / (self.to - self.from)
    }
}

/// A panel under way.
pub(crate) struct Panel {
    x: Scale,
    y: Scale,
    body: String,
}

impl Panel {
    /// With `condition` under its title.
    pub fn new(title: &str, condition: &str, x_label: &str, y_label: &str, x: Scale, y: Scale) -> Self {
        let mut body = format!(
            "<svg class=\"fig\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" \
             aria-label=\"{}\"><text class=\"title\" x=\"{LEFT}\" y=\"16\">{}</text><text class=\"soft\" x=\"{LEFT}\" \
             y=\"33\">{}</text>",
            escape(&if condition.is_empty() {
                format!("{title}: {y_label} over {x_label}")
            } else {
                format!("{title}, {condition}: {y_label} over {x_label}")
            }),
            escape(&fitting(title)),
            escape(&fitting(condition))
        );
        let mut p = Self { x, y, body: String::new() };
        for t in p.x.ticks.clone() {
            let (at, base) = (p.at_x(t), HEIGHT - BOTTOM);
            let _ = write!(
                body,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{base}\"/><text class=\"soft\" x=\"{at:.1}\" y=\"{}\" \
                 text-anchor=\"middle\">{}</text>",
                base + 18.0,
                number(t, p.x.digits)
            );
        }
        for t in p.y.ticks.clone() {
            let (at, end) = (p.at_y(t), WIDTH - RIGHT);
            let _ = write!(
                body,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{end}\"/><text class=\"soft\" x=\"{}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.5,
                number(t, p.y.digits)
            );
        }
        let _ = write!(
            body,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text transform=\"translate(14 {:.1}) rotate(-90)\" \
             text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(x_label),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(y_label)
        );
        p.body = body;
        p
    }

    fn at_x(&self, v: f64) -> f64 {
        LEFT + self.x.share(v) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, v: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(v) * (HEIGHT - TOP - BOTTOM)
    }

    pub fn line(&mut self, class: &str, extra: &str, points: &[(f64, f64)]) {
        if points.len() < 2 {
            return;
        }
        let at: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1} {:.1}", self.at_x(*x), self.at_y(*y))).collect();
        let _ = write!(self.body, "<g class=\"{class}\"><path class=\"line {extra}\" d=\"M{}\"/></g>", at.join("L"));
    }

    /// A point that stands alone.
    pub fn dot(&mut self, class: &str, (x, y): (f64, f64)) {
        let _ = write!(self.body, "<g class=\"{class}\">{}</g>", Shape::Circle.at(self.at_x(x), self.at_y(y)));
    }

    fn area(&mut self, points: &[(f64, f64)]) {
        let Some(first) = points.first() else { return };
        let at: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1} {:.1}", self.at_x(*x), self.at_y(*y))).collect();
        let base = self.at_y(self.y.from.max(0.0));
        let end = self.at_x(points[points.len() - 1].0);
        let _ = write!(
            self.body,
            "<path class=\"area\" d=\"M{:.1} {base:.1}L{}L{end:.1} {base:.1}Z\"/>",
            self.at_x(first.0),
            at.join("L")
        );
    }

    /// A mark with its intervals and what it says when pointed at.
    fn point(&mut self, class: &str, shape: Shape, x: Interval, y: Interval, says: &str) {
        let (cx, cy) = (self.at_x(x.value), self.at_y(y.value));
        let (x0, x1) = (self.at_x(x.low).max(LEFT), self.at_x(x.high).min(WIDTH - RIGHT));
        let (y0, y1) = (self.at_y(y.low).min(HEIGHT - BOTTOM), self.at_y(y.high).max(TOP));
        let _ = write!(
            self.body,
            "<g class=\"{class}\"><title>{}</title><path class=\"bar\" d=\"M{x0:.1} {cy:.1}H{x1:.1}M{cx:.1} {y0:.1}V{y1:.1}\"/>\
             {}</g>",
            escape(says),
            shape.at(cx, cy)
        );
    }

    fn label(&mut self, x: f64, y: f64, text: &str) {
        let (cx, cy) = (self.at_x(x), self.at_y(y));
        // Near the right end it stands on the left.
        let (dx, anchor) = if cx > WIDTH - 90.0 { (-8.0, "end") } else { (8.0, "start") };
        let _ = write!(
            self.body,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            cx + dx,
            cy - 6.0,
            escape(text)
        );
    }

    pub fn done(self) -> String {
        self.body + "</svg>\n"
    }
}

fn number(v: f64, digits: usize) -> String {
    format!("{v:.digits$}").replace('-', "−")
}

#[derive(Clone, Copy)]
enum Shape {
    Circle,
    Square,
    Diamond,
    Cross,
}

impl Shape {
    fn at(self, x: f64, y: f64) -> String {
        match self {
            Self::Circle => format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
            Self::Square => {
                format!("<rect class=\"mark\" x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"/>", x - 4.0, y - 4.0)
            }
            Self::Diamond => format!("<path class=\"mark\" d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\"/>", y - 5.0),
            Self::Cross => {
                format!(
                    "<path class=\"line\" style=\"stroke-width:3\" d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\"/>",
                    x - 5.0,
                    y - 5.0
                )
            }
        }
    }
}

/// Methods, their colours and shapes.
struct Looks {
    /// Families that are there summed and averaged.
    pairs: Vec<String>,
}

impl Looks {
    fn new(results: &Results) -> Self {
        let mut pairs: Vec<String> = results.comparisons.iter().map(|c| c.family.clone()).collect();
        pairs.sort();
        pairs.dedup();
        Self { pairs }
    }

    fn class(&self, m: &Measured) -> String {
        let Some(i) = self.pairs.iter().position(|f| *f == m.family) else { return "k".into() };
        format!("c{} {}", i % 6, if m.method == m.family { "sum" } else { "mean" })
    }

    fn shape(&self, m: &Measured) -> Shape {
        match self.pairs.contains(&m.family) {
            true if m.method == m.family => Shape::Circle,
            true => Shape::Square,
            false => Shape::Diamond,
        }
    }

    fn legend(&self, marks: bool, exact: bool, others: bool, sft: bool) -> String {
        let mut items: Vec<(String, String)> = Vec::new();
        let drawn = |class: &str, extra: &str, shape: Option<Shape>| {
            let mark = shape.filter(|_| marks).map_or_else(String::new, |s| s.at(15.0, 9.0));
            sample(class, extra, &mark)
        };
        for (i, family) in self.pairs.iter().enumerate() {
            items.push((drawn(&format!("c{} sum", i % 6), "", Some(Shape::Circle)), family.clone()));
            let averaged = format!("averaged-{family}");
            items.push((drawn(&format!("c{} mean", i % 6), "", Some(Shape::Square)), averaged));
        }
        if others {
            let mark = if marks {
                format!("<g class=\"k\">{}</g>", Shape::Diamond.at(15.0, 9.0))
            } else {
                drawn("k", "", None)
            };
            items.push((mark, "other methods, by name".into()));
        }
        if sft {
            let mark = match marks {
                true => format!("<g class=\"k\">{}</g>", Shape::Cross.at(15.0, 9.0)),
                false => "<rect class=\"area\" x=\"1\" y=\"1\" width=\"28\" height=\"14\"/>".into(),
            };
            items.push((mark, "SFT policy".into()));
        }
        if exact {
            items.push((drawn("k sum", "exact", None), "exact optimum, sum".into()));
            items.push((drawn("k mean", "exact", None), "exact optimum, mean".into()));
        }
        columns(&items)
    }
}

/// A sample of a line, for a legend.
fn sample(class: &str, extra: &str, mark: &str) -> String {
    format!("<g class=\"{class}\"><path class=\"line {extra}\" d=\"M1 9h28\"/>{mark}</g>")
}

/// A legend of lines: the classes of each, that of the line itself, and what it is.
pub(crate) fn legend(lines: &[(String, &str, String)]) -> String {
    let items: Vec<_> = lines.iter().map(|(class, extra, text)| (sample(class, extra, ""), text.clone())).collect();
    columns(&items)
}

/// Samples and what they are.
fn columns(items: &[(String, String)]) -> String {
    // Two columns.
    let rows = items.len().div_ceil(2);
    let height = 22.0 * rows as f64 + 8.0;
    let mut out = format!(
        "<svg class=\"fig\" viewBox=\"0 0 {WIDTH} {height}\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" \
         aria-label=\"Legend\">"
    );
    for (i, (mark, text)) in items.iter().enumerate() {
        let (x, y) = (10.0 + (i % 2) as f64 * WIDTH / 2.0, 22.0 * (i / 2) as f64);
        let _ = write!(
            out,
            "<g transform=\"translate({x} {y})\">{mark}<text x=\"37\" y=\"13.5\">{}</text></g>",
            escape(text)
        );
    }
    out + "</svg>\n"
}

fn metric(m: &BTreeMap<&'static str, Option<Interval>>, which: Metric) -> Option<Interval> {
    m.get(which.name()).copied().flatten()
}

/// The conditions of a study, in their order.
pub(crate) fn conditions(results: &Results) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for s in &results.settings {
        if !all.contains(&s.condition) {
            all.push(s.condition.clone());
        }
    }
    all
}

/// Settings of one curve each, from the greatest β to the least.
fn curves<'a>(results: &'a Results, condition: &str) -> Vec<Vec<&'a Measured>> {
    let mut all: Vec<Vec<&Measured>> = Vec::new();
    for s in results.settings.iter().filter(|s| s.condition == condition) {
        match all.iter_mut().find(|c| (&c[0].method, &c[0].curve) == (&s.method, &s.curve)) {
            Some(curve) => curve.push(s),
            None => all.push(vec![s]),
        }
    }
    for curve in &mut all {
        curve.sort_by(|a, b| b.beta.unwrap_or(0.0).total_cmp(&a.beta.unwrap_or(0.0)));
    }
    all
}

/// A panel of curves along β: `x` against `y`.
fn along_beta(
    results: &Results,
    looks: &Looks,
    condition: &str,
    world: usize,
    (x, y): (Metric, Metric),
    exact: &[(&'static str, Curve)],
) -> String {
    let curves = curves(results, condition);
    let sft = &results.sft[world.min(results.sft.len() - 1)];
    let zero = Interval { value: 0.0, low: 0.0, high: 0.0 };
    let of_sft = |m: Metric| if m == Metric::Kl { Some(zero) } else { metric(sft, m) };
    let start = Some((of_sft(x), of_sft(y))).and_then(|(x, y)| Some((x?, y?)));
    let points: Vec<(&Measured, Interval, Interval)> =
        curves.iter().flatten().filter_map(|m| Some((*m, metric(&m.metrics, x)?, metric(&m.metrics, y)?))).collect();
    // An exact optimum that goes on far beyond what was reached is cut.
    let most = points.iter().map(|p| p.1.high).fold(0.0, f64::max) * 1.05;
    let exact: Vec<(&str, Vec<(f64, f64)>)> = exact
        .iter()
        .map(|(name, c)| (*name, c.points().iter().map(|p| (p.kl, p.y)).filter(|p| p.0 <= most).collect()))
        .collect();
    let all = || points.iter().map(|p| (p.1, p.2)).chain(start);
    let ends = |i: Interval| [i.low, i.value, i.high];
    let beyond = |f: fn(&(f64, f64)) -> f64| exact.iter().flat_map(move |e| e.1.iter().map(f)).collect::<Vec<_>>();
    let xs = Scale::of(all().flat_map(|p| ends(p.0)).chain(beyond(|p| p.0)));
    let ys = Scale::of(all().flat_map(|p| ends(p.1)).chain(beyond(|p| p.1)));
    let named = |m: Metric| match m {
        Metric::Length => "mean tokens of an answer",
        Metric::Score => "mean score",
        _ => "KL to the SFT policy, nats",
    };
    let brief = |m: Metric| match m {
        Metric::Length => "Length",
        Metric::Score => "Score",
        _ => "KL",
    };
    let mut panel = Panel::new(&format!("{} over {}", brief(y), brief(x)), condition, named(x), named(y), xs, ys);
    for (averaging, line) in &exact {
        panel.line(&format!("k {averaging}"), "exact", line);
    }
    for curve in &curves {
        let of = |m: &Measured| Some((metric(&m.metrics, x)?.value, metric(&m.metrics, y)?.value));
        let line: Vec<(f64, f64)> = curve.iter().filter_map(|m| of(m)).collect();
        panel.line(&looks.class(curve[0]), "", &line);
    }
    if let Some((x, y)) = start {
        panel.point("k", Shape::Cross, x, y, "SFT policy");
    }
    for (m, x, y) in &points {
        let says = format!("{}: {:.3}, {:.3}", m.name, x.value, y.value);
        panel.point(&looks.class(m), looks.shape(m), *x, *y, &says);
    }
    for curve in &curves {
        let paired = looks.pairs.contains(&curve[0].family);
        // β at the end where the policy has gone furthest, or the name of a method of its own.
        if let Some(m) = curve.last()
            && let (Some(x), Some(y)) = (metric(&m.metrics, x), metric(&m.metrics, y))
        {
            let text = match (paired, m.beta) {
                (true, Some(beta)) => format!("β {beta}"),
                (true, None) => continue,
                (false, _) => m.method.clone(),
            };
            panel.label(x.value, y.value, &text);
        }
    }
    panel.done()
}

/// The setting of a curve that says most of it: of those with a twin, the one in the middle.
fn middle<'a>(curve: &[&'a Measured]) -> &'a Measured {
    curve[curve.len() / 2]
}

fn distributions(results: &Results, looks: &Looks, condition: &str) -> Vec<String> {
    let curves = curves(results, condition);
    let mut families: Vec<&str> = curves.iter().map(|c| &*c[0].family).collect();
    families.dedup();
    let (before, after) = &results.lengths;
    let centre = |i: usize| (i as f64 + 0.5) * before.width;
    let points = |shares: &[f64]| shares.iter().enumerate().map(|(i, s)| (centre(i), *s)).collect::<Vec<_>>();
    let mut seen = Vec::new();
    let mut out = Vec::new();
    for family in families {
        if seen.contains(&family) {
            continue;
        }
        seen.push(family);
        let chosen: Vec<&Measured> = curves.iter().filter(|c| c[0].family == family).map(|c| middle(c)).collect();
        let place = |m: &Measured| results.settings.iter().position(|s| s == m).expect("it is one of them");
        let lines: Vec<_> = chosen.iter().map(|m| (*m, points(&after[place(m)].shares))).collect();
        let start = points(&before.shares);
        let all = || lines.iter().flat_map(|l| &l.1).chain(&start);
        let (x, y) = (Scale::from_zero(all().map(|p| p.0)), Scale::from_zero(all().map(|p| p.1)));
        let said: Vec<String> = chosen.iter().filter_map(|m| m.beta.map(|b| format!("β {b}"))).collect();
        let title = format!("{family} ({})", said.join(" / "));
        let mut panel = Panel::new(&title, condition, "tokens of an answer", "share of answers", x, y);
        panel.area(&start);
        for (m, line) in &lines {
            panel.line(&looks.class(m), "", line);
        }
        out.push(panel.done());
    }
    out
}

/// A metric of training over steps: of each method's middle setting, the mean over seeds.
fn training(plan: &Plan, results: &Results, looks: &Looks, condition: &str, key: &str, label: &str) -> Option<String> {
    let mut lines = Vec::new();
    for curve in curves(results, condition) {
        let m = middle(&curve);
        let mut steps: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for cell in plan.cells.iter().filter(|c| m.cells.contains(&c.id)) {
            let path = cell_folder(plan, cell).join(POLICY).join("metrics.jsonl");
            let text = fs::read_to_string(path).unwrap_or_default();
            for line in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
                if let (Some(step), Some(v)) = (line["step"].as_u64(), line[key].as_f64()) {
                    steps.entry(step).or_default().push(v);
                }
            }
        }
        let mean = |(s, v): (&u64, &Vec<f64>)| (*s as f64, v.iter().sum::<f64>() / v.len() as f64);
        let line: Vec<(f64, f64)> = steps.iter().map(mean).collect();
        if line.len() > 1 {
            lines.push((m, line));
        }
    }
    if lines.is_empty() {
        return None;
    }
    let all = || lines.iter().flat_map(|l| &l.1);
    let (x, y) = (Scale::of(all().map(|p| p.0)), Scale::of(all().map(|p| p.1)));
    let mut panel = Panel::new(label, condition, "optimiser step", key, x, y);
    for (m, line) in &lines {
        panel.line(&looks.class(m), "", line);
    }
    for (m, line) in lines.iter().filter(|(m, _)| !looks.pairs.contains(&m.family)) {
        let (x, y) = line[line.len() - 1];
        panel.label(x, y, &m.method);
    }
    Some(panel.done())
}

/// All figures of a study; `exact` has the exact optimum of each condition that has one.
pub fn all(plan: &Plan, results: &Results, exact: &BTreeMap<String, Optimum>) -> Vec<Figure> {
    let looks = Looks::new(results);
    let conditions = conditions(results);
    let world = |condition: &str| plan.cells.iter().find(|c| c.condition_text() == condition).map_or(0, |c| c.world);
    let others = results.settings.iter().any(|s| !looks.pairs.contains(&s.family));
    let exact_of = |condition: &str, quantity| -> Vec<(&'static str, Curve)> {
        let Some(optimum) = exact.get(condition) else { return Vec::new() };
        let curve = |name: &'static str| Some((name, exact_curve(optimum.get(name)?, quantity)));
        ["sum", "mean"].into_iter().filter_map(curve).collect()
    };
    let panels = |x: Metric, y: Metric, quantity: Option<Quantity>| -> Vec<String> {
        let exact = |c: &str| quantity.map(|q| exact_of(c, q)).unwrap_or_default();
        conditions.iter().map(|c| along_beta(results, &looks, c, world(c), (x, y), &exact(c))).collect()
    };
    let along = "Each line runs along β, from the greatest to the least, whose value stands at its end; bars are intervals. \
                 Thin with circles: summed; thick with squares: averaged.";
    let has_exact = !exact.is_empty();
    let dashed = if has_exact { " Dashed: the exact optimum of the world." } else { "" };
    let legend = |exact| looks.legend(true, exact, others, true);
    let mut all = vec![
        Figure {
            id: "length-score",
            title: "Length against score".into(),
            caption: format!("{along} Not matched on KL: how far a point is from SFT is in the next two figures."),
            panels: panels(Metric::Length, Metric::Score, None),
            legend: legend(false),
        },
        Figure {
            id: "score-kl",
            title: "Score against KL".into(),
            caption: format!("{along} Methods are to be compared on one vertical.{dashed}"),
            panels: panels(Metric::Kl, Metric::Score, Some(Quantity::Score)),
            legend: legend(has_exact),
        },
        Figure {
            id: "length-kl",
            title: "Length against KL".into(),
            caption: format!("{along} Methods are to be compared on one vertical.{dashed}"),
            panels: panels(Metric::Kl, Metric::Length, Some(Quantity::Length)),
            legend: legend(has_exact),
        },
        Figure {
            id: "lengths",
            title: "Lengths before and after".into(),
            caption: "Shares of answers by their tokens, all seeds together; of each method the setting in the middle of its β. \
                      Shaded: the SFT policy."
                .into(),
            panels: conditions.iter().flat_map(|c| distributions(results, &looks, c)).collect(),
            legend: looks.legend(false, false, others, true),
        },
    ];
    let keys = [("rewards/accuracies", "Accuracy in training"), ("logps/chosen", "ln π of chosen texts in training")];
    let panels: Vec<String> = conditions
        .iter()
        .flat_map(|c| keys.map(|(key, label)| training(plan, results, &looks, c, key, label)))
        .flatten()
        .collect();
    if !panels.is_empty() {
        all.push(Figure {
            id: "training",
            title: "Training".into(),
            caption: "Means over seeds; of each method the setting in the middle of its β.".into(),
            panels,
            legend: looks.legend(false, false, others, false),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let s = Scale::of([0.3, 7.2].into_iter());
        assert_eq!(s.ticks, [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(Scale::from_zero([0.3, 7.2].into_iter()).from, 0.0);
        let s = Scale::of([-0.013, 0.041].into_iter());
        assert!(s.ticks.iter().all(|t| *t >= s.from && *t <= s.to) && s.ticks.len() >= 3, "{s:?}");
        assert_eq!(s.digits, 2);
        let one = Scale::of([5.0].into_iter());
        assert!(one.from < 5.0 && one.to > 5.0);
        assert!(Scale::of(std::iter::empty()).to > 0.0);
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
    }
}

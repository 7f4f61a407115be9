//! A loss and its slope against the margin, drawn from the code that computes them.

use std::fmt::Write;

use collimate_core::objective::{Completion, Totals};
use collimate_core::{Objective, Pair};

/// Tokens of both completions.
const TOKENS: f64 = 20.0;
/// ln μ of both completions.
const REFERENCE: f64 = -40.0;
/// The margin a − b at either end, in nats.
const REACH: f64 = 60.0;
const POINTS: usize = 121;

/// The loss of a pair of 20 tokens each where a = x/2 and b = −x/2.
fn loss(objective: &Objective, x: f64) -> f64 {
    let weights = |side: usize| {
        let weights = objective.averaging.weights(Pair::new(TOKENS as usize, TOKENS as usize), 0).into_array();
        weights[side].iter().sum::<f64>() / TOKENS
    };
    let at = |side: usize, sum: f64| {
        let score = weights(side) * sum;
        Completion { confidence: -0.5, ..Completion::new(score, sum, TOKENS) }
    };
    let pair = |a: f64, b: f64| Pair::new(at(0, REFERENCE + a), at(1, REFERENCE + b));
    let totals = Totals { pairs: 1, chosen_tokens: TOKENS as usize };
    objective.evaluate::<f64>(&pair(x / 2.0, -x / 2.0), &pair(0.0, 0.0), totals).loss
}

/// Loss and slope at each of the points.
pub fn curves(objective: &Objective) -> [Vec<(f64, f64)>; 2] {
    let at = |i: usize| REACH * (2.0 * i as f64 / (POINTS - 1) as f64 - 1.0);
    let slope = |x: f64| (loss(objective, x + 1e-3) - loss(objective, x - 1e-3)) / 2e-3;
    let points = |f: &dyn Fn(f64) -> f64| (0..POINTS).map(|i| (at(i), f(at(i)))).collect();
    [points(&|x| loss(objective, x)), points(&slope)]
}

/// Both as one drawing, in the colours of the page.
pub fn svg(objective: &Objective, name: &str) -> String {
    let mut s = format!(
        "<svg class=\"plot\" viewBox=\"0 0 640 220\" role=\"img\" aria-label=\"Loss and slope of {name} against the margin\" \
         xmlns=\"http://www.w3.org/2000/svg\">"
    );
    for ((curve, title), left) in curves(objective).iter().zip(["loss", "its slope"]).zip([50.0, 380.0]) {
        panel(&mut s, curve, title, left);
    }
    s + "</svg>"
}

fn panel(s: &mut String, curve: &[(f64, f64)], title: &str, left: f64) {
    let (width, top, height) = (240.0, 24.0, 150.0);
    let finite = || curve.iter().map(|p| p.1).filter(|y| y.is_finite());
    let (mut low, mut high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if high - low < 1e-9 {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let x = |v: f64| left + width * (v + REACH) / (2.0 * REACH);
    let y = |v: f64| top + height * (high - v) / (high - low);
    let points: Vec<_> = curve.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
    let _ = write!(
        s,
        "<text x=\"{left}\" y=\"14\">{title}</text><path class=\"axis\" d=\"M{left} {top}v{height}h{width}M{} {top}v{height}\"/>\
         <polyline points=\"{}\"/>",
        x(0.0),
        points.join(" ")
    );
    for v in [low, high] {
        let _ = write!(s, "<text class=\"left\" x=\"{}\" y=\"{:.1}\">{}</text>", left - 4.0, y(v) + 4.0, short(v));
    }
    for v in [-REACH, 0.0, REACH] {
        let _ = write!(s, "<text class=\"below\" x=\"{:.1}\" y=\"{}\">{v}</text>", x(v), top + height + 16.0);
    }
    let _ = write!(s, "<text class=\"below\" x=\"{:.1}\" y=\"212\">a − b, nats</text>", x(0.0));
}

/// Three digits.
fn short(v: f64) -> String {
    let v = if v.abs() < 1e-9 { 0.0 } else { v };
    let digits = if v == 0.0 { 0 } else { (2 - v.abs().log10().floor() as i32).clamp(0, 4) as usize };
    let text = format!("{v:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    text.replace('-', "−")
}

//! Figures of the theory, computed on a finite world when they are drawn.

use std::fmt::Write;

use anyhow::{Result, bail};
use collimate_core::averaging::{AnyAveraging, Mean, Sum};
use collimate_core::tabular::World;

/// The longest completion.
const LONGEST: usize = 30;

/// Completions of 2 to 30 tokens in two qualities, rarer as they are longer: ln μ = −0.1 n + const.
struct Setting {
    world: World,
    length: Vec<f64>,
    quality: Vec<f64>,
}

/// What an optimum is like: KL to the reference, expected length, expected quality.
type Point = [f64; 3];

impl Setting {
    fn new() -> Result<Self> {
        let each = || (2..=LONGEST).flat_map(|n| [(n, 0.0), (n, 1.0)]);
        let world = World::new(each().map(|(n, _)| n).collect(), each().map(|(n, _)| -0.1 * n as f64).collect())?;
        let length = each().map(|(n, _)| n as f64).collect();
        Ok(Self { world, length, quality: each().map(|(_, q)| q).collect() })
    }

    fn point(&self, weights: &[f64], beta: f64, reward: &[f64]) -> Point {
        let log_policy = self.world.closed_form(beta, weights, reward).log_policy;
        let mean = |x: &[f64]| log_policy.iter().zip(x).map(|(l, x)| l.exp() * x).sum::<f64>();
        let ratio: Vec<f64> = log_policy.iter().zip(self.world.log_reference()).map(|(p, m)| p - m).collect();
        [mean(&ratio), mean(&self.length), mean(&self.quality)]
    }

    /// The optimum of that KL: β by bisection, since the KL falls with it.
    fn at_kl(&self, averaging: &dyn AnyAveraging, kl: f64, reward: &[f64]) -> Result<Point> {
        let weights = self.world.weights(averaging)?;
        let (mut low, mut high) = (-9.0f64, 9.0f64);
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if self.point(&weights, middle.exp(), reward)[0] > kl { low = middle } else { high = middle }
        }
        Ok(self.point(&weights, high.exp(), reward))
    }

    /// What labels may express.
    fn rewards(&self) -> [(&'static str, Vec<f64>); 5] {
        let of = |f: &dyn Fn(f64, f64) -> f64| self.length.iter().zip(&self.quality).map(|(n, q)| f(*n, *q)).collect();
        [
            ("quality alone, $R=q$", of(&|_, q| q)),
            ("length too, $q+0.1n$", of(&|n, q| q + 0.1 * n)),
            ("brevity too, $q-0.1n$", of(&|n, q| q - 0.1 * n)),
            ("length alone, $0.1n$", of(&|n, _| 0.1 * n)),
            ("better where longer, $qn/30$", of(&|n, q| q * n / 30.0)),
        ]
    }
}

/// The figure of that name.
///
/// # Errors
/// A name that there is none of.
pub fn draw(name: &str) -> Result<String> {
    match name {
        "length-at-kl" => length_at_kl(),
        "length-table" => length_table(),
        other => bail!("no figure {other}"),
    }
}

fn length_table() -> Result<String> {
    let mut s = String::from("| what the labels express | sum: E[n], E[q] | mean: E[n], E[q] |\n|---|---|---|\n");
    let setting = Setting::new()?;
    for (name, reward) in setting.rewards() {
        let [_, n, q] = setting.at_kl(&Sum {}, 0.2, &reward)?;
        let [_, n_, q_] = setting.at_kl(&Mean {}, 0.2, &reward)?;
        writeln!(s, "| {name} | {n:.2}, {q:.3} | {n_:.2}, {q_:.3} |")?;
    }
    Ok(s)
}

fn length_at_kl() -> Result<String> {
    let mut s = String::from(
        "<svg class=\"plot\" viewBox=\"0 0 640 250\" role=\"img\" aria-label=\"Expected length against KL, sum and mean, for three rewards\" xmlns=\"http://www.w3.org/2000/svg\">",
    );
    let titles = ["R = q", "R = q + 0.1 n", "R = q − 0.1 n"];
    let (top, height, width, most, longest) = (24.0, 170.0, 160.0, 1.0, 26.0);
    let setting = Setting::new()?;
    for ((title, (_, reward)), left) in titles.iter().zip(setting.rewards()).zip([40.0, 250.0, 460.0]) {
        let x = |kl: f64| left + width * kl / most;
        let y = |n: f64| top + height * (1.0 - n / longest);
        write!(
            s,
            "<text x=\"{left}\" y=\"14\">{title}</text><path class=\"axis\" d=\"M{left} {top}v{height}h{width}\"/>"
        )?;
        for n in [0.0, 10.0, 20.0] {
            write!(s, "<text class=\"left\" x=\"{}\" y=\"{:.1}\">{n}</text>", left - 4.0, y(n) + 4.0)?;
        }
        for kl in [0.0, 0.5, 1.0] {
            write!(s, "<text class=\"below\" x=\"{}\" y=\"{}\">{kl}</text>", x(kl), top + height + 16.0)?;
        }
        for (class, averaging) in [("", &Sum {} as &dyn AnyAveraging), ("second", &Mean {})] {
            let points = (1..=40).map(|i| setting.at_kl(averaging, f64::from(i) / 40.0, &reward));
            let points = points.map(|p| p.map(|[kl, n, _]| format!("{:.1},{:.1}", x(kl), y(n))));
            let points = points.collect::<Result<Vec<_>>>()?.join(" ");
            write!(s, "<polyline class=\"{class}\" points=\"{points}\"/>")?;
        }
        write!(s, "<text class=\"below\" x=\"{}\" y=\"226\">KL to μ, nats</text>", left + width / 2.0)?;
    }
    s += "<text x=\"40\" y=\"246\">E[n]: sum whole, mean dashed</text></svg>\n";
    Ok(s)
}

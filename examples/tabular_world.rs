//! A small world in which sum and mean trade length against score, exactly.
//!
//! ```sh
//! cargo run --release --example tabular_world -- picture.svg
//! ```
//!
//! Twelve completions of one prompt: four lengths, three rewards. For each method the table sets the optimum of the
//! theory, π* = μ exp((R − λ)/(β w(n))), beside what minimising the loss over all policies reaches; the picture shows
//! where the optimum goes as β falls. Under the sum, completions of one reward keep their ratio whatever their length.
//! Under the mean, one above the bar λ gains with every token, and one below it loses.

use std::error::Error;
use std::path::{Path, PathBuf};

use collimate::core::Method;
use collimate::core::averaging::{Mean, Sum};
use collimate::core::tabular::{Preferences, World};
use plotters::prelude::*;
use serde_json::{Map, Value, json};

const LENGTHS: [usize; 4] = [4, 8, 16, 32];
const REWARDS: [f64; 3] = [0.0, 0.5, 1.0];

/// A method's optimum beside what was found.
struct Outcome {
    method: &'static str,
    beta: f64,
    bar: f64,
    exact: Vec<f64>,
    found: Vec<f64>,
}

/// Twelve completions; the reference prefers neither reward nor length.
fn world() -> Result<(World, Vec<f64>), Box<dyn Error>> {
    let each = LENGTHS.iter().flat_map(|n| REWARDS.iter().map(move |r| (*n, *r)));
    let (lengths, reward): (Vec<usize>, Vec<f64>) = each.unzip();
    let log_reference = vec![0.0; lengths.len()];
    Ok((World::new(lengths, log_reference)?, reward))
}

/// The optimum of a method, and what its loss leads to on all pairs.
fn outcome(method: &'static str, beta: f64, world: &World, reward: &[f64]) -> Result<Outcome, Box<dyn Error>> {
    let given: Map<String, Value> = [("beta".to_owned(), json!(beta))].into_iter().collect();
    let objective = Method::find(method)?.objective(&given)?;
    let preferences: Preferences = world.bradley_terry(reward);
    // The logistic loss learns the reward of the Bradley–Terry model; the squared one, the chance to win.
    let learnt = match objective.loss.typetag_name() {
        "squared" => {
            let uniform = vec![1.0 / reward.len() as f64; reward.len()];
            world.win_rates(&preferences, &uniform)
        }
        _ => reward.to_vec(),
    };
    let exact = world.optimum(&objective.averaging, &objective.optimality, &learnt)?;
    let found = world.fit(&objective, &preferences, 1e-10, 5_000)?;
    Ok(Outcome { method, beta, bar: exact.bar, exact: exact.log_policy, found: found.log_policy })
}

fn expected(log_policy: &[f64], of: impl Fn(usize) -> f64) -> f64 {
    log_policy.iter().enumerate().map(|(i, p)| p.exp() * of(i)).sum()
}

fn outcomes(world: &World, reward: &[f64]) -> Result<Vec<Outcome>, Box<dyn Error>> {
    [("dpo", 0.5), ("averaged-dpo", 8.0), ("ipo", 0.5), ("averaged-ipo", 4.0)]
        .into_iter()
        .map(|(method, beta)| outcome(method, beta, world, reward))
        .collect()
}

fn print(world: &World, reward: &[f64], outcomes: &[Outcome]) {
    print!("\n{:>6} {:>6} {:>6}", "length", "reward", "μ");
    outcomes.iter().for_each(|o| print!("   {:>19}", o.method));
    print!("\n{:20}", "");
    outcomes.iter().for_each(|_| print!("   {:>9} {:>9}", "optimum", "found"));
    println!();
    for (i, r) in reward.iter().enumerate() {
        print!("{:>6} {r:>6.1} {:>6.3}", world.lengths()[i], world.log_reference()[i].exp());
        outcomes.iter().for_each(|o| print!("   {:>9.5} {:>9.5}", o.exact[i].exp(), o.found[i].exp()));
        println!();
    }
    let row = |name: &str, of: &dyn Fn(&Outcome, &[f64]) -> f64| {
        print!("{name:<20}");
        outcomes.iter().for_each(|o| print!("   {:>9.3} {:>9.3}", of(o, &o.exact), of(o, &o.found)));
        println!();
    };
    row("β", &|o, _| o.beta);
    row("mean reward", &|_, p| expected(p, |i| reward[i]));
    row("mean length", &|_, p| expected(p, |i| world.lengths()[i] as f64));
    print!("{:<20}", "bar λ");
    outcomes.iter().for_each(|o| print!("   {:>9.3} {:>9}", o.bar, ""));
    println!("\n");
}

/// Mean length against mean reward as β falls, and the points that gradient descent reached.
fn draw(world: &World, reward: &[f64], outcomes: &[Outcome], path: &Path) -> Result<(), Box<dyn Error>> {
    let at = |p: &[f64]| (expected(p, |i| world.lengths()[i] as f64), expected(p, |i| reward[i]));
    let curve = |weights: &[f64], scale: f64| -> Vec<(f64, f64)> {
        let betas = (0..=80).map(|k| scale * 10f64.powf(2.0 - f64::from(k) * 0.05));
        betas.map(|beta| at(&world.closed_form(beta, weights, reward).log_policy)).collect()
    };
    let (sum, mean) = (world.weights(&Sum {})?, world.weights(&Mean {})?);
    let root = SVGBackend::new(path, (720, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(10.0..33.0, 0.45..1.02)?;
    chart.configure_mesh().x_desc("mean length, tokens").y_desc("mean reward").draw()?;
    for (name, points, colour) in [("sum", curve(&sum, 1.0), BLUE), ("mean", curve(&mean, 16.0), RED)] {
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(format!("optimum, {name}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    // Both losses on Bradley–Terry data; those that learn the win rate have curves of their own.
    for o in outcomes.iter().filter(|o| o.method.ends_with("dpo")) {
        let colour = if o.method.starts_with("averaged") { RED } else { BLUE };
        chart
            .draw_series([Circle::new(at(&o.found), 5, colour.filled())])?
            .label(format!("found, {} at β = {}", o.method, o.beta))
            .legend(move |(x, y)| Circle::new((x + 9, y), 5, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("out/tabular_world.svg"), PathBuf::from);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let (world, reward) = world()?;
    let outcomes = outcomes(&world, &reward)?;
    print(&world, &reward, &outcomes);
    draw(&world, &reward, &outcomes, &path)?;
    println!("{}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_the_optimum_and_the_mean_trades_length() {
        let (world, reward) = world().unwrap();
        let outcomes = outcomes(&world, &reward).unwrap();
        for o in &outcomes {
            let off = o.exact.iter().zip(&o.found).map(|(a, b)| (a.exp() - b.exp()).abs()).fold(0.0, f64::max);
            assert!(off < 1e-6, "{}: off by {off:e}", o.method);
        }
        let length = |o: &Outcome| expected(&o.exact, |i| world.lengths()[i] as f64);
        // The sum keeps the reference's mean length of (4 + 8 + 16 + 32)/4 = 15; the mean spends tokens on what is above
        // the bar and saves them below: d/dn ln(π*/μ) = (R − λ)/β.
        let (sum, mean) = (&outcomes[0], &outcomes[1]);
        assert!((length(sum) - 15.0).abs() < 1e-9 && length(mean) > 16.0);
        let (short, long) = (0, 9);
        for (i, r) in REWARDS.iter().enumerate() {
            let gain = mean.found[long + i] - mean.found[short + i];
            assert!((gain - 28.0 * (r - mean.bar) / 8.0).abs() < 1e-5);
            assert!((sum.found[long + i] - sum.found[short + i]).abs() < 1e-5);
        }
    }

    #[test]
    fn the_picture_is_drawn() {
        let (world, reward) = world().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("world.svg");
        draw(&world, &reward, &outcomes(&world, &reward).unwrap(), &path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("<svg") && text.contains("<polyline") && text.contains("mean length, tokens"));
    }
}

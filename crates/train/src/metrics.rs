//! The numbers that a run reports: means over the units since the last line.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Sums over units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    units: usize,
    sums: Vec<f64>,
}

impl Window {
    /// Adds units, by the rows of their metrics.
    pub fn add(&mut self, rows: &[Vec<f64>]) {
        for row in rows {
            self.sums.resize(row.len(), 0.0);
            self.sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        self.units += rows.len();
    }

    /// The mean of the loss, which is the first metric.
    pub fn loss(&self) -> f64 {
        self.sums[0] / self.units as f64
    }

    /// Each mean with its name.
    pub fn each<'a>(&'a self, names: &'a [&'static str]) -> impl Iterator<Item = (&'static str, f64)> + 'a {
        names.iter().zip(&self.sums).map(|(name, sum)| (*name, sum / self.units as f64))
    }

    /// All means, under `names` behind `prefix`.
    pub fn means(&self, names: &[&'static str], prefix: &str) -> Map<String, Value> {
        self.each(names).map(|(name, mean)| (format!("{prefix}{name}"), mean.into())).collect()
    }
}

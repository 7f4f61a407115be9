//! The numbers that a run reports: means over the units since the last line.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::task::{Pool, Task};

/// How the metrics of a task are pooled.
pub(crate) fn pools<T: Task>(task: &T) -> Vec<Pool> {
    task.metrics().iter().map(|name| task.pool(name)).collect()
}

/// Sums over units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    units: usize,
    sums: Vec<f64>,
}

impl Window {
    /// Adds the units of a step, by the rows of their metrics; an extreme counts once for each of them.
    pub fn add(&mut self, rows: &[Vec<f64>], pools: &[Pool]) {
        for row in rows {
            self.sums.resize(row.len(), 0.0);
        }
        for (i, sum) in self.sums.iter_mut().enumerate() {
            let values = rows.iter().map(|row| row[i]);
            let n = rows.len() as f64;
            *sum += match pools.get(i).copied().unwrap_or_default() {
                Pool::Mean => values.sum::<f64>(),
                Pool::Min => n * values.fold(f64::INFINITY, f64::min),
                Pool::Max => n * values.fold(f64::NEG_INFINITY, f64::max),
            };
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

//! What the measurements of a study say: a row a cell and a setting, and the averagings compared at matched KL.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use serde_json::Value;

use crate::plan::{Method, Vocabulary};
use crate::run::{SAMPLES, cell_folder, reference_samples};
use crate::samples::{self, Reference};
use crate::statistics::curve::{Curve, Point, difference, matched};
use crate::statistics::{Interval, Metric, Observation, Resamples};
use crate::{Cell, Error, Plan};

/// A metric by name, or none where it is not defined.
pub type Row = BTreeMap<&'static str, Option<Interval>>;

/// A cell, or all seeds of a setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The cell's name, or that of the setting.
    pub name: String,
    /// The method.
    pub method: String,
    /// What the method shares with its averaged twin.
    pub family: String,
    /// Its averaging operator.
    pub averaging: String,
    /// What sets it apart within its method.
    pub setting: String,
    /// Its settings but β; a curve runs along β within one of these.
    pub curve: String,
    /// β.
    pub beta: Option<f64>,
    /// The condition in words, empty if there is but one.
    pub condition: String,
    /// The seed of a cell.
    pub seed: Option<Value>,
    /// How many seeds this is over.
    pub seeds: usize,
    /// The statistics.
    pub metrics: Row,
    /// The cells that this is of.
    pub cells: Vec<String>,
}

/// What is compared at matched KL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Mean tokens.
    Length,
    /// Mean score.
    Score,
}

impl Quantity {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Length, Self::Score];

    /// Its name.
    pub fn name(self) -> &'static str {
        if self == Self::Length { "length" } else { "score" }
    }
}

/// The sign of summed − averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The summed method has more; the interval is above 0.
    More,
    /// The summed method has less; the interval is below 0.
    Less,
    /// The interval covers 0.
    Overlap,
    /// The curves reach no KL in common, or have too few points.
    NotCompared,
}

impl Verdict {
    fn of(i: Option<Interval>) -> Self {
        match i {
            None => Self::NotCompared,
            Some(i) if i.low > 0.0 => Self::More,
            Some(i) if i.high < 0.0 => Self::Less,
            Some(_) => Self::Overlap,
        }
    }
}

/// Two curves at one KL.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AtKl {
    /// Nats.
    pub kl: f64,
    /// The summed curve there.
    pub sum: f64,
    /// The averaged curve there.
    pub mean: f64,
    /// Summed − averaged.
    pub difference: Option<Interval>,
}

/// A family's summed and averaged methods at matched KL.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The family: `dpo`.
    pub family: String,
    /// The settings but β.
    pub curve: String,
    /// The condition in words.
    pub condition: String,
    /// What is compared.
    pub quantity: Quantity,
    /// From the least to the greatest KL of each curve, sum before mean.
    pub ranges: [Option<(f64, f64)>; 2],
    /// At each matched KL.
    pub at: Vec<AtKl>,
    /// The mean of summed − averaged over the matched KLs.
    pub difference: Option<Interval>,
    /// Its sign.
    pub verdict: Verdict,
}

/// Lengths of a policy's answers, in bins.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// Share of answers in each bin.
    pub shares: Vec<f64>,
    /// Tokens of a bin.
    pub width: f64,
}

/// All that a study's measurements say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// The study's name.
    pub name: String,
    /// Prompts, answers to each, and seeds.
    pub prompts: usize,
    /// Answers to each prompt.
    pub samples: usize,
    /// Seeds of each setting.
    pub seeds: usize,
    /// Cells that are finished, of all.
    pub finished: (usize, usize),
    /// Probability of an interval.
    pub confidence: f64,
    /// Resamples of an interval.
    pub bootstrap: usize,
    /// The SFT policy, one row for each world.
    pub sft: Vec<Row>,
    /// All seeds of each setting together.
    pub settings: Vec<Measured>,
    /// Each cell.
    pub cells: Vec<Measured>,
    /// Averagings compared.
    pub comparisons: Vec<Comparison>,
    /// Lengths of the SFT policy's answers, and of each setting's.
    pub lengths: (Lengths, Vec<Lengths>),
}

/// The name of a method without its averaging.
pub fn family(method: &str) -> &str {
    method.strip_prefix("averaged-").unwrap_or(method)
}

/// Computes `f` of each item on all cores, in order.
fn parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(items.len()) {
            scope.spawn(|| {
                while let i = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(item) = items.get(i)
                {
                    let r = f(item);
                    all.lock().expect("no thread panics").push((i, r));
                }
            });
        }
    });
    let mut all = all.into_inner().expect("no thread panics");
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, r)| r).collect()
}

fn row(metrics: &[Metric], all: &[Observation], resamples: &Resamples) -> Row {
    metrics.iter().map(|m| (m.name(), resamples.interval(all, |o, w| m.of(o, w)))).collect()
}

fn lengths(of: impl Iterator<Item = f64> + Clone, width: f64, bins: usize) -> Lengths {
    let n = of.clone().count() as f64;
    let mut shares = vec![0.0; bins];
    of.for_each(|x| shares[((x / width) as usize).min(bins - 1)] += 1.0 / n);
    Lengths { shares, width }
}

/// (KL, length, score) of a setting: on all of it, and in each resample.
struct Track {
    here: [f64; 3],
    resampled: Vec<[Option<f64>; 3]>,
}

const TRACKED: [Metric; 3] = [Metric::Kl, Metric::Length, Metric::Score];

impl Results {
    /// Reads the measurements of all finished cells.
    ///
    /// # Errors
    /// A file that is not what it should be; no finished cell.
    pub fn new(plan: &Plan, vocabulary: &Vocabulary) -> Result<Self, Error> {
        let mut references = Vec::new();
        for world in 0..plan.worlds.len().max(1) {
            references.push(Reference::new(samples::read(&reference_samples(plan, world))?));
        }
        let prompts = references[0].prompts();
        if let Some(other) = references.iter().find(|r| r.prompts() != prompts) {
            let n = other.prompts();
            return Err(Error::Key(format!("prompts: one world has {prompts} of them and another {n}")));
        }
        // (seeds, observations) by setting, in the order of the plan.
        let mut settings: Vec<(&Cell, Vec<&Cell>, Vec<Observation>)> = Vec::new();
        let mut cells: Vec<(&Cell, Vec<Observation>)> = Vec::new();
        for cell in &plan.cells {
            let path = cell_folder(plan, cell).join(SAMPLES);
            if !path.exists() {
                continue;
            }
            let read = samples::read(&path)?;
            let same =
                |c: &Cell| (&c.method, &c.setting, &c.condition) == (&cell.method, &cell.setting, &cell.condition);
            let place = settings.iter().position(|(c, ..)| same(c)).unwrap_or_else(|| {
                settings.push((cell, Vec::new(), Vec::new()));
                settings.len() - 1
            });
            let (_, seeds, observations) = &mut settings[place];
            observations.extend(references[cell.world].pair(&read, seeds.len(), &path)?);
            seeds.push(cell);
            cells.push((cell, references[cell.world].pair(&read, 0, &path)?));
        }
        let Some(seeds) = settings.iter().map(|s| s.1.len()).max() else {
            return Err(Error::Key("no cell is finished; there is nothing to report".into()));
        };
        // A study that is under way may have a setting with fewer seeds than others: they are compared once it is whole.
        let whole = |n: usize| n == seeds;
        let a = &plan.analysis;
        let draw = |seeds| Resamples::new(seeds, prompts, a.bootstrap, a.confidence, a.seed);
        let (single, by_seeds): (Resamples, Vec<Resamples>) = (draw(1), (1..=seeds).map(draw).collect());
        let resamples = |n: usize| &by_seeds[n - 1];

        let tracks = parallel(&settings, |(_, cells, all)| {
            let of = |w: &[f64]| TRACKED.map(|m| m.of(all, w));
            let here = of(&vec![1.0; all.len()]).map(|x| x.unwrap_or(f64::NAN));
            let r = resamples(cells.len());
            Track { here, resampled: (0..r.count()).map(|i| of(&r.weights(i, all))).collect() }
        });
        let info = |cell: &Cell| -> Method {
            vocabulary.method(&cell.method).cloned().expect("the plan was read with this vocabulary")
        };
        let measured = |cell: &Cell, name: String, cells: &[&Cell], metrics: Row| Measured {
            name,
            method: cell.method.clone(),
            family: family(&cell.method).to_owned(),
            averaging: info(cell).averaging,
            setting: cell.setting.clone(),
            curve: cell.curve(),
            beta: cell.beta,
            condition: cell.condition_text(),
            seed: (cells.len() == 1).then(|| cell.seed.clone()).flatten(),
            seeds: cells.len(),
            metrics,
            cells: cells.iter().map(|c| c.id.clone()).collect(),
        };
        let rows = parallel(&settings, |(_, cells, all)| row(&Metric::ALL, all, resamples(cells.len())));
        let settings_measured: Vec<Measured> = settings
            .iter()
            .zip(rows)
            .map(|((cell, cells, _), metrics)| {
                let mut m = measured(cell, format!("{}, {}", cell.method, cell.setting), cells, metrics);
                m.seed = None;
                m
            })
            .collect();
        let rows = parallel(&cells, |(_, all)| row(&Metric::ALL, all, &single));
        let cells_measured =
            cells.iter().zip(rows).map(|((c, _), metrics)| measured(c, c.id.clone(), &[c], metrics)).collect();
        let own = |r: &Reference| -> Result<Row, Error> {
            let own: Vec<_> = r.samples().cloned().collect();
            let all = r.pair(&own, 0, &reference_samples(plan, 0))?;
            // Against itself, what compares with SFT says nothing.
            let said = |m: &&Metric| {
                !matches!(m, Metric::WinRateSft | Metric::LengthControlledWinRate | Metric::ScoreAtEqualLength)
            };
            let said: Vec<Metric> = Metric::ALL.iter().filter(said).copied().collect();
            Ok(row(&said, &all, &single))
        };
        let sft = references.iter().map(own).collect::<Result<Vec<_>, _>>()?;

        let longest = settings.iter().flat_map(|s| &s.2).flat_map(|o| [o.length, o.sft_length]).fold(1.0, f64::max);
        let width = (longest / 30.0).ceil();
        let bins = (longest / width) as usize + 1;
        let before = lengths(references[0].samples().map(|s| s.tokens as f64), width, bins);
        let after = settings.iter().map(|s| lengths(s.2.iter().map(|o| o.length), width, bins)).collect();

        let mut comparisons = Vec::new();
        for (i, s) in settings_measured.iter().enumerate() {
            // Each pair of curves once, at the first setting of the summed one.
            let first = |o: &&Measured| (&o.method, &o.curve, &o.condition) == (&s.method, &s.curve, &s.condition);
            if s.method != s.family || settings_measured[..i].iter().any(|o| first(&o)) {
                continue;
            }
            let of = |method: &str| -> Vec<usize> {
                let same = |o: &Measured| {
                    o.method == method && o.curve == s.curve && o.condition == s.condition && whole(o.seeds)
                };
                settings_measured.iter().enumerate().filter(|(_, o)| same(o)).map(|(i, _)| i).collect()
            };
            let twin = format!("averaged-{}", s.family);
            if plan.cells.iter().all(|c| c.method != twin) {
                continue;
            }
            let sides = [of(&s.method), of(&twin)];
            for quantity in Quantity::ALL {
                let y = 1 + usize::from(quantity == Quantity::Score);
                let curve = |side: &[usize]| {
                    Curve::new(side.iter().map(|i| tracks[*i].here).map(|t| Point { kl: t[0], y: t[y] }).collect())
                };
                let resampled = |side: &[usize], r: usize| -> Option<Curve> {
                    let point =
                        |i: &usize| Some(Point { kl: tracks[*i].resampled[r][0]?, y: tracks[*i].resampled[r][y]? });
                    Some(Curve::new(side.iter().map(point).collect::<Option<_>>()?))
                };
                let curves = [curve(&sides[0]), curve(&sides[1])];
                let kls = matched(&curves[0], &curves[1]);
                let draws = resamples(seeds);
                let again: Vec<Option<[Curve; 2]>> =
                    (0..draws.count()).map(|r| Some([resampled(&sides[0], r)?, resampled(&sides[1], r)?])).collect();
                let interval = |kls: &[f64]| {
                    let value = difference(&curves[0], &curves[1], kls)?;
                    let all = again.iter().flatten().filter_map(|[a, b]| difference(a, b, kls)).collect();
                    draws.around(value, all)
                };
                let at = kls.iter().filter_map(|kl| {
                    Some(AtKl {
                        kl: *kl,
                        sum: curves[0].at(*kl)?,
                        mean: curves[1].at(*kl)?,
                        difference: interval(&[*kl]),
                    })
                });
                let difference = interval(&kls);
                comparisons.push(Comparison {
                    family: s.family.clone(),
                    curve: s.curve.clone(),
                    condition: s.condition.clone(),
                    quantity,
                    ranges: [curves[0].range(), curves[1].range()],
                    at: at.collect(),
                    difference,
                    verdict: Verdict::of(difference),
                });
            }
        }
        Ok(Self {
            name: plan.name.clone(),
            prompts,
            samples: references[0].samples().count() / prompts,
            seeds,
            finished: (cells.len(), plan.cells.len()),
            confidence: a.confidence,
            bootstrap: a.bootstrap,
            sft,
            settings: settings_measured,
            cells: cells_measured,
            comparisons,
            lengths: (before, after),
        })
    }

    /// A table with a row for each setting (`seed` is `all`) and each cell.
    pub fn csv(&self, metrics: &[Metric]) -> String {
        let quoted = |s: &str| match s.contains([',', '"', '\n']) {
            true => format!("\"{}\"", s.replace('"', "\"\"")),
            false => s.to_owned(),
        };
        let mut out = "condition,method,averaging,setting,beta,seed,seeds".to_owned();
        metrics.iter().for_each(|m| out += &format!(",{0},{0}_low,{0}_high", m.name()));
        out.push('\n');
        for m in self.settings.iter().chain(&self.cells) {
            let seed = match (&m.seed, m.cells[0] == m.name) {
                (Some(seed), true) => seed.to_string(),
                (None, true) => String::new(),
                _ => "all".into(),
            };
            let beta = m.beta.map_or_else(String::new, |b| b.to_string());
            let head = [&m.condition, &m.method, &m.averaging, &m.setting, &beta, &seed].map(|s| quoted(s)).join(",");
            out += &format!("{head},{}", m.seeds);
            for metric in metrics {
                match m.metrics.get(metric.name()).copied().flatten() {
                    Some(i) => out += &format!(",{},{},{}", i.value, i.low, i.high),
                    None => out += ",,,",
                }
            }
            out.push('\n');
        }
        out
    }
}

//! A look at data before it is trained on: its format, its lengths, its dirt, and some rows as the model
//! will see them.

use std::fmt::Write;

use serde::Serialize;

use crate::dataset::{Parts, Scored};
use crate::encode::{Encoder, Lesson, Tokens};
use crate::format::{Said, Text};
use crate::load::{self, Files, run};
use crate::options::{Boundary, Dirt, Options, Overlong, Policy, Task, Verdict};
use crate::{Error, Report, Source, Tokenizer};

/// What was found in the data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// What lengths are counted in: "tokens", or "characters" without a tokenizer.
    pub unit: &'static str,
    /// Rows, files, formats and dirt. All dirt is counted, and the rows that have it are left out of the lengths below.
    pub report: Report,
    /// Lengths of the prompts.
    pub prompt: Distribution,
    /// Lengths of the chosen completions, EOS included where tokens are counted.
    #[serde(skip_serializing_if = "Distribution::is_empty")]
    pub chosen: Distribution,
    /// Lengths of the rejected completions, likewise.
    #[serde(skip_serializing_if = "Distribution::is_empty")]
    pub rejected: Distribution,
    /// Lengths of what lessons teach, likewise.
    #[serde(skip_serializing_if = "Distribution::is_empty")]
    pub completion: Distribution,
    /// Lengths of prompt + the longer completion.
    pub total: Distribution,
    /// Share of pairs whose chosen is longer than their rejected, 0 to 1: the length bias of the data. None for lessons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen_longer: Option<f64>,
    /// Share of pairs whose sides are equally long, 0 to 1. None for lessons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equally_long: Option<f64>,
    /// `max_length`, and the pairs of which one side is longer. Without truncation here, whatever `overlong` says.
    pub overlong: Option<(usize, usize)>,
    /// The kinds of dirt at which training on this data would stop, under the options as they are.
    pub stops: Vec<Dirt>,
    /// Rows as the model will see them.
    pub samples: Vec<Sample>,
}

/// How a length is distributed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// The smallest.
    pub min: usize,
    /// The largest.
    pub max: usize,
    /// The mean.
    pub mean: f64,
    /// The median: half are not above it.
    pub median: usize,
    /// 95 of 100 are not above it.
    pub p95: usize,
    /// The width of a bin; bin i holds the lengths from i·width, less than (i + 1)·width.
    pub bin_width: usize,
    /// How many lengths each bin holds.
    pub bins: Vec<usize>,
}

impl Distribution {
    fn is_empty(&self) -> bool {
        self.bins.is_empty()
    }
}

/// One row as the model will see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The file.
    pub file: std::path::PathBuf,
    /// 1-based row in it.
    pub row: usize,
    /// The prompt; none of it is scored.
    pub prompt: Vec<Piece>,
    /// The chosen completion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<Piece>,
    /// The rejected completion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Piece>,
    /// What a lesson teaches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub completion: Vec<Piece>,
}

/// A token, or a whole text where there is no tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Piece {
    /// The id of the token.
    pub id: Option<u32>,
    /// What it adds to the text; empty for the first bytes of a character.
    pub text: String,
    /// Whether its log-probability enters the score.
    pub scored: bool,
}

/// Bins of a distribution, at most.
const BINS: usize = 24;

/// Looks at `sources`. With a tokenizer (and its chat template) lengths are tokens; without, characters.
///
/// Dirt is counted, not refused, whatever the policies say; pairs whose tokens merge across the boundary are cut as
/// `boundary` says, and by `merge` where it says `error`. The first `samples` pairs are shown.
///
/// # Errors
/// What no policy covers: files that cannot be read, rows of which it cannot be told how to read them.
pub fn inspect(
    sources: &[Source],
    tokenizer: Option<&Tokenizer>,
    options: &Options,
    samples: usize,
) -> Result<Inspection, Error> {
    inspect_for(Some(Task::Align), sources, tokenizer, options, samples)
}

/// As [`inspect`], with what the rows are to be used for. None: pairs where the first row is one, lessons otherwise.
///
/// # Errors
/// As [`inspect`], and options that the task does not read.
pub fn inspect_for(
    task: Option<Task>,
    sources: &[Source],
    tokenizer: Option<&Tokenizer>,
    options: &Options,
    samples: usize,
) -> Result<Inspection, Error> {
    let task = match task {
        Some(task) => task,
        None => load::recognise(sources, options)?,
    };
    options.validate_for(task)?;
    let lenient = Options {
        max_length: None,
        overlong: Overlong::Error,
        boundary: if options.boundary == Boundary::Error { Boundary::Merge } else { options.boundary },
        dirty_rows: Policy::Drop,
        cache_dir: None,
        ..options.clone()
    };
    let files = Files::resolve(sources, &lenient, task)?;
    let encoder = tokenizer.map(|t| Encoder::new(t, &lenient)).transpose()?;
    let mut report = files.report();
    let mut lengths: [Vec<u32>; 3] = Default::default();
    let mut shown = Vec::new();
    run(&files, (encoder.as_ref(), &collimate_workers::Solo), &lenient, &mut report, &mut |_| {}, &mut |item| {
        let file = &files.read[item.file].path;
        let (counts, pieces) = match (item.encoded, tokenizer) {
            (Some(encoded), Some(tokenizer)) => {
                let (key, file, row) = (item.key, item.file, item.row);
                let (prompt, sides) = match task {
                    Task::Align | Task::Reward => apart(encoded.into_record::<Tokens>(key, file, row)),
                    Task::Sft => apart(encoded.into_record::<Lesson>(key, file, row)),
                };
                let counts = [prompt.len(), sides[0].0.len(), sides[1].0.len()];
                let pieces = (shown.len() < samples).then(|| pieces(prompt, sides, tokenizer)).transpose()?;
                (counts, pieces)
            }
            _ => {
                let texts = texts(&item.said);
                let counts = [0, 1, 2].map(|i| texts[i].chars().count());
                let piece = |(i, text)| vec![Piece { id: None, text, scored: i > 0 }];
                (counts, (shown.len() < samples).then(|| texts.into_iter().enumerate().map(piece).collect()))
            }
        };
        for (all, n) in lengths.iter_mut().zip(counts) {
            all.push(u32::try_from(n).unwrap_or(u32::MAX));
        }
        if let Some([prompt, first, second]) = pieces.and_then(|p: Vec<_>| <[_; 3]>::try_from(p).ok()) {
            let (chosen, rejected, completion) = match task {
                Task::Align | Task::Reward => (first, second, Vec::new()),
                Task::Sft => (Vec::new(), Vec::new(), first),
            };
            shown.push(Sample { file: file.clone(), row: item.row, prompt, chosen, rejected, completion });
        }
        Ok(())
    })?;
    report.pairs_per_epoch = report.pairs;

    let pairs = task != Task::Sft;
    let [prompts, chosen, rejected] = lengths;
    let share = |test: fn(&u32, &u32) -> bool| {
        let n = chosen.iter().zip(&rejected).filter(|(c, r)| test(c, r)).count();
        if chosen.is_empty() { 0.0 } else { n as f64 / chosen.len() as f64 }
    };
    let totals: Vec<u32> =
        prompts.iter().zip(chosen.iter().zip(&rejected)).map(|(p, (c, r))| p.saturating_add(*c.max(r))).collect();
    let longest = chosen.iter().chain(&rejected).copied().max().unwrap_or(0) as usize;
    let own = |all: &[u32]| all.iter().copied().max().unwrap_or(0) as usize;
    let overlong = options.max_length.map(|max| (max, totals.iter().filter(|n| **n as usize > max).count()));
    let mut stops: Vec<_> = report.dirt.keys().copied().collect();
    stops.extend(overlong.filter(|(_, n)| *n > 0).map(|_| Dirt::Overlong));
    stops.retain(|dirt| options.verdict(*dirt) == Verdict::Refuse);
    Ok(Inspection {
        stops,
        unit: if tokenizer.is_some() { "tokens" } else { "characters" },
        prompt: distribution(&prompts, own(&prompts)),
        total: distribution(&totals, own(&totals)),
        chosen_longer: pairs.then(|| share(|c, r| c > r)),
        equally_long: pairs.then(|| share(|c, r| c == r)),
        overlong,
        // The same bins, so that the two can be laid over each other.
        chosen: if pairs { distribution(&chosen, longest) } else { Distribution::default() },
        rejected: if pairs { distribution(&rejected, longest) } else { Distribution::default() },
        completion: if pairs { Distribution::default() } else { distribution(&chosen, longest) },
        report,
        samples: shown,
    })
}

fn distribution(all: &[u32], longest: usize) -> Distribution {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let Some((first, last)) = sorted.first().zip(sorted.last()) else { return Distribution::default() };
    let rank = |share: f64| sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1] as usize;
    // 1, 2 or 5 times a power of ten: bins that a person can read.
    let mut bin_width = 1;
    for step in [2, 5, 10].into_iter().cycle() {
        if longest / bin_width < BINS {
            break;
        }
        let power = 10_usize.pow(bin_width.ilog10());
        bin_width = power * step;
    }
    let mut bins = vec![0; longest / bin_width + 1];
    for n in all {
        bins[*n as usize / bin_width] += 1;
    }
    let mean = all.iter().map(|n| f64::from(*n)).sum::<f64>() / all.len() as f64;
    Distribution {
        min: *first as usize,
        max: *last as usize,
        mean,
        median: rank(0.5),
        p95: rank(0.95),
        bin_width,
        bins,
    }
}

fn texts(said: &Said) -> [String; 3] {
    let mut all = match &said.text {
        Text::Plain { prompt, sides } => std::iter::once(prompt).chain(sides).cloned().collect::<Vec<_>>(),
        Text::Chat { prompt, sides, .. } => {
            let text = |m: &serde_json::Value| match m.get("content") {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            let joined = |side: &Vec<serde_json::Value>| side.iter().map(text).collect::<Vec<_>>().join("\n");
            std::iter::once(prompt).chain(sides).map(joined).collect()
        }
    };
    all.resize(3, String::new());
    [0, 1, 2].map(|i| std::mem::take(&mut all[i]))
}

/// A record's prompt and sides.
fn apart(record: impl Parts) -> (Vec<u32>, [Scored; 2]) {
    let sides = record.sides().map(|(ids, mask)| (ids.to_vec(), mask.map(<[bool]>::to_vec)));
    (record.prompt().to_vec(), sides)
}

fn pieces(prompt: Vec<u32>, [first, second]: [Scored; 2], tokenizer: &Tokenizer) -> Result<Vec<Vec<Piece>>, Error> {
    let mut out = Vec::new();
    for (i, (ids, mask)) in [(prompt, None), first, second].into_iter().enumerate() {
        let mut decoder = tokenizer.decode_eagerly();
        let mut side = Vec::with_capacity(ids.len());
        for (t, id) in ids.iter().enumerate() {
            let scored = i > 0 && mask.as_ref().is_none_or(|m| m[t]);
            side.push(Piece { id: Some(*id), text: decoder.push(*id)?, scored });
        }
        let rest = decoder.finish()?;
        if let Some(last) = side.last_mut() {
            last.text += &rest;
        }
        out.push(side);
    }
    Ok(out)
}

/// A name, its lengths, its colours on a terminal and in a picture.
type Shown<'a> = (&'static str, &'a Distribution, &'static str, &'static str);

impl Inspection {
    /// What is scored: both sides of pairs, or what lessons teach.
    fn sides(&self) -> Vec<Shown<'_>> {
        match self.report.task {
            Task::Align | Task::Reward => {
                vec![("chosen", &self.chosen, "32", "#2a7f4f"), ("rejected", &self.rejected, "31", "#c0392b")]
            }
            Task::Sft => vec![("completion", &self.completion, "32", "#2a7f4f")],
        }
    }

    /// The fullest bin of the sides.
    fn most(&self) -> usize {
        self.sides().iter().flat_map(|(_, d, ..)| &d.bins).copied().max().unwrap_or(0).max(1)
    }

    /// For a terminal; with ANSI colours if `colour`. Prompts are dim, scored tokens green (chosen, completions) or red (rejected)
    /// with every other token underlined, and tokens that are not scored are dim.
    pub fn terminal(&self, colour: bool) -> String {
        let paint = |code: &str, text: &str| {
            if colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}\n", self.report);
        for dirt in self.report.dirt.keys() {
            let _ = writeln!(out, "{}: {}", dirt.words(), dirt.hint());
        }
        if let Some((max, n)) = self.overlong {
            let hint = if n > 0 { format!("; {}", Dirt::Overlong.hint()) } else { String::new() };
            let _ = writeln!(out, "longer than max_length {max}: {n} {}{hint}", self.report.task.units());
        }
        if !self.stops.is_empty() {
            let kinds: Vec<_> = self.stops.iter().map(|dirt| dirt.words()).collect();
            let _ = writeln!(
                out,
                "\ntraining would stop at: {} (`dirty_rows = \"drop\"` leaves all out)",
                kinds.join(", ")
            );
        }
        let _ = writeln!(
            out,
            "\n{:>10} {:>8} {:>8} {:>8} {:>8} {:>8}  ({})",
            "", "min", "median", "mean", "p95", "max", self.unit
        );
        let sides = self.sides();
        let named = sides.iter().map(|(name, d, ..)| (*name, *d));
        for (name, d) in std::iter::once(("prompt", &self.prompt)).chain(named).chain([("total", &self.total)]) {
            let _ = writeln!(out, "{name:>10} {:>8} {:>8} {:>8.1} {:>8} {:>8}", d.min, d.median, d.mean, d.p95, d.max);
        }
        if let (Some(longer), Some(equally)) = (self.chosen_longer, self.equally_long) {
            let _ = writeln!(
                out,
                "\nchosen is longer in {:.1} % of the pairs, equally long in {:.1} %",
                100.0 * longer,
                100.0 * equally
            );
        }
        let most = self.most();
        let head: Vec<_> = sides.iter().map(|(name, ..)| format!("{name:<32}")).collect();
        let _ = writeln!(out, "\n{:>10}  {}", self.unit, head.join("  ").trim_end());
        for i in 0..sides[0].1.bins.len() {
            let bar = |d: &Distribution, code| {
                let bar = format!("{:<24}", "█".repeat((d.bins[i] * 24).div_ceil(most)));
                format!("{} {:<7}", paint(code, &bar), d.bins[i])
            };
            let bars: Vec<_> = sides.iter().map(|(_, d, code, _)| bar(d, code)).collect();
            let _ = writeln!(out, "{:>10}  {}", i * sides[0].1.bin_width, bars.join("  ").trim_end());
        }
        for sample in &self.samples {
            let _ = writeln!(out, "\n{}, row {}", sample.file.display(), sample.row);
            let shown = match self.report.task {
                Task::Align | Task::Reward => {
                    vec![("chosen", &sample.chosen, "32"), ("rejected", &sample.rejected, "31")]
                }
                Task::Sft => vec![("completion", &sample.completion, "32")],
            };
            for (name, side, code) in std::iter::once(("prompt", &sample.prompt, "2")).chain(shown) {
                let scored = side.iter().filter(|p| p.scored).count();
                let unit = if side.iter().any(|p| p.id.is_some()) { "tokens" } else { "text" };
                let _ = write!(out, "{} ({} {unit}, {scored} scored): ", paint("1", name), side.len());
                for (i, piece) in side.iter().enumerate() {
                    let text = visible(&piece.text);
                    let style = match (piece.scored, i % 2) {
                        (false, _) => "2".to_owned(),
                        (true, 0) => code.to_owned(),
                        (true, _) => format!("4;{code}"),
                    };
                    out += &paint(&style, &text);
                }
                out.push('\n');
            }
        }
        out
    }

    /// The length distributions of what is scored, as an SVG of 720 × 400 pixels.
    pub fn svg(&self) -> String {
        let (left, top, width, height) = (60.0, 50.0, 640.0, 290.0);
        let (sides, most) = (self.sides(), self.most());
        let bins = sides[0].1.bins.len().max(1);
        let step = width / bins as f64;
        // Chosen stands left and rejected right in each bin.
        let half = (step - 2.0).max(1.0) / sides.len() as f64;
        let y = |n: usize| top + height * (1.0 - n as f64 / most as f64);
        let mut out = String::from(concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="720" height="400" viewBox="0 0 720 400" "#,
            r#"font-family="sans-serif" font-size="12">"#,
            "\n<rect width=\"720\" height=\"400\" fill=\"white\"/>\n"
        ));
        let longer = self.chosen_longer.map(|share| format!("; chosen is longer in {:.1} %", 100.0 * share));
        let longer = longer.unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            r#"<text x="{left}" y="20" font-size="14">Completion lengths of {} {}{longer}</text>"#,
            self.report.pairs,
            self.report.task.units()
        );
        for tick in 0..=4 {
            let n = most * tick / 4;
            let at = y(n);
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>",
                left + width
            );
            let _ = writeln!(out, r#"<text x="{}" y="{:.1}" text-anchor="end">{n}</text>"#, left - 6.0, at + 4.0);
        }
        for (at, (name, d, _, fill)) in sides.iter().enumerate() {
            let place = 160.0 * at as f64;
            for (i, n) in d.bins.iter().enumerate().filter(|(_, n)| **n > 0) {
                let _ = writeln!(
                    out,
                    r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{fill}" ><title>{name}, {} to {} {}: {n}</title></rect>"#,
                    left + step * i as f64 + half * at as f64,
                    y(*n),
                    half,
                    top + height - y(*n),
                    i * d.bin_width,
                    (i + 1) * d.bin_width - 1,
                    self.unit
                );
            }
            let x = left + step * (d.mean / d.bin_width.max(1) as f64);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"{fill}\" stroke-dasharray=\"4 3\"/>",
                top + height
            );
            let x = left + place;
            let _ = writeln!(out, "<rect x=\"{x}\" y=\"28\" width=\"12\" height=\"12\" fill=\"{fill}\"/>");
            let _ = writeln!(out, r#"<text x="{}" y="38">{name}, mean {:.0}</text>"#, x + 16.0, d.mean);
        }
        for i in (0..=bins).step_by(bins.div_ceil(8)) {
            let x = left + step * i as f64;
            let _ = writeln!(
                out,
                r#"<text x="{x:.1}" y="{}" text-anchor="middle">{}</text>"#,
                top + height + 18.0,
                i * sides[0].1.bin_width
            );
        }
        let _ = writeln!(
            out,
            r#"<text x="{}" y="{}" text-anchor="middle">{}</text>"#,
            left + width / 2.0,
            top + height + 38.0,
            self.unit
        );
        out.push_str("</svg>\n");
        out
    }
}

/// Control characters spelled out: data must not move the cursor of the person who looks at it.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("⏎\n"),
            '\t' => out.push('\t'),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

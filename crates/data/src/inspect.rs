//! A look at preference data before it is trained on: its format, its lengths, its dirt, and some rows as the model
//! will see them.

use std::fmt::Write;

use serde::Serialize;

use crate::encode::{Encoder, Tokens};
use crate::format::Example;
use crate::load::{Files, run};
use crate::options::{Boundary, Dirt, Options, Overlong, Policy, Verdict};
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
    pub chosen: Distribution,
    /// Lengths of the rejected completions, likewise.
    pub rejected: Distribution,
    /// Lengths of prompt + the longer completion.
    pub total: Distribution,
    /// Share of pairs whose chosen is longer than their rejected, 0 to 1: the length bias of the data.
    pub chosen_longer: f64,
    /// Share of pairs whose sides are equally long, 0 to 1.
    pub equally_long: f64,
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
    pub chosen: Vec<Piece>,
    /// The rejected completion.
    pub rejected: Vec<Piece>,
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
    let lenient = Options {
        max_length: None,
        overlong: Overlong::Error,
        boundary: if options.boundary == Boundary::Error { Boundary::Merge } else { options.boundary },
        dirty_rows: Policy::Drop,
        cache_dir: None,
        ..options.clone()
    };
    let files = Files::resolve(sources, &lenient)?;
    let encoder = tokenizer.map(|t| Encoder::new(t, &lenient)).transpose()?;
    let mut report = Report { files_not_read: files.skipped.clone(), ..Report::default() };
    let mut lengths: [Vec<u32>; 3] = Default::default();
    let mut shown = Vec::new();
    run(&files, encoder.as_ref(), &lenient, &mut report, &mut |_| {}, &mut |item| {
        let file = &files.read[item.file].path;
        let (counts, pieces) = match (item.encoded, tokenizer) {
            (Some(encoded), Some(tokenizer)) => {
                let tokens = encoded.into_tokens(item.key, item.file, item.row);
                let counts = [&tokens.prompt, &tokens.chosen, &tokens.rejected].map(Vec::len);
                let pieces = (shown.len() < samples).then(|| pieces(&tokens, tokenizer)).transpose()?;
                (counts, pieces)
            }
            _ => {
                let texts = texts(&item.example);
                let counts = [0, 1, 2].map(|i| texts[i].chars().count());
                let piece = |(i, text)| vec![Piece { id: None, text, scored: i > 0 }];
                (counts, (shown.len() < samples).then(|| texts.into_iter().enumerate().map(piece).collect()))
            }
        };
        for (all, n) in lengths.iter_mut().zip(counts) {
            all.push(u32::try_from(n).unwrap_or(u32::MAX));
        }
        if let Some([prompt, chosen, rejected]) = pieces.and_then(|p: Vec<_>| <[_; 3]>::try_from(p).ok()) {
            shown.push(Sample { file: file.clone(), row: item.row, prompt, chosen, rejected });
        }
        Ok(())
    })?;
    report.pairs_per_epoch = report.pairs;

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
        chosen_longer: share(|c, r| c > r),
        equally_long: share(|c, r| c == r),
        overlong,
        // The same bins, so that the two can be laid over each other.
        chosen: distribution(&chosen, longest),
        rejected: distribution(&rejected, longest),
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

fn texts(example: &Example) -> [String; 3] {
    match example {
        Example::Plain { prompt, chosen, rejected } => [prompt.clone(), chosen.clone(), rejected.clone()],
        Example::Chat { prompt, chosen, rejected, .. } => [prompt, chosen, rejected].map(|side| {
            let said = |m: &serde_json::Value| match m.get("content") {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            side.iter().map(said).collect::<Vec<_>>().join("\n")
        }),
    }
}

fn pieces(tokens: &Tokens, tokenizer: &Tokenizer) -> Result<Vec<Vec<Piece>>, Error> {
    let masks = [None, tokens.chosen_mask.as_ref(), tokens.rejected_mask.as_ref()];
    let mut out = Vec::new();
    for (i, (ids, mask)) in [&tokens.prompt, &tokens.chosen, &tokens.rejected].into_iter().zip(masks).enumerate() {
        let mut decoder = tokenizer.decode_eagerly();
        let mut side = Vec::with_capacity(ids.len());
        for (t, id) in ids.iter().enumerate() {
            let scored = i > 0 && mask.is_none_or(|m| m[t]);
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

impl Inspection {
    /// For a terminal; with ANSI colours if `colour`. Prompts are dim, scored tokens green (chosen) or red (rejected)
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
            let _ = writeln!(out, "longer than max_length {max}: {n} pairs{hint}");
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
        for (name, d) in
            [("prompt", &self.prompt), ("chosen", &self.chosen), ("rejected", &self.rejected), ("total", &self.total)]
        {
            let _ = writeln!(out, "{name:>10} {:>8} {:>8} {:>8.1} {:>8} {:>8}", d.min, d.median, d.mean, d.p95, d.max);
        }
        let _ = writeln!(
            out,
            "\nchosen is longer in {:.1} % of the pairs, equally long in {:.1} %",
            100.0 * self.chosen_longer,
            100.0 * self.equally_long
        );
        let most = self.chosen.bins.iter().chain(&self.rejected.bins).copied().max().unwrap_or(0).max(1);
        let _ = writeln!(out, "\n{:>10}  {:<32}  rejected", self.unit, "chosen");
        for (i, (c, r)) in self.chosen.bins.iter().zip(&self.rejected.bins).enumerate() {
            let bar = |n: usize| "█".repeat((n * 24).div_ceil(most));
            let chosen = format!("{:<24}", bar(*c));
            let _ = writeln!(
                out,
                "{:>10}  {} {c:<7}  {} {r}",
                i * self.chosen.bin_width,
                paint("32", &chosen),
                paint("31", &format!("{:<24}", bar(*r)))
            );
        }
        for sample in &self.samples {
            let _ = writeln!(out, "\n{}, row {}", sample.file.display(), sample.row);
            for (name, side, code) in [
                ("prompt", &sample.prompt, "2"),
                ("chosen", &sample.chosen, "32"),
                ("rejected", &sample.rejected, "31"),
            ] {
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

    /// The length distributions of chosen and rejected, as an SVG of 720 × 400 pixels.
    pub fn svg(&self) -> String {
        let (left, top, width, height) = (60.0, 50.0, 640.0, 290.0);
        let bins = self.chosen.bins.len().max(1);
        let most = self.chosen.bins.iter().chain(&self.rejected.bins).copied().max().unwrap_or(0).max(1);
        let step = width / bins as f64;
        // Chosen stands left and rejected right in each bin.
        let half = (step - 2.0).max(1.0) / 2.0;
        let y = |n: usize| top + height * (1.0 - n as f64 / most as f64);
        let mut out = String::from(concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="720" height="400" viewBox="0 0 720 400" "#,
            r#"font-family="sans-serif" font-size="12">"#,
            "\n<rect width=\"720\" height=\"400\" fill=\"white\"/>\n"
        ));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            r#"<text x="{left}" y="20" font-size="14">Completion lengths of {} pairs; chosen is longer in {:.1} %</text>"#,
            self.report.pairs,
            100.0 * self.chosen_longer
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
        for (name, d, fill, place) in
            [("chosen", &self.chosen, "#2a7f4f", 0.0), ("rejected", &self.rejected, "#c0392b", 160.0)]
        {
            for (i, n) in d.bins.iter().enumerate().filter(|(_, n)| **n > 0) {
                let _ = writeln!(
                    out,
                    r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{fill}" ><title>{name}, {} to {} {}: {n}</title></rect>"#,
                    left + step * i as f64 + if place > 0.0 { half } else { 0.0 },
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
                i * self.chosen.bin_width
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

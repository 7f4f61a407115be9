//! What a run shows while it goes: a display that is drawn anew on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use collimate_train::{Event, StepInfo};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    begun: Instant,
    /// Tokens, seconds and steps of this process: what a run that goes on had before is not among them.
    tokens: u64,
    seconds: f64,
    steps: usize,
    last: Option<StepInfo>,
    /// The last norm that a line of metrics had.
    grad_norm: Option<f64>,
    /// MiB held now and at most, and when that was looked at.
    memory: Option<(u64, u64)>,
    looked: Option<Instant>,
    first_loss: Option<f64>,
    /// Whether the chosen completions have been less likely than under the reference in every step since the last line of
    /// metrics, where that is known.
    fallen: Option<bool>,
    /// Whether that was said.
    alarmed: bool,
}

fn seconds(s: f64) -> String {
    match s as u64 {
        0 if s < 0.1 => format!("{:.1} ms", s * 1e3),
        0..60 => format!("{s:.1} s"),
        60..3600 => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// The loss, and the metrics that say most of what a task is after, where it has them.
fn short(metric: impl Fn(&str) -> Option<f64>, digits: usize) -> String {
    let mut text = format!("loss {:.digits$}", metric("loss").unwrap_or(f64::NAN));
    if let Some(margin) = metric("rewards/margins") {
        text += &format!(", margin {margin:+.digits$}");
    }
    if let Some(accuracy) = metric("rewards/accuracies") {
        text += &format!(", accuracy {accuracy:.3}");
    }
    text
}

/// A metric, the word for it, its digits, and whether it has a sign.
type Cell = (&'static str, &'static str, usize, bool);
/// What stands before a line, and what is in it.
type Row = (&'static str, &'static [Cell]);

/// What a display says of a step.
const SHOWN: [Row; 3] = [
    (
        "",
        &[
            ("loss", "loss", 4, false),
            ("rewards/margins", "margin", 4, true),
            ("margin", "margin", 4, true),
            ("rewards/accuracies", "accuracy", 3, false),
            ("accuracy", "accuracy", 3, false),
            ("mean_reward", "reward", 4, true),
        ],
    ),
    ("log-ratios", &[("logratios/chosen", "chosen", 3, true), ("logratios/rejected", "rejected", 3, true)]),
    (
        "lengths",
        &[
            ("completion_tokens/chosen", "chosen", 1, false),
            ("completion_tokens/rejected", "rejected", 1, false),
            ("completion_tokens", "completion", 1, false),
        ],
    ),
];

/// The lines of a display, of those metrics that there are.
fn shown(metric: impl Fn(&str) -> Option<f64>) -> Vec<String> {
    let row = |(head, of): &Row| {
        let cells: Vec<String> = of
            .iter()
            .filter_map(|(key, word, digits, signed)| {
                let value = metric(key)?;
                let number = if *signed { format!("{value:+.digits$}") } else { format!("{value:.digits$}") };
                Some(format!("{word:<8}{number:>8}"))
            })
            .collect();
        (!cells.is_empty()).then(|| format!("{head:<11}{}", cells.join("  ")))
    };
    SHOWN.iter().filter_map(row).collect()
}

/// MiB that this process holds, and the most that it has held, where the system says so.
pub fn held() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib.div_ceil(1024))
    };
    Some((of("VmRSS")?, of("VmHWM")?))
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let shown = !quiet && !dumb && std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}{msg}").expect("a valid template");
        let bar = shown.then(|| ProgressBar::new(0).with_style(style));
        Self {
            bar,
            quiet,
            begun: Instant::now(),
            tokens: 0,
            seconds: 0.0,
            steps: 0,
            last: None,
            grad_norm: None,
            memory: None,
            looked: None,
            first_loss: None,
            fallen: None,
            alarmed: false,
        }
    }

    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if !self.quiet => say!("{text}"),
            None => {}
        }
    }

    pub fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Reference { done, total } => match &self.bar {
                Some(bar) => {
                    bar.set_prefix("reference");
                    bar.set_length(*total as u64);
                    bar.set_position(*done as u64);
                }
                None if done == total => {
                    self.line(&format!(
                        "scored {total} pairs under the reference in {}",
                        seconds(self.begun.elapsed().as_secs_f64())
                    ));
                }
                None => {}
            },
            Event::Begin { from, steps } => {
                if let Some(bar) = &self.bar {
                    bar.set_prefix("training");
                    bar.set_length(*steps as u64);
                    bar.set_position(*from as u64);
                }
            }
            Event::Step(s) => self.step(s),
            Event::Metrics(line) => self.metrics(line),
            Event::Save(_) | Event::Look { .. } => {}
        }
    }

    fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }

    fn left(&self, s: &StepInfo) -> String {
        let each = self.seconds / self.steps.max(1) as f64;
        seconds(each * (s.steps - s.step) as f64)
    }

    /// What stands under the bar, in lines that are no wider than the terminal.
    fn display(&mut self, s: &StepInfo) -> String {
        if self.looked.is_none_or(|at| at.elapsed() > Duration::from_millis(250)) {
            (self.memory, self.looked) = (held(), Some(Instant::now()));
        }
        let mut lines = vec![String::new()];
        lines.extend(shown(|name| s.metric(name)));
        if let (Some(norm), Some(first)) = (self.grad_norm, lines.get_mut(1)) {
            *first += &format!("  norm{norm:>9.4}");
        }
        lines.push(format!(
            "{:<11}{:.0} tokens/s  {} a step  {} left",
            "speed",
            self.rate(),
            seconds(self.seconds / self.steps.max(1) as f64),
            self.left(s)
        ));
        if let Some((now, most)) = self.memory {
            lines.push(format!("{:<11}{now} MiB, at most {most}", "memory"));
        }
        let width = usize::from(console::Term::stderr().size().1).saturating_sub(1);
        lines.iter().map(|line| line.chars().take(width).collect()).collect::<Vec<String>>().join("\n")
    }

    fn step(&mut self, s: &StepInfo) {
        self.tokens += s.tokens;
        self.seconds += s.seconds;
        self.steps += 1;
        self.first_loss.get_or_insert(s.loss());
        self.last = Some(s.clone());
        if let Some(ratio) = s.metric("logratios/chosen") {
            self.fallen = Some(self.fallen.unwrap_or(true) && ratio < 0.0);
        }
        if let Some(bar) = self.bar.clone() {
            bar.set_position(s.step as u64);
            bar.set_message(self.display(s));
        }
    }

    fn metrics(&mut self, line: &Map<String, Value>) {
        let number = |key: &str| line.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let prefix = if line.contains_key("eval_loss") { "eval_" } else { "" };
        let step = number("step");
        let place = if prefix.is_empty() { "" } else { "evaluation at " };
        let mut text = format!("{place}step {step}: {}", short(|key| line.get(&format!("{prefix}{key}"))?.as_f64(), 6));
        if let (true, Some(s)) = (prefix.is_empty(), &self.last) {
            text +=
                &format!(", grad_norm {:.4}, {:.0} tokens/s, {} left", number("grad_norm"), self.rate(), self.left(s));
        }
        if prefix.is_empty() {
            self.grad_norm = line.get("grad_norm").and_then(Value::as_f64);
        }
        // The display says as much of a step.
        if self.bar.is_none() || !prefix.is_empty() {
            self.line(&text);
        }
        if prefix.is_empty() {
            let fallen = self.fallen.take() == Some(true);
            if fallen && !self.alarmed {
                let ratio = number("logratios/chosen");
                self.line(&format!(
                    "ALARM: in every step since the last line, chosen completions were less likely than under the \
                     reference (logratios/chosen {ratio:+.3} nats): probability goes to texts that are in no pair"
                ));
            }
            // Said once each time that it begins.
            self.alarmed = fallen;
        }
    }

    /// One line on the whole run.
    pub fn finish(self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let Some(s) = &self.last else { return "no step was taken".into() };
        format!(
            "{} steps in {}: loss {:.4} → {}, {:.0} tokens/s",
            s.step,
            seconds(self.seconds),
            self.first_loss.unwrap_or_else(|| s.loss()),
            short(|name| s.metric(name), 4).trim_start_matches("loss "),
            self.rate()
        )
    }
}

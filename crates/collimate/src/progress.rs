//! What a run shows while it goes: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use collimate_train::{Event, StepInfo};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    begun: Instant,
    tokens: u64,
    seconds: f64,
    last: Option<StepInfo>,
    first_loss: Option<f64>,
    /// Whether the chosen completions have been less likely than under the reference in every step since the last line of
    /// metrics, where that is known.
    fallen: Option<bool>,
    /// Whether that was said.
    alarmed: bool,
}

fn seconds(s: f64) -> String {
    match s as u64 {
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

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}").expect("a valid template");
        let bar = shown.then(|| ProgressBar::new(0).with_style(style));
        Self {
            bar,
            quiet,
            begun: Instant::now(),
            tokens: 0,
            seconds: 0.0,
            last: None,
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
        let done = self.seconds / s.step as f64;
        seconds(done * (s.steps - s.step) as f64)
    }

    fn step(&mut self, s: &StepInfo) {
        self.tokens += s.tokens;
        self.seconds += s.seconds;
        self.first_loss.get_or_insert(s.loss());
        self.last = Some(s.clone());
        if let Some(ratio) = s.metric("logratios/chosen") {
            self.fallen = Some(self.fallen.unwrap_or(true) && ratio < 0.0);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(s.step as u64);
            let text = short(|name| s.metric(name), 4);
            bar.set_message(format!("{text}, {:.0} tokens/s, {} left", self.rate(), self.left(s)));
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
        self.line(&text);
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

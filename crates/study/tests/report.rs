//! The report, and the page of curves, in a browser: Debian's chromium, or that of `CHROMIUM`. Without one these tests are ignored.
//!
//! The page stands in frames of a phone's and a desktop's width, under a policy that turns any request into an error, and
//! measures itself.

mod common;

use std::fs;
use std::path::Path;

use collimate_browser::chromium;
use collimate_study::{Host, curves, report};
use common::{Desk, STUDY, vocabulary, write};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

const WIDTHS: [u64; 2] = [390, 1280];

/// Under which no request passes.
const POLICY: &str = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
                      script-src 'unsafe-inline'; img-src data:\">";

/// What the page measures of itself.
const MEASURE: &str = r#"<script>
const faults = [];
addEventListener('error', e => faults.push(String(e.message)), true);
addEventListener('securitypolicyviolation', e => faults.push('request: ' + e.blockedURI));
addEventListener('load', () => {
    const rgb = c => c.match(/[\d.]+/g).slice(0, 3).map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    const light = c => { const [r, g, b] = rgb(c); return .2126 * r + .7152 * g + .0722 * b; };
    const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
    const page = getComputedStyle(document.body).backgroundColor;
    const drawn = s => { const b = s.getBoundingClientRect(); return b.width > 50 && b.height > 20; };
    const inked = s => [...s.querySelectorAll('.line, .mark, .area')].some(m => { const b = m.getBBox(); return b.width + b.height > 0; });
    const texts = [...document.querySelectorAll('figure text, p, td, th, pre, figcaption')];
    const outside = [...document.querySelectorAll('figure svg text')].filter(t => {
        const [a, b] = [t.getBoundingClientRect(), t.closest('svg').getBoundingClientRect()];
        return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
    });
    parent.postMessage({
        width: innerWidth, scroll: document.documentElement.scrollWidth, dark: matchMedia('(prefers-color-scheme: dark)').matches,
        figures: document.querySelectorAll('figure').length, panels: document.querySelectorAll('figure .panels svg').length,
        drawn: [...document.querySelectorAll('figure svg')].every(s => drawn(s) && inked(s)),
        contrast: Math.min(...texts.map(t => { const s = getComputedStyle(t); return contrast(t.closest('svg') ? s.fill : s.color, page); })),
        outside: outside.map(t => t.textContent), requests: performance.getEntriesByType('resource').map(r => r.name), faults,
    }, '*');
});
</script>"#;

/// What each frame says of the page.
fn look(browser: &Path, page: &str, dark: bool) -> Result<Vec<Value>, Failed> {
    let folder = tempfile::tempdir()?;
    let measured = page.replacen("<head>", &format!("<head>{POLICY}{MEASURE}"), 1);
    let escaped = measured.replace('&', "&amp;").replace('"', "&quot;");
    let frames: String = WIDTHS
        .map(|w| format!("<iframe style=\"border:0;width:{w}px;height:800px\" srcdoc=\"{escaped}\"></iframe>"))
        .concat();
    let said = collimate_browser::look(browser, folder.path(), &frames, dark, &["--virtual-time-budget=10000"])?;
    if let Some(line) = said.console.lines().find(|l| l.contains("CONSOLE")) {
        return Err(format!("the console says: {line}").into());
    }
    let all = said.pages;
    if all.len() != WIDTHS.len() {
        return Err(format!("{} of {} frames spoke", all.len(), WIDTHS.len()).into());
    }
    Ok(all)
}

/// The report of the synthetic study.
fn page() -> String {
    let desk = Desk::new();
    let plan = desk.plan(STUDY).unwrap();
    let host = Host { program: "none".into(), write: &write, stopped: &|| false, say: &|_| {} };
    desk.measure(&plan);
    report::predict(&plan, &host).unwrap();
    report::write(&plan, &vocabulary(), &host).unwrap();
    fs::read_to_string(desk.path("out/report.html")).unwrap()
}

/// The curves of two runs, one of them evaluated, with numbers of many sizes.
fn curves_page() -> String {
    let run = |name: &str, evaluated: bool| {
        let line = |step: u64| {
            let x = step as f64;
            let mut line = serde_json::json!({
                "loss": 0.7 - 0.1 * (x / 20.0).sin(), "rewards/margins": 0.01 * x, "rewards/accuracies": 0.5 + 0.001 * x,
                "logratios/chosen": -12.5 * x, "logratios/rejected": -20.0 * x, "logps/chosen": -1e4 - x,
                "grad_norm": 1e6 + x, "learning_rate": 1e-6 * (1.0 - x / 500.0), "num_tokens": 1000 * step, "epoch": x / 100.0,
            });
            line["step"] = step.into();
            line.as_object().unwrap().clone()
        };
        let mut lines: Vec<_> = (1..=400).map(line).collect();
        let evaluation = |step: u64| serde_json::json!({"eval_loss": 0.69 - 0.0001 * step as f64, "step": step});
        lines.extend((0..8).filter(|_| evaluated).map(|i| evaluation(50 * (i + 1)).as_object().unwrap().clone()));
        curves::Run { name: name.to_owned(), lines }
    };
    let runs = [run("averaged-dpo", true), run("a run of another kind", false)];
    curves::page(&runs, &curves::figures(&runs).unwrap())
}

fn report_reads_well(dark: bool) -> Result<(), Failed> {
    reads_well(&page(), 5, 2 * 3 + 2 * 3 + 2 * 2, dark)
}

fn curves_read_well(dark: bool) -> Result<(), Failed> {
    reads_well(&curves_page(), 3, 3 + 2 + 2, dark)
}

/// The page, which has so many figures, of so many panels together.
fn reads_well(page: &str, figures: u64, panels: u64, dark: bool) -> Result<(), Failed> {
    let browser = chromium().expect("ignored without one");
    for said in look(&browser, page, dark)? {
        let fault = |what: &str| Err(Failed::from(format!("{what}: {said}")));
        if said["dark"] != dark {
            return fault("not the colours that were asked for");
        }
        if said["faults"] != Value::Array(Vec::new()) || said["requests"] != Value::Array(Vec::new()) {
            return fault("an error or a request");
        }
        if said["figures"] != figures || said["panels"] != panels || said["drawn"] != true {
            return fault("figures that are not drawn");
        }
        if said["scroll"].as_u64() > said["width"].as_u64() {
            return fault("wider than the screen");
        }
        if said["outside"] != Value::Array(Vec::new()) {
            return fault("labels outside of their figure");
        }
        if said["contrast"].as_f64().is_none_or(|c| c < 4.5) {
            return fault("text that is hard to read");
        }
    }
    Ok(())
}

/// The checks themselves: a page that has a fault is not passed.
fn faults_are_seen() -> Result<(), Failed> {
    let browser = chromium().expect("ignored without one");
    let page = page();
    let wide = page.replacen("<main>", "<main><div style=\"width:2000px\">wide</div>", 1);
    if look(&browser, &wide, false)?.iter().all(|s| s["scroll"].as_u64() <= s["width"].as_u64()) {
        return Err("a page that is too wide was not seen".into());
    }
    let asks = page.replacen("<main>", "<main><img src=\"http://localhost:9/x.png\">", 1);
    match look(&browser, &asks, false) {
        Ok(said) if said.iter().all(|s| s["faults"] == Value::Array(Vec::new())) => {
            Err("a page that makes a request was not seen".into())
        }
        _ => Ok(()),
    }
}

fn main() {
    let none = chromium().is_none();
    let tests = vec![
        Trial::test("the_report_reads_well_in_light", || report_reads_well(false)),
        Trial::test("the_report_reads_well_in_dark", || report_reads_well(true)),
        Trial::test("curves_read_well_in_light", || curves_read_well(false)),
        Trial::test("curves_read_well_in_dark", || curves_read_well(true)),
        Trial::test("faults_of_a_page_are_seen", faults_are_seen),
    ];
    let tests = tests.into_iter().map(|t| t.with_ignored_flag(none)).collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

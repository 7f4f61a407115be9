//! A page for each method: what the registry says of it, numbers that its own code gives, and what `docs/methods.toml` adds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use collimate_core::objective::{Completion, Totals};
use collimate_core::{Method, Objective, Pair};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::equations::Equations;
use crate::plot;

/// What only a person can say of a method.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Facts {
    /// The method whose facts hold here too, where none are given.
    like: Option<String>,
    when: Option<String>,
    tex: Option<String>,
    length: Option<String>,
    pitfalls: Option<Vec<String>>,
    trl: Option<String>,
    gradient_plus: Option<String>,
    gradient_minus: Option<String>,
    gradient_words: Option<String>,
    symbols: Option<Vec<[String; 2]>>,
    settings: Option<Vec<Setting>>,
}

/// A value that a source gives.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    key: String,
    value: String,
    source: String,
}

/// The facts of all methods.
///
/// # Errors
/// A file that can't be read or says something else.
pub fn facts(root: &Path) -> Result<BTreeMap<String, Facts>> {
    let path = root.join("docs/methods.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

/// How the four log-likelihoods of a pair are written under an averaging operator.
fn written(tex: &str, averaging: &str, twin: bool) -> String {
    let over = |x: &str, n: &str| match averaging {
        "mean" if twin => format!("\\dif{{\\tfrac{{1}}{{{n}}}}}{x}"),
        "mean" => format!("\\tfrac{{1}}{{{n}}}{x}"),
        _ => x.to_owned(),
    };
    tex.replace("{a}", &over("a", "n^+"))
        .replace("{b}", &over("b", "n^-"))
        .replace("{p}", &over("\\ln\\pi(y^+)", "n^+"))
        .replace("{q}", &over("\\ln\\pi(y^-)", "n^-"))
}

/// The log-probs of the worked example's tokens.
const CHOSEN: [[f64; 4]; 2] = [[-0.5, -1.0, -0.25, -0.75], [-0.75, -1.25, -0.5, -0.75]];
const REJECTED: [[f64; 2]; 2] = [[-1.5, -0.5], [-1.0, -0.75]];
const CONFIDENCE: f64 = -0.5;

/// The worked example: the loss and the rewards.
fn worked(objective: &Objective) -> Result<(f64, Pair<f64>)> {
    let weights = objective.weights(Pair::new(4, 2), 0)?;
    let side = |w: &[f64], log_probs: &[f64]| {
        let score = w.iter().zip(log_probs).map(|(w, l)| w * l).sum();
        let all = Completion::new(score, log_probs.iter().sum(), log_probs.len() as f64);
        Completion { confidence: CONFIDENCE, ..all }
    };
    let of = |model: usize| Pair::new(side(&weights.chosen, &CHOSEN[model]), side(&weights.rejected, &REJECTED[model]));
    let evaluation = objective.evaluate::<f64>(&of(0), &of(1), Totals { pairs: 1, chosen_tokens: 4 });
    Ok((evaluation.loss, evaluation.reward))
}

/// A number that reads back to within 1e-6.
fn number(v: f64) -> String {
    let v = (v * 1e6).round() / 1e6;
    if v == 0.0 { "0.0".into() } else { format!("{v:?}") }
}

/// The loss where policy and reference agree.
fn start(objective: &Objective) -> String {
    match objective.loss_at_reference() {
        Some(v) => {
            let exact = [
                ("ln 2", std::f64::consts::LN_2),
                ("2 ln 2", 2.0 * std::f64::consts::LN_2),
                ("(1 + ln 2)/2", 0.5 + std::f64::consts::LN_2 / 2.0),
            ];
            let known = exact.iter().find(|(_, x)| (x - v).abs() < 1e-12).map(|(name, _)| format!("{name} = "));
            format!("{}{}, and a run that starts elsewhere stops and says why", known.unwrap_or_default(), number(v))
        }
        None if objective.uses_reference() => {
            "depends on the pairs; the run computes it from the reference, and stops if it starts elsewhere".into()
        }
        None => "depends on the model: there is no reference to agree with".into(),
    }
}

/// The page of a method.
///
/// # Errors
/// A method without facts, or facts that lack what they must have.
pub fn page(method: &Method, facts: &BTreeMap<String, Facts>, equations: &Equations) -> Result<String> {
    let name = method.name;
    let own = facts.get(name).ok_or_else(|| anyhow!("docs/methods.toml has no table [{name}]"))?;
    let base = match &own.like {
        Some(like) => {
            facts.get(like).ok_or_else(|| anyhow!("docs/methods.toml: {name} is like {like}, which isn't there"))?
        }
        None => own,
    };
    macro_rules! fact {
        ($field:ident) => {
            own.$field.as_ref().or(base.$field.as_ref())
        };
    }
    let must = |fact: Option<&String>, what: &str| -> Result<String> {
        fact.cloned().ok_or_else(|| anyhow!("docs/methods.toml: {name} says nothing of `{what}`"))
    };
    let objective = method.objective(&Map::new())?;
    let (averaging, optimality, loss) = method.triple;
    let twin = own.like.is_some();
    let math = |tex: &str| written(tex, averaging, twin);
    let numbers = equations.numbers();
    let part = |kind: &str, name: &str| -> Result<String> {
        let registered = format!("{kind}:{name}");
        let e = equations.of(&registered).ok_or_else(|| anyhow!("{registered} has no equation"))?;
        Ok(format!(
            "[{name} ({})](../{}#eq-{})",
            numbers[e.id.as_str()],
            equations.page(e).replace(".html", ".md"),
            e.id
        ))
    };

    let mut s = format!("# `{name}`\n\n{}.\n\n", capital(method.about));
    writeln!(s, "**When**: {}\n", must(own.when.as_ref(), "when")?)?;
    writeln!(s, "## The loss\n")?;
    writeln!(
        s,
        "<div class=\"equation\" id=\"eq-method-{name}\">\n\n$$\\ell={}$$\n\n<a class=\"number\" href=\"#eq-method-{name}\">(M)</a>\n\n</div>\n",
        math(&must(fact!(tex), "tex")?)
    )?;
    writeln!(
        s,
        "$a=\\ln\\frac{{\\pi(y^+)}}{{\\mu(y^+)}}$ and $b=\\ln\\frac{{\\pi(y^-)}}{{\\mu(y^-)}}$ are sums over the $n^+$ and \
         $n^-$ scored tokens. {}{}\n",
        if name == "dpo" { "" } else { "What differs from [`dpo`](dpo.md) is in colour. " },
        if method.paper.is_empty() { String::new() } else { format!("Source: {}.", method.paper) }
    )?;
    if let Some(symbols) = fact!(symbols).filter(|s| !s.is_empty()) {
        let list: Vec<_> = symbols.iter().map(|[name, tex]| format!("${name}={}$", math(tex))).collect();
        writeln!(s, "With {}.\n", list.join(", "))?;
    }
    writeln!(s, "| | |\n|---|---|")?;
    writeln!(s, "| averaging | {} |", part("averaging", averaging)?)?;
    writeln!(s, "| optimality | {} |", part("optimality", optimality)?)?;
    writeln!(s, "| loss | {} |", part("loss", loss)?)?;
    for inner in inside(&objective.to_value()["loss"]) {
        writeln!(s, "| loss inside | {} |", part("loss", &inner)?)?;
    }
    for p in method.parameters {
        writeln!(s, "| `{}` | {}, by default {} |", p.key, p.about, p.default)?;
    }
    writeln!(s, "| loss at step 0 | {} |\n", start(&objective))?;
    writeln!(
        s,
        "The preset, which is the method:\n\n<!-- not run: compiled where it stands -->\n```rs\n{{{{#include ../../../crates/core/src/methods/presets.rs:{name}}}}}\n```\n"
    )?;

    let optimum = equations.of(&format!("optimality:{optimality}")).ok_or_else(|| anyhow!("no equation"))?;
    let weights = equations.of(&format!("averaging:{averaging}")).ok_or_else(|| anyhow!("no equation"))?;
    writeln!(s, "## The reward it optimises\n")?;
    writeln!(
        s,
        "$${}$$\n\nwith the score $s(\\pi)=\\sum_t\\omega_t\\ln\\pi(y_t\\mid x,y_{{<t}})$, and\n\n$${}$$\n",
        optimum.tex.split(",\\qquad").next().unwrap_or_default(),
        weights.tex
    )?;
    writeln!(s, "## What a token is told\n")?;
    match (fact!(gradient_plus), fact!(gradient_minus), fact!(gradient_words)) {
        (Some(plus), Some(minus), _) => writeln!(
            s,
            "$$\\frac{{\\partial\\ell}}{{\\partial s^+}}={},\\qquad\\frac{{\\partial\\ell}}{{\\partial s^-}}={}$$\n\nand of this each \
             scored token gets its share, $\\frac{{\\partial\\ell}}{{\\partial\\ln\\pi(y_t)}}=\\omega_t\\frac{{\\partial\\ell}}{{\\partial s}}$ \
             ([{}](../theory.md#eq-token-gradient)).\n",
            math(plus),
            math(minus),
            numbers["token-gradient"]
        )?,
        (_, _, Some(words)) => writeln!(s, "{words}\n")?,
        _ => bail!("docs/methods.toml: {name} says nothing of the gradient"),
    }
    writeln!(
        s,
        "Loss and slope against the margin, at the defaults, both completions of 20 tokens, $\\ln\\mu=-40$ each:\n\n{}\n",
        plot::svg(&objective, name)
    )?;

    let (value, reward) = worked(&objective)?;
    writeln!(s, "## By numbers\n\n```rust")?;
    let confidence = if objective.needs_confidence() {
        format!("Completion {{ confidence: {CONFIDENCE:?}, ..all }}")
    } else {
        "all".into()
    };
    write!(
        s,
        "use collimate::core::objective::{{Completion, Totals}};\nuse collimate::core::{{Method, Pair}};\n\n\
         let method = Method::find(\"{name}\")?.objective(&Default::default())?;\n\
         // What policy and reference say of each token: four of the chosen completion, two of the rejected.\n\
         let chosen = [{:?}, {:?}];\nlet rejected = [{:?}, {:?}];\n\
         let weights = method.weights(Pair::new(4, 2), 0)?;\n\
         let completion = |weights: &[f64], log_probs: &[f64]| {{\n    \
         let score = weights.iter().zip(log_probs).map(|(w, l)| w * l).sum();\n    \
         let all = Completion::new(score, log_probs.iter().sum(), log_probs.len() as f64);\n    {confidence}\n}};\n\
         let side = |i: usize| {{\n    \
         Pair::new(completion(&weights.chosen, &chosen[i]), completion(&weights.rejected, &rejected[i]))\n}};\n\
         let said = method.evaluate::<f64>(&side(0), &side(1), Totals {{ pairs: 1, chosen_tokens: 4 }});\n\
         assert!((said.reward.chosen - {}).abs() < 1e-6);\n\
         assert!((said.reward.rejected - {}).abs() < 1e-6);\n\
         assert!((said.loss - {}).abs() < 1e-6);\n\
         # Ok::<(), collimate::core::Error>(())\n```\n\n",
        CHOSEN[0],
        CHOSEN[1],
        REJECTED[0],
        REJECTED[1],
        number(reward.chosen),
        number(reward.rejected),
        number(value)
    )?;

    writeln!(s, "## What it does to length\n\n{}\n", must(fact!(length), "length")?)?;
    if let Some(pitfalls) = fact!(pitfalls).filter(|p| !p.is_empty()) {
        writeln!(s, "## Pitfalls\n")?;
        for p in pitfalls {
            writeln!(s, "- {p}")?;
        }
        s.push('\n');
    }
    writeln!(s, "## The setting of its paper\n")?;
    let settings = own.settings.clone().unwrap_or_default();
    let mut table = format!("method = \"{name}\"\n");
    for setting in settings.iter().filter(|x| x.key != "method") {
        writeln!(table, "{} = {} # {}", setting.key, setting.value, setting.source)?;
    }
    let given: Vec<_> = settings.iter().map(|x| x.key.as_str()).collect();
    let ours: Vec<_> = method.parameters.iter().filter(|p| !given.contains(&p.key)).collect();
    for p in ours.iter().filter(|p| p.default.to_string() != "–") {
        let text = serde_json::to_string(&p.default)?;
        writeln!(table, "{} = {text} # our default", p.key)?;
    }
    if settings.is_empty() {
        writeln!(s, "No value of the paper's is known to us; these are our defaults.\n")?;
    }
    writeln!(s, "```toml\n{table}```\n")?;
    writeln!(s, "## In TRL\n\n{}", must(fact!(trl), "trl")?)?;
    Ok(s)
}

/// The names of losses inside a loss, each once.
fn inside(loss: &Value) -> Vec<String> {
    let terms = loss["terms"].as_array().into_iter().flatten().map(|t| &t["loss"]);
    let mut all: Vec<String> = Vec::new();
    for inner in terms.chain([&loss["loss"]]).filter(|l| l.is_object()) {
        for name in inner["type"].as_str().map(str::to_owned).into_iter().chain(inside(inner)) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
    }
    all
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

//! Generated reference pages: every key, and what does not combine.

use std::fmt::Write;

use anyhow::{Result, anyhow};
use collimate::config::{KEYS, Kind, Run};
use collimate_core::{Method, Objective, methods};
use serde_json::{Map, Value, json};

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;").replace('$', "\\$")
}

/// `keys.md`: the keys of the training commands, the parameters of methods, and the flags of the other commands.
///
/// # Errors
/// None that is not a bug.
pub fn keys() -> Result<String> {
    let mut s = String::from(
        "# Every key\n\nMade from what the program itself reads. In a file `key = value`, on the command line `--key value`.\n",
    );
    let mut heading = "";
    for key in KEYS {
        if key.heading != heading {
            heading = key.heading;
            write!(s, "\n## {heading}\n\n| key | of | what it does |\n|---|---|---|\n")?;
        }
        let of: Vec<_> = Kind::ALL.iter().filter(|k| k.has(key.name)).map(|k| k.name()).collect();
        writeln!(s, "| `{}` | {} | {} |", key.name, of.join(", "), cell(key.help))?;
    }
    s += "\n## Parameters of methods\n\n| key | what it does | methods, with their defaults |\n|---|---|---|\n";
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    for p in Method::all().iter().flat_map(|m| m.parameters) {
        if !parameters.contains(&(p.key, p.about)) {
            parameters.push((p.key, p.about));
        }
    }
    parameters.sort_unstable();
    for (key, about) in parameters {
        let of = Method::all().into_iter().filter_map(|m| {
            let p = m.parameters.iter().find(|p| p.key == key && p.about == about)?;
            Some(format!("[`{}`](methods/{0}.md) {}", m.name, p.default))
        });
        writeln!(s, "| `{key}` | {} | {} |", cell(about), of.collect::<Vec<_>>().join(", "))?;
    }
    for command in collimate::cli::command().get_subcommands() {
        let name = command.get_name();
        if Kind::ALL.iter().any(|k| k.name() == name) || name == "help" {
            continue;
        }
        write!(
            s,
            "\n## `collimate {name}`\n\n{}\n",
            cell(&command.get_about().map(ToString::to_string).unwrap_or_default())
        )?;
        flags(&mut s, command)?;
        for inner in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
            write!(s, "\n### `collimate {name} {}`\n\n{}\n", inner.get_name(), cell(&about))?;
            flags(&mut s, inner)?;
        }
    }
    Ok(s)
}

fn flags(s: &mut String, command: &clap::Command) -> Result<()> {
    let mut rows = String::new();
    for arg in command.get_arguments().filter(|a| !a.is_hide_set() && a.get_id() != "help") {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let name = arg.get_long().map_or_else(|| arg.get_id().to_string().to_uppercase(), |l| format!("--{l}"));
        let default: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
        let default = match default.join(" ") {
            d if d.is_empty() || help.contains("[default") || !arg.get_action().takes_values() => String::new(),
            d => format!(" [default: {d}]"),
        };
        writeln!(rows, "| `{name}` | {}{} |", cell(&help), cell(&default))?;
    }
    if !rows.is_empty() {
        write!(s, "\n| flag | what it does |\n|---|---|\n{rows}")?;
    }
    Ok(())
}

/// Runs that are refused, and what is wrong with them.
const REFUSED: &[(&str, &str)] = &[
    ("align", "method = \"dpo\"\nloss_type = \"sigmoid\""),
    (
        "align",
        "method = \"dpo\"\nobjective = {averaging = {type = \"sum\"}, optimality = {type = \"none\", beta = 1.0}, loss = {type = \"logistic\"}}",
    ),
    (
        "align",
        "objective = {averaging = {type = \"sum\"}, optimality = {type = \"none\", beta = 1.0}, loss = {type = \"logistic\"}}\nbeta = 0.1",
    ),
    ("align", "method = \"dpo\"\nsimpo_gamma = 1.0"),
    ("align", "method = \"simpo\"\nref_model = \"reference\""),
    ("align", "loss_type = \"sigmoid\"\nlabel_smoothing = 0.1"),
    ("align", "loss_type = \"sigmoid\"\ndiscopop_tau = 0.1"),
    ("align", "loss_type = \"sft\"\nld_alpha = 0.5"),
    ("align", "loss_type = \"sft\"\nuse_weighting = true"),
    ("align", "bf16 = true\nfp16 = true"),
    ("align", "lr_scheduler_type = \"constant\"\nwarmup_steps = 10"),
    ("align", "warmup_steps = 0.1\nwarmup_ratio = 0.1"),
    ("align", "eval_steps = 10"),
    ("align", "eval_data = \"held-out.jsonl\"\neval_split = 0.1"),
    ("align", "method = \"simpo\"\nper_device_eval_batch_size = 4"),
    ("sft", "method = \"dpo\""),
    ("sft", "ref_model = \"reference\""),
    ("reward", "beta = 0.1"),
    ("align", "center_rewards_coefficient = 0.1"),
];

/// `combine.md`: what is refused, from the checks that refuse it.
///
/// # Errors
/// A combination that is not refused after all, or a part that nothing makes an instance of.
pub fn combine() -> Result<String> {
    let mut s = String::from(
        "# What does not combine\n\nNothing is ignored in silence: what would have no effect, or would mean two things, is refused \
         before anything is read. This page is made by asking the program.\n\n## Options of a run\n\n| with | refused because |\n|---|---|\n",
    );
    for (command, more) in REFUSED {
        let kind =
            Kind::ALL.into_iter().find(|k| k.name() == *command).ok_or_else(|| anyhow!("no command {command}"))?;
        let text = format!("model = \"m\"\ndata = \"d\"\noutput_dir = \"o\"\n{more}");
        let table: Map<String, Value> = toml::from_str(&text)?;
        let Err(refused) = Run::new(kind, table) else { return Err(anyhow!("{command} is not refused with: {more}")) };
        let with: Vec<_> = more.lines().map(|l| format!("`{}`", cell(l))).collect();
        writeln!(s, "| `{command}`: {} | {} |", with.join(", "), cell(&format!("{refused:#}")))?;
    }
    let parts = instances()?;
    s += "\n## Parts of an objective\n\nAll other triples of an averaging, an optimality operator and a loss go together.\n\n\
          | loss | with | refused because |\n|---|---|---|\n";
    let of = |kind: &str| parts.iter().filter(|p| p.0 == kind).map(|p| (&p.1, &p.2)).collect::<Vec<_>>();
    let plain = |kind: &str| {
        let name = if kind == "averaging" { "sum" } else { "none" };
        of(kind).into_iter().find(|p| p.0 == name).map(|p| p.1.clone()).unwrap_or_default()
    };
    let refused = |averaging: &Value, optimality: &Value, loss: &Value| {
        Objective::from_value(&json!({"averaging": averaging, "optimality": optimality, "loss": loss})).err()
    };
    let mut rows = Vec::new();
    for (name, loss) in of("loss") {
        for (other, averaging) in of("averaging") {
            // Beside the operator that the loss wants, if it wants one.
            let with = |o: &Value| refused(&plain("averaging"), o, loss).is_none();
            let Some(optimality) = of("optimality").into_iter().map(|p| p.1).find(|o| with(o)) else { continue };
            if let Some(e) = refused(averaging, optimality, loss) {
                rows.push((name.clone(), format!("averaging `{other}`"), e.to_string()));
            }
        }
        for (other, optimality) in of("optimality") {
            if let Some(e) = refused(&plain("averaging"), optimality, loss) {
                rows.push((name.clone(), format!("optimality `{other}`"), e.to_string()));
            }
        }
        for (wrapper, around) in of("loss").into_iter().filter(|(_, v)| v["loss"].is_object()) {
            let mut around = around.clone();
            around["loss"] = loss.clone();
            let tried = of("optimality").into_iter().map(|(_, o)| refused(&plain("averaging"), o, &around));
            let tried: Vec<_> = tried.collect();
            if tried.iter().all(Option::is_some)
                && let Some(Some(e)) = tried.into_iter().next()
            {
                rows.push((name.clone(), format!("inside `{wrapper}`"), e.to_string()));
            }
        }
    }
    for (loss, with, why) in rows {
        writeln!(s, "| `{loss}` | {with} | {} |", cell(&why))?;
    }
    Ok(s)
}

/// A valid table of each registered part: of the first method that has it, or by hand.
fn instances() -> Result<Vec<(&'static str, String, Value)>> {
    let by_hand = [
        json!({"type": "constant", "length": 10.0}),
        json!({"type": "forward_kl", "beta": 0.1}),
        json!({"type": "alpha_divergence", "beta": 0.1, "alpha": 0.5}),
        json!({"type": "per_token", "loss": {"type": "logistic"}}),
        json!({"type": "supervised"}),
    ];
    let vocabulary = methods::vocabulary();
    let mut all = Vec::new();
    for (kind, names) in
        [("averaging", vocabulary.averaging), ("optimality", vocabulary.optimality), ("loss", vocabulary.loss)]
    {
        for name in names {
            let given = Method::all().into_iter().find_map(|m| {
                let table = m.table(&Map::new()).ok()?;
                (table[kind]["type"] == name).then(|| table[kind].clone())
            });
            let value = given.or_else(|| by_hand.iter().find(|v| v["type"] == name).cloned());
            let value = value.ok_or_else(|| anyhow!("no instance of {kind} {name} for docs/src/combine.md"))?;
            all.push((kind, name.to_owned(), value));
        }
    }
    Ok(all)
}

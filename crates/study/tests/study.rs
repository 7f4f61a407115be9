//! A study from its file to its report, on commands that do not train.

mod common;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use collimate_study::{Error, Host, Plan, report, run};
use common::{Desk, STUDY, vocabulary, write};
use serde_json::Value;

#[test]
fn faults_name_their_key() {
    let desk = Desk::new();
    for (from, to, said) in [
        (
            "method = [\"dpo\", \"averaged-dpo\", \"ipo\", \"averaged-ipo\"]",
            "method = []",
            "grid.method: the list is empty",
        ),
        ("\"ipo\", ", "\"dppo\", ", "grid.method: unknown method \"dppo\"; did you mean \"dpo\"?"),
        ("seed = [1, 2, 3]", "seed = []", "grid.seed: the list is empty"),
        ("seed = [1, 2, 3]", "seed = [1, 1]", "grid.seed: 1 is there twice"),
        ("seed = [1, 2, 3]", "sed = [1]", "unknown key `grid.sed`; did you mean `grid.seed`?"),
        ("max_steps", "max_step", "unknown key `run.max_step`; did you mean `run.max_steps`?"),
        ("[generation]", "[generatoin]", "unknown key `generatoin`; did you mean `generation`?"),
        (
            "max_new_tokens = 64",
            "max_new_tokens = 0",
            "generation.max_new_tokens: expected a whole number of at least 1",
        ),
        ("max_new_tokens = 64", "temperature = 0.7", "generation.temperature: expected 1, got 0.7"),
        ("bootstrap = 200", "metrics = [\"lenght\"]", "unknown metric \"lenght\"; there are: mean_length"),
        ("bootstrap = 200", "confidence = 95", "analysis.confidence: expected a number between 0 and 1, got 95"),
        ("reward = {type = \"length\"}", "", "`reward` is missing"),
        ("prompts = \"prompts.jsonl\"", "", "`prompts` is missing"),
        ("model = \"sft\"", "", "`model` is missing"),
        ("averaged-ipo = [", "averaged-slic = [", "grid.beta.averaged-slic: grid.method has no \"averaged-slic\""),
        ("method = \"r-dpo\"", "method = \"r-dpo\"\nseed = 3", "cells[0].seed: a cell takes this from [grid]"),
    ] {
        assert!(STUDY.contains(from), "{from}");
        let error = desk.plan(&STUDY.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(said), "{said:?} is not in: {error}");
    }
}

#[test]
fn a_study_without_cells_is_refused() {
    let said = Desk::new().plan("output_dir = 'o'\nmodel = 'm'\nprompts = 'p'\nreward = 'length'\ndata = 'd'\n");
    assert!(said.unwrap_err().to_string().starts_with("the grid is empty: [grid] needs method"));
}

#[test]
fn the_grid_is_every_combination() {
    let desk = Desk::new();
    let plan = desk.plan(STUDY).unwrap();
    // 4 methods × 3 β and r-dpo, × 3 seeds × 2 data sets
    assert_eq!(plan.cells.len(), 13 * 3 * 2);
    let cell = plan.cells.iter().find(|c| c.id == "averaged-dpo-beta2.0-seed3-datashorter.jsonl").unwrap();
    assert_eq!((cell.beta, &*cell.setting, &*cell.condition_text()), (Some(2.0), "β 2.0", "data = shorter.jsonl"));
    let rdpo = plan.cells.iter().find(|c| c.method == "r-dpo").unwrap();
    assert_eq!((rdpo.beta, &*rdpo.setting), (Some(0.1), "defaults"));
    let keys = run::cell_keys(&plan, cell);
    assert_eq!((&keys["beta"], &keys["seed"], &keys["max_steps"]), (&2.0.into(), &3.into(), &10.into()));
    assert_eq!(keys["model"], Value::from(desk.arg("sft")));
}

#[test]
fn paths_are_relative_to_the_file_and_names_of_columns_are_none() {
    let desk = Desk::new();
    let plan = |reward: &str| desk.plan(&STUDY.replace("{type = \"length\"}", reward)).unwrap();
    assert_eq!(plan("{type = \"model\", model = \"sft\"}").reward["model"], desk.arg("sft"));
    assert_eq!(plan("{type = \"world\", folder = \"w\"}").reward["folder"], desk.arg("w"));
    let command = plan("{type = \"command\", command = [\"sh\", \"prompts.jsonl\"]}").reward;
    assert_eq!(command["command"], serde_json::json!(["sh", "prompts.jsonl"]));
    let columns = "[{path = \"longer.jsonl\", columns = {folder = \"prompt\"}}]";
    let plan = desk.plan(&STUDY.replace("[\"longer.jsonl\", \"shorter.jsonl\"]", columns)).unwrap();
    let data = &plan.cells[0].keys["data"];
    assert_eq!((&data["path"], &data["columns"]["folder"]), (&desk.arg("longer.jsonl").into(), &"prompt".into()));
}

#[test]
fn a_world_gives_what_the_study_reads() {
    let desk = Desk::new();
    let text = "output_dir = 'out'\n[world]\nseed = 1\n[grid]\nmethod = 'dpo'\n'world.length_bias' = [0.1, -0.1]\n";
    let plan = desk.plan(text).unwrap();
    assert_eq!(plan.worlds.len(), 2);
    let steps = run::Steps::of(&plan);
    let world = desk.arg("out/world-2");
    assert_eq!(steps.stages[1].args, ["world", "--seed", "1", "--length_bias", "-0.1", "--output_dir", &world]);
    assert_eq!(steps.stages[2].args[..3], ["sft", "--model", &desk.arg("out/world-1/base")]);
    let keys = run::cell_keys(&plan, &plan.cells[1]);
    assert_eq!(keys["data"], Value::from(format!("{world}/pairs.jsonl")));
    assert_eq!(plan.cells[1].condition_text(), "length_bias = -0.1");
}

/// All results of a folder.
fn outcome(desk: &Desk, out: &str) -> [String; 3] {
    let read = |f: &str| fs::read_to_string(desk.path(out).join(f)).unwrap();
    // The page says where the study lies.
    ["results.json", "results.csv", "report.html"]
        .map(|f| read(f).replace(&format!("{out}&#x2f;"), "OUT/").replace(&format!("/{out}/"), "/OUT/"))
}

#[cfg(unix)]
#[test]
fn a_stopped_study_goes_on_and_runs_nothing_twice() {
    let desk = Desk::new();
    let program = desk.program();
    let at = |out: &str| {
        desk.plan(&STUDY.replace("output_dir = \"out\"", &format!("output_dir = \"{out}\"\njobs = 2"))).unwrap()
    };
    let go = |plan: &Plan, stop_after: usize| {
        let finished = AtomicUsize::new(0);
        let host = Host {
            program: program.clone(),
            write: &write,
            stopped: &|| finished.load(Ordering::SeqCst) >= stop_after,
            say: &|line| {
                finished.fetch_add(usize::from(line.contains(" in ")), Ordering::SeqCst);
            },
        };
        run::run(plan, &host, &|| report::predict(plan, &host))?;
        report::write(plan, &vocabulary(), &host).map(drop)
    };
    let (whole, broken) = (at("whole"), at("broken"));
    go(&whole, usize::MAX).unwrap();
    let lines = || fs::read_to_string(desk.path("calls")).unwrap().lines().count();
    let undisturbed = lines();
    assert_eq!(undisturbed, 1 + 2 * whole.cells.len());
    let Err(Error::Stopped { done, cells }) = go(&broken, 5) else { panic!("it went on") };
    assert!(done >= 4 && done < cells, "{done} of {cells}");
    // What a killed one leaves: a run without its mark.
    let left = desk.path("broken/cells").join(&broken.cells[40].id).join("policy");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("model.safetensors"), "half").unwrap();
    go(&broken, usize::MAX).unwrap();
    // At most the two that were under way ran again.
    assert!(lines() - undisturbed <= undisturbed + 4, "{} calls", lines() - undisturbed);
    let (one, two) = (outcome(&desk, "whole"), outcome(&desk, "broken"));
    let differ = one.iter().zip(&two).map(|(a, b)| a.lines().zip(b.lines()).find(|(a, b)| a != b));
    assert!(one == two, "{:?}", differ.collect::<Vec<_>>());
    let before = lines();
    go(&broken, usize::MAX).unwrap();
    assert_eq!(lines(), before);
}

#[cfg(unix)]
#[test]
fn a_folder_of_another_study_and_a_failing_cell_are_named() {
    let desk = Desk::new();
    let host = Host { program: desk.program(), write: &write, stopped: &|| false, say: &|_| {} };
    let go = |text: &str| run::run(&desk.plan(text).unwrap(), &host, &|| Ok(())).map_err(|e| e.to_string());
    let small = STUDY
        .replace("seed = [1, 2, 3]", "seed = [1]")
        .replace("\"ipo\", \"averaged-ipo\"", "")
        .replace("ipo = [0.1, 0.3, 1.0], averaged-ipo = [1.0, 3.0, 10.0]", "");
    // One at a time, so that it is known which cell fails first.
    let small = format!("jobs = 1\n{small}");
    let said = go(&small.replace("max_steps = 10", "max_steps = 13")).unwrap_err();
    let (cell, why) = ("dpo-beta0.05-seed1-datalonger.jsonl: `collimate align ", "failed: thirteen steps are unlucky");
    assert!(said.starts_with(cell) && said.ends_with(why), "{said}");
    let said = go(&small).unwrap_err();
    assert!(said.contains("another configuration: `run.max_steps` is 10, and was 13"), "{said}");
    fs::write(desk.path("prompts.jsonl"), "{\"prompt\": \"another\"}\n").unwrap();
    let said = go(&small.replace("max_steps = 10", "max_steps = 13")).unwrap_err();
    assert!(said.starts_with("prompts: the content is another than when output_dir"), "{said}");
    fs::create_dir(desk.path("full")).unwrap();
    fs::write(desk.path("full/notes.txt"), "text").unwrap();
    let said = go(&small.replace("\"out\"", "\"full\"")).unwrap_err();
    assert!(said.ends_with("holds files that are of no study; choose another folder"), "{said}");
}

#[test]
fn the_report_says_what_the_measurements_show() {
    let desk = Desk::new();
    let plan = desk.plan(STUDY).unwrap();
    let host = Host { program: "none".into(), write: &write, stopped: &|| false, say: &|_| {} };
    desk.measure(&plan);
    report::predict(&plan, &host).unwrap();
    let said = report::write(&plan, &vocabulary(), &host).unwrap();
    let results: Value = serde_json::from_str(&fs::read_to_string(desk.path("out/results.json")).unwrap()).unwrap();
    // The synthetic cells: 20 tokens before, and 6 (summed) or 3 (averaged) a nat more after, or half of it fewer.
    for c in results["comparisons"].as_array().unwrap() {
        let longer = c["condition"] == "data = longer.jsonl";
        let expected = match (c["quantity"].as_str().unwrap(), longer) {
            ("length", true) => "more",
            ("length", false) => "less",
            _ => "overlap",
        };
        assert_eq!(c["verdict"], expected, "{c}");
        if c["quantity"] == "length" {
            let (d, kl) = (&c["difference"], c["at"].as_array().unwrap());
            let middle = (kl[0]["kl"].as_f64().unwrap() + kl[4]["kl"].as_f64().unwrap()) / 2.0;
            let truth = if longer { 3.0 * middle } else { -1.5 * middle };
            let (low, high) = (d["low"].as_f64().unwrap(), d["high"].as_f64().unwrap());
            assert!(low - 1.0 < truth && truth < high + 1.0, "{truth}: {d}");
        }
    }
    let outcomes: Vec<&str> = results["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["prediction"]["quantity"] == "length")
        .map(|p| p["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["held"; 4]);
    assert!(said.contains("summed is longer") && said.ends_with("report.html"), "{said}");
    let page = fs::read_to_string(desk.path("out/report.html")).unwrap();
    for part in
        ["http://www.w3.org/2000/svg", "summed is shorter", "collimate align", "dpo-beta0.05-seed1", "as expected"]
    {
        assert!(page.contains(part), "{part}");
    }
    // Nothing that a browser would ask for.
    let asks = ["src=", "<link rel=\"stylesheet", "@import", "url(", "<script"];
    assert!(asks.iter().all(|a| !page.contains(a)));
    assert!(!page.contains("NaN"), "{:?}", page.find("NaN").map(|i| &page[i.saturating_sub(200)..i + 50]));
    let rows = fs::read_to_string(desk.path("out/results.csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + 26 + 78);
    let columns = rows.lines().next().unwrap().split(',').count();
    assert!(rows.lines().all(|l| l.split(',').count() == columns));
    if let Some(keep) = std::env::var_os("COLLIMATE_KEEP_REPORT") {
        fs::copy(desk.path("out/report.html"), &keep).unwrap();
        fs::copy(desk.path("out/figures/length-kl.svg"), std::path::Path::new(&keep).with_extension("svg")).unwrap();
    }
}

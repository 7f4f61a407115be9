//! A study on a desk: its file, and cells that were never trained.

#![allow(dead_code, reason = "each test target uses a part")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use collimate_study::{Error, Method, Plan, Vocabulary};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

pub const STUDY: &str = r#"
name = "a synthetic study"
output_dir = "out"
model = "sft"
prompts = "prompts.jsonl"
reward = {type = "length"}
[run]
max_steps = 10
[grid]
method = ["dpo", "averaged-dpo", "ipo", "averaged-ipo"]
beta = {dpo = [0.05, 0.1, 0.3], averaged-dpo = [1.0, 2.0, 5.0], ipo = [0.1, 0.3, 1.0], averaged-ipo = [1.0, 3.0, 10.0]}
seed = [1, 2, 3]
data = ["longer.jsonl", "shorter.jsonl"]
[[cells]]
method = "r-dpo"
[generation]
max_new_tokens = 64
num_return_sequences = 2
[analysis]
bootstrap = 200
"#;

pub fn vocabulary() -> Vocabulary {
    let method = |name: &str, averaging: &str, beta: f64| Method {
        name: name.into(),
        averaging: averaging.into(),
        formula: "ℓ".into(),
        parameters: vec![("beta".into(), Some(beta))],
    };
    Vocabulary {
        methods: vec![
            method("averaged-dpo", "mean", 2.0),
            method("averaged-ipo", "mean", 1.0),
            method("averaged-slic", "mean", 1.0),
            method("dpo", "sum", 0.1),
            method("ipo", "sum", 0.1),
            method("r-dpo", "sum", 0.1),
        ],
        run: ["model", "data", "output_dir", "method", "seed", "max_steps", "learning_rate"].map(String::from).to_vec(),
        ..Vocabulary::default()
    }
}

pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, bytes)?;
    fs::rename(part, path)
}

pub struct Desk {
    root: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let desk = Self { root };
        fs::create_dir(desk.path("sft")).unwrap();
        fs::write(desk.path("sft/config.json"), "{}").unwrap();
        fs::write(desk.path("prompts.jsonl"), "{\"prompt\": \"p\"}\n".repeat(40)).unwrap();
        let pair = |c: &str, r: &str| format!("{}\n", json!({"prompt": "p", "chosen": c, "rejected": r})).repeat(50);
        fs::write(desk.path("longer.jsonl"), pair("a long one", "short")).unwrap();
        fs::write(desk.path("shorter.jsonl"), pair("short", "a long one")).unwrap();
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn plan(&self, text: &str) -> Result<Plan, Error> {
        let table: Map<String, Value> = serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap())
            .map(|v| v.as_object().cloned().unwrap())
            .unwrap();
        Plan::new(table, self.root.path(), &vocabulary())
    }

    /// A program that takes the commands and trains nothing: its measurements follow from the cell's name.
    pub fn program(&self) -> PathBuf {
        let path = self.path("collimate");
        let text = format!(
            r#"#!/bin/sh
echo "$@" >> {calls}
if [ "$1" = align ]; then
    if grep -q 'max_steps = 13' "$2"; then echo "error: thirteen steps are unlucky" >&2; exit 1; fi
    out=$(sed -n 's/^output_dir = "\(.*\)"/\1/p' "$2")
    if [ -e "$out/model.safetensors" ]; then echo "error: holds an earlier run" >&2; exit 1; fi
    mkdir -p "$out"
    cp "$2" "$out/collimate.toml"
    echo weights > "$out/model.safetensors"
    exit 0
fi
while [ $# -gt 0 ]; do
    if [ "$1" = --output ]; then out=$2; fi
    if [ "$1" = --model ]; then model=$2; fi
    shift
done
n=$(echo "$model" | sed 's#.*/cells/##; s#.*/sft#sft#' | cksum | cut -c 1-2)
i=0
while [ $i -lt 8 ]; do
    echo "{{\"prompt\": $((i / 2)), \"sample\": $((i % 2)), \"tokens\": $((n + i)), \"ended\": true, \"score\": 0.$((n + i)), \"repetition\": 0.1, \"log_prob\": -$n.$i, \"log_reference\": -$((n + 2)).0, \"implicit_reward\": 0.$i, \"completion\": \"text\"}}"
    i=$((i + 1))
done > "$out.part"
mv "$out.part" "$out"
"#,
            calls = self.arg("calls")
        );
        fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        path
    }

    /// Writes measurements of all cells as if they had been run. A policy's KL is k = 0.3/β of DPO (6/β averaged), half as much
    /// again of IPO, within 0.5 and 6; its answers have 20 tokens and 6 k (summed) or 3 k (averaged) more, or half of
    /// that fewer where the pairs prefer short ones; its score is √k whatever the method.
    pub fn measure(&self, plan: &Plan) {
        let line = |rng: &mut StdRng, length: f64, score: f64, kl: f64, first: bool| -> String {
            let mut all = String::new();
            for prompt in 0..40 {
                let of_prompt = f64::from(prompt % 8) - 3.5;
                for sample in 0..2 {
                    let noise = rng.random::<f64>() - 0.5;
                    let tokens = (length + of_prompt + 6.0 * noise).max(1.0).round();
                    let score = score + 0.2 * of_prompt + rng.random::<f64>() - 0.5;
                    let log_ratio = kl + 0.3 * (rng.random::<f64>() - 0.5) * f64::from(u8::from(!first));
                    let log_prob = -1.5 * tokens;
                    let reward = (!first).then_some(log_ratio * 0.1);
                    all += &json!({
                        "prompt": prompt, "sample": sample, "tokens": tokens as u64, "ended": tokens < 64.0,
                        "score": score, "repetition": 0.1 * rng.random::<f64>(), "log_prob": log_prob,
                        "log_reference": log_prob - log_ratio, "implicit_reward": reward, "completion": "text",
                        "chosen_score": 0.5, "chosen_tokens": 25,
                    })
                    .to_string();
                    all.push('\n');
                }
            }
            all
        };
        let mut rng = StdRng::seed_from_u64(1);
        let reference = plan.output_dir.join("reference");
        fs::create_dir_all(&reference).unwrap();
        fs::write(reference.join("samples.jsonl"), line(&mut rng, 20.0, 0.0, 0.0, true)).unwrap();
        for cell in &plan.cells {
            let averaged = cell.method.starts_with("averaged");
            let family = if cell.method.ends_with("ipo") { 1.5 } else { 1.0 };
            let kl = (family * if averaged { 6.0 } else { 0.3 } / cell.beta.unwrap()).clamp(0.5, 6.0);
            let sign = if cell.condition_text().contains("longer") { 1.0 } else { -0.5 };
            let slope = sign * if averaged { 3.0 } else { 6.0 };
            let length = 20.0 + slope * kl;
            let folder = plan.output_dir.join("cells").join(&cell.id);
            fs::create_dir_all(folder.join("policy")).unwrap();
            let text = line(&mut rng, length.max(2.0), kl.sqrt(), kl, false);
            fs::write(folder.join("samples.jsonl"), text).unwrap();
            let metrics: String = (1..=10)
                .map(|s| {
                    let accuracy = 1.0 - 0.5 / f64::from(s) - 0.02 * rng.random::<f64>();
                    let line = json!({"step": s, "loss": 0.7 / f64::from(s), "rewards/accuracies": accuracy,
                        "logps/chosen": -30.0 - f64::from(s) * kl / 5.0});
                    format!("{line}\n")
                })
                .collect();
            fs::write(folder.join("policy/metrics.jsonl"), metrics).unwrap();
        }
    }
}

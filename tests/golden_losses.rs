//! Losses and gradients that other projects' own code gave, against every linked backend and the f64 oracle.

mod common;
#[path = "common/golden.rs"]
mod golden;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate::core::loss::{Logistic, Supervised};
use collimate::core::{
    Batch, Column, Completion, Dpo, Method, Objective, Pair, PreferenceLoss, Slic, Totals, averaging, loss, optimality,
    trl,
};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Map, Value, json};

/// The cases that belong to no method here, by the trainer they come from.
const LEFT_OUT: [(&str, &str); 2] = [
    ("kto", "KTO learns from single completions, not from pairs"),
    ("tpo", "TPO learns from triples: two completions and a reference answer"),
];

fn json(file: &str) -> Value {
    let path = golden::fixture("golden-losses").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The inputs of all cases: one batch of eight pairs, each log-probability spread evenly over its tokens.
struct Inputs {
    policy: Pair<Vec<f64>>,
    reference: Pair<Vec<f64>>,
    lengths: Pair<Vec<f64>>,
    log_collision: f64,
}

impl Inputs {
    fn new(golden: &Value) -> Self {
        let of = |key: &str| numbers(&golden["inputs"][key]);
        Self {
            policy: Pair::new(of("policy_chosen_logps"), of("policy_rejected_logps")),
            reference: Pair::new(of("ref_chosen_logps"), of("ref_rejected_logps")),
            lengths: Pair::new(of("chosen_lengths"), of("rejected_lengths")),
            log_collision: golden["inputs"]["wpo_log_sum_sq_probs"].as_f64().unwrap(),
        }
    }

    fn totals(&self) -> Totals {
        Totals { pairs: self.policy.chosen.len(), chosen_tokens: self.lengths.chosen.iter().sum::<f64>() as usize }
    }

    /// What a summed log-probability, spread evenly, is multiplied by to give the score: the mean weight.
    fn factors(&self, objective: &Objective) -> Pair<Vec<f64>> {
        let mean = |w: Vec<f64>| w.iter().sum::<f64>() / w.len() as f64;
        let lengths = self.lengths.chosen.iter().zip(&self.lengths.rejected).enumerate();
        let (chosen, rejected) = lengths
            .map(|(key, (a, b))| objective.weights(Pair::new(*a as usize, *b as usize), key as u64).unwrap())
            .map(|w| (mean(w.chosen), mean(w.rejected)))
            .unzip();
        Pair::new(chosen, rejected)
    }

    fn confidences(&self) -> Pair<Vec<f64>> {
        let each =
            |sums: &[f64], lengths: &[f64]| sums.iter().zip(lengths).map(|(s, n)| s / n - self.log_collision).collect();
        Pair::new(each(&self.policy.chosen, &self.lengths.chosen), each(&self.policy.rejected, &self.lengths.rejected))
    }
}

/// The mean loss, its gradient with respect to the summed log-probabilities, and each pair's loss, on a device in f64.
fn on_device(objective: &Objective, inputs: &Inputs, device: &Device) -> (f64, Pair<Vec<f64>>, Vec<f64>) {
    let device = device.clone().autodiff();
    let tensor =
        |v: &[f64]| -> Batch { Tensor::from_data(TensorData::new(v.to_vec(), [v.len()]), (&device, DType::F64)) };
    let host = |t: Batch| -> Vec<f64> {
        assert_eq!(t.dtype(), DType::F64, "the loss fell out of f64");
        t.into_data().convert::<f64>().try_to_vec().unwrap()
    };
    let factors = inputs.factors(objective);
    let completions = |sums: Pair<Batch>| {
        let rest = factors.as_ref().zip(inputs.lengths.as_ref()).zip(inputs.confidences());
        sums.zip(rest).map(|(sum, ((factor, length), confidence))| Completion {
            score: sum.clone() * tensor(factor),
            sum,
            tokens: tensor(length),
            confidence: tensor(&confidence),
        })
    };
    let sums = inputs.policy.as_ref().map(|v| tensor(v).require_grad());
    let reference = completions(inputs.reference.as_ref().map(|v| tensor(v)));
    let loss = objective.evaluate_batch(&completions(sums.clone()), &reference, inputs.totals()).loss;
    let gradients = loss.clone().mean().backward();
    let zeros = vec![0.0; inputs.totals().pairs];
    let gradient = sums.map(|s| s.grad(&gradients).map_or_else(|| zeros.clone(), host));
    let each = host(loss.clone().inner());
    (host(loss.mean().inner())[0], gradient, each)
}

/// Each pair's loss from the oracle.
fn on_host(objective: &Objective, inputs: &Inputs) -> Vec<f64> {
    let factors = inputs.factors(objective);
    let completions = |sums: &Pair<Vec<f64>>| {
        let rest = factors.as_ref().zip(inputs.lengths.as_ref()).zip(inputs.confidences());
        sums.as_ref().zip(rest).map(|(sum, ((factor, length), confidence))| Completion {
            score: Column(sum.iter().zip(factor).map(|(s, f)| s * f).collect()),
            sum: Column(sum.clone()),
            tokens: Column(length.clone()),
            confidence: Column(confidence),
        })
    };
    objective.evaluate_column(&completions(&inputs.policy), &completions(&inputs.reference), inputs.totals()).loss.0
}

/// The objective of a case, from TRL's own keys.
fn objective(trainer: &str, params: &Map<String, Value>) -> Objective {
    let mut keys = Map::new();
    for (key, value) in params {
        let key = match (trainer, key.as_str()) {
            ("dpo", "loss_types") => "loss_type",
            ("dpo", "f_div") => "f_divergence_type",
            // Whether the reference is computed beforehand, or the arithmetic is float64, is no part of the loss.
            ("dpo", "precomputed") | ("orpo", "f64") => continue,
            (_, other) => other,
        };
        keys.insert(key.to_owned(), value.clone());
    }
    match trainer {
        "dpo" => trl::objective(&keys).unwrap(),
        "cpo" => {
            // The reference left the supervised term out unless the case names it.
            keys.entry("cpo_alpha").or_insert(json!(0.0));
            trl::cpo(&keys).unwrap()
        }
        "orpo" => {
            // The reference set the supervised term to 0.
            let mut table = trl::orpo(&keys).unwrap().to_value();
            table["loss"]["terms"][0]["weight"] = json!(0.0);
            Objective::from_value(&table).unwrap()
        }
        other => panic!("unknown trainer {other}"),
    }
}

/// The largest relative error, where an entry below `floor` is taken for that.
fn error(got: &[f64], wanted: &[f64], floor: f64) -> f64 {
    assert_eq!(got.len(), wanted.len());
    let relative = |(g, w): (&f64, &f64)| if g == w { 0.0 } else { (g - w).abs() / w.abs().max(floor) };
    got.iter().zip(wanted).map(relative).fold(0.0, f64::max)
}

/// A case of TRL's against the oracle and every backend that has f64.
fn trls_loss_and_gradient(case: &Value, inputs: &Inputs, devices: &[(&str, Device)]) -> Result<(), Failed> {
    let (name, trainer) = (case["name"].as_str().unwrap(), case["trainer"].as_str().unwrap());
    let objective = objective(trainer, case["params"].as_object().unwrap());
    let single = case["dtype"] == "float32" || name.contains("float32");
    // In float32 TRL's own sum of 100 token log-probabilities is off by an ulp of 280 and more, 3e-5 nats, and the
    // small entries of a gradient are made of that: there, the error is taken of the gradient's largest entry.
    let gradients = Pair::new(numbers(&case["grad_chosen"]), numbers(&case["grad_rejected"]));
    let largest = gradients.chosen.iter().chain(&gradients.rejected).fold(0.0f64, |m, g| m.max(g.abs()));
    let mut faults = Vec::new();
    let mut check = |what: String, got: &[f64], wanted: &[f64]| {
        let (tolerance, floor) = if !single {
            (1e-9, 1e-5 * wanted.iter().fold(0.0f64, |m, w| m.max(w.abs())))
        } else if what.contains("gradient") {
            (1e-5, largest)
        } else {
            (1e-5, wanted.iter().fold(0.0f64, |m, w| m.max(w.abs())))
        };
        let e = error(got, wanted, floor);
        if e.is_nan() || e > tolerance {
            faults.push(format!("{what}: relative error {e:e}: {got:?}, not {wanted:?}"));
        }
    };
    let each = on_host(&objective, inputs);
    let wanted = [case["loss"].as_f64().unwrap()];
    check("oracle".into(), &[each.iter().sum::<f64>() / each.len() as f64], &wanted);
    if case["per_pair_loss"].is_array() {
        check("oracle, pair by pair".into(), &each, &numbers(&case["per_pair_loss"]));
    }
    for (backend, device) in devices {
        let (loss, gradient, each) = on_device(&objective, inputs, device);
        check(format!("{backend}: loss"), &[loss], &wanted);
        check(format!("{backend}: gradient, chosen"), &gradient.chosen, &gradients.chosen);
        check(format!("{backend}: gradient, rejected"), &gradient.rejected, &gradients.rejected);
        if case["per_pair_loss"].is_array() {
            check(format!("{backend}: pair by pair"), &each, &numbers(&case["per_pair_loss"]));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// One trial for each case of TRL's that belongs to a method here, and one that all cases are accounted for.
fn trls_losses_and_gradients() -> Vec<Trial> {
    let golden = json("trl_1.16_losses.json");
    let inputs = Arc::new(Inputs::new(&golden));
    let devices = common::devices().into_iter().filter(|(_, d)| d.supports_dtype(DType::F64));
    let devices: Arc<Vec<_>> = Arc::new(devices.collect());
    let (mut trials, mut left_out, mut refused) = (Vec::new(), 0, 0);
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if let Some((_, why)) = LEFT_OUT.iter().find(|(t, _)| case["trainer"] == *t) {
            eprintln!("left out: {name}: {why}");
            left_out += 1;
        } else if case["error"].is_string() {
            eprintln!("refused by TRL itself: {name}");
            refused += 1;
        } else {
            let (case, inputs, devices) = (case.clone(), inputs.clone(), devices.clone());
            let name = format!("trls_losses_and_gradients::{name}");
            trials.push(Trial::test(name, move || trls_loss_and_gradient(&case, &inputs, &devices)));
        }
    }
    let counts = (trials.len(), left_out, refused);
    trials.push(Trial::test("trls_losses_and_gradients::all_are_accounted_for", move || {
        assert!(devices.iter().any(|(name, _)| *name == "flex"));
        assert_eq!(counts, (69, 9, 1));
        Ok(())
    }));
    trials
}

fn named_methods_are_what_trl_calls_them() {
    // The presets and TRL's keys must name the same objective where they mean the same.
    for (method, parameters, keys) in [
        ("dpo", json!({}), json!({"loss_type": "sigmoid"})),
        ("averaged-dpo", json!({"beta": 0.5}), json!({"loss_type": "sigmoid_norm", "beta": 0.5})),
        ("averaged-ipo", json!({"beta": 0.1}), json!({"loss_type": "ipo"})),
        ("slic", json!({}), json!({"loss_type": "hinge"})),
        ("robust-dpo", json!({"label_smoothing": 0.2}), json!({"loss_type": "robust", "label_smoothing": 0.2})),
        ("exo", json!({}), json!({"loss_type": "exo_pair", "label_smoothing": 0.001})),
        ("nca", json!({}), json!({"loss_type": "nca_pair"})),
        ("bco", json!({}), json!({"loss_type": "bco_pair"})),
        ("sppo", json!({}), json!({"loss_type": "sppo_hard"})),
        ("aot", json!({}), json!({"loss_type": "aot"})),
        ("aot-unpaired", json!({}), json!({"loss_type": "aot_unpaired"})),
        ("apo-zero", json!({}), json!({"loss_type": "apo_zero"})),
        ("apo-down", json!({}), json!({"loss_type": "apo_down"})),
        ("discopop", json!({}), json!({"loss_type": "discopop"})),
        ("f-dpo", json!({}), json!({"f_divergence_type": "js_divergence"})),
        ("ld-dpo", json!({}), json!({"ld_alpha": 0.5})),
        ("wpo", json!({}), json!({"use_weighting": true})),
        ("mpo", json!({}), json!({"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]})),
    ] {
        let ours = Method::find(method).unwrap().objective(parameters.as_object().unwrap()).unwrap();
        let theirs = trl::objective(keys.as_object().unwrap()).unwrap();
        assert_eq!(ours.to_value(), theirs.to_value(), "{method}");
    }
}

/// The losses of sequence scores as they stand, n = 1.
fn losses(objective: &Objective, inputs: &Value) -> Vec<f64> {
    let completions = |chosen: &str, rejected: &str| {
        Pair::new(numbers(&inputs[chosen]), numbers(&inputs[rejected])).map(|v| {
            let column = Column(v.clone());
            Completion::new(column.clone(), column, Column(vec![1.0; v.len()]))
        })
    };
    let policy = completions("policy_chosen", "policy_rejected");
    let pairs = policy.chosen.sum.0.len();
    let reference = completions("ref_chosen", "ref_rejected");
    objective.evaluate_column(&policy, &reference, Totals { pairs, chosen_tokens: pairs }).loss.0
}

fn torchtunes_figures() {
    let golden = json("upstream_golden_losses.json");
    let t = &golden["torchtune"];
    let sum = averaging::Sum {};
    let case = |name: &str, objective: Objective| {
        let (got, wanted) = (losses(&objective, &t["inputs"]), numbers(&t[name]["expected"]));
        for (g, w) in got.iter().zip(&wanted) {
            assert!((g - w).abs() < 1e-4, "{name}: {got:?}, not {wanted:?}");
        }
    };
    let of = |name: &str, key: &str| t[name][key].as_f64().unwrap();
    let reverse_kl = |beta| optimality::ReverseKl { beta };
    case("dpo", Dpo::new(sum, reverse_kl(of("dpo", "beta")), Logistic {}).unwrap().boxed());
    let hinge = loss::Hinge::default();
    case("rso_hinge", Slic::new(sum, reverse_kl(of("rso_hinge", "gamma")), hinge).unwrap().boxed());
    let margin = loss::TargetMargin { gamma: of("simpo", "gamma"), loss: Box::new(Logistic {}) };
    let none = optimality::NoReference { beta: of("simpo", "beta") };
    // The inputs are averaged already.
    case("simpo", Objective::new(sum, none, margin).unwrap().boxed());
}

fn open_instructs_averages() {
    let golden = json("upstream_golden_losses.json");
    let mut compared = 0;
    for case in golden["open_instruct_average_logp"]["cases"].as_array().unwrap() {
        for (i, labels) in case["labels"].as_array().unwrap().iter().enumerate() {
            // Row i of per_token is the log-probability of labels[i + 1]; its last column is dropped.
            let scored: Vec<f64> = numbers(&case["per_token"][i])
                .into_iter()
                .zip(&labels.as_array().unwrap()[1..])
                .filter(|(_, label)| **label != json!(-100))
                .map(|(p, _)| p)
                .collect();
            if scored.is_empty() {
                eprintln!("left out: a completion without tokens, an error here and 0 there");
                continue;
            }
            let mean = Method::find("averaged-dpo").unwrap().objective(&Map::new()).unwrap();
            let weights = mean.weights(Pair::new(scored.len(), 1), 0).unwrap().chosen;
            let score: f64 = scored.iter().zip(weights).map(|(p, w)| p * w).sum();
            assert!((score - case["expected"][i].as_f64().unwrap()).abs() < 1e-12);
            compared += 1;
        }
    }
    assert_eq!(compared, 2);
}

fn nemo_rls_figures_and_the_start_of_a_run() {
    let golden = json("upstream_golden_losses.json");
    let uniform = &golden["nemo_rl"]["uniform_logits"];
    let tokens = uniform["unmasked_tokens"].as_f64().unwrap();
    let sum = -tokens * uniform["vocab"].as_f64().unwrap().ln();
    let same = Pair::new(Completion::new(sum, sum, tokens), Completion::new(sum, sum, tokens));
    let totals = Totals { pairs: 1, chosen_tokens: tokens as usize };
    let at = |key: &str| uniform[key].as_f64().unwrap();
    let nll = Supervised { over: loss::Over::Sum };
    let dpo = trl::objective(&Map::new()).unwrap();
    let half = loss::WeightedSum {
        terms: vec![
            loss::Term { weight: 1.0, loss: Box::new(Logistic {}) },
            loss::Term { weight: 0.5, loss: Box::new(nll) },
        ],
    };
    let both = Objective::new(averaging::Sum {}, optimality::ReverseKl { beta: 0.1 }, half).unwrap();
    assert!((dpo.evaluate(&same, &same, totals).loss - at("dpo")).abs() < 1e-12);
    assert!((both.evaluate(&same, &same, totals).loss - at("dpo_plus_half_sft")).abs() < 1e-12);
    let alone =
        loss::Preference { reward: Pair::new(0.0, 0.0), beta: 0.1, policy: same.clone(), reference: same, totals };
    assert!((PreferenceLoss::<f64>::loss(&nll, &alone) - at("sft_nll_sum")).abs() < 1e-12);

    let start = &golden["identities"]["step0_policy_equals_ref"];
    let known = |method: &str| {
        let given = serde_json::from_str(r#"{"beta": 0.1}"#).unwrap();
        Method::find(method).unwrap().objective(&given).unwrap().loss_at_reference().unwrap()
    };
    for (key, method) in [("dpo", "averaged-dpo"), ("ipo_beta_0_1", "averaged-ipo"), ("hinge", "averaged-slic")] {
        assert!((known(method) - start[key].as_f64().unwrap()).abs() < 1e-12, "{method}");
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = trls_losses_and_gradients();
    trials.extend(golden::trials([
        ("named_methods_are_what_trl_calls_them", named_methods_are_what_trl_calls_them),
        ("torchtunes_figures", torchtunes_figures),
        ("open_instructs_averages", open_instructs_averages),
        ("nemo_rls_figures_and_the_start_of_a_run", nemo_rls_figures_and_the_start_of_a_run),
    ]));
    golden::run(&arguments, trials, "golden losses");
}

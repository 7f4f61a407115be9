//! Several workers train as one does: losses, bits, what is left behind when one dies, and going on with another number.
//!
//! What needs an MPI is run where the program has it (`--features mpi`), and `mpirun` is there; else it is reported as
//! ignored.

#[path = "common/command.rs"]
mod command;
mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use command::{metrics, text};
use common::{small_checkpoint, small_pairs};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;

/// A checkpoint and pairs in a folder.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        small_checkpoint(&root.path().join("model"), 3);
        std::fs::write(root.path().join("pairs.jsonl"), small_pairs(64)).unwrap();
        Self(root)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A run of 20 steps of 8 pairs over `workers` workers; alone without a launcher. `more` is behind the usual flags.
    fn command(&self, workers: usize, out: &str, more: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_collimate");
        let mut command = match workers {
            1 => Command::new(program),
            n => {
                let mut command = Command::new("mpirun");
                // Tests may run as root, on fewer processors than there are workers.
                command.args(["--allow-run-as-root", "--oversubscribe", "-n", &n.to_string(), program]);
                command
            }
        };
        let each = (8 / workers).to_string();
        let flags = [
            ("--model", self.path("model")),
            ("--data", self.path("pairs.jsonl")),
            ("--output_dir", self.path(out)),
            ("--max_steps", "20".into()),
            ("--learning_rate", "1e-3".into()),
            ("--per_device_train_batch_size", each),
            ("--logging_steps", "1".into()),
            ("--backend", "flex".into()),
        ];
        let given = flags.iter().filter(|(flag, _)| !more.contains(flag));
        command.arg("align").args(given.flat_map(|(k, v)| [*k, v.as_str()])).args(more);
        command.env("RAYON_NUM_THREADS", "1");
        command
    }

    fn run(&self, workers: usize, out: &str, more: &[&str]) -> Output {
        let done = self.command(workers, out, more).output().unwrap();
        assert!(done.status.success(), "{out}: {}", text(&done.stderr));
        done
    }

    fn lines(&self, out: &str) -> Vec<Value> {
        metrics(Path::new(&self.path(out)))
    }
}

/// Values of one key, in the order of the lines that have it.
fn values(lines: &[Value], key: &str) -> Vec<f64> {
    lines.iter().filter_map(|line| line[key].as_f64()).collect()
}

#[track_caller]
fn near(one: &[Value], other: &[Value], key: &str, tolerance: f64) {
    let (one, other) = (values(one, key), values(other, key));
    // A run that goes on elsewhere has the lines from there on.
    let n = other.len();
    assert!((4..=one.len()).contains(&n), "{key}: {} and {n} lines", one.len());
    for (i, (a, b)) in one[one.len() - n..].iter().zip(&other).enumerate() {
        assert!((a - b).abs() <= tolerance * a.abs().max(1.0), "line {i}: {key} {a} and {b}");
    }
}

/// Over 20 steps: loss, gradient, metrics and evaluations of two and of four are those of one.
fn several_are_as_one() {
    let desk = Desk::new();
    let eval = ["--eval_split", "0.25", "--eval_steps", "5"];
    desk.run(1, "one", &eval);
    for workers in [2, 4] {
        let out = format!("of {workers}");
        desk.run(workers, &out, &eval);
        let (one, all) = (desk.lines("one"), desk.lines(&out));
        assert_eq!(one.len(), all.len());
        for (key, tolerance) in
            [("loss", 1e-6), ("grad_norm", 1e-5), ("rewards/margins", 1e-5), ("eval_loss", 1e-6), ("num_tokens", 0.0)]
        {
            near(&one, &all, key, tolerance);
        }
    }
}

/// With the optimiser's state split over them too: losses, and a checkpoint that one goes on with.
fn a_split_state_trains_alike() {
    let desk = Desk::new();
    desk.run(1, "one", &["--save_steps", "10"]);
    for workers in [2, 4] {
        let out = format!("of {workers}");
        let done = desk.run(workers, &out, &["--zero_stage", "1", "--save_steps", "10"]);
        assert!(text(&done.stderr).contains("the optimiser's state is split over them"));
        near(&desk.lines("one"), &desk.lines(&out), "loss", 1e-6);
        let from = format!("{}/checkpoint-10", desk.path(&out));
        desk.run(1, &format!("on from {workers}"), &["--resume_from_checkpoint", &from]);
        near(&desk.lines("one"), &desk.lines(&format!("on from {workers}")), "loss", 1e-6);
    }
    let moments = |out: &str| {
        let path = Path::new(&desk.path(out)).join("checkpoint-10/optimizer.safetensors");
        std::fs::metadata(path).unwrap().len()
    };
    assert_eq!(moments("one"), moments("of 2"));
}

/// Texts are written behind shares of the prompts, and are those that one worker would have written.
fn texts_are_those_of_one() {
    let desk = Desk::new();
    std::fs::write(desk.path("prompts.jsonl"), small_pairs(5)).unwrap();
    let config = format!("eval_generations = {{ prompts = \"{}\", max_new_tokens = 8 }}\n", desk.path("prompts.jsonl"));
    std::fs::write(desk.path("run.toml"), config).unwrap();
    let config = desk.path("run.toml");
    let more = [config.as_str(), "--learning_rate", "1e-9"];
    desk.run(1, "one", &more);
    desk.run(3, "three", &[&more[..], &["--per_device_train_batch_size", "3"]].concat());
    let texts = |out: &str| std::fs::read_to_string(Path::new(&desk.path(out)).join("generations.jsonl")).unwrap();
    let of = |out: &str| -> Vec<(u64, String)> {
        let lines = texts(out);
        let lines = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines.map(|l| (l["prompt"].as_u64().unwrap(), l["completion"].as_str().unwrap().to_owned())).collect()
    };
    assert_eq!(of("one").len(), 10);
    assert_eq!(of("one"), of("three"));
}

/// Rows are tokenised in shares: the report, the order and the cache are those of one worker.
fn tokens_are_those_of_one() {
    let desk = Desk::new();
    let cache = desk.path("cache");
    let more = ["--cache_dir", &cache, "--max_steps", "2"];
    desk.run(2, "two", &more);
    let again = desk.run(1, "one", &more);
    assert!(text(&again.stderr).contains("cache"), "{}", text(&again.stderr));
    let report = |out: &str| {
        let path = Path::new(&desk.path(out)).join("data_report.json");
        let mut report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        report["train"].as_object_mut().unwrap().remove("from_cache");
        report
    };
    assert_eq!(report("one"), report("two"));
    let loss = |out: &str| values(&desk.lines(out), "loss");
    assert!(loss("one").iter().zip(loss("two")).all(|(a, b)| (a - b).abs() < 1e-6));
    desk.run(2, "cached", &more);
    assert_eq!(loss("cached"), loss("two"));
}

/// Workers that see other files under the same name: none trains on what the others don't have.
fn other_files_are_refused() {
    let desk = Desk::new();
    let pairs = small_pairs(64);
    let others = [small_pairs(63), pairs.replacen('a', "b", 1)];
    for (i, other) in others.iter().enumerate() {
        for (folder, text) in [("here", &pairs), ("there", other)] {
            std::fs::create_dir_all(desk.path(folder)).unwrap();
            std::fs::write(Path::new(&desk.path(folder)).join("pairs.jsonl"), text).unwrap();
        }
        let mut command = Command::new("mpirun");
        command.args(["--allow-run-as-root", "--oversubscribe"]).env("RAYON_NUM_THREADS", "1");
        for folder in ["here", ":", "there"] {
            match folder {
                ":" => command.arg(":"),
                _ => command
                    .args(["-n", "1", "--wdir", &desk.path(folder), env!("CARGO_BIN_EXE_collimate"), "align"])
                    .args(["--model", &desk.path("model"), "--data", "pairs.jsonl", "--output_dir", &desk.path("out")])
                    .args(["--max_steps", "2", "--backend", "flex"]),
            };
        }
        let done = command.output().unwrap();
        let said = text(&done.stderr);
        assert!(!done.status.success() && said.contains("pairs.jsonl: worker"), "{i}: {said}");
        assert!(said.contains("reads other rows than this one"), "{i}: {said}");
        assert!(!Path::new(&desk.path("out")).exists());
    }
}

/// Two workers on two hosts, which have a network between them and nothing else.
fn two_hosts_are_as_one() {
    let desk = Desk::new();
    desk.run(1, "one", &[]);
    let of_two = desk.command(2, "two", &[]);
    let program = of_two.get_args().position(|a| a == env!("CARGO_BIN_EXE_collimate")).unwrap();
    let mut command = Command::new(HOSTS);
    command.arg("2").args(of_two.get_args().skip(program)).env("RAYON_NUM_THREADS", "1");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("sent to the other workers:"));
    near(&desk.lines("one"), &desk.lines("two"), "loss", 1e-6);
}

/// Runs as many workers as it is told to on two hosts, if it can make them.
const HOSTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/workers/hosts.sh");

/// A loss that couples units is that of the whole batch too.
fn coupled_units_are_as_one() {
    let desk = Desk::new();
    let method = ["--method", "aot"];
    desk.run(1, "one", &method);
    desk.run(2, "two", &method);
    near(&desk.lines("one"), &desk.lines("two"), "loss", 1e-6);
}

fn the_same_number_has_the_same_bits() {
    let desk = Desk::new();
    for out in ["once", "twice"] {
        desk.run(3, out, &["--per_device_train_batch_size", "3"]);
    }
    let weights = |out: &str| std::fs::read(Path::new(&desk.path(out)).join("model.safetensors")).unwrap();
    assert!(weights("once") == weights("twice"));
    assert_eq!(values(&desk.lines("once"), "loss"), values(&desk.lines("twice"), "loss"));
}

/// A checkpoint of two goes on with two as if it had never stopped, and with one and four where a step has as many pairs.
fn a_checkpoint_goes_on_with_any_number() {
    let desk = Desk::new();
    desk.run(2, "whole", &["--save_steps", "10"]);
    let from = format!("{}/checkpoint-10", desk.path("whole"));
    let resume = ["--resume_from_checkpoint", &from];
    desk.run(2, "two", &resume);
    let weights = |out: &str| std::fs::read(Path::new(&desk.path(out)).join("model.safetensors")).unwrap();
    assert!(weights("whole") == weights("two"));
    for workers in [1, 4] {
        let out = format!("of {workers}");
        desk.run(workers, &out, &resume);
        near(&desk.lines("whole"), &desk.lines(&out), "loss", 1e-6);
    }
}

/// One that is killed ends the others, by name; the last checkpoint is whole.
fn a_killed_worker_ends_the_others() {
    let desk = Desk::new();
    let long = ["--max_steps", "100000", "--save_steps", "20"];
    let mut run = desk.command(2, "out", &long).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let saved = Path::new(&desk.path("out")).join("checkpoint-20");
    let begun = Instant::now();
    while !saved.is_dir() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint");
        assert!(run.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    let children = Command::new("pgrep").args(["-P", &run.id().to_string()]).output().unwrap();
    let children: Vec<String> = text(&children.stdout).lines().map(str::to_owned).collect();
    let last = children.last().expect("mpirun has started workers");
    assert!(Command::new("kill").args(["-9", last]).status().unwrap().success());
    let done = run.wait_with_output().unwrap();
    let said = text(&done.stderr);
    assert!(!done.status.success() && said.contains("rank 1") && said.contains("signal 9"), "{said}");
    let alive = |pid: &String| Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok();
    let begun = Instant::now();
    while children.iter().any(alive) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the others live on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let from = saved.display().to_string();
    desk.run(2, "on", &["--resume_from_checkpoint", &from, "--max_steps", "24"]);
    assert_eq!(desk.lines("on").last().unwrap()["step"], 24);
}

/// What every worker finds wrong is said, and by which; nothing is written.
fn a_fault_is_said_by_its_worker() {
    let desk = Desk::new();
    let done = desk.command(2, "out", &["--learning_rate", "-1"]).output().unwrap();
    let said = text(&done.stderr);
    assert!(!done.status.success() && said.contains("of 2") && said.contains("learning_rate"), "{said}");
    assert!(!Path::new(&desk.path("out")).exists());
}

/// Started several times by a launcher, a program that can't talk refuses, whatever there is to be written.
fn without_a_link_a_launcher_is_refused() {
    let desk = Desk::new();
    let done = desk.command(1, "out", &[]).env("OMPI_COMM_WORLD_SIZE", "2").output().unwrap();
    let said = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    let why = if cfg!(feature = "mpi") { "MPI finds 1 of them" } else { "built without the feature `mpi`" };
    assert!(said.contains("mpirun has started 2 of this command") && said.contains(why), "{said}");
    assert!(!Path::new(&desk.path("out")).exists());
}

fn main() {
    let arguments = Arguments::from_args();
    let mpirun = Command::new("mpirun").arg("--version").output().is_ok_and(|o| o.status.success());
    let why = match (cfg!(feature = "mpi"), mpirun) {
        (true, true) => None,
        (true, false) => Some("there is no mpirun here"),
        (false, _) => Some("this program is built without the feature `mpi`"),
    };
    let with_mpi: [(&str, fn()); 10] = [
        ("several_are_as_one", several_are_as_one),
        ("coupled_units_are_as_one", coupled_units_are_as_one),
        ("a_split_state_trains_alike", a_split_state_trains_alike),
        ("texts_are_those_of_one", texts_are_those_of_one),
        ("tokens_are_those_of_one", tokens_are_those_of_one),
        ("other_files_are_refused", other_files_are_refused),
        ("the_same_number_has_the_same_bits", the_same_number_has_the_same_bits),
        ("a_checkpoint_goes_on_with_any_number", a_checkpoint_goes_on_with_any_number),
        ("a_killed_worker_ends_the_others", a_killed_worker_ends_the_others),
        ("a_fault_is_said_by_its_worker", a_fault_is_said_by_its_worker),
    ];
    let run = |test: fn()| {
        move || -> Result<(), Failed> {
            test();
            Ok(())
        }
    };
    let mut trials: Vec<_> = with_mpi
        .into_iter()
        .map(|(name, test)| match why {
            None => Trial::test(name, run(test)),
            // .ci/run knows it by its first word, and runs these once more where there is one.
            Some(why) => Trial::ignorable_test(name, move || Ok(Completion::ignored_with(format!("MPI: {why}")))),
        })
        .collect();
    // Where namespaces can be made, but don't reach each other, nothing would end.
    let hosts = || Command::new("timeout").args(["60", HOSTS, "2", "true"]).output().is_ok_and(|o| o.status.success());
    trials.push(match why {
        None if hosts() => Trial::test("two_hosts_are_as_one", run(two_hosts_are_as_one)),
        _ => Trial::ignorable_test("two_hosts_are_as_one", move || {
            let why = why.unwrap_or("network namespaces can't be made here");
            Ok(Completion::ignored_with(format!("hosts: {why}")))
        }),
    });
    let refused = without_a_link_a_launcher_is_refused;
    trials.push(Trial::test("without_a_link_a_launcher_is_refused", run(refused)));
    libtest_mimic::run(&arguments, trials).exit();
}

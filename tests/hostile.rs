//! Files that ask for more than there is: a clear error within 2 GiB of address space, never an abort or a hang.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{small_checkpoint, small_pairs};
use serde_json::json;

/// A small checkpoint and pairs.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        small_checkpoint(&root.path().join("model"), 3);
        fs::write(root.path().join("pairs.jsonl"), small_pairs(8)).unwrap();
        Self(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What a step on `data` says within 2 GiB, and how it ends.
    fn step(&self, data: &str) -> (Option<i32>, String) {
        let line = "ulimit -v 2097152; ulimit -c 0; exec \"$0\" align -q --model model --max_steps 1 \
                    --per_device_train_batch_size 2 --overwrite_output_dir true --output_dir out --data \"$1\"";
        let begun = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", line, env!("CARGO_BIN_EXE_collimate"), data]).current_dir(self.0.path());
        let run = command.env("RUST_BACKTRACE", "1").output().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "{data}: {:?}", begun.elapsed());
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    }

    #[track_caller]
    fn trains(&self, data: &str) {
        let (code, said) = self.step(data);
        assert_eq!(code, Some(0), "{said}");
    }

    /// Asserts that a step fails with an error of one line that has all of `parts`.
    #[track_caller]
    fn refused(&self, what: &str, data: &str, parts: &[&str]) {
        let (code, said) = self.step(data);
        assert_eq!(code, Some(1), "{what}: {said}");
        assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{what}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{what}: {said}");
    }

    /// `name` in the model's folder is `bytes` while a step is refused.
    #[track_caller]
    fn with(&self, name: &str, bytes: &[u8], parts: &[&str]) {
        let path = self.path("model").join(name);
        let old = fs::read(&path).ok();
        fs::write(&path, bytes).unwrap();
        self.refused(name, "pairs.jsonl", parts);
        restore(&path, old);
    }
}

fn restore(path: &Path, old: Option<Vec<u8>>) {
    match old {
        Some(bytes) => fs::write(path, bytes).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

#[test]
fn checkpoints_that_ask_for_too_much() {
    let desk = Desk::new();
    desk.trains("pairs.jsonl");
    // Ten GiB that take no place on the disk.
    for name in [
        "config.json",
        "model.safetensors.index.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let path = desk.path("model").join(name);
        let old = fs::read(&path).ok();
        fs::File::options().write(true).create(true).truncate(false).open(&path).unwrap().set_len(10 << 30).unwrap();
        desk.refused(name, "pairs.jsonl", &[name]);
        restore(&path, old);
    }
    // Values of which a parser makes many times their bytes.
    let list = |n: usize| format!("[{}0]", "0,".repeat(n));
    let whole = |name: &str| String::from_utf8(fs::read(desk.path("model").join(name)).unwrap()).unwrap();
    for (name, n) in [("config.json", 9 << 20), ("tokenizer_config.json", 9 << 20), ("tokenizer.json", 65 << 20)] {
        let text = format!("{{\"more\": {}, {}", list(n), whole(name).trim_start().trim_start_matches('{'));
        desk.with(name, text.as_bytes(), &["MiB, the most that such a file may have"]);
    }
    // Within what such a file may have, but more than there is room for.
    let text = format!("{{\"more\": {}, {}", list(63 << 20), whole("tokenizer.json").trim_start_matches('{'));
    desk.with("tokenizer.json", text.as_bytes(), &["out of memory", "MiB more were wanted"]);
    let index = format!("{{\"weight_map\": {{\"a\": {}}}}}", list(9 << 20));
    desk.with("model.safetensors.index.json", index.as_bytes(), &["larger than 16 MiB"]);

    let header = |text: String| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let shape =
        |n: usize| format!("{{\"a\": {{\"dtype\": \"F32\", \"shape\": {}, \"data_offsets\": [0, 0]}}}}", list(n));
    desk.with("model.safetensors", &header(shape(17 << 20)), &["at most 33554432 are read"]);
    desk.with("model.safetensors", &header(shape(15 << 20)), &["model.embed_tokens.weight", "is missing"]);
    let many: String =
        (0..400_000).map(|i| format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}},")).collect();
    let many = format!("{{{}}}", many.trim_end_matches(','));
    desk.with("model.safetensors", &header(many), &["model.embed_tokens.weight", "is missing"]);

    let config: serde_json::Value = serde_json::from_str(&whole("config.json")).unwrap();
    for (key, value, part) in [
        ("head_dim", json!(2_147_483_646u32), "head_dim: expected a whole number above 0 and at most 65536"),
        ("hidden_size", json!(1u32 << 31), "head_dim: expected at most 65536"),
        ("num_hidden_layers", json!(10_000), "is missing"),
        ("num_hidden_layers", json!(1u64 << 63), "at most 10000"),
        ("vocab_size", json!(1u32 << 31), "config.json expects shape"),
        ("intermediate_size", json!(1u32 << 31), "config.json expects shape"),
        ("layer_types", json!(vec!["full_attention"; 100_000]), "got 100000 of them"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        desk.with("config.json", config.to_string().as_bytes(), &[part]);
    }
    desk.trains("pairs.jsonl");
}

/// Thrift's compact protocol, as far as a Parquet file takes it.
mod thrift {
    pub fn varint(mut n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while n > 127 {
            out.push(n as u8 | 128);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    pub fn int(n: i64) -> Vec<u8> {
        varint(((n << 1) ^ (n >> 63)) as u64)
    }

    pub fn text(s: &[u8]) -> Vec<u8> {
        [varint(s.len() as u64), s.to_vec()].concat()
    }

    pub fn list(kind: u8, items: &[Vec<u8>]) -> Vec<u8> {
        [vec![(items.len() as u8) << 4 | kind], items.concat()].concat()
    }

    /// Fields by number, type and value.
    pub fn fields(all: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
        let mut last = 0;
        let mut out = Vec::new();
        for (field, kind, value) in all {
            out.push((field - last) << 4 | kind);
            out.extend(value);
            last = *field;
        }
        out.push(0);
        out
    }

    pub const I32: u8 = 5;
    pub const I64: u8 = 6;
    pub const TEXT: u8 = 8;
    pub const LIST: u8 = 9;
    pub const STRUCT: u8 = 12;
}

/// What the pages of a Parquet file of one row say of themselves; None: the truth.
#[derive(Clone, Default)]
struct Lies {
    codec: i64,
    encoding: i64,
    whole: Option<i64>,
    stored: Option<i64>,
    values: Option<i64>,
    dictionary: Option<i64>,
    page: Option<Vec<u8>>,
}

fn parquet(lies: &Lies) -> Vec<u8> {
    use thrift::*;
    const NAMES: [(&str, &str); 3] = [("prompt", "a b"), ("chosen", " c d"), ("rejected", " e")];
    let mut file = b"PAR1".to_vec();
    let mut columns = Vec::new();
    for (name, value) in NAMES {
        let page = [&(value.len() as u32).to_le_bytes(), value.as_bytes()].concat();
        let page = lies.page.clone().unwrap_or(page);
        let head = |kind: i64, field: u8, more: Vec<u8>| {
            let (whole, stored) = (lies.whole.unwrap_or(page.len() as i64), lies.stored.unwrap_or(page.len() as i64));
            fields(&[(1, I32, int(kind)), (2, I32, int(whole)), (3, I32, int(stored)), (field, STRUCT, more)])
        };
        let values = lies.values.unwrap_or(1);
        let about = [(1, I32, int(values)), (2, I32, int(lies.encoding)), (3, I32, int(3)), (4, I32, int(3))];
        let mut chunk = Vec::new();
        if let Some(entries) = lies.dictionary {
            chunk.extend(head(2, 7, fields(&[(1, I32, int(entries)), (2, I32, int(0))])));
            chunk.extend(&page);
        }
        chunk.extend(head(0, 5, fields(&about)));
        chunk.extend(&page);
        let (at, size) = (file.len() as i64, chunk.len() as i64);
        let meta = fields(&[
            (1, I32, int(6)),
            (2, LIST, list(I32, &[int(lies.encoding)])),
            (3, LIST, list(TEXT, &[text(name.as_bytes())])),
            (4, I32, int(lies.codec)),
            (5, I64, int(values)),
            (6, I64, int(size)),
            (7, I64, int(size)),
            (9, I64, int(at)),
        ]);
        file.extend(chunk);
        columns.push(fields(&[(2, I64, int(at)), (3, STRUCT, meta)]));
    }
    let rows = lies.values.unwrap_or(1);
    let group = fields(&[(1, LIST, list(STRUCT, &columns)), (2, I64, int(100)), (3, I64, int(rows))]);
    let mut schema = vec![fields(&[(4, TEXT, text(b"schema")), (5, I32, int(3))])];
    schema.extend(NAMES.map(|(name, _)| {
        fields(&[(1, I32, int(6)), (3, I32, int(0)), (4, TEXT, text(name.as_bytes())), (6, I32, int(0))])
    }));
    let footer = fields(&[
        (1, I32, int(1)),
        (2, LIST, list(STRUCT, &schema)),
        (3, I64, int(rows)),
        (4, LIST, list(STRUCT, &[group])),
    ]);
    file.extend(&footer);
    file.extend((footer.len() as u32).to_le_bytes());
    file.extend(b"PAR1");
    file
}

#[test]
fn parquet_pages_that_ask_for_too_much() {
    const MOST: Option<i64> = Some(i32::MAX as i64);
    let desk = Desk::new();
    let write = |lies: Lies| fs::write(desk.path("p.parquet"), parquet(&lies)).unwrap();
    write(Lies::default());
    desk.trains("p.parquet");
    for (codec, name) in [(1, "Snappy"), (2, "gzip"), (5, "LZ4"), (6, "zstd"), (7, "raw LZ4")] {
        write(Lies { codec, whole: MOST, ..Lies::default() });
        desk.refused(name, "p.parquet", &["p.parquet", "`prompt` has pages of 2048 MiB", "at most 512 MiB at once"]);
        // Each is within the bound, all of them aren't.
        write(Lies { codec, whole: Some(200 << 20), ..Lies::default() });
        desk.refused(
            name,
            "p.parquet",
            &["p.parquet", "`rejected` has pages of 200 MiB, with those beside it 600 MiB"],
        );
    }
    write(Lies { dictionary: MOST, ..Lies::default() });
    desk.refused("dictionary", "p.parquet", &["p.parquet", "`prompt` has pages of", "at once"]);
    write(Lies { stored: MOST, ..Lies::default() });
    desk.refused("stored", "p.parquet", &["p.parquet"]);
    write(Lies { values: MOST, ..Lies::default() });
    desk.refused("values", "p.parquet", &["p.parquet"]);
    // Lengths by their differences: the page says how many there are.
    let counts = [thrift::varint(128), thrift::varint(4), thrift::varint(i32::MAX as u64), thrift::int(0), vec![0; 50]];
    for encoding in [6, 7] {
        write(Lies { encoding, page: Some(counts.concat()), ..Lies::default() });
        desk.refused("delta", "p.parquet", &["p.parquet", "`prompt`, row group 1", "says that it holds 2147483647"]);
    }
}

#[test]
fn rows_that_ask_for_too_much() {
    let desk = Desk::new();
    let long = " c".repeat(20 << 20);
    let sound = small_pairs(4);
    let nested = format!("{{\"prompt\": {}1{}}}\n", "[".repeat(1 << 20), "]".repeat(1 << 20));
    for (what, row) in [
        ("a long row", format!("{{\"prompt\": \"a\", \"chosen\": \"{long}\", \"rejected\": \" b\"}}\n")),
        ("a deep row", nested),
        ("a row of many values", format!("{{\"prompt\": \"a\", \"more\": [{}0]}}\n", "0,".repeat(30 << 20))),
    ] {
        fs::write(desk.path("d.jsonl"), sound.clone() + &row).unwrap();
        desk.refused(what, "d.jsonl", &["d.jsonl, row 5"]);
    }
    // Within the bytes that a row may have, but of too many values; and one of many values that are few enough.
    let flat = |n: usize| {
        let more = "0,".repeat(n);
        format!("{{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" c\", \"more\": [{more}0]}}\n")
    };
    fs::write(desk.path("d.jsonl"), sound.clone() + &flat(3 << 20).repeat(4)).unwrap();
    desk.refused("rows of many values", "d.jsonl", &["d.jsonl, row 5", "4 of the 8 rows"]);
    fs::write(desk.path("d.jsonl"), sound + &flat(100_000).repeat(4)).unwrap();
    desk.trains("d.jsonl");
}

#[test]
fn settings_that_do_not_end() {
    let desk = Desk::new();
    let run = |words: &str| {
        let line = format!("ulimit -v 2097152; exec \"$0\" align -q {words}");
        let mut command = Command::new("sh");
        let run =
            command.args(["-c", &line, env!("CARGO_BIN_EXE_collimate")]).current_dir(desk.0.path()).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{words}: {said}");
        assert!(said.contains("larger than 16 MiB, the most that such a file may have"), "{words}: {said}");
    };
    std::os::unix::fs::symlink("/dev/zero", desk.path("run.toml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", desk.path("turns.jinja")).unwrap();
    run("run.toml");
    run("--model model --data pairs.jsonl --output_dir out --chat_template turns.jinja");
    fs::create_dir(desk.path("checkpoint-1")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", desk.path("checkpoint-1/collimate_state.json")).unwrap();
    run("--model model --data pairs.jsonl --output_dir out --resume_from_checkpoint checkpoint-1");
}

//! Tokenises a synthetic JSONL file and prints throughput and peak resident memory, then has the `tokenizers` library
//! alone encode the same strings from memory.
//!
//! `cargo bench -p collimate-data --bench throughput -- TOKENIZER_FOLDER MEGABYTES [TEXT.jsonl.gz]`
//!
//! The rows are sentences of TEXT (its `prompt`, `chosen` and `rejected`), shuffled by a seed; without it, random words.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use collimate_data::{Options, Tokenizer, Tokens, load_with};
use serde_json::{Value, json};

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [folder, megabytes, text @ ..] = &args[..] else {
        eprintln!("usage: throughput -- TOKENIZER_FOLDER MEGABYTES [TEXT.jsonl.gz]; nothing was measured");
        return;
    };
    let megabytes: u64 = megabytes.parse().expect("MEGABYTES is a number");
    let tokenizer = Tokenizer::from_folder(Path::new(folder)).expect("a tokenizer");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let path = temporary.path().join("synthetic.jsonl");
    synthesise(&path, megabytes << 20, &sentences(text.first()));

    let bytes = std::fs::metadata(&path).expect("the file").len();
    let options = Options { cache_dir: Some(temporary.path().join("cache")), ..Options::default() };
    let start = Instant::now();
    let mut next = 0;
    let (dataset, report) = load_with(&[path.clone().into()], &tokenizer, &options, &mut |p| {
        if p.bytes >= next {
            eprintln!(
                "{:>6} MiB of {}, {} rows, {:.0} s",
                p.bytes >> 20,
                p.total_bytes >> 20,
                p.rows,
                start.elapsed().as_secs_f64()
            );
            next += 256 << 20;
        }
    })
    .expect("the synthetic file loads");
    let took = start.elapsed().as_secs_f64();
    let tokens = report.tokens.prompt + report.tokens.chosen + report.tokens.rejected;
    println!("{report}");
    println!(
        "load: {:.0} MiB in {took:.1} s, {:.2} MiB/s, {:.0} tokens/s, peak resident {} MiB",
        bytes as f64 / 1048576.0,
        bytes as f64 / 1048576.0 / took,
        tokens as f64 / took,
        peak_mib()
    );
    let start = Instant::now();
    let sum: u64 = dataset.iter().map(|t: Tokens| t.chosen.iter().map(|id| u64::from(*id)).sum::<u64>()).sum();
    println!(
        "read back: {} pairs in {:.1} s (sum of ids {sum}), peak resident {} MiB",
        dataset.len(),
        start.elapsed().as_secs_f64(),
        peak_mib()
    );
    if megabytes > 256 {
        println!("the library alone is measured up to 256 MiB, as it takes its strings from memory");
        return;
    }
    let mut strings = Vec::new();
    for line in BufReader::new(std::fs::File::open(&path).expect("the file")).lines() {
        let row: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let part = |key: &str| row[key].as_str().expect("a string").to_owned();
        strings.extend([part("prompt"), part("prompt") + &part("chosen"), part("prompt") + &part("rejected")]);
    }
    let library = tokenizers::Tokenizer::from_file(Path::new(folder).join("tokenizer.json")).expect("a tokenizer");
    let start = Instant::now();
    // In batches, since the library keeps all encodings of a call.
    let n: usize = strings
        .chunks(3000)
        .map(|chunk| {
            library.encode_batch_fast(chunk.to_vec(), false).expect("encodes").iter().map(|e| e.len()).sum::<usize>()
        })
        .sum();
    let alone = start.elapsed().as_secs_f64();
    println!("tokenizers alone: {n} tokens in {alone:.1} s; load took {:.2} times as long", took / alone);
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

fn sentences(file: Option<&String>) -> Vec<String> {
    if let Some(file) = file {
        let reader = flate2::read::MultiGzDecoder::new(std::fs::File::open(PathBuf::from(file)).expect("TEXT"));
        let mut out = Vec::new();
        for line in BufReader::new(reader).lines() {
            let row: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            let texts = ["prompt", "chosen", "rejected"].map(|k| row[k].as_str().unwrap_or_default().to_owned());
            out.extend(texts.iter().flat_map(|t| t.split_inclusive(". ")).map(str::to_owned));
        }
        return out;
    }
    let mut random = Random(7);
    let mut word = || (0..2 + random.below(7)).map(|_| (b'a' + random.below(26) as u8) as char).collect::<String>();
    (0..5000).map(|_| (0..9).map(|_| word()).collect::<Vec<_>>().join(" ") + ". ").collect()
}

fn synthesise(path: &Path, bytes: u64, sentences: &[String]) {
    let mut out = BufWriter::new(std::fs::File::create(path).expect("a temporary file"));
    let mut random = Random(1);
    let mut written = 0;
    while written < bytes {
        let mut text = |n: usize| {
            (0..1 + random.below(n)).map(|_| sentences[random.below(sentences.len())].as_str()).collect::<String>()
        };
        let row =
            json!({"prompt": text(6) + "?", "chosen": format!(" {}.", text(8)), "rejected": format!(" {}!", text(8))});
        let line = row.to_string() + "\n";
        out.write_all(line.as_bytes()).expect("space for the file");
        written += line.len() as u64;
    }
    out.flush().expect("space for the file");
}

//! Scores of the reference, computed once: in memory for a run, and on disk for the runs after it.
//!
//! What is kept are token log-probabilities, so another β, another averaging or another loss reads the same scores. A
//! file is found by what scored it (weights and configuration of the model, the backend, and the version of the scoring),
//! and a unit in it by its tokens: scores of other content are never used. The bits of a score may also depend on the batch that it was computed in: a file
//! that another run has filled can change a run within rounding.
//!
//! Scores are added to the end of the file as they come, under a lock, each record with a hash of itself. So a run that
//! stops loses a second of them, runs that share the file lose none, and what is broken is scored anew.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use collimate_model::Precision;
use collimate_model::files::unwritten;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::error::Error;

/// Begins a file; changes with its layout.
const MAGIC: [u8; 8] = *b"CLMREF03";
/// Changes when the same model would give the same unit other scores. `tests/cli.rs` holds the scores that go with it.
const SCORING: u32 = 1;
/// Bytes before the lengths of a record: the unit's key, its completions, all their tokens, and the hash of all else.
const HEAD: usize = 32;
/// How long scores wait to be written, and in how many bytes.
const WAIT: Duration = Duration::from_secs(1);
const ROOM: usize = 1 << 20;

/// Token log-probabilities of each completion of a unit, in nats.
pub(crate) type LogProbs = Vec<Vec<f32>>;

/// Reference scores, by the keys of units.
#[derive(Debug)]
pub(crate) struct Reference {
    known: HashMap<u128, LogProbs>,
    file: Option<PathBuf>,
    /// The bytes of the file that were read and are sound.
    read: u64,
    /// Records that the file lacks.
    pending: Vec<u8>,
    written: Instant,
}

/// The name of the file of scores by the model of hash `model` (see [`content::model`](crate::content::model)) on `backend`
/// in `precision`: a hash of everything that they depend on but the pairs.
pub fn file_name(model: &str, backend: &str, precision: Precision) -> String {
    let scored_by = format!("{} {backend} {model}", precision.name());
    format!("reference-v{SCORING}-{:032x}.scores", xxh3_128(scored_by.as_bytes()))
}

/// One record: key, counts, hash, lengths, scores.
pub(crate) fn record(key: u128, scores: &LogProbs) -> Vec<u8> {
    let number = |n: usize| (n as u32).to_le_bytes();
    let mut bytes = key.to_le_bytes().to_vec();
    bytes.extend(number(scores.len()));
    bytes.extend(number(scores.iter().map(Vec::len).sum()));
    bytes.extend([0; 8]);
    bytes.extend(scores.iter().flat_map(|one| number(one.len())));
    bytes.extend(scores.iter().flatten().flat_map(|v| v.to_le_bytes()));
    let check = check(&bytes);
    bytes[HEAD - 8..HEAD].copy_from_slice(&check);
    bytes
}

/// The hash of a record without the hash itself.
fn check(record: &[u8]) -> [u8; 8] {
    let rest = [&record[..HEAD - 8], &record[HEAD..]].concat();
    xxh3_64(&rest).to_le_bytes()
}

/// The first record of `bytes` and what it takes of them, if it is whole and sound.
pub(crate) fn parse(bytes: &[u8]) -> Option<(u128, LogProbs, usize)> {
    let word = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).expect("four bytes");
    let head = bytes.get(..HEAD)?;
    let number = |at: usize| u32::from_le_bytes(word(&head[at..at + 4])) as usize;
    let (completions, tokens) = (number(16), number(20));
    let size = HEAD + 4 * (completions + tokens);
    let record = bytes.get(..size)?;
    if check(record) != record[HEAD - 8..HEAD] {
        return None;
    }
    let (lengths, values) = record[HEAD..].split_at(4 * completions);
    let mut values = values.chunks_exact(4).map(|b| f32::from_le_bytes(word(b)));
    let lengths = lengths.chunks_exact(4).map(|b| u32::from_le_bytes(word(b)) as usize);
    let scores = lengths.map(|n| values.by_ref().take(n).collect()).collect();
    let key = u128::from_le_bytes(record[..16].try_into().expect("sixteen bytes"));
    Some((key, scores, size))
}

impl Reference {
    /// With the scores that `file` holds, if it exists; what is broken there is left out, and replaced by the next
    /// [`save`](Self::save).
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn open(file: Option<&Path>) -> Result<Self, Error> {
        let file = file.map(Path::to_owned);
        let mut new = Self { known: HashMap::new(), file, read: 0, pending: Vec::new(), written: Instant::now() };
        if let Some(path) = new.file.clone().filter(|p| p.exists()) {
            let at = |e: io::Error| Error::Cache { path: path.clone(), why: e.to_string() };
            new.take(&mut File::open(&path).map_err(at)?).map_err(at)?;
        }
        Ok(new)
    }

    /// Reads the sound records from where reading stopped last.
    fn take(&mut self, file: &mut File) -> io::Result<()> {
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut at = 0;
        if self.read == 0 {
            if !bytes.starts_with(&MAGIC) {
                return Ok(());
            }
            at = MAGIC.len();
        }
        while let Some((key, scores, size)) = parse(&bytes[at..]) {
            self.known.insert(key, scores);
            at += size;
        }
        self.read += at as u64;
        Ok(())
    }

    /// The scores of a unit by its key, if they are known.
    pub fn get(&self, key: u128) -> Option<&LogProbs> {
        self.known.get(&key)
    }

    /// Remembers the scores of a unit, and writes what has waited for long.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn insert(&mut self, key: u128, scores: LogProbs) -> Result<(), Error> {
        if self.file.is_some() {
            self.pending.extend(record(key, &scores));
        }
        self.known.insert(key, scores);
        if self.pending.len() > ROOM || (!self.pending.is_empty() && self.written.elapsed() > WAIT) {
            return self.save();
        }
        Ok(())
    }

    /// Writes to the file, if there is one, what it lacks, and reads what other runs have written there meanwhile.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&mut self) -> Result<(), Error> {
        let Some(path) = self.file.clone().filter(|_| !self.pending.is_empty()) else { return Ok(()) };
        let wanted = self.pending.len() as u64;
        self.append(&path).map_err(unwritten(&path, wanted))?;
        self.pending.clear();
        self.written = Instant::now();
        Ok(())
    }

    fn append(&mut self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.lock() {
            // Where the file system has no locks, a record that another run writes into is scored anew.
            Err(e) if e.kind() != io::ErrorKind::Unsupported => return Err(e),
            _ => {}
        }
        // Another file has taken its place, or a part of it is gone.
        if file.metadata()?.len() < self.read {
            self.read = 0;
        }
        self.take(&mut file)?;
        // Nobody writes now: what is not sound was left by a run that was killed, or is no such file.
        file.set_len(self.read)?;
        file.seek(SeekFrom::Start(self.read))?;
        if self.read == 0 {
            file.write_all(&MAGIC)?;
            self.read = MAGIC.len() as u64;
        }
        file.write_all(&self.pending)?;
        file.sync_data()?;
        self.read += self.pending.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content;
    use crate::task::Unit;
    use collimate_data::Tokens;

    fn pair(prompt: &[u32], chosen: &[u32], mask: Option<Vec<bool>>) -> Tokens {
        Tokens {
            prompt: prompt.to_vec(),
            chosen: chosen.to_vec(),
            rejected: vec![9, 2],
            chosen_mask: mask,
            rejected_mask: None,
            key: 0,
            file: 0,
            row: 1,
        }
    }

    fn scores(first: f32) -> LogProbs {
        vec![vec![first, -2.5, -0.25], vec![-3.0, -4.0]]
    }

    #[test]
    fn scores_come_back_for_the_same_tokens_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache").join("reference.scores");
        let one = pair(&[1, 2], &[3, 4, 2], None);
        let mut reference = Reference::open(Some(&path)).unwrap();
        reference.insert(one.key(), scores(-1.0)).unwrap();
        reference.save().unwrap();
        let again = Reference::open(Some(&path)).unwrap();
        assert_eq!(again.get(one.key()), Some(&scores(-1.0)));
        // A token that moves across the boundary, or is no longer scored, makes another pair.
        assert!(again.get(pair(&[1, 2, 3], &[4, 2], None).key()).is_none());
        assert!(again.get(pair(&[1, 2], &[3, 4, 2], Some(vec![true, true, false])).key()).is_none());
    }

    #[test]
    fn what_is_broken_is_scored_anew_and_the_rest_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.scores");
        let pairs: Vec<_> = (0..4).map(|i| pair(&[1, 20 + i], &[3, 4, 2], None)).collect();
        let mut reference = Reference::open(Some(&path)).unwrap();
        for (i, p) in pairs.iter().enumerate() {
            reference.insert(p.key(), scores(i as f32)).unwrap();
        }
        reference.save().unwrap();
        let whole = fs::read(&path).unwrap();
        // Cut anywhere or changed anywhere, a file gives back what was written or nothing, and is whole after a save.
        let mut broken: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        broken.extend((0..whole.len()).map(|i| {
            let mut bytes = whole.clone();
            bytes[i] ^= 0x10;
            bytes
        }));
        for bytes in broken {
            fs::write(&path, &bytes).unwrap();
            let mut reference = Reference::open(Some(&path)).unwrap();
            let mut lacking = 0;
            for (i, p) in pairs.iter().enumerate() {
                match reference.get(p.key()) {
                    Some(s) => assert_eq!(s, &scores(i as f32)),
                    None => {
                        lacking += 1;
                        reference.insert(p.key(), scores(i as f32)).unwrap();
                    }
                }
            }
            assert!(lacking > 0, "a fault was not noticed");
            reference.save().unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn runs_that_share_a_file_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.scores");
        std::thread::scope(|scope| {
            for run in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let mut reference = Reference::open(Some(path)).unwrap();
                    for i in 0..25 {
                        reference.insert(pair(&[1, 100 * run + i], &[3, 4, 2], None).key(), scores(i as f32)).unwrap();
                        reference.save().unwrap();
                    }
                });
            }
        });
        let all = Reference::open(Some(&path)).unwrap();
        for run in 0..4 {
            for i in 0..25 {
                let known = all.get(pair(&[1, 100 * run + i], &[3, 4, 2], None).key());
                assert_eq!(known, Some(&scores(i as f32)), "run {run}, pair {i}");
            }
        }
    }

    #[test]
    fn another_model_has_another_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::write(folder.path().join("model.safetensors"), "abc").unwrap();
        let name = |backend, precision| file_name(&content::model(folder.path()).unwrap(), backend, precision);
        let one = name("flex", Precision::F32);
        assert_eq!(one, name("flex", Precision::F32));
        assert_ne!(one, name("ndarray", Precision::F32));
        assert_ne!(one, name("flex", Precision::Bf16));
        fs::write(folder.path().join("model.safetensors"), "abd").unwrap();
        assert_ne!(one, name("flex", Precision::F32));
    }
}

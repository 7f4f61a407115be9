//! Scores of the reference, computed once: in memory for a run, and on disk for the runs after it.
//!
//! What is kept are token log-probabilities, so another β, another averaging or another loss reads the same scores. A
//! file is found by what scored it (weights and configuration of the model, and the backend), and a pair in it by its
//! tokens: scores of other content are never used.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use collimate_model::{Precision, write_whole};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use xxhash_rust::xxh3::Xxh3;

use crate::error::Error;

/// Token log-probabilities of each completion of a unit, in nats.
pub(crate) type LogProbs = Vec<Vec<f32>>;

/// Reference scores, by the tokens of a pair.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    known: HashMap<u128, LogProbs>,
    file: Option<PathBuf>,
    grown: bool,
}

/// The name of the file of scores by the checkpoint in `folder` on `backend` in `precision`: a hash of everything that
/// they depend on but the pairs.
///
/// # Errors
/// A file of the checkpoint that can't be read.
pub fn file_name(folder: &Path, backend: &str, precision: Precision) -> std::io::Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|f| f.map(|f| f.path()))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors") || p.ends_with("config.json"))
        .filter(|p| !p.ends_with("optimizer.safetensors"))
        .collect();
    files.sort();
    let mut hash = Xxh3::new();
    hash.update(format!("collimate {} {} {backend}", env!("CARGO_PKG_VERSION"), precision.name()).as_bytes());
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        let mut open = fs::File::open(&file)?;
        hash.update(&open.metadata()?.len().to_le_bytes());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match open.read(&mut buffer)? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(format!("reference-{:032x}.safetensors", hash.digest128()))
}

impl Reference {
    /// With the scores that `file` holds, if it exists.
    ///
    /// # Errors
    /// A file that is not one of these.
    pub fn open(file: Option<&Path>) -> Result<Self, Error> {
        let mut known = HashMap::new();
        if let Some(path) = file.filter(|p| p.exists()) {
            let broken = || Error::Cache {
                path: path.to_owned(),
                why: "it is not a whole file of reference scores; remove it".into(),
            };
            let bytes = fs::read(path).map_err(|e| Error::Cache { path: path.to_owned(), why: e.to_string() })?;
            let file = SafeTensors::deserialize(&bytes).map_err(|_| broken())?;
            let words = |name: &str, dtype: Dtype| -> Result<Vec<[u8; 4]>, Error> {
                let t = file.tensor(name).ok().filter(|t| t.dtype() == dtype).ok_or_else(broken)?;
                Ok(t.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect())
            };
            let keys = words("keys", Dtype::U32)?;
            let lengths = words("lengths", Dtype::U32)?;
            let mut values = words("log_probs", Dtype::F32)?.into_iter().map(f32::from_le_bytes);
            if keys.len() != 2 * lengths.len() {
                return Err(broken());
            }
            for (key, n) in keys.chunks_exact(4).zip(lengths.chunks_exact(2)) {
                let key = key.iter().rev().fold(0u128, |k, w| k << 32 | u128::from(u32::from_le_bytes(*w)));
                let mut take = |n: [u8; 4]| values.by_ref().take(u32::from_le_bytes(n) as usize).collect::<Vec<_>>();
                let scores = vec![take(n[0]), take(n[1])];
                if scores[1].len() != u32::from_le_bytes(n[1]) as usize {
                    return Err(broken());
                }
                known.insert(key, scores);
            }
        }
        Ok(Self { known, file: file.map(Path::to_owned), grown: false })
    }

    /// The scores of a unit by its key, if they are known.
    pub fn get(&self, key: u128) -> Option<&LogProbs> {
        self.known.get(&key)
    }

    /// Remembers the scores of a unit.
    pub fn insert(&mut self, key: u128, scores: LogProbs) {
        self.known.insert(key, scores);
        self.grown = true;
    }

    /// Writes the file, if there is one and it lacks something.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&mut self) -> Result<(), Error> {
        let Some(path) = self.file.as_ref().filter(|_| self.grown) else { return Ok(()) };
        let at = |e: &dyn std::fmt::Display| Error::Cache { path: path.clone(), why: e.to_string() };
        // In a fixed order: the same scores are the same file.
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_by_key(|(k, _)| **k);
        let keys: Vec<u8> = all.iter().flat_map(|(k, _)| k.to_le_bytes()).collect();
        let sides = || all.iter().flat_map(|(_, s)| s.iter());
        let lengths: Vec<u8> = sides().flat_map(|s| (s.len() as u32).to_le_bytes()).collect();
        let values: Vec<u8> = sides().flatten().flat_map(|v| v.to_le_bytes()).collect();
        let view = |dtype, data| TensorView::new(dtype, vec![<[u8]>::len(data) / 4], data).map_err(|e| at(&e));
        let views = [
            ("keys", view(Dtype::U32, &keys)?),
            ("lengths", view(Dtype::U32, &lengths)?),
            ("log_probs", view(Dtype::F32, &values)?),
        ];
        let bytes = safetensors::serialize(views, None).map_err(|e| at(&e))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| at(&e))?;
        }
        write_whole(path, &bytes)?;
        self.grown = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_model_has_another_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::write(folder.path().join("model.safetensors"), "abc").unwrap();
        let name = |backend, precision| file_name(folder.path(), backend, precision).unwrap();
        let one = name("flex", Precision::F32);
        assert_eq!(one, name("flex", Precision::F32));
        assert_ne!(one, name("ndarray", Precision::F32));
        assert_ne!(one, name("flex", Precision::Bf16));
        fs::write(folder.path().join("model.safetensors"), "abd").unwrap();
        assert_ne!(one, name("flex", Precision::F32));
    }
}

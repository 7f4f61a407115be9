//! What files and pairs are known by: hashes of their content, wherever they lie.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::part::{Part, Stored};
use crate::task::Source;

fn add(hash: &mut Xxh3, file: &Path) -> io::Result<()> {
    let mut open = File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match open.read(&mut buffer)? {
            0 => return Ok(()),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn text(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}

/// The hash of a file.
///
/// # Errors
/// A file that can't be read.
pub fn file(path: &Path) -> io::Result<String> {
    let mut hash = Xxh3::new();
    add(&mut hash, path)?;
    Ok(text(&hash))
}

/// The hash of the model in a checkpoint folder: its weights and its configuration.
///
/// # Errors
/// A file of the checkpoint that can't be read.
pub fn model(folder: &Path) -> io::Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|f| f.map(|f| f.path()))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|p| {
            let pickled = p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("pytorch_model"));
            let weights = p.extension().is_some_and(|e| e == "safetensors" || (e == "bin" && pickled));
            weights || p.ends_with("config.json") || p.ends_with("adapter_config.json")
        })
        .filter(|p| !p.ends_with("optimizer.safetensors"))
        .collect();
    // Pickled weights are read where there are no others.
    if files.iter().any(|p| p.extension().is_some_and(|e| e == "safetensors")) {
        files.retain(|p| p.extension().is_none_or(|e| e != "bin"));
    }
    files.sort();
    let mut hash = Xxh3::new();
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(&fs::metadata(&file)?.len().to_le_bytes());
        add(&mut hash, &file)?;
    }
    Ok(text(&hash))
}

/// The hash of the texts of units, in their order.
pub fn texts<T: Stored>(part: &Part<T>) -> String {
    let mut hash = Xxh3::new();
    (0..part.len()).for_each(|i| hash.update(&part.key(i).to_le_bytes()));
    text(&hash)
}

/// The hash of the tokens of units and of which are scored, in their order.
pub fn tokens<T: Stored>(part: &Part<T>) -> String {
    let mut hash = Xxh3::new();
    (0..part.len()).for_each(|i| hash.update(&part.get(i).key().to_le_bytes()));
    text(&hash)
}

/// The hash of a text.
pub fn words(said: &str) -> String {
    let mut hash = Xxh3::new();
    hash.update(said.as_bytes());
    text(&hash)
}

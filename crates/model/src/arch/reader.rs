//! The keys of a `config.json`, read one by one.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Error;

/// Reads keys, remembers which, and names file and key in every complaint.
#[derive(Debug)]
pub struct Reader<'a> {
    path: &'a Path,
    table: &'a Map<String, Value>,
    seen: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(path: &'a Path, table: &'a Map<String, Value>) -> Self {
        Self { path, table, seen: Vec::new() }
    }

    /// Whether the key was asked for.
    pub(crate) fn has_read(&self, key: &str) -> bool {
        self.seen.contains(&key)
    }

    /// Whether the key is there, were it null.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A complaint about a key.
    pub fn refuse(&self, key: &str, why: impl Into<String>) -> Error {
        Error::Config { path: self.path.to_owned(), key: key.to_owned(), why: why.into() }
    }

    /// The value of a key, unless it is absent or null.
    pub fn get(&mut self, key: &'static str) -> Option<&Value> {
        self.seen.push(key);
        self.table.get(key).filter(|v| !v.is_null())
    }

    /// A whole number above 0.
    ///
    /// # Errors
    /// Anything else, and absence where there is no default.
    pub fn size(&mut self, key: &'static str, default: Option<usize>) -> Result<usize, Error> {
        match self.get(key).cloned() {
            None => default.ok_or_else(|| self.refuse(key, "is missing; expected a whole number above 0")),
            Some(v) => {
                // The product of two such numbers is a number, and a list of layers fits into memory.
                let most = match key {
                    "num_hidden_layers" => 10_000,
                    "num_attention_heads" | "num_key_value_heads" | "head_dim" => 1 << 16,
                    _ => 1 << 31,
                };
                v.as_u64().filter(|n| (1..=most).contains(n)).map(|n| n as usize).ok_or_else(|| {
                    self.refuse(key, format!("expected a whole number above 0 and at most {most}, got {v}"))
                })
            }
        }
    }

    /// A number.
    ///
    /// # Errors
    /// Anything else.
    pub fn number(&mut self, key: &'static str, default: f64) -> Result<f64, Error> {
        match self.get(key).cloned() {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.refuse(key, format!("expected a number, got {v}"))),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, Error> {
        match self.get(key).cloned() {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.refuse(key, format!("expected true or false, got {v}"))),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// Anything else.
    pub fn size_or_zero(&mut self, key: &'static str, default: usize) -> Result<usize, Error> {
        match self.get(key).cloned() {
            None => Ok(default),
            Some(v) => v
                .as_u64()
                .map(|n| n as usize)
                .ok_or_else(|| self.refuse(key, format!("expected a whole number, got {v}"))),
        }
    }

    /// A token id or a list of them; none if it is absent.
    ///
    /// # Errors
    /// Anything else.
    pub fn token_ids(&mut self, key: &'static str) -> Result<Vec<u32>, Error> {
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(a)) => a.iter().map(one).collect(),
            Some(v) => one(v).map(|n| vec![n]),
        };
        ids.ok_or_else(|| self.refuse(key, "expected a token id or a list of them"))
    }
}

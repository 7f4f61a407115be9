//! Checkpoint folders: read, checked against the configuration, and written so that transformers loads them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::adamw::Moments;
use crate::config::ModelConfig;
use crate::error::Error;
use crate::params::{Inventory, Spec, Tensors};
use crate::precision::Precision;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// As transformers cuts them.
const SHARD_BYTES: usize = 5_000_000_000;

/// A safetensors file whose header has been read and whose length agrees with it.
struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

impl Shard {
    fn open(path: &Path) -> Result<Self, Error> {
        let broken = |why: String| Error::Safetensors { path: path.to_owned(), why };
        let mut file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut head = [0u8; 8];
        file.read_exact(&mut head).map_err(|_| broken(format!("{length} bytes are too few for a header")))?;
        let header = u64::from_le_bytes(head);
        if header > length.saturating_sub(8) {
            return Err(broken(format!("the header claims {header} bytes, the file has {length}")));
        }
        let mut bytes = vec![0; header as usize];
        file.read_exact(&mut bytes).map_err(Error::io(path))?;
        let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let expected = 8 + header + metadata.data_len() as u64;
        if expected != length {
            return Err(broken(format!("it should have {expected} bytes and has {length}")));
        }
        Ok(Self { path: path.to_owned(), file, data_start: 8 + header, metadata })
    }

    fn read(&mut self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, Error> {
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file.seek(SeekFrom::Start(self.data_start + start as u64)).map_err(Error::io(&self.path))?;
        self.file.read_exact(&mut bytes).map_err(Error::io(&self.path))?;
        let values = match info.dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => return Err(self.fault(name, format!("expected f32, f16 or bf16, got {other:?}"))),
        };
        Ok(values)
    }

    fn fault(&self, name: &str, why: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), why }
    }
}

/// A checkpoint folder: where it is, its configuration, and its `config.json` as it stands.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// The configuration, checked.
    pub config: ModelConfig,
    /// `config.json` word for word, to be written back.
    pub raw_config: Value,
    /// What it must hold.
    pub inventory: Inventory,
}

impl Checkpoint {
    /// Reads `config.json` of a folder; the weights are read by [`load`](Self::load).
    ///
    /// # Errors
    /// A folder that is no checkpoint, or one that asks for what this decoder lacks.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (config, raw_config) = ModelConfig::from_folder(folder)?;
        let inventory = config.inventory.clone();
        Ok(Self { folder: folder.to_owned(), config, raw_config, inventory })
    }

    /// Reads the weights, as f32 on `device`.
    ///
    /// Under tying, a checkpoint may store the embedding, the head, or both if they are equal.
    ///
    /// # Errors
    /// A missing, unexpected or misshapen tensor, by name; a truncated file.
    pub fn load(&self, device: &Device) -> Result<Tensors, Error> {
        let mut shards = self.shards()?;
        let mut places: HashMap<String, (usize, TensorInfo)> = HashMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for (name, info) in shard.metadata.tensors() {
                if let Some((first, _)) = places.insert(name.clone(), (i, info.clone())) {
                    let other = shards[first].path.display();
                    return Err(shard.fault(&name, format!("is also in {other}")));
                }
            }
        }
        // Old exports keep the rotary frequencies as a buffer; they follow from the configuration.
        places.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
        self.settle_tied_head(&mut places, &mut shards)?;
        let mut values = Vec::with_capacity(self.inventory.specs.len());
        for spec in &self.inventory.specs {
            let Some((shard, info)) = places.remove(&spec.name) else {
                return Err(Error::Tensor {
                    path: self.folder.clone(),
                    name: spec.name.clone(),
                    why: format!("is missing; expected shape {:?}", spec.shape),
                });
            };
            if info.shape != spec.shape {
                let why = format!("config.json expects shape {:?}, the file has {:?}", spec.shape, info.shape);
                return Err(shards[shard].fault(&spec.name, why));
            }
            let host = shards[shard].read(&spec.name, &info)?;
            if host.iter().any(|x| !x.is_finite()) {
                return Err(shards[shard].fault(&spec.name, "holds a value that is not finite".into()));
            }
            values.push(spec.tensor(host, device));
        }
        if let Some(name) = places.keys().min() {
            let (shard, _) = places[name];
            return Err(shards[shard]
                .fault(name, "is not part of this architecture; config.json may be of another model".into()));
        }
        Ok(Tensors(values))
    }

    fn settle_tied_head(
        &self,
        places: &mut HashMap<String, (usize, TensorInfo)>,
        shards: &mut [Shard],
    ) -> Result<(), Error> {
        const HEAD: &str = "lm_head.weight";
        const EMBED: &str = "model.embed_tokens.weight";
        if !self.config.tie_word_embeddings {
            return Ok(());
        }
        let Some((shard, info)) = places.remove(HEAD) else { return Ok(()) };
        match places.get(EMBED).cloned() {
            None => {
                places.insert(EMBED.to_owned(), (shard, info));
            }
            Some((other, embed)) => {
                if shards[shard].read(HEAD, &info)? != shards[other].read(EMBED, &embed)? {
                    let why = "differs from model.embed_tokens.weight, but config.json says that they are tied";
                    return Err(shards[shard].fault(HEAD, why.into()));
                }
            }
        }
        Ok(())
    }

    fn shards(&self) -> Result<Vec<Shard>, Error> {
        let single = self.folder.join(SINGLE);
        if single.is_file() {
            return Ok(vec![Shard::open(&single)?]);
        }
        let index = self.folder.join(INDEX);
        if !index.is_file() {
            return Err(Error::NotACheckpoint {
                path: self.folder.clone(),
                why: format!("it has neither {SINGLE} nor {INDEX}"),
            });
        }
        let fault = |why: &str| Error::Json { path: index.clone(), why: why.to_owned() };
        let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
        let table: Value = serde_json::from_str(&text).map_err(|e| fault(&e.to_string()))?;
        let map = table["weight_map"].as_object().ok_or_else(|| fault("weight_map is missing; expected a table"))?;
        let mut files: Vec<&str> = map
            .values()
            .map(|v| v.as_str().ok_or_else(|| fault("weight_map: expected file names")))
            .collect::<Result<_, _>>()?;
        files.sort_unstable();
        files.dedup();
        let shards = files.iter().map(|f| Shard::open(&self.folder.join(f))).collect::<Result<Vec<_>, _>>()?;
        for (name, file) in map {
            let held = shards.iter().any(|s| {
                s.path.file_name().and_then(|f| f.to_str()) == file.as_str() && s.metadata.info(name).is_some()
            });
            if !held {
                return Err(Error::Tensor {
                    path: index,
                    name: name.clone(),
                    why: format!("the index places it in {file}, which lacks it"),
                });
            }
        }
        Ok(shards)
    }

    /// Writes weights, configuration, tokenizer and templates to `folder`, in the layout that was read.
    ///
    /// Weights are written in the type that they have: f32, unless they were trained in fewer bits without masters.
    ///
    /// Each file is written beside its place and renamed, the weights last.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, tensors: &Tensors, folder: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let same_place = match (folder.canonicalize(), self.folder.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        };
        if !same_place {
            self.copy_companions(folder)?;
        }
        let mut config = self.raw_config.clone();
        // Small updates vanish in bf16, so what was trained in f32 is kept in f32, and says so.
        let kept = Precision::ALL.into_iter().find(|p| tensors.0.iter().all(|t| t.dtype() == p.dtype()));
        for key in ["torch_dtype", "dtype"] {
            if config.get(key).is_some() {
                config[key] = json!(kept.expect("all parameters have one type").name());
            }
        }
        write_whole(&folder.join("config.json"), pretty(&config).as_bytes())?;
        self.save_weights(tensors, folder, SHARD_BYTES)
    }

    fn save_weights(&self, tensors: &Tensors, folder: &Path, shard_bytes: usize) -> Result<(), Error> {
        let mut shards: Vec<Vec<Lazy<'_>>> = vec![Vec::new()];
        let mut room = shard_bytes;
        for (spec, tensor) in self.inventory.specs.iter().zip(&tensors.0) {
            let bytes = Lazy { spec, tensor }.data_len();
            if bytes > room && !shards[shards.len() - 1].is_empty() {
                shards.push(Vec::new());
                room = shard_bytes;
            }
            room = room.saturating_sub(bytes);
            shards.last_mut().expect("there is one").push(Lazy { spec, tensor });
        }
        let count = shards.len();
        let name = |i: usize| match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let mut map = BTreeMap::new();
        for (i, shard) in shards.into_iter().enumerate() {
            let path = folder.join(name(i));
            map.extend(shard.iter().map(|t| (t.spec.name.clone(), name(i))));
            let views = shard.into_iter().map(|t| (t.spec.name.clone(), t));
            let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            let beside = beside(&path);
            safetensors::serialize_to_file(views, Some(about), &beside)
                .map_err(|e| Error::Safetensors { path: beside.clone(), why: e.to_string() })?;
            std::fs::rename(&beside, &path).map_err(Error::io(&path))?;
        }
        if count > 1 {
            let tensors = self.inventory.specs.iter().zip(&tensors.0);
            let bytes: usize = tensors.map(|(spec, tensor)| Lazy { spec, tensor }.data_len()).sum();
            let index = json!({"metadata": {"total_size": bytes}, "weight_map": map});
            write_whole(&folder.join(INDEX), pretty(&index).as_bytes())?;
        }
        Ok(())
    }

    /// Writes the optimiser's moments to one file, under torch's names, beside its place and renamed.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save_moments(&self, moments: &Moments, path: &Path) -> Result<(), Error> {
        let both = [("exp_avg", &moments.first), ("exp_avg_sq", &moments.second)];
        let views = both.into_iter().flat_map(|(prefix, tensors)| {
            let all = self.inventory.specs.iter().zip(tensors);
            all.filter_map(move |(spec, t)| {
                Some((format!("{prefix}.{}", spec.name), Lazy { spec, tensor: t.as_ref()? }))
            })
        });
        let about = HashMap::from([("step".to_owned(), moments.steps.to_string())]);
        let beside = beside(path);
        safetensors::serialize_to_file(views, Some(about), &beside)
            .map_err(|e| Error::Safetensors { path: beside.clone(), why: e.to_string() })?;
        std::fs::rename(&beside, path).map_err(Error::io(path))
    }

    /// Reads what [`save_moments`](Self::save_moments) wrote.
    ///
    /// # Errors
    /// A truncated file, or one of another model.
    pub fn load_moments(&self, path: &Path, device: &Device) -> Result<Moments, Error> {
        let mut shard = Shard::open(path)?;
        let steps = shard.metadata.metadata().as_ref().and_then(|m| m.get("step")?.parse().ok());
        let steps =
            steps.ok_or_else(|| shard.fault("(metadata)", "`step` is missing; expected a whole number".into()))?;
        let mut read = |prefix: &str| -> Result<Vec<Option<Tensor<2>>>, Error> {
            let specs = self.inventory.specs.iter().map(|spec| {
                let name = format!("{prefix}.{}", spec.name);
                let info = shard.metadata.info(&name).cloned();
                let info = info.filter(|i| i.shape == spec.shape).ok_or_else(|| {
                    shard.fault(&name, format!("is missing or of another shape; expected {:?}", spec.shape))
                })?;
                let host = shard.read(&name, &info)?;
                Ok(Some(spec.tensor(host, device)))
            });
            specs.collect()
        };
        Ok(Moments { first: read("exp_avg")?, second: read("exp_avg_sq")?, steps })
    }

    /// Everything in the folder that is not weights: tokenizer, templates, generation defaults.
    fn copy_companions(&self, folder: &Path) -> Result<(), Error> {
        const COMPANIONS: [&str; 11] = [
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model",
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.json",
            "merges.txt",
            "generation_config.json",
            "chat_template.jinja",
            "chat_template.json",
            "LICENSE",
        ];
        for name in COMPANIONS {
            let from = self.folder.join(name);
            if from.is_file() {
                write_whole(&folder.join(name), &std::fs::read(&from).map_err(Error::io(&from))?)?;
            }
        }
        Ok(())
    }
}

/// A tensor that is brought to the host only while it is written.
struct Lazy<'a> {
    spec: &'a Spec,
    tensor: &'a Tensor<2>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.dtype() {
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.spec.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.tensor.to_data().as_bytes().to_vec())
    }
    fn data_len(&self) -> usize {
        self.spec.len() * self.dtype().bitsize() / 8
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON values serialise") + "\n"
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes a file beside its place, then renames it: a reader sees the old one or the whole new one.
///
/// # Errors
/// Whatever the file system says, with the path.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let part = beside(path);
    std::fs::write(&part, bytes).map_err(Error::io(&part))?;
    std::fs::rename(&part, path).map_err(Error::io(path))
}

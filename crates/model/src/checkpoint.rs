//! Checkpoint folders: read, checked against the configuration, and written so that transformers loads them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use burn::tensor::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use crate::adamw::Moments;
use crate::arch;
use crate::config::{HeadKind, ModelConfig};
use crate::error::Error;
use crate::files::{Aside, read_at_most, write_whole};
use crate::lora::{self, Lora};
use crate::params::{Inventory, Spec, Stacked, Tensors, normal};
use crate::pickle;
use crate::precision::Precision;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The same, pickled.
const PICKLED: &str = "pytorch_model.bin";
const PICKLED_INDEX: &str = "pytorch_model.bin.index.json";
/// As transformers cuts them.
const SHARD_BYTES: usize = 5_000_000_000;
/// More than the largest networks that can be read here take. A parser makes up to twenty times as much of it.
const HEADER_BYTES: u64 = 32 << 20;
/// Of an index, and of a file that goes with the weights.
const INDEX_BYTES: u64 = 16 << 20;
const COMPANION_BYTES: u64 = 256 << 20;

/// A safetensors file whose header has been read and whose length agrees with it.
struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    about: HashMap<String, String>,
}

impl Shard {
    fn open(path: &Path) -> Result<Self, Error> {
        if path.extension().is_some_and(|e| e == "bin") {
            let tensors = pickle::tensors(path)?;
            let file = File::open(path).map_err(Error::io(path))?;
            return Ok(Self { path: path.to_owned(), file, data_start: 0, tensors, about: HashMap::new() });
        }
        let broken = |why: String| Error::Safetensors { path: path.to_owned(), why };
        // Asked first: opening a pipe would wait for whoever fills it.
        if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
            return Err(broken("it is not a regular file".into()));
        }
        let mut file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut head = [0u8; 8];
        file.read_exact(&mut head).map_err(|_| broken(format!("{length} bytes are too few for a header")))?;
        let header = u64::from_le_bytes(head);
        if header > HEADER_BYTES {
            return Err(broken(format!("the header claims {header} bytes; at most {HEADER_BYTES} are read")));
        }
        if header > length.saturating_sub(8) {
            return Err(broken(format!("the header claims {header} bytes, the file has {length}")));
        }
        let mut bytes = vec![0; header as usize];
        file.read_exact(&mut bytes).map_err(Error::io(path))?;
        let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let expected = (8 + header).saturating_add(metadata.data_len() as u64);
        if expected != length {
            return Err(broken(format!("it should have {expected} bytes and has {length}")));
        }
        let tensors = metadata.tensors().into_iter().map(|(n, i)| (n, i.clone())).collect();
        let about = metadata.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.to_owned(), file, data_start: 8 + header, tensors, about })
    }

    fn read(&mut self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, Error> {
        let (start, end) = info.data_offsets;
        let room = || self.fault(name, format!("has {} bytes, for which there is no memory", end - start));
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(end - start).map_err(|_| room())?;
        bytes.resize(end - start, 0);
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

    /// The values of a parameter, checked: of the shape that `config` asks for, and finite.
    fn values(&mut self, name: &str, info: &TensorInfo, spec: &Spec, config: &str) -> Result<Vec<f32>, Error> {
        if info.shape != spec.shape {
            return Err(self.misshapen(name, info, &spec.shape, config));
        }
        let values = self.read(name, info)?;
        if values.iter().any(|x| !x.is_finite()) {
            return Err(self.fault(name, "holds a value that is not finite".into()));
        }
        Ok(values)
    }

    fn misshapen(&self, name: &str, info: &TensorInfo, expected: &[usize], config: &str) -> Error {
        self.fault(name, format!("{config} expects shape {expected:?}, the file has {:?}", info.shape))
    }

    fn fault(&self, name: &str, why: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), why }
    }
}

/// The shape of the tensor that a checkpoint has a parameter in.
fn stored_shape(spec: &Spec) -> Vec<usize> {
    spec.stacked.iter().map(|s| s.of).chain(spec.shape.iter().copied()).collect()
}

/// One of a stack, where it is as high as it should be.
fn one_of(stack: &Stacked, info: &TensorInfo) -> Option<TensorInfo> {
    let (of, shape) = info.shape.split_first()?;
    let (start, end) = info.data_offsets;
    let bytes = (end - start) / stack.of;
    let start = start + stack.at * bytes;
    let one = TensorInfo { dtype: info.dtype, shape: shape.to_vec(), data_offsets: (start, start + bytes) };
    (*of == stack.of).then_some(one)
}

/// Files of weights that are whole beside their places, with their names.
type Shards = Vec<(String, Aside)>;
/// The name of a file that goes with the weights, and its bytes; none where there is no such file.
type Companion = (&'static str, Option<Vec<u8>>);

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
    chat_template: Option<String>,
    stop_ids: Vec<u32>,
    /// What the value head is drawn from, where the folder's weights have another head.
    new_head: Option<u64>,
    /// The pad token that the tokenizer's files are to name.
    pad_token: Option<String>,
    adapter: Option<Beside>,
}

/// Adapters beside a checkpoint's own weights.
#[derive(Clone, Debug)]
struct Beside {
    lora: Lora,
    from: From,
}

/// Where the values of adapters come from.
#[derive(Clone, Debug)]
enum From {
    /// A folder that holds them.
    Folder(PathBuf),
    /// They are new, and drawn from a seed.
    Seed(u64),
}

impl Checkpoint {
    /// Reads `config.json` of a folder; the weights are read by [`load`](Self::load). Of a folder that holds an adapter,
    /// the base is found where its configuration says.
    ///
    /// # Errors
    /// A folder that is no checkpoint, or one that asks for what this decoder lacks; an adapter whose base is not there.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_with(folder, None)
    }

    /// As [`open`](Self::open), with the base of an adapter, wherever its configuration says that it is.
    ///
    /// # Errors
    /// As [`open`](Self::open); a base for a folder that is no adapter.
    pub fn open_with(folder: &Path, base: Option<&Path>) -> Result<Self, Error> {
        if !Self::is_adapter(folder) {
            return match base {
                None => Self::open_base(folder),
                Some(_) => {
                    let why = format!("base_model is given, but there is no {} in it: it is no adapter", lora::CONFIG);
                    Err(Error::NotACheckpoint { path: folder.to_owned(), why })
                }
            };
        }
        let (lora, named, value_head) = Lora::read(folder)?;
        let base = base.map_or_else(|| lora::find_base(folder, named.as_deref()), |b| Ok(b.to_owned()))?;
        let mut new = Self::open_base(&base)?;
        if value_head {
            new = new.with_value_head(0)?;
        }
        new.put_beside(lora, From::Folder(folder.to_owned()), false)
    }

    /// Whether a folder holds an adapter, and no weights that it would stand beside.
    pub fn is_adapter(folder: &Path) -> bool {
        folder.join(lora::CONFIG).is_file() && !folder.join("config.json").is_file()
    }

    /// The base that an adapter folder names; none where it names none, or is no adapter.
    ///
    /// # Errors
    /// A configuration that can't be read.
    pub fn named_base(folder: &Path) -> Result<Option<String>, Error> {
        if Self::is_adapter(folder) { Ok(Lora::read(folder)?.1) } else { Ok(None) }
    }

    /// The same network with new adapters beside its weights, which are frozen; drawn from `seed`.
    ///
    /// # Errors
    /// A checkpoint that has adapters; as the names say.
    pub fn with_lora(self, lora: Lora, seed: u64) -> Result<Self, Error> {
        if self.adapter.is_some() {
            return Err(Error::Part(
                "use_peft: the model is an adapter already, and is trained on as it is; leave out use_peft and the keys of \
                 LoRA, or merge it first"
                    .into(),
            ));
        }
        let mut lora = lora;
        // As PEFT has it: a head that is new is trained in full.
        let head = arch::VALUE_HEAD;
        if self.config.head == HeadKind::Value && !lora.modules_to_save.iter().any(|m| m == head) {
            lora.modules_to_save.push(head.into());
        }
        self.put_beside(lora, From::Seed(seed), true)
    }

    fn put_beside(mut self, lora: Lora, from: From, strict: bool) -> Result<Self, Error> {
        lora.validate()?;
        lora.attach(&mut self.config, strict)?;
        self.inventory = self.config.inventory.clone();
        self.adapter = Some(Beside { lora, from });
        Ok(self)
    }

    /// The adapters that stand beside its weights, if any do.
    pub fn lora(&self) -> Option<&Lora> {
        self.adapter.as_ref().map(|a| &a.lora)
    }

    /// The folder of the adapter that it was opened from, if that was one.
    pub fn adapter_folder(&self) -> Option<&Path> {
        match self.adapter.as_ref().map(|a| &a.from) {
            Some(From::Folder(folder)) => Some(folder),
            _ => None,
        }
    }

    /// The folder with the tokenizer: the adapter's, where it has one, else the checkpoint's own.
    pub fn tokenizer_folder(&self) -> &Path {
        self.adapter_folder().filter(|f| f.join("tokenizer.json").is_file()).unwrap_or(&self.folder)
    }

    /// The base alone, with what `tensors` say of it and of its adapters in one.
    pub fn merge(mut self, tensors: &Tensors) -> (Self, Tensors) {
        let merged = lora::merged(&self.inventory, tensors);
        if let Some(adapted) = self.inventory.adapted.take() {
            self.inventory.specs.truncate(adapted.first);
        }
        self.config.inventory = self.inventory.clone();
        (self, merged)
    }

    fn open_base(folder: &Path) -> Result<Self, Error> {
        let (config, raw_config) = ModelConfig::from_folder(folder)?;
        let inventory = config.inventory.clone();
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            config,
            raw_config,
            inventory,
            chat_template: None,
            stop_ids: Vec::new(),
            new_head: None,
            pad_token: None,
            adapter: None,
        })
    }

    /// The same network with the head of a reward model in place of its own: one number of a hidden state, its weights
    /// normal with the deviation `initializer_range`, drawn from `seed`. One that has such a head keeps it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_value_head(mut self, seed: u64) -> Result<Self, Error> {
        if self.config.head == HeadKind::Value {
            return Ok(self);
        }
        if self.adapter.is_some() {
            return Err(Error::Part(
                "the adapter is one of a language model, and a reward model has another head; merge it first".into(),
            ));
        }
        let family = arch::family(&self.config.model_type).unwrap_or_default();
        let raw = &mut self.raw_config;
        raw["architectures"] = json!([format!("{family}{}", arch::CLASSIFICATION)]);
        // One label, in the two ways in which transformers may read it.
        raw["id2label"] = json!({"0": "LABEL_0"});
        raw["label2id"] = json!({"LABEL_0": 0});
        if let Some(table) = raw.as_object_mut() {
            table.shift_remove("num_labels");
        }
        let text_of = self.config.text_of.take();
        let config = ModelConfig::from_value(&self.raw_config, &self.folder.join("config.json"))?;
        self.config = ModelConfig { text_of, ..config };
        self.inventory = self.config.inventory.clone();
        self.new_head = Some(seed);
        Ok(self)
    }

    /// The token that pads texts, by its id and as it is written, in `config.json` and in the tokenizer's files; none
    /// leaves texts of a batch to whoever can tell where they end.
    ///
    /// transformers reads a value at the last token that is no pad token: one that ends texts would move it.
    pub fn with_pad_token(mut self, pad: Option<(u32, String)>) -> Self {
        let (id, token) = pad.unzip();
        self.raw_config["pad_token_id"] = id.into();
        self.pad_token = token;
        self
    }

    /// Reads the heads of the files of weights, and no weights; and what goes with them into the folder of a result.
    ///
    /// # Errors
    /// A file that is absent, or not as long as it says; an index that names what is not there; a file beside the weights
    /// that could not be saved with them.
    pub fn check(&self) -> Result<(), Error> {
        self.shards()?;
        self.companions().map(drop)
    }

    /// Reads the weights, as f32 on `device`.
    ///
    /// Under tying, a checkpoint may store the embedding, the head, or both if they are equal.
    ///
    /// # Errors
    /// A missing, unexpected or misshapen tensor, by name; a truncated file.
    pub fn load(&self, device: &Device) -> Result<Tensors, Error> {
        let base = self.load_base(device)?;
        match self.adapter.as_ref().map(|a| (&a.lora, &a.from)) {
            None => Ok(Tensors(base)),
            Some((_, From::Folder(folder))) => self.load_adapter(folder, &Tensors(base), device),
            Some((lora, From::Seed(seed))) => Ok(lora.begin(&self.inventory, base, *seed, device)),
        }
    }

    /// Reads the adapters in `folder`, beside the weights of `base`, which may have others already.
    ///
    /// # Errors
    /// A missing, unexpected or misshapen tensor, by name; a checkpoint without adapters.
    pub fn load_adapter(&self, folder: &Path, base: &Tensors, device: &Device) -> Result<Tensors, Error> {
        let Some(adapted) = &self.inventory.adapted else {
            let why = "it is not of the adapters that the run trains".into();
            return Err(Error::NotACheckpoint { path: folder.to_owned(), why });
        };
        let mut shard = Shard::open(&folder.join(lora::WEIGHTS))?;
        let mut left = shard.tensors.clone();
        let mut values = base.0[..adapted.first].to_vec();
        for spec in &self.inventory.specs[adapted.first..] {
            let name = lora::name_in_file(&spec.name);
            let Some(info) = left.remove(&name) else {
                return Err(shard.fault(&name, format!("is missing; expected shape {:?}", spec.shape)));
            };
            values.push(spec.tensor(shard.values(&name, &info, spec, lora::CONFIG)?, device));
        }
        match left.keys().next() {
            None => Ok(Tensors(values)),
            Some(name) => Err(shard.fault(name, format!("is none of the adapters that {} says", lora::CONFIG))),
        }
    }

    fn load_base(&self, device: &Device) -> Result<Vec<Tensor<2>>, Error> {
        let specs =
            &self.inventory.specs[..self.inventory.adapted.as_ref().map_or(self.inventory.specs.len(), |a| a.first)];
        let mut shards = self.shards()?;
        let mut places: HashMap<String, (usize, TensorInfo)> = HashMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for (name, info) in shard.tensors.clone() {
                if let Some((first, _)) = places.insert(name.clone(), (i, info.clone())) {
                    let other = shards[first].path.display();
                    return Err(shard.fault(&name, format!("is also in {other}")));
                }
            }
        }
        if let Some(prefix) = self.prefix(places.keys()) {
            places = places.into_iter().map(|(name, at)| (name[prefix.len()..].to_owned(), at)).collect();
        }
        self.complete_names(&mut places);
        self.settle_tied_head(&mut places, &mut shards)?;
        let value_head = format!("{}.weight", arch::VALUE_HEAD);
        if self.new_head.is_some() {
            places.remove(&self.head());
        }
        let mut values = Vec::with_capacity(self.inventory.specs.len());
        for spec in specs {
            let stack = spec.stacked.as_ref();
            let name = stack.map_or(&spec.name, |s| &s.name);
            // A stack is done with behind its last.
            let found = match stack {
                Some(s) if s.at + 1 < s.of => places.get(name).cloned(),
                _ => places.remove(name),
            };
            let Some((shard, info)) = found else {
                if let Some(seed) = self.new_head.filter(|_| spec.name == value_head) {
                    let range = self.raw_config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
                    values.push(spec.tensor(normal(seed, range).take(spec.len()).collect(), device));
                    continue;
                }
                return Err(Error::Tensor {
                    path: self.folder.clone(),
                    name: name.clone(),
                    why: format!("is missing; expected shape {:?}", stored_shape(spec)),
                });
            };
            let info = match stack {
                Some(s) => one_of(s, &info)
                    .filter(|one| one.shape == spec.shape)
                    .ok_or_else(|| shards[shard].misshapen(name, &info, &stored_shape(spec), "config.json"))?,
                None => info,
            };
            let host = shards[shard].values(name, &info, spec, "config.json")?;
            values.push(spec.tensor(host, device));
        }
        if let Some(name) = places.keys().min() {
            let (shard, _) = places[name];
            return Err(shards[shard]
                .fault(name, "is not part of this architecture; config.json may be of another model".into()));
        }
        Ok(values)
    }

    /// What all names begin with, where the names without it are what the architecture wants.
    fn prefix<'a>(&self, mut names: impl Iterator<Item = &'a String> + Clone) -> Option<String> {
        let wanted = &self.inventory.specs.first()?.name;
        let prefix = names.clone().find_map(|n| n.strip_suffix(wanted.as_str()).filter(|p| p.ends_with('.')))?;
        names.all(|n| n.starts_with(prefix)).then(|| prefix.to_owned())
    }

    /// What all names in the files of weights begin with, beyond those of the architecture: it is left out in reading.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn stripped(&self) -> Result<Option<String>, Error> {
        let shards = self.shards()?;
        Ok(self.prefix(shards.iter().flat_map(|s| s.tensors.keys())))
    }

    /// Old exports keep buffers that follow from the configuration; and some leave out what the names of all parameters but
    /// the head begin with.
    fn complete_names(&self, places: &mut HashMap<String, (usize, TensorInfo)>) {
        const BUFFERS: [&str; 5] =
            ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
        places.retain(|name, _| !BUFFERS.iter().any(|b| name.ends_with(b)));
        if self.config.text_of.is_some() {
            // Of a vision-language model, in the names of either generation of transformers.
            let others = ["vision_tower.", "multi_modal_projector."];
            let text = |name: String| match name.strip_prefix("language_model.") {
                Some(name) => name.to_owned(),
                None => name.replacen("model.language_model.", "model.", 1),
            };
            let other = |name: &str| others.iter().any(|o| name.strip_prefix("model.").unwrap_or(name).starts_with(o));
            *places =
                places.drain().filter(|(name, _)| !other(name)).map(|(name, place)| (text(name), place)).collect();
        }
        let embed = &self.inventory.specs[self.config.network.embedding.table.index()].name;
        let (prefix, bare) = embed.split_once('.').expect("a name has a prefix");
        if places.contains_key(bare) && !places.keys().any(|name| name.starts_with(&format!("{prefix}."))) {
            let head = self.head();
            let whole = |name: String| if name == head { name } else { format!("{prefix}.{name}") };
            *places = places.drain().map(|(name, place)| (whole(name), place)).collect();
        }
    }

    /// What a head of its own is called.
    fn head(&self) -> String {
        format!("{}.weight", self.config.network.head_name)
    }

    fn settle_tied_head(
        &self,
        places: &mut HashMap<String, (usize, TensorInfo)>,
        shards: &mut [Shard],
    ) -> Result<(), Error> {
        let (embed, head) = (&self.inventory.specs[self.config.network.embedding.table.index()].name, self.head());
        if !self.config.tie_word_embeddings {
            return Ok(());
        }
        let Some((shard, info)) = places.remove(&head) else { return Ok(()) };
        match places.get(embed).cloned() {
            None => {
                places.insert(embed.clone(), (shard, info));
            }
            Some((other, tied)) => {
                if shards[shard].read(&head, &info)? != shards[other].read(embed, &tied)? {
                    let why = format!("differs from {embed}, but config.json says that they are tied");
                    return Err(shards[shard].fault(&head, why));
                }
            }
        }
        Ok(())
    }

    fn shards(&self) -> Result<Vec<Shard>, Error> {
        let [mut single, mut index] = [SINGLE, INDEX].map(|n| self.folder.join(n));
        let mut name = SINGLE;
        // Where a folder has both, the pickled weights are not looked at.
        if !index.is_file() && !single.exists() {
            let pickled = [PICKLED, PICKLED_INDEX].map(|n| self.folder.join(n));
            if pickled.iter().any(|p| p.exists()) {
                ([single, index], name) = (pickled, PICKLED);
            }
        }
        if !index.is_file() {
            if !single.exists() {
                return Err(Error::NotACheckpoint {
                    path: self.folder.clone(),
                    why: format!("it has none of {SINGLE}, {INDEX}, {PICKLED} and {PICKLED_INDEX}"),
                });
            }
            return Ok(vec![Shard::open(&single)?]);
        }
        let fault = |why: &str| Error::Json { path: index.clone(), why: why.to_owned() };
        let bytes = read_at_most(&index, INDEX_BYTES).map_err(Error::io(&index))?;
        let table: Value = serde_json::from_slice(&bytes).map_err(|e| fault(&e.to_string()))?;
        let map = table["weight_map"].as_object().ok_or_else(|| fault("weight_map is missing; expected a table"))?;
        let mut files: Vec<&str> = map
            .values()
            .map(|v| v.as_str().ok_or_else(|| fault("weight_map: expected file names")))
            .collect::<Result<_, _>>()?;
        files.sort_unstable();
        files.dedup();
        if single.exists() && files != [name] {
            return Err(Error::NotACheckpoint {
                path: self.folder.clone(),
                why: format!(
                    "it has both {name} and the shards of {name}.index.json, which may be of two models: remove one"
                ),
            });
        }
        let shards = files
            .iter()
            .map(|file| {
                self.plain(file).map_err(|why| fault(&format!("weight_map: {file:?} {why}")))?;
                Shard::open(&self.folder.join(file))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (name, file) in map {
            let held = shards
                .iter()
                .any(|s| s.path.file_name().and_then(|f| f.to_str()) == file.as_str() && s.tensors.contains_key(name));
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

    /// Whether an index may name this file: one of the folder itself, or, as the Hub's cache lays folders out, a link to
    /// its blobs.
    fn plain(&self, file: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == file) {
            return Err("is not a plain file name; expected one of this folder".into());
        }
        let real = |p: &Path| p.canonicalize().map_err(|e| format!("can't be found ({e})"));
        let (target, folder) = (real(&path)?, real(&self.folder)?);
        let blobs = folder.parent().and_then(Path::parent).map(|p| p.join("blobs"));
        if target.parent() != Some(&folder) && (blobs.is_none() || target.parent() != blobs.as_deref()) {
            return Err(format!("is a link out of the folder, to {}", target.display()));
        }
        Ok(())
    }

    /// The text of the chat template that the model was trained with, to be saved in place of the checkpoint's own.
    pub fn with_chat_template(mut self, text: String) -> Self {
        self.chat_template = Some(text);
        self
    }

    /// The tokens that ended what the model was trained on: where `generation_config.json` does not stop at them, the one
    /// that is saved does.
    pub fn with_stop_ids(mut self, ids: Vec<u32>) -> Self {
        self.stop_ids = ids;
        self
    }

    /// Writes weights, configuration, tokenizer and templates to `folder`, in the layout that was read.
    ///
    /// Weights are written in the type that they have: f32, unless they were trained in fewer bits without masters. All
    /// files are written beside their places and renamed when each is whole, the weights last; weights and companions of
    /// another model that was saved there are then removed.
    ///
    /// # Errors
    /// A value that is not finite, by its tensor, before anything changes in the folder; whatever the file system says.
    pub fn save(&self, tensors: &Tensors, folder: &Path) -> Result<(), Error> {
        self.save_as(tensors, folder, SHARD_BYTES)
    }

    fn save_as(&self, tensors: &Tensors, folder: &Path, shard_bytes: usize) -> Result<(), Error> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let beside = self.adapter.as_ref().zip(self.inventory.adapted.as_ref());
        let (shards, index) = match beside {
            None => self.write_shards(tensors, folder, shard_bytes)?,
            Some((_, adapted)) => {
                let all = self.inventory.specs.iter().zip(&tensors.0).skip(adapted.first);
                let all = all.map(|(spec, tensor)| Lazy::new(lora::name_in_file(&spec.name), spec, tensor));
                let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
                let file = write_tensors(&folder.join(lora::WEIGHTS), all.collect(), about)?;
                (vec![(lora::WEIGHTS.to_owned(), file)], None)
            }
        };
        let same_place = match (folder.canonicalize(), self.tokenizer_folder().canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        };
        for (name, bytes) in self.companions()? {
            let path = folder.join(name);
            match bytes {
                Some(bytes) => write_whole(&path, &bytes)?,
                None if !same_place && path.exists() => std::fs::remove_file(&path).map_err(Error::io(&path))?,
                None => {}
            }
        }
        let mut new: Vec<String> = Vec::new();
        if let Some((Beside { lora, .. }, _)) = beside {
            let base = self.folder.canonicalize().map_err(Error::io(&self.folder))?;
            let config = lora.to_json(&self.inventory, &base, self.config.head == HeadKind::Value);
            write_whole(&folder.join(lora::CONFIG), pretty(&config).as_bytes())?;
            new.push(lora::CONFIG.into());
        } else {
            write_whole(&folder.join("config.json"), pretty(&self.written_config(tensors)).as_bytes())?;
            new.push("config.json".into());
        }
        for (name, shard) in shards {
            shard.place()?;
            new.push(name);
        }
        if let Some(index) = index {
            write_whole(&folder.join(INDEX), pretty(&index).as_bytes())?;
            new.push(INDEX.into());
        }
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let entry = entry.map_err(Error::io(folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if (is_weights(&name) || name == "config.json") && !new.contains(&name) {
                std::fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
            }
        }
        Ok(())
    }

    fn written_config(&self, tensors: &Tensors) -> Value {
        let mut config = self.raw_config.clone();
        // Small updates vanish in bf16, so what was trained in f32 is kept in f32, and says so.
        let kept = Precision::ALL.into_iter().find(|p| tensors.0.iter().all(|t| t.dtype() == p.dtype()));
        for key in ["torch_dtype", "dtype"] {
            if config.get(key).is_some() {
                config[key] = json!(kept.expect("all parameters have one type").name());
            }
        }
        config
    }

    /// The weights, each shard whole beside its place, with its name; and their index, if there are several.
    fn write_shards(
        &self,
        tensors: &Tensors,
        folder: &Path,
        shard_bytes: usize,
    ) -> Result<(Shards, Option<Value>), Error> {
        let mut shards: Vec<Vec<Lazy<'_>>> = vec![Vec::new()];
        let (mut room, mut all) = (shard_bytes, 0);
        let mut stored: Vec<Lazy<'_>> = Vec::new();
        for (spec, tensor) in self.inventory.specs.iter().zip(&tensors.0) {
            let name = spec.stacked.as_ref().map_or(&spec.name, |s| &s.name);
            match stored.last_mut().filter(|last| last.name == *name) {
                Some(stack) => stack.tensors.push(tensor),
                None => stored.push(Lazy { shape: stored_shape(spec), ..Lazy::new(name.clone(), spec, tensor) }),
            }
        }
        for lazy in stored {
            let bytes = lazy.bytes();
            if bytes > room && !shards[shards.len() - 1].is_empty() {
                shards.push(Vec::new());
                room = shard_bytes;
            }
            room = room.saturating_sub(bytes);
            all += bytes;
            shards.last_mut().expect("there is one").push(lazy);
        }
        let count = shards.len();
        let name = |i: usize| match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let mut map = BTreeMap::new();
        let mut written = Vec::new();
        for (i, shard) in shards.into_iter().enumerate() {
            map.extend(shard.iter().map(|t| (t.name.clone(), name(i))));
            let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            written.push((name(i), write_tensors(&folder.join(name(i)), shard, about)?));
        }
        let index = json!({"metadata": {"total_size": all}, "weight_map": map});
        Ok((written, (count > 1).then_some(index)))
    }

    /// Writes the optimiser's moments to one file, under torch's names, beside its place and renamed.
    ///
    /// # Errors
    /// A value that is not finite; whatever the file system says.
    pub fn save_moments(&self, moments: &Moments, path: &Path) -> Result<(), Error> {
        let both = [("exp_avg", &moments.first), ("exp_avg_sq", &moments.second)];
        let all = both.into_iter().flat_map(|(prefix, tensors)| {
            let all = self.inventory.specs.iter().zip(tensors);
            all.filter_map(move |(spec, t)| Some(Lazy::new(format!("{prefix}.{}", spec.name), spec, t.as_ref()?)))
        });
        let about = HashMap::from([("step".to_owned(), moments.steps.to_string())]);
        write_tensors(path, all.collect(), about)?.place()
    }

    /// Reads what [`save_moments`](Self::save_moments) wrote.
    ///
    /// # Errors
    /// A truncated file, or one of another model.
    pub fn load_moments(&self, path: &Path, device: &Device) -> Result<Moments, Error> {
        let mut shard = Shard::open(path)?;
        let steps = shard.about.get("step").and_then(|s| s.parse().ok());
        let steps =
            steps.ok_or_else(|| shard.fault("(metadata)", "`step` is missing; expected a whole number".into()))?;
        let mut read = |prefix: &str| -> Result<Vec<Option<Tensor<2>>>, Error> {
            let specs = self.inventory.specs.iter().map(|spec| {
                // A frozen parameter has neither moment.
                if ["exp_avg", "exp_avg_sq"].iter().all(|p| !shard.tensors.contains_key(&format!("{p}.{}", spec.name)))
                {
                    return Ok(None);
                }
                let name = format!("{prefix}.{}", spec.name);
                let info = shard.tensors.get(&name).cloned();
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

    /// What goes with the weights: tokenizer, templates, generation defaults.
    fn companions(&self) -> Result<Vec<Companion>, Error> {
        let read = |name: &'static str| {
            let from = self.beside_or_own(name);
            let bytes =
                from.is_file().then(|| read_at_most(&from, COMPANION_BYTES).map_err(Error::io(&from))).transpose()?;
            Ok((name, bytes))
        };
        let mut all = COMPANIONS.into_iter().map(read).collect::<Result<Vec<_>, Error>>()?;
        let mut set = |name: &str, bytes: Option<Vec<u8>>| {
            all.iter_mut().find(|(n, _)| *n == name).expect("one of the list").1 = bytes;
        };
        if let Some(text) = &self.chat_template {
            // One place for it: whoever looks into another would find another template.
            set("chat_template.jinja", Some(text.clone().into_bytes()));
            set("chat_template.json", None);
            if let Some(mut config) = self.json("tokenizer_config.json")
                && config.get("chat_template").is_some()
            {
                config.as_object_mut().expect("it has a key").shift_remove("chat_template");
                set("tokenizer_config.json", Some(pretty(&config).into_bytes()));
            }
        }
        if let Some(token) = &self.pad_token {
            for name in ["tokenizer_config.json", "special_tokens_map.json"] {
                let held = all.iter_mut().find(|(n, _)| *n == name).expect("one of the list");
                let table = held.1.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
                let Some(Value::Object(mut table)) = table else { continue };
                let said = table.get("pad_token").map(|t| t.get("content").unwrap_or(t));
                if said.and_then(Value::as_str) != Some(token) {
                    table.insert("pad_token".into(), token.clone().into());
                    held.1 = Some(pretty(&Value::Object(table)).into_bytes());
                }
            }
        }
        let mut set = |name: &str, bytes: Option<Vec<u8>>| {
            all.iter_mut().find(|(n, _)| *n == name).expect("one of the list").1 = bytes;
        };
        if let Some(generation) = self.generation_config() {
            set("generation_config.json", Some(pretty(&generation).into_bytes()));
        }
        Ok(all)
    }

    /// A file of the folder, if it is there and JSON.
    fn json(&self, name: &str) -> Option<Value> {
        serde_json::from_slice(&read_at_most(&self.beside_or_own(name), INDEX_BYTES).ok()?).ok()
    }

    /// Where a file that goes with the weights is: with the adapter, if it is there.
    fn beside_or_own(&self, name: &str) -> PathBuf {
        let beside = self.adapter_folder().map(|f| f.join(name)).filter(|f| f.is_file());
        beside.unwrap_or_else(|| self.folder.join(name))
    }

    /// generation_config.json, if it has to change to stop where training did; transformers reads config.json without it.
    fn generation_config(&self) -> Option<Value> {
        let mut generation = self.json("generation_config.json").filter(Value::is_object).unwrap_or_else(|| json!({}));
        let stops = match &generation["eos_token_id"] {
            Value::Null => self.config.eos_token_ids.iter().map(|id| json!(id)).collect(),
            Value::Array(all) => all.clone(),
            one => vec![one.clone()],
        };
        let mut new: Vec<Value> = self.stop_ids.iter().map(|id| json!(id)).filter(|id| !stops.contains(id)).collect();
        if new.is_empty() {
            return None;
        }
        new.extend(stops);
        for key in ["bos_token_id", "pad_token_id"] {
            if generation.get(key).is_none() && self.raw_config.get(key).is_some() {
                generation[key] = self.raw_config[key].clone();
            }
        }
        generation["eos_token_id"] = new.into();
        Some(generation)
    }
}

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

/// Whether [`Checkpoint::save`] may write weights, or their index, under this name.
fn is_weights(name: &str) -> bool {
    let shard = || name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-");
    let number = |n: &str| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit());
    [SINGLE, INDEX, lora::WEIGHTS, lora::CONFIG].contains(&name) || shard().is_some_and(|(i, n)| number(i) && number(n))
}

/// Whether [`Checkpoint::save`] may write a file of this name.
fn is_saved(name: &str) -> bool {
    is_weights(name) || name == "config.json" || COMPANIONS.contains(&name)
}

/// Removes from `folder` whatever [`Checkpoint::save`] may have written there.
///
/// # Errors
/// Whatever the file system says.
pub fn remove_saved(folder: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if is_saved(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}

/// A tensor, or a stack of them, that is brought to the host only while it is written, under a name.
struct Lazy<'a> {
    name: String,
    shape: Vec<usize>,
    transposed: bool,
    tensors: Vec<&'a Tensor<2>>,
}

impl<'a> Lazy<'a> {
    fn new(name: String, spec: &Spec, tensor: &'a Tensor<2>) -> Self {
        Self { name, shape: spec.shape.clone(), transposed: spec.transposed, tensors: vec![tensor] }
    }
    fn dtype(&self) -> Dtype {
        match self.tensors[0].dtype() {
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        }
    }
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}

/// Whether every number in the bytes of a tensor is finite: whether no exponent is all ones.
fn finite(bytes: &[u8], dtype: Dtype) -> bool {
    let all = |ones: u16| bytes.chunks_exact(2).all(|b| u16::from_le_bytes([b[0], b[1]]) & ones != ones);
    match dtype {
        Dtype::BF16 => all(0x7f80),
        Dtype::F16 => all(0x7c00),
        _ => bytes.chunks_exact(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
    }
}

/// A safetensors file beside its place, whole, in the order in which the format's own library writes it.
fn write_tensors(path: &Path, mut tensors: Vec<Lazy<'_>>, about: HashMap<String, String>) -> Result<Aside, Error> {
    tensors.sort_by(|a, b| b.dtype().cmp(&a.dtype()).then_with(|| a.name.cmp(&b.name)));
    let mut end = 0;
    let infos = tensors.iter().map(|t| {
        let start = end;
        end += t.bytes();
        (t.name.clone(), TensorInfo { dtype: t.dtype(), shape: t.shape.clone(), data_offsets: (start, end) })
    });
    let broken = |why: String| Error::Safetensors { path: path.to_owned(), why };
    let metadata = Metadata::new(Some(about), infos.collect()).map_err(|e| broken(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| broken(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = Aside::new(path, (8 + header.len() + end) as u64)?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&header)?;
    for t in tensors {
        for tensor in &t.tensors {
            let data = if t.transposed { (*tensor).clone().transpose().to_data() } else { tensor.to_data() };
            let bytes = data.as_bytes();
            if !finite(bytes, t.dtype()) {
                let why = "holds a value that is not finite, and is not saved".to_owned();
                return Err(Error::Tensor { path: path.to_owned(), name: t.name, why });
            }
            file.write(bytes)?;
        }
    }
    file.sync()?;
    Ok(file)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON values serialise") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::Decoder;

    fn checkpoint(folder: &Path) -> (Checkpoint, Tensors) {
        let table = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 16, "eos_token_id": 2
        });
        std::fs::write(folder.join("config.json"), table.to_string()).unwrap();
        let checkpoint = Checkpoint::open(folder).unwrap();
        let decoder = Decoder::random(checkpoint.config.clone(), 1, &Device::flex());
        let tensors = decoder.parameters().clone();
        (checkpoint, tensors)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_holds_what_was_saved_last_and_nothing_else_of_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let (c, tensors) = checkpoint(folder.path());
        c.save(&tensors, folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["config.json", "model.safetensors"]);
        for bytes in [1000, 3000, 1 << 20] {
            c.save_as(&tensors, folder.path(), bytes).unwrap();
            let read = c.load(&Device::flex()).unwrap();
            for (a, b) in read.0.iter().zip(&tensors.0) {
                assert_eq!(a.to_data(), b.to_data());
            }
            let shards = names(folder.path()).iter().filter(|n| n.ends_with(".safetensors")).count();
            let indexed = folder.path().join(INDEX).exists();
            assert_eq!(indexed, shards > 1);
            assert_eq!(names(folder.path()).len(), 1 + shards + usize::from(indexed), "{:?}", names(folder.path()));
        }
    }

    #[test]
    fn old_weights_of_the_other_layout_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (c, tensors) = checkpoint(folder.path());
        c.save(&tensors, folder.path()).unwrap();
        let single = std::fs::read(folder.path().join(SINGLE)).unwrap();
        c.save_as(&tensors, folder.path(), 1000).unwrap();
        std::fs::write(folder.path().join(SINGLE), single).unwrap();
        let said = c.load(&Device::flex()).unwrap_err().to_string();
        assert!(said.contains("both model.safetensors and the shards"), "{said}");
    }

    #[test]
    fn an_index_names_regular_files_of_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("snapshots").join("1");
        std::fs::create_dir_all(&folder).unwrap();
        let (c, tensors) = checkpoint(&folder);
        c.save(&tensors, &folder).unwrap();
        let outside = root.path().join("outside.safetensors");
        std::fs::rename(folder.join(SINGLE), &outside).unwrap();
        let load = |file: &str| {
            let map: BTreeMap<_, _> = c.inventory.specs.iter().map(|s| (s.name.clone(), file)).collect();
            std::fs::write(folder.join(INDEX), json!({"weight_map": map}).to_string()).unwrap();
            c.load(&Device::flex()).map(|_| ()).map_err(|e| e.to_string())
        };
        for file in ["../../outside.safetensors", outside.to_str().unwrap(), "..", "./x", "a/b", ""] {
            assert!(load(file).unwrap_err().contains("is not a plain file name"), "{file}");
        }
        assert!(load("gone.safetensors").unwrap_err().contains("can't be found"));
        std::fs::create_dir(folder.join("folder")).unwrap();
        assert!(load("folder").unwrap_err().contains("not a regular file"));
        #[cfg(unix)]
        {
            let link = folder.join("link");
            std::os::unix::fs::symlink(&outside, &link).unwrap();
            assert!(load("link").unwrap_err().contains("a link out of the folder"));
            // As the Hub's cache has it.
            let blobs = root.path().join("blobs");
            std::fs::create_dir(&blobs).unwrap();
            std::fs::rename(&outside, blobs.join("abc")).unwrap();
            std::fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink("../../blobs/abc", &link).unwrap();
            load("link").unwrap();
        }
    }

    #[test]
    fn what_could_not_be_saved_is_found_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let (c, tensors) = checkpoint(folder.path());
        c.save(&tensors, folder.path()).unwrap();
        c.check().unwrap();
        let merges = std::fs::File::create(folder.path().join("merges.txt")).unwrap();
        merges.set_len(COMPANION_BYTES + 1).unwrap();
        let said = c.check().unwrap_err().to_string();
        assert!(said.contains("merges.txt"), "{said}");
    }

    #[test]
    fn headers_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (c, _) = checkpoint(folder.path());
        std::fs::write(folder.path().join(SINGLE), (HEADER_BYTES + 1).to_le_bytes()).unwrap();
        let said = c.load(&Device::flex()).unwrap_err().to_string();
        assert!(said.contains("claims 33554433 bytes; at most 33554432 are read"), "{said}");
    }

    #[test]
    fn what_is_not_finite_is_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let (c, tensors) = checkpoint(folder.path());
        c.save(&tensors, folder.path()).unwrap();
        let before = std::fs::read(folder.path().join(SINGLE)).unwrap();
        for precision in Precision::ALL {
            let mut bad = tensors.cast(precision);
            let last = bad.0.last_mut().unwrap();
            *last = last.clone() * f32::INFINITY;
            let said = c.save(&bad, folder.path()).unwrap_err().to_string();
            assert!(said.contains("tensor lm_head.weight: holds a value that is not finite"), "{said}");
        }
        assert_eq!(std::fs::read(folder.path().join(SINGLE)).unwrap(), before);
        assert_eq!(names(folder.path()), ["config.json", "model.safetensors"]);
    }

    #[test]
    fn what_was_trained_goes_with_the_weights() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (c, tensors) = checkpoint(from.path());
        std::fs::write(from.path().join("tokenizer_config.json"), r#"{"a": 1, "chat_template": "old", "b": 2}"#)
            .unwrap();
        std::fs::write(to.path().join("merges.txt"), "of another model").unwrap();
        let text = |name: &str| std::fs::read_to_string(to.path().join(name)).unwrap();
        let json = |name: &str| serde_json::from_str::<Value>(&text(name)).unwrap();
        c.clone().with_stop_ids(vec![2]).save(&tensors, to.path()).unwrap();
        assert_eq!(names(to.path()), ["config.json", "model.safetensors", "tokenizer_config.json"]);
        assert_eq!(json("tokenizer_config.json")["chat_template"], "old");
        c.with_chat_template("new".into()).with_stop_ids(vec![7]).save(&tensors, to.path()).unwrap();
        assert_eq!(text("chat_template.jinja"), "new");
        assert_eq!(json("tokenizer_config.json"), json!({"a": 1, "b": 2}));
        assert_eq!(json("generation_config.json"), json!({"eos_token_id": [7, 2]}));
    }
}

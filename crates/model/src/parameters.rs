//! The parameters of a decoder, by their Hugging Face names.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::config::ModelConfig;
use crate::precision::Precision;

/// A name and a shape: what a checkpoint must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name in the checkpoint.
    pub name: String,
    /// The shape in the checkpoint, of one or two dimensions.
    pub shape: Vec<usize>,
}

impl Spec {
    /// Rows and columns of the tensor that holds it: a vector is one row.
    pub fn dims(&self) -> [usize; 2] {
        match self.shape[..] {
            [n] => [1, n],
            [r, c] => [r, c],
            _ => unreachable!("a decoder's parameters have one or two dimensions"),
        }
    }

    /// The f32 tensor of it, from host values.
    pub(crate) fn tensor(&self, values: Vec<f32>, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, self.dims()), (device, DType::F32))
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the parameters of a layer are in the flat list.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub input_norm: usize,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub q_norm: Option<usize>,
    pub k_norm: Option<usize>,
    pub o: Linear,
    pub post_norm: usize,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// A weight `[out, in]`, and a bias `[out]` where the architecture has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub weight: usize,
    pub bias: Option<usize>,
}

/// All parameters of an architecture, in the order of its layers.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Name and shape of each.
    pub specs: Vec<Spec>,
    pub(crate) embed: usize,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: usize,
    /// The head `[vocab, hidden]`: the embedding itself where they are tied.
    pub(crate) head: usize,
}

impl Inventory {
    /// What a checkpoint of this configuration holds.
    pub fn new(c: &ModelConfig) -> Self {
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            specs.push(Spec { name, shape: shape.to_vec() });
            specs.len() - 1
        };
        let embed = add("model.embed_tokens.weight".into(), &[c.vocab_size, c.hidden_size]);
        let layers = (0..c.num_hidden_layers)
            .map(|i| {
                let mut linear = |name: &str, out: usize, inp: usize, bias: bool| Linear {
                    weight: add(format!("model.layers.{i}.{name}.weight"), &[out, inp]),
                    bias: bias.then(|| add(format!("model.layers.{i}.{name}.bias"), &[out])),
                };
                let (h, m) = (c.hidden_size, c.intermediate_size);
                let q = linear("self_attn.q_proj", c.q_width(), h, c.qkv_bias);
                let k = linear("self_attn.k_proj", c.kv_width(), h, c.qkv_bias);
                let v = linear("self_attn.v_proj", c.kv_width(), h, c.qkv_bias);
                let o = linear("self_attn.o_proj", h, c.q_width(), c.o_bias);
                let gate = linear("mlp.gate_proj", m, h, c.mlp_bias);
                let up = linear("mlp.up_proj", m, h, c.mlp_bias);
                let down = linear("mlp.down_proj", h, m, c.mlp_bias);
                let mut norm = |name: &str, n: usize| add(format!("model.layers.{i}.{name}.weight"), &[n]);
                Layer {
                    input_norm: norm("input_layernorm", h),
                    q_norm: c.qk_norm.then(|| norm("self_attn.q_norm", c.head_dim)),
                    k_norm: c.qk_norm.then(|| norm("self_attn.k_norm", c.head_dim)),
                    post_norm: norm("post_attention_layernorm", h),
                    q,
                    k,
                    v,
                    o,
                    gate,
                    up,
                    down,
                }
            })
            .collect();
        let norm = add("model.norm.weight".into(), &[c.hidden_size]);
        let head =
            if c.tie_word_embeddings { embed } else { add("lm_head.weight".into(), &[c.vocab_size, c.hidden_size]) };
        Self { specs, embed, layers, norm, head }
    }

    /// The number of elements of all parameters.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(Spec::len).sum()
    }
}

/// One tensor per entry of an [`Inventory`], in its order: values, gradients or optimiser moments.
#[derive(Clone, Debug)]
pub struct Tensors(pub Vec<Tensor<2>>);

impl Tensors {
    /// From host values, in the order of an inventory.
    pub fn from_host(inventory: &Inventory, values: Vec<Vec<f32>>, device: &Device) -> Self {
        let tensors = inventory.specs.iter().zip(values);
        Self(tensors.map(|(s, v)| s.tensor(v, device)).collect())
    }

    /// Rounded to another type.
    pub(crate) fn cast(&self, precision: Precision) -> Self {
        Self(self.0.iter().map(|t| t.clone().cast(precision.dtype())).collect())
    }
}

//! `starcoder2`: LayerNorm, a plain feed-forward part of GELU, and biases on all maps.

use collimate_backend::kernels::Activation;

use super::Architecture;
use super::llama::{Biases, MlpNames, Names, NormKind, Relative, Switch, windows};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "starcoder2", family: "Starcoder2", read: |r| RELATIVE.read(r)?.config(r) };

const RELATIVE: Relative = Relative {
    activation: Activation::GeluTanh,
    hidden_act: "gelu_pytorch_tanh",
    eps: ("norm_epsilon", 1e-5),
    max_position_embeddings: 4096,
    tie_word_embeddings: true,
    biases: Biases::All("use_bias", true),
    windows: |r, layers| windows(r, layers, Switch::Present),
    names: &Names { mlp: MlpNames::Plain(["mlp.c_fc", "mlp.c_proj"]), ..Names::LLAMA },
    norm: NormKind::Layer { bias: true },
    ..Relative::LLAMA
};

//! `phi`: attention and feed-forward part side by side behind one LayerNorm; heads of which half turns; a plain
//! feed-forward part of GELU; biases on all maps, the head's too.

use collimate_backend::kernels::Activation;

use super::llama::{Biases, MlpNames, Names, NormKind, Relative, absent};
use super::rope::Turning;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "phi", family: "Phi", read };

const RELATIVE: Relative = Relative {
    activation: Activation::GeluTanh,
    hidden_act: "gelu_new",
    turning: Turning { theta: 10_000.0, part: Some(0.5), interleaved: false },
    eps: ("layer_norm_eps", 1e-5),
    biases: Biases::Qkv,
    names: &Names {
        norm: "model.final_layernorm",
        o: "self_attn.dense",
        norms: [Some("input_layernorm"), None, None, None],
        mlp: MlpNames::Plain(["mlp.fc1", "mlp.fc2"]),
        ..Names::LLAMA
    },
    norm: NormKind::Layer { bias: true },
    parallel: true,
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    absent(r, "qk_layernorm", "a LayerNorm for each head of queries and keys is not implemented")?;
    let mut shape = RELATIVE.read(r)?;
    (shape.o_bias, shape.mlp_bias, shape.head_bias) = (true, true, true);
    shape.config(r)
}

//! `hunyuan_v1_dense`: Llama with norms of queries and keys of each head, behind their positions; and rotary positions
//! whose base a fixed α stretches.

use super::llama::{Names, QkNorm, Relative};
use super::{Architecture, Reader, rope};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "hunyuan_v1_dense", family: "HunYuanDenseV1", read };

const RELATIVE: Relative = Relative {
    eps: ("rms_norm_eps", 1e-5),
    qk_norm: QkNorm::HeadsBehind,
    names: &Names { qk_norms: ["self_attn.query_layernorm", "self_attn.key_layernorm"], ..Names::LLAMA },
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    // Facts of its mixtures and of its tokenizer that a dense text model's file has too, and transformers doesn't read.
    for key in ["attention_head_dim", "cla_share_factor", "eod_token_id", "norm_type", "org_vocab_size", "pool_type"] {
        r.get(key);
    }
    let longest = r.size("max_position_embeddings", Some(RELATIVE.max_position_embeddings))?;
    let rope = rope::stretched(r, longest, RELATIVE.turning)?;
    RELATIVE.read_with(r, longest, vec![rope])?.config(r)
}

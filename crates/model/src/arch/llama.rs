//! `llama`, and what its relatives share: layers of attention and a feed-forward part, each with its norms and beside the
//! residual stream.

use std::sync::Arc;

use collimate_backend::kernels::{Activation, Heads};
use serde_json::Value;

use super::rope::{Rope, Turning};
use super::{Architecture, Builder, Network, Reader, VALUE_HEAD, head, rope};
use crate::blocks::{
    AnyBlock, Attention, Embedding, Experts, GateUp, GatedMlp, Linear, Mlp, Norm, Normed, Parallel, Qkv, Recompute,
    Residual, Shared, Then,
};
use crate::config::{HeadKind, ModelConfig};
use crate::error::Error;
use crate::params::{Role, Stacked};
use crate::rotary::RopeScaling;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "llama", family: "Llama", read: |r| Relative::LLAMA.read(r)?.config(r) };

/// Reads one thing a layer, given the number of layers.
pub(super) type ByLayer<T> = fn(&mut Reader<'_>, usize) -> Result<Vec<T>, Error>;

/// What sets a relative of Llama apart, where `config.json` doesn't say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relative {
    pub activation: Activation,
    /// The name of the activation.
    pub hidden_act: &'static str,
    /// Its key.
    pub act_key: &'static str,
    /// Width of a head where the configuration doesn't give it; otherwise hidden size over heads.
    pub head_dim: Option<usize>,
    pub turning: Turning,
    /// Key and default of the norms' ε.
    pub eps: (&'static str, f64),
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    pub biases: Biases,
    pub qk_norm: QkNorm,
    /// Which layers have a window.
    pub windows: ByLayer<Option<usize>>,
    /// Which layers rotate queries and keys.
    pub rotates: ByLayer<bool>,
    pub names: &'static Names,
    pub norm: NormKind,
    /// Whether attention and feed-forward part of a layer read the same input.
    pub parallel: bool,
}

/// Where the attention has biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Biases {
    /// On all four maps, or on none, as `attention_bias` says.
    AsConfigured,
    /// On q, k and v.
    Qkv,
    /// On q, k and v as `attention_bias` says, which is the default.
    QkvAsConfigured,
    /// On all maps, also those of the feed-forward part, as this key says, with that default.
    All(&'static str, bool),
    /// On q, k and v as this key says, with that default.
    QkvBy(&'static str, bool),
    /// Nowhere: the architecture has none.
    Never,
}

/// RMSNorms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    /// On each head.
    Heads,
    /// On each head, behind its position.
    HeadsBehind,
    /// On all heads together.
    Whole,
}

/// The norms of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormKind {
    Rms,
    /// RMSNorm whose stored weight is less 1.
    RmsAndOne,
    /// LayerNorm with a weight, and with a bias if it says so.
    Layer {
        bias: bool,
    },
    /// LayerNorm alone.
    Bare,
}

/// How a checkpoint calls its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub embedding: &'static str,
    pub layers: &'static str,
    /// Behind the last layer.
    pub norm: &'static str,
    pub head: &'static str,
    pub qkv: QkvNames,
    pub o: &'static str,
    pub qk_norms: [&'static str; 2],
    /// Norms before and behind the attention, before and behind the feed-forward part. Side by side, a feed-forward part
    /// without a norm of its own reads what the attention reads.
    pub norms: [Option<&'static str>; 4],
    pub mlp: MlpNames,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QkvNames {
    Apart([&'static str; 3]),
    /// One map, its outputs one after the other.
    Fused(&'static str),
    /// One map, head by head.
    ByHead(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MlpNames {
    /// Gate, up and down.
    Gated([&'static str; 3]),
    /// Gate and up in one map, and down.
    Fused([&'static str; 2]),
    /// Up and down, without a gate.
    Plain([&'static str; 2]),
}

impl Names {
    pub const LLAMA: Self = Self {
        embedding: "model.embed_tokens",
        layers: "model.layers",
        norm: "model.norm",
        head: "lm_head",
        qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        o: "self_attn.o_proj",
        qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
        norms: [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
        mlp: MlpNames::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    };
}

/// Feed-forward layers of which each token goes through some.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Routed {
    /// The router.
    pub router: &'static str,
    /// What comes before the number of an expert, and its gate, up and down behind it.
    pub experts: &'static str,
    pub names: [&'static str; 3],
    pub inner: usize,
    pub number: usize,
    pub top: usize,
    pub normalised: bool,
    /// The width of an expert that all tokens share.
    pub shared: Option<usize>,
    /// Where the weights of all experts are stacked, gate and up in one map: what these stacks are called.
    pub stacked: Option<[&'static str; 2]>,
}

/// The shape of a network of this family.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub heads: Heads,
    pub max_position_embeddings: usize,
    pub eps: f64,
    /// The rotary embeddings.
    pub rope: Vec<Rope>,
    /// For each layer, which of them turns queries and keys.
    pub rotates: Vec<Option<usize>>,
    /// For each layer, how many positions back a token sees, itself included; none: all.
    pub windows: Vec<Option<usize>>,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    pub qk_norm: QkNorm,
    pub activation: Activation,
    pub tie_word_embeddings: bool,
    pub names: Names,
    pub norm: NormKind,
    pub parallel: bool,
    /// For each layer, the experts in place of its feed-forward part.
    pub routed: Vec<Option<Routed>>,
    /// Where there are experts, what the loss that balances them is multiplied by unless a run says otherwise.
    pub router_aux_loss_coef: Option<f64>,
    /// What learnt positions are called, and the row of the first.
    pub positions: Option<&'static str>,
    pub positions_from: usize,
    /// Whether the checkpoint has the matrices of maps the other way round.
    pub transposed: bool,
    pub head_bias: bool,
    pub embedding_scale: f64,
    pub residual_scale: f64,
    /// What q k is multiplied by, where that is not 1/√d.
    pub attention_scale: Option<f64>,
    /// What logits are multiplied by, and then capped at.
    pub logits_scale: f64,
    pub logits_cap: Option<f64>,
}

impl Relative {
    /// Llama itself.
    pub const LLAMA: Self = Self {
        activation: Activation::Silu,
        hidden_act: "silu",
        act_key: "hidden_act",
        head_dim: None,
        turning: Turning { theta: 10_000.0, part: None, interleaved: false },
        eps: ("rms_norm_eps", 1e-6),
        max_position_embeddings: 2048,
        tie_word_embeddings: false,
        biases: Biases::AsConfigured,
        qk_norm: QkNorm::None,
        windows: |r, layers| windows(r, layers, Switch::Never),
        rotates: |_, layers| Ok(vec![true; layers]),
        names: &Names::LLAMA,
        norm: NormKind::Rms,
        parallel: false,
    };

    pub fn read(&self, r: &mut Reader<'_>) -> Result<Shape, Error> {
        let max_position_embeddings = r.size("max_position_embeddings", Some(self.max_position_embeddings))?;
        let rope = vec![rope::rope(r, max_position_embeddings, self.turning)?];
        self.read_with(r, max_position_embeddings, rope)
    }

    /// The same with rotary embeddings that were read otherwise.
    pub fn read_with(
        &self,
        r: &mut Reader<'_>,
        max_position_embeddings: usize,
        rope: Vec<Rope>,
    ) -> Result<Shape, Error> {
        match r.get(self.act_key).cloned() {
            None => {}
            Some(Value::String(s)) if Activation::named(&s) == Some(self.activation) => {}
            Some(other) => return Err(r.refuse(self.act_key, format!("expected \"{}\", got {other}", self.hidden_act))),
        }
        no_dropout(r)?;
        let hidden_size = r.size("hidden_size", None)?;
        let queries = r.size("num_attention_heads", None)?;
        let keys = r.size("num_key_value_heads", Some(queries))?;
        let dim = r.size("head_dim", Some(self.head_dim.unwrap_or(hidden_size / queries)))?;
        let heads = heads(r, queries, keys, dim)?;
        let eps = r.number(self.eps.0, self.eps.1)?;
        if eps < 0.0 {
            return Err(r.refuse(self.eps.0, format!("expected a number that is not below 0, got {eps}")));
        }
        let layers = r.size("num_hidden_layers", None)?;
        let attention_bias = r.flag("attention_bias", self.biases == Biases::QkvAsConfigured)?;
        if self.biases == Biases::Never && attention_bias {
            return Err(r.refuse("attention_bias", "this architecture has no bias"));
        }
        let all = match self.biases {
            Biases::All(key, default) => r.flag(key, default)?,
            _ => false,
        };
        let qkv = match self.biases {
            Biases::QkvBy(key, default) => r.flag(key, default)?,
            Biases::Qkv => true,
            _ => all || attention_bias,
        };
        Ok(Shape {
            vocab_size: r.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: r.size("intermediate_size", None)?,
            heads,
            max_position_embeddings,
            eps,
            rotates: (self.rotates)(r, layers)?.into_iter().map(|turns| turns.then_some(0)).collect(),
            rope,
            windows: (self.windows)(r, layers)?,
            qkv_bias: qkv,
            o_bias: all || self.biases == Biases::AsConfigured && attention_bias,
            mlp_bias: all || r.flag("mlp_bias", false)?,
            qk_norm: self.qk_norm,
            activation: self.activation,
            tie_word_embeddings: r.flag("tie_word_embeddings", self.tie_word_embeddings)?,
            names: *self.names,
            norm: self.norm,
            parallel: self.parallel,
            routed: vec![None; layers],
            router_aux_loss_coef: None,
            positions: None,
            positions_from: 0,
            transposed: false,
            head_bias: false,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            attention_scale: None,
            logits_scale: 1.0,
            logits_cap: None,
        })
    }
}

/// Refuses dropout, by whichever key it is asked for.
pub(super) fn no_dropout(r: &mut Reader<'_>) -> Result<(), Error> {
    for key in
        ["attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "residual_dropout", "embedding_dropout"]
    {
        let p = r.number(key, 0.0)?;
        if p != 0.0 {
            return Err(
                r.refuse(key, format!("dropout is not implemented; set it to 0 (TRL trains without it too), got {p}"))
            );
        }
    }
    Ok(())
}

/// Numbers and width of heads that can be.
pub(super) fn heads(r: &Reader<'_>, queries: usize, keys: usize, dim: usize) -> Result<Heads, Error> {
    if !queries.is_multiple_of(keys) {
        return Err(r.refuse("num_key_value_heads", format!("must divide num_attention_heads {queries}, got {keys}")));
    }
    if dim == 0 || !dim.is_multiple_of(2) {
        return Err(r.refuse("head_dim", format!("must be even for rotary positions, got {dim}")));
    }
    if dim > 1 << 16 {
        return Err(r.refuse("head_dim", format!("expected at most 65536, got {dim}")));
    }
    Ok(Heads { queries, keys, dim, cap: None })
}

/// A number above 0; none where it is absent or null.
pub(super) fn above_zero(r: &mut Reader<'_>, key: &'static str) -> Result<Option<f64>, Error> {
    if r.get(key).is_none() {
        return Ok(None);
    }
    let x = r.number(key, 0.0)?;
    if x > 0.0 && x.is_finite() {
        Ok(Some(x))
    } else {
        Err(r.refuse(key, format!("expected a number above 0, got {x}")))
    }
}

/// Refuses a key that is set.
pub(super) fn absent(r: &mut Reader<'_>, key: &'static str, why: &str) -> Result<(), Error> {
    match r.get(key).cloned() {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(v) => Err(r.refuse(key, format!("{why}, got {v}"))),
    }
}

/// Declares the parameters of one layer.
struct Layer<'a> {
    shape: &'a Shape,
    b: &'a mut Builder,
    at: usize,
}

impl Layer<'_> {
    fn name(&self, piece: &str) -> String {
        format!("{}.{}.{piece}", self.shape.names.layers, self.at)
    }

    fn linear(&mut self, piece: &str, out: usize, inp: usize, bias: bool) -> Linear {
        let name = self.name(piece);
        match self.shape.transposed {
            true => self.b.transposed(&name, out, inp, bias),
            false => self.b.linear(&name, out, inp, bias),
        }
    }

    fn norm(&mut self, piece: Option<&str>) -> Option<Norm> {
        let name = self.name(piece?);
        Some(self.shape.norm(self.b, &name))
    }

    fn attention(&mut self, narrows: bool) -> Attention {
        let Shape { heads, hidden_size: h, names, .. } = *self.shape;
        let (q, kv) = (heads.queries * heads.dim, heads.keys * heads.dim);
        let bias = self.shape.qkv_bias;
        let qkv = match names.qkv {
            QkvNames::Apart([a, b, c]) => {
                Qkv::Apart([(a, q), (b, kv), (c, kv)].map(|(name, out)| self.linear(name, out, h, bias)))
            }
            QkvNames::Fused(name) => Qkv::Fused(self.linear(name, q + 2 * kv, h, bias)),
            QkvNames::ByHead(name) => Qkv::ByHead(self.linear(name, q + 2 * kv, h, bias)),
        };
        let o = self.linear(names.o, h, q, self.shape.o_bias);
        Attention {
            qkv,
            o,
            norms: None,
            norms_behind: self.shape.qk_norm == QkNorm::HeadsBehind,
            rotary: self.shape.rotates[self.at],
            window: self.shape.windows[self.at],
            scale: self.shape.attention_scale,
            heads,
            narrows,
            slot: self.at,
        }
    }

    fn qk_norms(&mut self) -> Option<[Norm; 2]> {
        let Shape { heads, names, eps, .. } = *self.shape;
        let (q, kv) = (heads.queries * heads.dim, heads.keys * heads.dim);
        let widths = match self.shape.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads | QkNorm::HeadsBehind => Some([heads.dim; 2]),
            QkNorm::Whole => Some([q, kv]),
        };
        widths.map(|widths| {
            [0, 1].map(|i| {
                let name = self.name(names.qk_norms[i]);
                match self.shape.norm {
                    NormKind::RmsAndOne => Norm { offset: 1.0, ..self.b.norm(&name, widths[i], eps) },
                    _ => self.b.norm(&name, widths[i], eps),
                }
            })
        })
    }

    fn gated(&mut self, [gate, up, down]: [&str; 3], inner: usize) -> GatedMlp {
        let Shape { hidden_size: h, mlp_bias, activation, .. } = *self.shape;
        let gate_up = GateUp::Apart([gate, up].map(|name| self.linear(name, inner, h, mlp_bias)));
        GatedMlp { gate_up, down: self.linear(down, h, inner, mlp_bias), activation, inner }
    }

    fn stacked(&mut self, [both, down]: [&str; 2], inner: usize, of: usize) -> Vec<GatedMlp> {
        let Shape { hidden_size: h, activation, .. } = *self.shape;
        let mut all = |piece: &str, shape: [usize; 2]| -> Vec<Linear> {
            let stem = self.name(piece);
            let one = |at: usize| {
                let stacked = Stacked { name: format!("{stem}.weight"), of, at };
                let weight = self.b.0.add_stacked(format!("{stem}.{at}.weight"), shape, Role::Routed, stacked);
                Linear { weight, bias: None }
            };
            (0..of).map(one).collect()
        };
        let (both, down) = (all(both, [2 * inner, h]), all(down, [h, inner]));
        let maps = both.into_iter().zip(down);
        maps.map(|(both, down)| GatedMlp { gate_up: GateUp::Fused(both), down, activation, inner }).collect()
    }

    fn experts(&mut self, routed: Routed) -> Experts {
        let Routed { router, experts, names, inner, number, top, normalised, stacked, .. } = routed;
        let first = self.b.0.specs.len();
        let router = self.linear(router, number, self.shape.hidden_size, false);
        let experts = match stacked {
            Some(names) => self.stacked(names, inner, number),
            None => {
                let names = |i: usize| names.map(|n| format!("{experts}.{i}.{n}"));
                (0..number).map(|i| self.gated(names(i).each_ref().map(|n| &**n), inner)).collect()
            }
        };
        let weights = self.b.0.specs[first..].iter_mut().filter(|spec| spec.role == Role::Weight);
        weights.for_each(|spec| spec.role = Role::Routed);
        Experts { router, experts, top, normalised }
    }

    fn feed_forward(&mut self) -> Box<dyn AnyBlock> {
        let Shape { hidden_size: h, intermediate_size: inner, mlp_bias, activation, names, .. } = *self.shape;
        if let Some(routed) = self.shape.routed[self.at] {
            let experts = self.experts(routed);
            let Some(inner) = routed.shared else { return Box::new(experts) };
            let gate = self.linear("mlp.shared_expert_gate", 1, h, false);
            let names = ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"];
            return Box::new(Shared { experts, gate, mlp: self.gated(names, inner) });
        }
        match names.mlp {
            MlpNames::Gated(names) => Box::new(self.gated(names, inner)),
            MlpNames::Fused([both, down]) => Box::new(GatedMlp {
                gate_up: GateUp::Fused(self.linear(both, 2 * inner, h, mlp_bias)),
                down: self.linear(down, h, inner, mlp_bias),
                activation,
                inner,
            }),
            MlpNames::Plain([up, down]) => Box::new(Mlp {
                up: self.linear(up, inner, h, mlp_bias),
                down: self.linear(down, h, inner, mlp_bias),
                activation,
                inner,
            }),
        }
    }

    fn block(mut self, narrows: bool) -> Box<dyn AnyBlock> {
        let names = self.shape.names;
        let attention = self.attention(narrows);
        let mlp = self.feed_forward();
        let before = self.norm(names.norms[0]);
        let norms = self.qk_norms();
        let attention: Box<dyn AnyBlock> = Box::new(Attention { norms, ..attention });
        let [behind, before_mlp, behind_mlp] = [1, 2, 3].map(|i| self.norm(names.norms[i]));
        let scale = self.shape.residual_scale;
        if self.shape.parallel {
            let inner: Box<dyn AnyBlock> = match before_mlp {
                Some(_) => {
                    let (first, second) = (normed(before, attention, behind), normed(before_mlp, mlp, behind_mlp));
                    Box::new(Parallel { first, second, narrows })
                }
                None => normed(before, Box::new(Parallel { first: attention, second: mlp, narrows }), behind),
            };
            return Box::new(Residual { inner, scale, narrows });
        }
        Box::new(Then(
            Residual { inner: normed(before, attention, behind), scale, narrows },
            Residual { inner: normed(before_mlp, mlp, behind_mlp), scale, narrows: false },
        ))
    }
}

/// A block between the norms that it has.
fn normed(before: Option<Norm>, inner: Box<dyn AnyBlock>, behind: Option<Norm>) -> Box<dyn AnyBlock> {
    let inner: Box<dyn AnyBlock> = match before {
        Some(norm) => Box::new(Normed { norm, inner }),
        None => inner,
    };
    match behind {
        Some(norm) => Box::new(Then(inner, norm)),
        None => inner,
    }
}

impl Shape {
    /// A norm of the residual stream.
    fn norm(&self, b: &mut Builder, name: &str) -> Norm {
        let (width, eps) = (self.hidden_size, self.eps);
        match self.norm {
            NormKind::Rms => b.norm(name, width, eps),
            NormKind::RmsAndOne => Norm { offset: 1.0, ..b.norm(name, width, eps) },
            NormKind::Layer { bias } => {
                let norm = b.norm(name, width, eps);
                let bias = bias.then(|| b.0.add(format!("{name}.bias"), &[width], Role::Bias));
                Norm { bias, centred: true, ..norm }
            }
            NormKind::Bare => Norm { weight: None, bias: None, width, eps, offset: 0.0, centred: true },
        }
    }

    /// The network, and the facts that others ask for.
    pub fn config(&self, r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
        let mut b = Builder::default();
        let (h, names, count) = (self.hidden_size, self.names, self.windows.len());
        let table = b.embedding(names.embedding, self.vocab_size, h);
        let offset = self.positions_from;
        let positions = self.positions.map(|name| b.embedding(name, self.max_position_embeddings + offset, h));
        let embedding = Embedding { table, scale: self.embedding_scale, positions, offset };
        let layers: Vec<_> =
            (0..count).map(|at| Recompute(Layer { shape: self, b: &mut b, at }.block(at + 1 == count))).collect();
        let norm = self.norm(&mut b, names.norm);
        let kind = head(r)?;
        let head = match kind {
            HeadKind::Value => b.linear(VALUE_HEAD, 1, h, false).weight,
            HeadKind::Vocabulary if self.tie_word_embeddings => table,
            HeadKind::Vocabulary => b.linear(names.head, self.vocab_size, h, false).weight,
        };
        let bias = self.head_bias && kind == HeadKind::Vocabulary;
        let head_bias = bias.then(|| b.0.add(format!("{}.bias", names.head), &[self.vocab_size], Role::Bias));
        let mut windows = self.windows.clone();
        windows.sort_unstable();
        windows.dedup();
        // Rotary positions go on beyond what the model was trained for; only some scalings would have to change there.
        let bounded_by = match &self.rope[..] {
            _ if self.positions.is_some() => Some("its table of learnt positions ends"),
            rope if rope.iter().any(|r| r.scaling == RopeScaling::Dynamic) => {
                Some("its dynamic rotary scaling sets in, which is not implemented")
            }
            rope if rope.iter().any(|r| matches!(r.scaling, RopeScaling::Long { .. })) => {
                Some("the long factors of its rotary positions set in, which are not implemented")
            }
            _ => None,
        };
        // A value is read from the hidden state as it is.
        let text = kind == HeadKind::Vocabulary;
        Ok(ModelConfig {
            model_type: r.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned(),
            vocab_size: self.vocab_size,
            hidden_size: h,
            num_hidden_layers: count,
            max_position_embeddings: self.max_position_embeddings,
            bounded_by,
            tie_word_embeddings: self.tie_word_embeddings,
            head: kind,
            eos_token_ids: r.token_ids("eos_token_id")?,
            text_of: None,
            router_aux_loss_coef: self.router_aux_loss_coef.filter(|_| self.routed.iter().any(Option::is_some)),
            inventory: b.0,
            network: Arc::new(Network {
                embedding,
                layers,
                norm,
                head,
                head_bias,
                head_name: names.head,
                logits_scale: if text { self.logits_scale } else { 1.0 },
                logits_cap: self.logits_cap.filter(|_| text),
                rotary: self.rope.iter().map(|rope| rope.rotary(self.heads.dim)).collect(),
                windows,
            }),
        })
    }
}

/// What switches a window on, where `layer_types` doesn't say it layer by layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// Nothing does: the architecture reads neither windows nor types of layers, whatever its configuration says of them.
    Never,
    /// It is on in all layers wherever it is given.
    Given,
    /// The same, and it is off where the key is absent.
    Present,
    /// `use_sliding_window`, from layer `max_window_layers` on.
    Flag,
    /// `use_sliding_window` beside `layer_types`.
    FlagAndTypes,
    /// `use_sliding_window`, in all layers.
    FlagEverywhere,
    /// All layers but every so many-th have one.
    Pattern(usize),
}

/// For each layer, how many positions back a token sees; none: all.
pub(super) fn windows(r: &mut Reader<'_>, layers: usize, switch: Switch) -> Result<Vec<Option<usize>>, Error> {
    // transformers' default where the key is absent; null switches the window off.
    let absent = !r.has("sliding_window");
    let window = match r.get("sliding_window").cloned() {
        None if absent && switch == Switch::Present => None,
        None if absent => Some(4096),
        None => None,
        Some(v) => Some(
            v.as_u64()
                .filter(|n| *n > 0)
                .ok_or_else(|| r.refuse("sliding_window", format!("expected a whole number above 0, got {v}")))?
                as usize,
        ),
    };
    // Where the architecture reads no switch, what one says changes nothing, as in transformers.
    let (flag, first) = (r.flag("use_sliding_window", false)?, r.size_or_zero("max_window_layers", 28)?);
    let (on, first) = match switch {
        Switch::Never => (false, 0),
        Switch::Given | Switch::Present => (true, 0),
        Switch::Flag | Switch::FlagAndTypes => (flag, first),
        Switch::FlagEverywhere => (flag, 0),
        Switch::Pattern(_) => (true, 0),
    };
    if let Some(types) = r.get("layer_types").cloned() {
        let list = types.as_array().cloned().unwrap_or_default();
        if list.len() != layers {
            return Err(
                r.refuse("layer_types", format!("expected a list of {layers} names, got {} of them", list.len()))
            );
        }
        return list
            .iter()
            .map(|t| match t.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") if switch == Switch::Never => Ok(None),
                Some("sliding_attention") if switch == Switch::Flag && !flag => {
                    Err(r.refuse("layer_types", "has \"sliding_attention\" but use_sliding_window is off"))
                }
                Some("sliding_attention") => window
                    .map(Some)
                    .ok_or_else(|| r.refuse("layer_types", "has \"sliding_attention\" but sliding_window is missing")),
                _ => Err(r.refuse("layer_types", format!("expected full_attention or sliding_attention, got {t}"))),
            })
            .collect();
    }
    if on && switch == Switch::FlagAndTypes {
        return Err(r.refuse("use_sliding_window", "smollm3 needs layer_types beside it"));
    }
    if let Switch::Pattern(every) = switch {
        let Some(window) = window else {
            return Err(r.refuse("sliding_window", "is null; expected a whole number above 0"));
        };
        return Ok((0..layers).map(|i| ((i + 1) % every != 0).then_some(window)).collect());
    }
    Ok((0..layers).map(|i| window.filter(|_| on && i >= first)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};
    use std::path::Path;

    fn base() -> Value {
        json!({
            "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8, "num_hidden_layers": 2,
            "num_key_value_heads": 4, "vocab_size": 512, "rope_theta": 10000.0, "max_position_embeddings": 512
        })
    }

    fn read(relative: Relative, table: &Value) -> Shape {
        let table: &Map<String, Value> = table.as_object().unwrap();
        relative.read(&mut Reader::new(Path::new("config.json"), table)).unwrap()
    }

    #[test]
    fn old_and_new_style_agree() {
        let with = |key: &str, v: Value| {
            let mut table = base();
            table[key] = v;
            read(Relative::LLAMA, &table)
        };
        let old = with("rope_scaling", json!({"type": "linear", "factor": 2.0}));
        let new = with("rope_parameters", json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}));
        assert_eq!(old, new);
        assert_eq!(old.rope[0].scaling, RopeScaling::Linear { factor: 2.0 });
        assert_eq!(old.heads, Heads { queries: 8, keys: 4, dim: 8, cap: None });
    }

    #[test]
    fn windows_follow_the_architecture() {
        let mut table = base();
        table["sliding_window"] = json!(128);
        assert_eq!(read(Relative::LLAMA, &table).windows, [None, None]);
        let mut types = table.clone();
        types["layer_types"] = json!(["sliding_attention", "full_attention"]);
        assert_eq!(read(Relative::LLAMA, &types).windows, [None, None]);
        assert_eq!(read(super::super::mistral::RELATIVE, &table).windows, [Some(128), Some(128)]);
        let mut off = table.clone();
        (off["use_sliding_window"], off["max_window_layers"]) = (json!(false), json!(1));
        assert_eq!(read(super::super::mistral::RELATIVE, &off).windows, [Some(128), Some(128)]);
        table["use_sliding_window"] = json!(true);
        table["max_window_layers"] = json!(1);
        assert_eq!(read(super::super::qwen2::RELATIVE, &table).windows, [None, Some(128)]);
        table["layer_types"] = json!(["sliding_attention", "full_attention"]);
        assert_eq!(read(super::super::qwen2::RELATIVE, &table).windows, [Some(128), None]);
    }
}

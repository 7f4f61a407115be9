//! Every block, and a stack of every architecture, against automatic differentiation of its own forward pass, on every
//! usable backend.

mod common;

use std::path::Path;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
use collimate::backend::kernels::{Activation, Heads, Kernels};
use collimate::model::blocks::{
    Adapter, AnyBlock, Attention, Batch, Cx, Experts, GateUp, GatedMlp, Linear, Mlp, Norm, Normed, Parallel, Qkv,
    Recompute, Residual, Shared, Then,
};
use collimate::model::{
    ALL, Adapted, Decoder, Grads, Inventory, Layout, ModelConfig, Options, Params, Profile, Role, RopeScaling, Rotary,
    Scores, Tensors, Text, model_types,
};
use serde_json::{Value, json};

const WIDTH: usize = 8;
const HEADS: Heads = Heads { queries: 4, keys: 2, dim: 4, cap: None };
const WINDOWS: [Option<usize>; 2] = [None, Some(3)];

/// Declares parameters, as an architecture does.
#[derive(Default)]
struct Builder(Inventory);

impl Builder {
    fn linear(&mut self, name: &str, out: usize, inp: usize, bias: bool) -> Linear {
        let weight = self.0.add(format!("{name}.weight"), &[out, inp], Role::Weight);
        Linear { weight, bias: bias.then(|| self.0.add(format!("{name}.bias"), &[out], Role::Bias)) }
    }

    /// A linear map with an adapter, and if `stretched` a magnitude.
    fn adapted(&mut self, stretched: bool) -> Linear {
        let linear = self.linear("l", 5, WIDTH, true);
        let a = self.0.add("l.lora_A.weight".into(), &[3, WIDTH], Role::Weight);
        let b = self.0.add("l.lora_B.weight".into(), &[5, 3], Role::Weight);
        let magnitude = stretched.then(|| self.0.add("l.lora_magnitude_vector".into(), &[5], Role::Weight));
        let adapter = Adapter { a, b, magnitude, scale: 1.7, dropout: 0.0 };
        self.0.adapted = Some(Adapted { first: 2, linear: vec![(linear.weight, adapter)], replaced: Vec::new() });
        linear
    }

    fn norm(&mut self, name: &str, width: usize, eps: f64) -> Norm {
        Norm::rms(self.0.add(format!("{name}.weight"), &[width], Role::Norm), width, eps)
    }

    fn layer_norm(&mut self, name: &str, width: usize) -> Norm {
        let bias = Some(self.0.add(format!("{name}.bias"), &[width], Role::Bias));
        Norm { bias, centred: true, ..self.norm(name, width, 1e-5) }
    }
}

/// Values between −1.5 and 1.5, the same each time.
fn random(dims: [usize; 2], seed: u64, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(common::numbers(dims[0] * dims[1], seed), dims), device)
}

fn assert_close(got: &Tensor<2>, expected: &Tensor<2>) {
    got.to_data().assert_approx_eq::<f32>(&expected.to_data(), Tolerance::rel_abs(1e-4, 1e-4));
}

/// Every block that a network may be made of, at least once, each with its parameters and the width of its input.
fn blocks() -> Vec<(&'static str, Inventory, Box<dyn AnyBlock>)> {
    let mut all: Vec<(&'static str, Inventory, Box<dyn AnyBlock>)> = Vec::new();
    let mut add = |name, make: &dyn Fn(&mut Builder) -> Box<dyn AnyBlock>| {
        let mut b = Builder::default();
        let block = make(&mut b);
        all.push((name, b.0, block));
    };
    add("linear", &|b| Box::new(b.linear("l", 5, WIDTH, true)));
    add("linear with an adapter", &|b| Box::new(b.adapted(false)));
    add("linear with an adapter and a magnitude", &|b| Box::new(b.adapted(true)));
    add("norm", &|b| Box::new(b.norm("n", WIDTH, 1e-5)));
    add("norm of each head", &|b| Box::new(b.norm("n", WIDTH / 2, 1e-5)));
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        add("gated feed-forward", &|b| Box::new(mlp(b, activation)));
    }
    add("attention", &|b| Box::new(attention(b, None, false, false)));
    add("attention with norms and a window", &|b| Box::new(attention(b, Some(3), true, false)));
    add("the last attention", &|b| Box::new(attention(b, None, false, true)));
    add("residual", &|b| Box::new(Residual { inner: mlp(b, Activation::Silu), scale: 0.7, narrows: false }));
    add("the last residual", &|b| {
        Box::new(Residual { inner: attention(b, None, false, true), scale: 1.0, narrows: true })
    });
    add("behind a norm", &|b| Box::new(Normed { norm: b.norm("n", WIDTH, 1e-5), inner: mlp(b, Activation::Silu) }));
    add("one after the other", &|b| Box::new(Then(mlp(b, Activation::Silu), b.norm("n", WIDTH, 1e-5))));
    add("recomputed", &|b| Box::new(Recompute(attention(b, Some(3), true, false))));
    add("layer norm", &|b| Box::new(b.layer_norm("n", WIDTH)));
    add("norm whose weight is less 1", &|b| Box::new(Norm { offset: 1.0, ..b.norm("n", WIDTH, 1e-5) }));
    add("layer norm alone", &|_| {
        Box::new(Norm { weight: None, bias: None, width: WIDTH, eps: 1e-5, offset: 0.0, centred: true })
    });
    add("behind a layer norm", &|b| {
        Box::new(Normed { norm: b.layer_norm("n", WIDTH), inner: mlp(b, Activation::Silu) })
    });
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        add("plain feed-forward", &|b| {
            let (up, down) = (b.linear("up", 6, WIDTH, true), b.linear("down", WIDTH, 6, true));
            Box::new(Mlp { up, down, activation, inner: 6 })
        });
    }
    add("gate and up in one map", &|b| {
        let gate_up = GateUp::Fused(b.linear("gate_up", 12, WIDTH, true));
        Box::new(GatedMlp { gate_up, down: b.linear("down", WIDTH, 6, false), activation: Activation::Silu, inner: 6 })
    });
    add("queries, keys and values in one map", &|b| {
        let map = b.linear("qkv", (HEADS.queries + 2 * HEADS.keys) * HEADS.dim, WIDTH, true);
        Box::new(attention_of(b, Qkv::Fused(map), None, false, false))
    });
    add("queries, keys and values in one map, head by head", &|b| {
        let heads = Heads { keys: HEADS.queries, ..HEADS };
        let map = b.linear("qkv", 3 * HEADS.queries * HEADS.dim, WIDTH, true);
        Box::new(Attention { heads, ..attention_of(b, Qkv::ByHead(map), None, false, false) })
    });
    for rotary in [1, 2] {
        add("heads turned in part or in neighbours", &|b| {
            Box::new(Attention { rotary: Some(rotary), scale: Some(0.3), ..attention(b, Some(3), true, false) })
        });
    }
    add("scores under a cap", &|b| {
        Box::new(Attention { heads: Heads { cap: Some(2.0), ..HEADS }, ..attention(b, Some(3), false, false) })
    });
    for narrows in [false, true] {
        add("side by side", &|b| {
            let (first, second) = (attention(b, None, false, narrows), mlp(b, Activation::Silu));
            Box::new(Parallel { first, second, narrows })
        });
    }
    for (top, normalised) in [(2, true), (2, false), (1, false)] {
        add("experts", &|b| Box::new(experts(b, top, normalised)));
    }
    add("experts with one that all share", &|b| {
        let (experts, gate) = (experts(b, 2, false), b.linear("shared", 1, WIDTH, false));
        Box::new(Shared { experts, gate, mlp: mlp(b, Activation::Silu) })
    });
    add("norms behind positions", &|b| {
        Box::new(Attention { norms_behind: true, ..attention(b, Some(3), true, false) })
    });
    all
}

fn experts(b: &mut Builder, top: usize, normalised: bool) -> Experts {
    let experts = (0..4).map(|i| {
        let gate_up = GateUp::Apart(["gate", "up"].map(|name| b.linear(&format!("{i}.{name}"), 6, WIDTH, false)));
        let down = b.linear(&format!("{i}.down"), WIDTH, 6, false);
        GatedMlp { gate_up, down, activation: Activation::Silu, inner: 6 }
    });
    let experts = experts.collect();
    Experts { router: b.linear("router", 4, WIDTH, false), experts, top, normalised }
}

fn mlp(b: &mut Builder, activation: Activation) -> GatedMlp {
    let gate_up = GateUp::Apart(["gate", "up"].map(|name| b.linear(name, 6, WIDTH, true)));
    GatedMlp { gate_up, down: b.linear("down", WIDTH, 6, false), activation, inner: 6 }
}

fn attention(b: &mut Builder, window: Option<usize>, normed: bool, narrows: bool) -> Attention {
    let (q, kv) = (HEADS.queries * HEADS.dim, HEADS.keys * HEADS.dim);
    let maps = [("q", q, true), ("k", kv, false), ("v", kv, true)];
    let qkv = Qkv::Apart(maps.map(|(name, out, bias)| b.linear(name, out, WIDTH, bias)));
    attention_of(b, qkv, window, normed, narrows)
}

fn attention_of(b: &mut Builder, qkv: Qkv, window: Option<usize>, normed: bool, narrows: bool) -> Attention {
    Attention {
        qkv,
        o: b.linear("o", WIDTH, HEADS.queries * HEADS.dim, false),
        norms: normed.then(|| ["q_norm", "k_norm"].map(|name| b.norm(name, HEADS.dim, 1e-5))),
        norms_behind: false,
        rotary: (!narrows).then_some(0),
        window,
        scale: None,
        heads: HEADS,
        narrows,
        slot: 0,
    }
}

fn batch(device: &Device) -> Batch {
    let mut layout = Layout::default();
    layout.push(&[1, 2, 3], &[Text::whole(&[4, 5]), Text::whole(&[6, 7, 8])], true).unwrap();
    layout.push(&[1], &[Text::whole(&[2, 3])], true).unwrap();
    let turning = |width| Rotary::new(width, 100.0, &RopeScaling::None);
    let rotary = [turning(HEADS.dim), turning(2).within(HEADS.dim, false), turning(HEADS.dim).within(HEADS.dim, true)];
    Batch::new(&layout, &rotary, &WINDOWS, device)
}

fn params(inventory: &Inventory, device: &Device) -> Params {
    let values = inventory.specs.iter().enumerate();
    all_trained(Tensors(values.map(|(i, spec)| random(spec.dims(), 10 + i as u64, device)).collect()), inventory)
}

/// The parameters with their adapters, all of them trained.
fn all_trained(values: Tensors, inventory: &Inventory) -> Params {
    let mut params = Params::new(values).with_adapters(inventory);
    params.set_trainable(inventory, |_| true);
    params
}

/// Runs `f` with all that a block may ask for.
fn with_cx<R>(params: &Params, device: &Device, recompute: bool, f: impl FnOnce(&Cx<'_>) -> R) -> R {
    let (kernels, batch, profile) = (Kernels::on(device), batch(device), Profile::default());
    f(&Cx {
        params,
        kernels: &kernels,
        batch: &batch,
        packed: None,
        recompute,
        dropout: None,
        profile: &profile,
        device,
    })
}

/// What the tape says of a leaf: 0 where nothing was made of it, as of an expert that no token went through.
fn on_tape(leaf: &Tensor<2>, gradient: Option<Tensor<2>>) -> Tensor<2> {
    gradient.unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

// ANCHOR: backward_is_that_of_forward
#[test]
fn backward_is_that_of_forward() {
    for (name, inventory, block) in blocks() {
        for (backend, device) in common::devices() {
            let tape = device.clone().autodiff();
            let tokens = batch(&device).tokens;
            let x = random([tokens, WIDTH], 1, &device);
            // On the tape, where tensor operations do everything.
            let values = params(&inventory, &device);
            let leaves: Vec<_> = values.values().0.iter().map(|t| t.clone().autodiff().require_grad()).collect();
            let input = x.clone().autodiff().require_grad();
            let y = with_cx(&all_trained(Tensors(leaves.clone()), &inventory), &tape, false, |cx| {
                AnyBlock::forward(&*block, cx, input.clone()).0
            });
            let dy = random(y.dims(), 2, &device);
            let expected = (y.clone() * dy.clone().autodiff()).sum().backward();
            for recompute in [false, true] {
                let mut grads = Grads::new(&values);
                let dx = with_cx(&values, &device, recompute, |cx| {
                    let (got, saved) = AnyBlock::forward(&*block, cx, x.clone());
                    assert_close(&got, &y.clone().inner());
                    AnyBlock::backward(&*block, cx, x.clone(), saved, dy.clone(), &mut grads)
                });
                eprintln!("{name} on {backend}");
                assert_close(&dx, &input.grad(&expected).unwrap());
                // Those of adapters too.
                for (got, leaf) in grads.all().iter().zip(&leaves) {
                    assert_close(got.as_ref().unwrap(), &on_tape(leaf, leaf.grad(&expected)));
                }
                AnyBlock::params(&*block, &mut |id| assert!(grads.get(id).is_some()));
            }
        }
    }
}
// ANCHOR_END: backward_is_that_of_forward

#[test]
fn a_frozen_parameter_gets_no_gradient_and_the_others_the_same() {
    for (name, inventory, block) in blocks() {
        let device = common::any_device();
        let all = params(&inventory, &device);
        let mut some = all.clone();
        some.set_trainable(&inventory, |spec| spec.role != Role::Weight);
        let x = random([batch(&device).tokens, WIDTH], 1, &device);
        let run = |params: &Params| {
            let mut grads = Grads::new(params);
            let dx = with_cx(params, &device, false, |cx| {
                let (y, saved) = AnyBlock::forward(&*block, cx, x.clone());
                let dy = random(y.dims(), 2, &device);
                AnyBlock::backward(&*block, cx, x.clone(), saved, dy, &mut grads)
            });
            (dx, grads)
        };
        let ((dx, expected), (same, got)) = (run(&all), run(&some));
        assert_eq!(dx.to_data(), same.to_data(), "{name}");
        for ((spec, got), expected) in inventory.specs.iter().zip(got.all()).zip(expected.all()) {
            let expected = expected.as_ref().unwrap();
            match spec.role {
                Role::Weight => assert!(got.is_none(), "{name}: {}", spec.name),
                _ => assert_eq!(got.as_ref().unwrap().to_data(), expected.to_data(), "{name}: {}", spec.name),
            }
        }
    }
}

#[test]
fn every_parameter_is_somebodys() {
    for (name, inventory, block) in blocks() {
        let mut seen = vec![0; inventory.specs.len()];
        AnyBlock::params(&*block, &mut |id| seen[id.index()] += 1);
        // Adapters' belong to what stands beside the maps, which the inventory says.
        for (_, adapter) in inventory.adapted.iter().flat_map(|a| &a.linear) {
            [Some(adapter.a), Some(adapter.b), adapter.magnitude].iter().flatten().for_each(|id| seen[id.index()] += 1);
        }
        assert!(seen.iter().all(|n| *n == 1), "{name}: {seen:?}");
    }
}

/// A small model of each architecture, with whatever sets it apart.
fn architectures() -> Vec<ModelConfig> {
    let base = json!({
        "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "vocab_size": 40, "max_position_embeddings": 64, "rms_norm_eps": 1e-5
    });
    let with = |name: &str, more: Value| {
        let mut table = base.clone();
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        table["model_type"] = name.into();
        if name == "gpt2" {
            table = more.clone();
        }
        ModelConfig::from_value(&table, Path::new("config.json")).unwrap()
    };
    let apart = |name: &str| match name {
        "llama" => json!({"attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true}),
        "mistral" => json!({"sliding_window": 4, "head_dim": 6}),
        "qwen2" => json!({"tie_word_embeddings": true}),
        "qwen3" => json!({"head_dim": 8}),
        "smollm3" => json!({"no_rope_layers": [1, 0, 1]}),
        "cohere2" => json!({"sliding_window": 4, "sliding_window_pattern": 2, "rms_norm_eps": null}),
        "gemma" => json!({"head_dim": 6}),
        "gemma2" => json!({"head_dim": 6, "sliding_window": 4, "query_pre_attn_scalar": 5,
            "attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0}),
        "gemma3_text" => json!({"head_dim": 6, "sliding_window": 4, "sliding_window_pattern": 2}),
        "glm4" => json!({"head_dim": 8}),
        "gpt2" => json!({"model_type": "gpt2", "n_embd": 16, "n_head": 4, "n_layer": 3, "vocab_size": 40,
            "n_positions": 64, "n_inner": 24}),
        "gpt_neox" => json!({"rotary_pct": 0.5, "num_key_value_heads": null, "rms_norm_eps": null}),
        "granite" => json!({"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3,
            "logits_scaling": 2.0}),
        "granitemoe" => json!({"num_local_experts": 3, "num_hidden_layers": 2, "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 2.0}),
        "mixtral" => json!({"num_local_experts": 3, "num_hidden_layers": 2}),
        "ernie4_5" => json!({"head_dim": 6, "use_bias": true}),
        "olmo" => json!({"rms_norm_eps": null}),
        "stablelm" => {
            json!({"use_qkv_bias": true, "partial_rotary_factor": 0.5, "use_parallel_residual": true, "rms_norm_eps": null})
        }
        "starcoder2" => json!({"sliding_window": 4, "rms_norm_eps": null}),
        "olmo3" => json!({"sliding_window": 4, "num_hidden_layers": 4}),
        "opt" => json!({"ffn_dim": 24, "num_key_value_heads": null, "intermediate_size": null, "rms_norm_eps": null}),
        "exaone4" => json!({"sliding_window": 4, "sliding_window_pattern": 2}),
        "hunyuan_v1_dense" => json!({"head_dim": 6, "rope_scaling": {"type": "dynamic", "alpha": 20.0}}),
        "phi" => json!({"rms_norm_eps": null}),
        "qwen2_moe" => {
            json!({"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "num_hidden_layers": 2,
            "shared_expert_intermediate_size": 10, "mlp_only_layers": [0]})
        }
        "olmo2" => json!({"attention_bias": true}),
        "olmoe" => json!({"num_experts": 3, "num_experts_per_tok": 2, "num_hidden_layers": 2}),
        "phi3" => json!({"partial_rotary_factor": 0.5, "sliding_window": 4}),
        "qwen3_moe" => {
            json!({"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "num_hidden_layers": 2,
            "mlp_only_layers": [0], "norm_topk_prob": true})
        }
        other => panic!("say what sets {other} apart"),
    };
    model_types().into_iter().map(|name| with(name, apart(name))).collect()
}

/// Random weights, spread wide enough that no piece is nearly linear.
fn wide(config: &ModelConfig, device: &Device) -> Decoder {
    let random = Decoder::random(config.clone(), 5, device);
    let wide = random.specs().iter().zip(&random.parameters().0).enumerate().map(|(i, (spec, p))| match spec.role {
        Role::Norm => p.clone() + 0.02 * i as f64,
        _ => p.clone() * 8.0 + 0.001 * i as f64,
    });
    Decoder::new(config.clone(), Tensors(wide.collect()), device)
}

// ANCHOR: a_stack_of_every_architecture_is_that_of_the_tape
#[test]
fn a_stack_of_every_architecture_is_that_of_the_tape() {
    let mut layout = Layout::default();
    layout.push(&[1, 7, 9, 30, 4], &[Text::whole(&[5, 6, 2]), Text::whole(&[8, 11, 12, 13, 2])], true).unwrap();
    layout.push(&[1], &[Text::whole(&[2]), Text::whole(&[39, 38, 2])], true).unwrap();
    let n = layout.targets.len();
    let coefficients: Vec<f32> = (0..n).map(|i| ((i * 7 % 5) as f32 - 1.5) / 3.0).collect();
    for (backend, device) in common::devices() {
        for config in architectures() {
            eprintln!("{} on {backend}", config.model_type);
            let d = wide(&config, &device);
            let tape = device.clone().autodiff();
            let leaves = d.parameters().0.iter().map(|p| p.clone().autodiff().require_grad());
            let taped = Decoder::new(config, Tensors(leaves.collect()), &tape);
            let weight = taped.params().get(taped.head()).clone();
            let logits = taped.hidden_states(&layout).unwrap().matmul(weight.transpose());
            let logits = match taped.config().network.head_bias {
                Some(bias) => logits + taped.params().get(bias).clone(),
                None => logits,
            };
            let logits = taped.capped(logits);
            let ids: Vec<i32> = layout.targets.iter().map(|t| *t as i32).collect();
            let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [n, 1]), &tape);
            let c: Tensor<2> = Tensor::from_data(TensorData::new(coefficients.clone(), [n, 1]), &tape);
            let expected = (log_softmax(logits, 1).gather(1, ids) * c).sum().backward();
            for recomputed in [0, 1, ALL] {
                let options = Options { recomputed, logits: 8 * 40, ..Options::default() };
                let units = layout.scored_by_unit();
                let mut judge = |group: std::ops::Range<usize>, _: &Scores| {
                    coefficients[units[group.start].start..units[group.end - 1].end].to_vec()
                };
                let mut grads = d.no_gradients();
                d.learn(&layout, options, &mut judge, &mut grads).unwrap();
                for (got, leaf) in grads.all().iter().zip(&taped.parameters().0) {
                    assert_close(got.as_ref().unwrap(), &on_tape(leaf, leaf.grad(&expected)));
                }
            }
        }
    }
}
// ANCHOR_END: a_stack_of_every_architecture_is_that_of_the_tape

// ANCHOR: the_balance_of_experts_has_the_gradient_of_differences
#[test]
fn the_balance_of_experts_has_the_gradient_of_differences() {
    let device = common::any_device();
    let laid_out = |share| {
        let mut layout = Layout::whole();
        layout.push(&[1, 2, 3], &[Text::whole(&[4, 5, 39]), Text::whole(&[6, 7, 8])], share).unwrap();
        layout.push(&[11, 12], &[Text::whole(&[20]), Text::whole(&[21, 22])], share).unwrap();
        layout
    };
    let coefficient = 0.7;
    let options = |coefficient| Options { router_aux_loss_coef: coefficient, ..Options::default() };
    for config in architectures() {
        if config.router_aux_loss_coef.is_none() {
            let d = wide(&config, &device);
            let said = d.score(&laid_out(true), options(coefficient)).unwrap_err().to_string();
            assert!(said.starts_with("router_aux_loss_coef is 0.7, and model_type"), "{said}");
            continue;
        }
        let d = wide(&config, &device);
        let loss = |d: &Decoder, share| d.score_and_balance(&laid_out(share), options(coefficient)).unwrap().1;
        let gradients = |share, recomputed| {
            let (layout, mut grads) = (laid_out(share), d.no_gradients());
            let mut judge = |units: std::ops::Range<usize>, _: &Scores| {
                let all = layout.scored_by_unit();
                vec![0.0; all[units.end - 1].end - all[units.start].start]
            };
            let options = Options { recomputed, ..options(coefficient) };
            let said = d.learn(&layout, options, &mut judge, &mut grads).unwrap();
            assert!((said - loss(&d, share)).abs() < 1e-6);
            grads
        };
        // A prompt that is computed once counts as often as it is read.
        assert!((loss(&d, true) - loss(&d, false)).abs() < 1e-5, "{}", config.model_type);
        let grads = gradients(true, 0);
        for other in [gradients(false, 0), gradients(true, ALL)] {
            for (a, b) in grads.all().iter().zip(other.all()) {
                assert_close(a.as_ref().unwrap(), b.as_ref().unwrap());
            }
        }
        // Along a direction of each parameter. Where a token goes over to another expert the loss leaps, and has no
        // derivative: a difference of half the step is then another.
        let (mut shown, mut leaps) = (0, 0);
        for (i, spec) in d.specs().iter().enumerate() {
            let along = random(spec.dims(), 77 + i as u64, &device);
            let moved = |by: f64| {
                let mut values = d.parameters().clone();
                values.0[i] = values.0[i].clone() + along.clone() * by;
                loss(&Decoder::new(config.clone(), values, &device), true)
            };
            let difference = |step: f64| coefficient * (moved(step) - moved(-step)) / (2.0 * step);
            let [expected, halved] = [5e-4, 2.5e-4].map(difference);
            if (expected - halved).abs() > 1.0 {
                leaps += 1;
                continue;
            }
            let got = (grads.all()[i].clone().unwrap() * along.clone()).sum().into_scalar::<f32>();
            let off = (f64::from(got) - expected).abs();
            assert!(off < 2e-3 + 0.02 * expected.abs(), "{} {}: {got} is not {expected}", config.model_type, spec.name);
            shown += usize::from(expected.abs() > 1e-2);
        }
        assert!(leaps <= 8, "{}: {leaps} leaps", config.model_type);
        assert!(shown >= 6, "{}: {shown} parameters show anything", config.model_type);
    }
}
// ANCHOR_END: the_balance_of_experts_has_the_gradient_of_differences

//! An architecture from outside: a network of attention alone, without feed-forward parts, as those of
//! transformer-circuits.pub/2021/framework, registered under a `model_type` of its own.
//!
//! ```sh
//! cargo run --release --example architecture
//! ```

use std::error::Error;
use std::sync::Arc;

use collimate::backend::Backend;
use collimate::backend::kernels::Heads;
use collimate::model::arch::{Architecture, Builder, Network, Reader, head};
use collimate::model::blocks::{AnyBlock, Attention, Embedding, Normed, Qkv, Recompute, Residual};
use collimate::model::{
    Decoder, Error as ModelError, HeadKind, Layout, ModelConfig, Options, RopeScaling, Rotary, Text, model_types,
};
use serde_json::json;

// ANCHOR: architecture
inventory::submit! { Architecture { model_type: "attention-only", family: "AttentionOnly", read } }

/// Reads every key that changes what is computed; what is left over is refused by name.
fn read(r: &mut Reader<'_>) -> Result<ModelConfig, ModelError> {
    let (vocab, hidden) = (r.size("vocab_size", None)?, r.size("hidden_size", None)?);
    let (count, layers) = (r.size("num_attention_heads", None)?, r.size("num_hidden_layers", None)?);
    let heads = Heads { queries: count, keys: count, dim: hidden / count, cap: None };
    if hidden % (2 * count) != 0 {
        let why = format!("must divide half of hidden_size {hidden}, got {count}");
        return Err(r.refuse("num_attention_heads", why));
    }
    if head(r)? == HeadKind::Value {
        return Err(r.refuse("architectures", "this architecture has no reward model"));
    }
    let (eps, base) = (r.number("rms_norm_eps", 1e-6)?, r.number("rope_theta", 10_000.0)?);
    let max_position_embeddings = r.size("max_position_embeddings", None)?;

    // Parameters, under the names that checkpoints have for them.
    let mut b = Builder::default();
    let table = b.embedding("embed", vocab, hidden);
    let layer = |i: usize| {
        let [q, k, v, o] = ["q", "k", "v", "o"].map(|m| b.linear(&format!("layers.{i}.{m}"), hidden, hidden, false));
        let norm = b.norm(&format!("layers.{i}.norm"), hidden, eps);
        // Behind the last attention only what is read goes on.
        let narrows = i + 1 == layers;
        let inner = Attention {
            qkv: Qkv::Apart([q, k, v]),
            o,
            norms: None,
            norms_behind: false,
            rotary: Some(0),
            window: None,
            scale: None,
            heads,
            narrows,
            slot: i,
        };
        let block: Box<dyn AnyBlock> = Box::new(Residual { inner: Normed { norm, inner }, scale: 1.0, narrows });
        Recompute(block)
    };
    let layers: Vec<_> = (0..layers).map(layer).collect();
    let norm = b.norm("norm", hidden, eps);
    let network = Network {
        embedding: Embedding { table, scale: 1.0, positions: None, offset: 0 },
        norm,
        head: b.linear("unembed", vocab, hidden, false).weight,
        head_name: "unembed",
        head_bias: None,
        logits_scale: 1.0,
        logits_cap: None,
        rotary: vec![Rotary::new(heads.dim, base, &RopeScaling::None)],
        windows: vec![None],
        layers,
    };
    Ok(ModelConfig {
        model_type: "attention-only".into(),
        vocab_size: vocab,
        hidden_size: hidden,
        num_hidden_layers: network.layers.len(),
        max_position_embeddings,
        bounded_by: None,
        tie_word_embeddings: false,
        head: HeadKind::Vocabulary,
        eos_token_ids: r.token_ids("eos_token_id")?,
        text_of: None,
        router_aux_loss_coef: None,
        inventory: b.0,
        network: Arc::new(network),
    })
}
// ANCHOR_END: architecture

fn main() -> Result<(), Box<dyn Error>> {
    assert!(model_types().contains(&"attention-only"));
    let folder = tempfile::tempdir()?;
    let mut config = json!({
        "model_type": "attention-only", "vocab_size": 16, "hidden_size": 16, "num_attention_heads": 2,
        "num_hidden_layers": 2, "max_position_embeddings": 32, "eos_token_id": 2
    });
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    let (read, _) = ModelConfig::from_folder(folder.path())?;
    // Embedding and head, the last norm, and two layers of four maps and a norm.
    assert_eq!(read.inventory.elements(), 2 * 16 * 16 + 16 + 2 * (4 * 16 * 16 + 16));

    for backend in Backend::all().into_iter().filter(|b| (b.devices)().is_ok()) {
        let decoder = Decoder::random(read.clone(), 1, &(backend.open)(0));
        // ln π of each token of the vocabulary behind one prompt: branches that don't see each other.
        let branches: Vec<[u32; 2]> = (0..16).map(|id| [id, 2]).collect();
        let texts: Vec<_> = branches.iter().map(|b| Text::whole(b)).collect();
        let mut layout = Layout::default();
        layout.push(&[1, 5, 9], &texts, true)?;
        let scores = decoder.score(&layout, Options::default())?.log_probs;
        let total: f64 = scores.iter().step_by(2).map(|p| f64::from(*p).exp()).sum();
        println!("{}: Σ_v π(v | prompt) = {total:.6}", backend.name);
        assert!((total - 1.0).abs() < 1e-5, "{total}");

        // What comes later changes nothing before it; what comes before does.
        let first = |prompt: &[u32], text: &[u32]| -> Result<f32, ModelError> {
            let mut layout = Layout::default();
            layout.push(prompt, &[Text::whole(text)], true)?;
            Ok(decoder.score(&layout, Options::default())?.log_probs[0])
        };
        assert!((first(&[1, 5, 9], &[4, 2])? - scores[8]).abs() < 1e-5);
        assert!((first(&[1, 5, 9], &[4, 11, 12, 2])? - scores[8]).abs() < 1e-5);
        assert!((first(&[1, 6, 9], &[4, 2])? - scores[8]).abs() > 1e-6);
    }

    // Nothing is ignored: a key that `read` doesn't ask for is refused by name.
    config["intermediate_size"] = json!(64);
    let said = ModelConfig::from_value(&config, "config.json".as_ref()).unwrap_err().to_string();
    assert!(said.contains("intermediate_size") && said.contains("does not know the key"), "{said}");
    Ok(())
}

#[test]
fn it_is_read_and_gives_logits() {
    main().unwrap();
}

#!/usr/bin/env python3
"""Writes a Llama checkpoint of seeded random weights with a tokenizer folder's files beside it.

--shape picks its size, tied embeddings in all: 30m (30 M parameters at GPT-2's vocabulary), smollm2-135m, qwen2.5-0.5b.
--vocab_size above the tokenizer's pads the embedding; below it, a byte-level BPE is cut to its first merges.
"""
import argparse, json, shutil, struct
from pathlib import Path

import numpy as np

# Hidden, layers, heads, key and value heads, MLP.
SHAPES = {"30m": (384, 6, 6, 6, 1024), "smollm2-135m": (576, 30, 9, 9, 1536), "qwen2.5-0.5b": (896, 24, 14, 2, 4864)}


def tokenizer_files(source, out, vocab_size):
    """Copies the tokenizer; returns its size and the id of its end-of-sequence token."""
    raw = json.loads((source / "tokenizer.json").read_text())
    config = json.loads((source / "tokenizer_config.json").read_text())
    name = lambda t: t["content"] if isinstance(t, dict) else t
    eos = name(config["eos_token"])
    vocab = raw["model"]["vocab"]
    added = {t["content"]: t["id"] for t in raw.get("added_tokens", [])}
    size = 1 + max([*vocab.values(), *added.values()])
    if vocab_size and vocab_size < size:
        special = set(added) & set(vocab) | {eos}
        words = sorted((w for w in vocab if w not in special), key=vocab.get)[:vocab_size - 1]
        keep = set(words)
        pair = lambda m: m.split(" ") if isinstance(m, str) else m
        raw["model"]["merges"] = [m for m in raw["model"]["merges"] if "".join(pair(m)) in keep]
        raw["model"]["vocab"] = {w: i for i, w in enumerate(words)} | {eos: vocab_size - 1}
        raw["added_tokens"] = [dict(next(t for t in raw["added_tokens"] if t["content"] == eos), id=vocab_size - 1)]
        added, vocab, size = {eos: vocab_size - 1}, raw["model"]["vocab"], vocab_size
    else:
        for f in ("vocab.json", "merges.txt"):
            if (source / f).exists():
                shutil.copyfile(source / f, out / f)
    (out / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False))
    # One class that reads tokenizer.json and nothing else, so that both sides encode with the same file.
    config.update(tokenizer_class="PreTrainedTokenizerFast", pad_token=name(config.get("pad_token")) or eos,
                  model_max_length=1 << 20)
    config.pop("added_tokens_decoder", None)
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return size, added.get(eos, vocab.get(eos))


def weights(shape, vocab_size, seed):
    hidden, layers, heads, kv_heads, mlp = SHAPES[shape]
    kv = hidden // heads * kv_heads
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    yield "model.embed_tokens.weight", normal(vocab_size, hidden)
    for i in range(layers):
        for part, rows, columns in (
            ("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden), ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", mlp, hidden), ("mlp.up_proj", mlp, hidden), ("mlp.down_proj", hidden, mlp),
        ):
            yield f"model.layers.{i}.{part}.weight", normal(rows, columns)
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{i}.{part}.weight", np.ones(hidden, np.float32)
    yield "model.norm.weight", np.ones(hidden, np.float32)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--tokenizer", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--positions", type=int, default=2048)
    ap.add_argument("--vocab_size", type=int, default=0, help="0: the tokenizer's")
    ap.add_argument("--shape", choices=SHAPES, default="30m")
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    size, eos = tokenizer_files(a.tokenizer, a.out, a.vocab_size)
    vocab_size = a.vocab_size or size
    hidden, layers, heads, kv_heads, mlp = SHAPES[a.shape]
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden, intermediate_size=mlp,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=hidden // heads,
        vocab_size=vocab_size, max_position_embeddings=a.positions, rms_norm_eps=1e-5, rope_theta=10000.0,
        hidden_act="silu", attention_bias=False, mlp_bias=False, attention_dropout=0.0, initializer_range=0.02,
        tie_word_embeddings=True, bos_token_id=eos, eos_token_id=eos, torch_dtype="float32", use_cache=False)
    (a.out / "config.json").write_text(json.dumps(config, indent=1))
    header, at, tensors = {"__metadata__": {"format": "pt"}}, 0, list(weights(a.shape, vocab_size, a.seed))
    for name, t in tensors:
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(a.out / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        for _, t in tensors:
            f.write(t.tobytes())
    print(json.dumps({"parameters": at // 4, "vocab_size": vocab_size, "hidden": hidden, "layers": layers,
                      "key_value": hidden // heads * kv_heads, "mlp": mlp}))


if __name__ == "__main__":
    main()

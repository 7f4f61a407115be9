#!/usr/bin/env python3
"""Writes texts behind prompts with transformers' generate, in batches padded on the left; prints one line of JSON.

Prompts of one length class go together, as its documentation advises: they are sorted by their tokens first."""
import argparse, json, time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--prompts", type=Path, required=True)
    ap.add_argument("--batch", type=int, required=True)
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    ap.add_argument("--max_new_tokens", type=int, required=True)
    ap.add_argument("--threads", type=int, required=True)
    ap.add_argument("--sample", action="store_true")
    ap.add_argument("--out", type=Path, required=True)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype)).eval()
    options = dict(max_new_tokens=a.max_new_tokens, use_cache=True, pad_token_id=tokenizer.pad_token_id)
    if a.sample:
        options |= dict(do_sample=True, temperature=0.8, top_k=50, top_p=0.95)
    else:
        options |= dict(do_sample=False)
    texts = [json.loads(line)["prompt"] for line in a.prompts.read_text().splitlines()]
    order = sorted(range(len(texts)), key=lambda i: len(tokenizer(texts[i])["input_ids"]))
    written, tokens = [None] * len(texts), 0
    torch.manual_seed(0)
    with torch.inference_mode():
        warm = tokenizer(texts[:2], return_tensors="pt", padding=True)
        model.generate(**warm, **options | dict(max_new_tokens=4))
        begun = time.perf_counter()
        for first in range(0, len(texts), a.batch):
            part = order[first:first + a.batch]
            given = tokenizer([texts[i] for i in part], return_tensors="pt", padding=True)
            out = model.generate(**given, **options)[:, given["input_ids"].shape[1]:]
            for i, row in zip(part, out.tolist()):
                end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
                written[i] = row[:end]
                tokens += end
        seconds = time.perf_counter() - begun
    completions = tokenizer.batch_decode(written, skip_special_tokens=True)
    a.out.write_text(json.dumps({"tokens": tokens, "seconds": seconds, "completions": completions,
                                 "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}))


if __name__ == "__main__":
    main()

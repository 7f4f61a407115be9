#!/usr/bin/env python3
"""Writes the pairs that both sides train on, and how long they are.

From --data (JSON lines, plain or .gz, or Parquet, of prompt/chosen/rejected text): the first pairs, in file order,
that fit --max_length and are nothing special (no empty text, no token across the end of the prompt). Without --data:
random words of the tokenizer, exactly --prompt_tokens and --completion_tokens (its end token counted) long.
"""
import argparse, gzip, json, random, sys
from pathlib import Path

from tokenizers import Tokenizer


def rows(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as f:
        yield from (json.loads(line) for line in f if line.strip())


def fitting(source, encode, eos, max_length):
    for row in source:
        prompt, chosen, rejected = (row.get(k) for k in ("prompt", "chosen", "rejected"))
        if not all(isinstance(t, str) and t for t in (prompt, chosen, rejected)):
            sys.exit("--data: every row needs prompt, chosen and rejected as text")
        if chosen == rejected or eos in prompt + chosen + rejected:
            continue
        p, c, r = encode(prompt), encode(prompt + chosen), encode(prompt + rejected)
        whole = c[:len(p)] == p and r[:len(p)] == p
        if whole and min(len(c), len(r)) > len(p) and max(len(c), len(r)) + 1 <= max_length:
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            yield row, [len(p), len(c) - len(p) + 1, len(r) - len(p) + 1]


def synthetic(tokenizer, encode, prompt_tokens, completion_tokens, seed):
    rng = random.Random(seed)
    # Words with the space before them: each is one token wherever it stands.
    words = [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())]
    words = sorted({w for w in words if w[:1] == " " and w[1:].isascii() and w[1:].isalpha() and len(encode(w)) == 1})
    text = lambda n: "".join(rng.choices(words, k=n))
    while True:
        row = {"prompt": text(prompt_tokens), "chosen": text(completion_tokens - 1),
               "rejected": text(completion_tokens - 1)}
        assert len(encode(row["prompt"] + row["chosen"])) == prompt_tokens + completion_tokens - 1, "words merged"
        yield row, [prompt_tokens, completion_tokens, completion_tokens]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", type=Path, required=True, help="the folder with the tokenizer")
    ap.add_argument("--data", type=Path)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--count", type=int, required=True)
    ap.add_argument("--max_length", type=int, default=512)
    ap.add_argument("--prompt_tokens", type=int)
    ap.add_argument("--completion_tokens", type=int)
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    tokenizer = Tokenizer.from_file(str(a.model / "tokenizer.json"))
    eos = json.loads((a.model / "tokenizer_config.json").read_text())["eos_token"]
    eos = eos["content"] if isinstance(eos, dict) else eos
    encode = lambda text: tokenizer.encode(text).ids
    if a.data:
        source = fitting(rows(a.data), encode, eos, a.max_length)
    else:
        source = synthetic(tokenizer, encode, a.prompt_tokens, a.completion_tokens, a.seed)
    lengths = []
    with open(a.out, "w", encoding="utf-8") as f:
        for (row, length), _ in zip(source, range(a.count)):
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
            lengths.append(length)
    if len(lengths) < a.count:
        sys.exit(f"{a.count} pairs are needed (pairs x steps), the data has {len(lengths)} that fit")
    print(json.dumps({"lengths": lengths}))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""`collimate generate` beside transformers' generate: the same checkpoint, prompts and number of tokens, in turns.

Prints tokens/s of each, the ratio, and how many greedy texts are the same. See README.md."""
import argparse, json, os, random, re, subprocess, sys, tempfile
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = ap.add_argument
    add("--tokenizer", type=Path, help="a folder with tokenizer.json and tokenizer_config.json")
    add("--model", type=Path, help="a checkpoint, in place of a new one of random weights")
    add("--collimate", type=Path, default=HERE / "../../target/release/collimate")
    add("--python", type=Path, default=Path(sys.executable), help="a Python with torch and transformers [this one]")
    add("--prompts", type=int, default=32)
    add("--max_new_tokens", type=int, default=64)
    add("--batches", type=int, nargs="+", default=[1, 8, 32], help="tried on both sides [1 8 32]")
    add("--dtypes", nargs="+", default=["float32", "bfloat16"], help="[float32 bfloat16]")
    add("--rounds", type=int, default=2)
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--sample", action="store_true", help="temperature 0.8, top_k 50, top_p 0.95 in place of greedy decoding")
    a = ap.parse_args()
    if (a.tokenizer is None) == (a.model is None):
        ap.error("give --tokenizer or --model")
    work = Path(tempfile.mkdtemp(prefix="bench-generate."))
    model = a.model
    if model is None:
        model = work / "model"
        subprocess.run([a.python, HERE / "../versus_trl/make_checkpoint.py", "--tokenizer", a.tokenizer, "--out", model],
                       check=True, stdout=subprocess.DEVNULL)

    # Words of the vocabulary, 8 to 64 of them.
    rng = random.Random(0)
    vocab = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(w[1:] for w in vocab if re.fullmatch("Ġ[a-z]{3,8}", w))
    rows = [{"prompt": " ".join(rng.choices(words, k=rng.randint(8, 64)))} for _ in range(a.prompts)]
    prompts = work / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(r) + "\n" for r in rows))

    env = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
               **{k: str(a.threads) for k in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")})

    def run(command):
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        if done.returncode:
            sys.exit(f"{done.stderr[-3000:]}\nfailed with {done.returncode}: {' '.join(map(str, command))}")
        return done.stderr

    def ours(dtype, batch):
        out = work / "ours.jsonl"
        sampling = ["--temperature", 0.8, "--top_k", 50, "--top_p", 0.95] if a.sample else []
        said = run([a.collimate.resolve(), "generate", "--model", model, "--prompts", prompts, "--output", out, "--dtype",
                    dtype, "--batch_size", batch, "--max_new_tokens", a.max_new_tokens, *sampling])
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        return float(re.search(r"([\d.]+) tokens/s", said)[1]), [line["completion"] for line in lines]

    def theirs(dtype, batch):
        out = work / "theirs.json"
        run([a.python, HERE / "transformers_side.py", "--model", model, "--prompts", prompts, "--batch", batch, "--dtype",
             dtype, "--max_new_tokens", a.max_new_tokens, "--threads", a.threads, "--out", out,
             *(["--sample"] if a.sample else [])])
        made = json.loads(out.read_text())
        theirs.versions = made["versions"]
        return made["tokens"] / made["seconds"], made["completions"]

    rates, texts = {}, {}
    for _ in range(a.rounds):
        for dtype in a.dtypes:
            for batch in a.batches:
                for side in (ours, theirs):
                    rate, completions = side(dtype, batch)
                    key = (side.__name__, dtype, batch)
                    rates.setdefault(key, []).append(rate)
                    if side is ours and texts.setdefault((dtype, "ours"), completions) != completions:
                        sys.exit(f"batch {batch} writes other texts than batch {a.batches[0]}")
                    texts[key[:2]] = completions
    print(f"{a.prompts} prompts, {a.max_new_tokens} new tokens, {a.threads} threads, "
          f"{'sampled' if a.sample else 'greedy'}; tokens/s, median of {a.rounds} rounds; {theirs.versions}")
    print(f"{'':24}{'collimate':>12}{'transformers':>14}{'ratio':>8}")
    rate = {k: median(v) for k, v in rates.items()}
    for dtype in a.dtypes:
        for batch in a.batches:
            x, y = rate["ours", dtype, batch], rate["theirs", dtype, batch]
            print(f"{f'{dtype}, batch {batch}':24}{x:12,.0f}{y:14,.0f}{x / y:8.2f}")
        x, y = (max(rate[side, dtype, b] for b in a.batches) for side in ("ours", "theirs"))
        print(f"{f'{dtype}, best batch':24}{x:12,.0f}{y:14,.0f}{x / y:8.2f}")
        if not a.sample:
            same = sum(x.strip() == y.strip() for x, y in zip(texts["ours", dtype], texts["theirs", dtype]))
            print(f"{'':24}{same} of {a.prompts} texts the same")
    x, y = (max(v for k, v in rate.items() if k[0] == side) for side in ("ours", "theirs"))
    print(f"{'best of all':24}{x:12,.0f}{y:14,.0f}{x / y:8.2f}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Collimate's cost against the number of tokens, and its memory against the vocabulary.

  python benches/versus_trl/scaling.py --tokenizer FOLDER --python PYTHON_WITH_TOKENIZERS_AND_TORCH

Each row is one run of run.py --sides collimate on random words: every pair of a table is equally long.
"""
import argparse, json, subprocess, sys
from pathlib import Path
from statistics import linear_regression

HERE = Path(__file__).resolve().parent
STATE = 16  # bytes a parameter: weight, gradient and AdamW's two moments in f32


def measured(a, pairs, vocab_size=0):
    """The result of run.py for one row."""
    command = [sys.executable, HERE / "run.py", "--sides", "collimate", "--json", "--python", a.python, "--collimate",
               a.collimate, "--tokenizer", a.tokenizer, "--prompt_tokens", a.prompt_tokens, "--completion_tokens",
               a.completion_tokens, "--pairs", pairs, "--steps", a.steps, "--rounds", a.rounds, "--vocab_size",
               vocab_size]
    command += [f"--set={pair}" for pair in a.set]
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
    result = json.loads(done.stdout)
    kept = ("seconds_per_step", "tokens_per_second", "peak_rss_mib", "needed_gflops", "others")
    return {"pairs": pairs, "vocab_size": vocab_size, "parameters": result["parameters"],
            "tokens": round(result["tokens_per_step"]), **{k: result["collimate"][k] for k in kept}}


def tokens_table(rows, out):
    """Cost against tokens, with the line through it."""
    fit = linear_regression([r["tokens"] for r in rows], [r["seconds_per_step"] for r in rows])
    print(f"{'pairs':>6}{'tokens':>9}{'s/step':>9}{'of the line':>13}{'tokens/s':>10}{'peak RSS, MiB':>15}{'others':>8}",
          file=out)
    for r in rows:
        r["line"] = fit.intercept + fit.slope * r["tokens"]
        print(f"{r['pairs']:6}{r['tokens']:9,}{r['seconds_per_step']:9.3f}{r['seconds_per_step'] / r['line']:13.1%}"
              f"{r['tokens_per_second']:10,.0f}{r['peak_rss_mib']:15,.0f}{r['others']:8.0%}", file=out)
    print(f"line: {fit.intercept:.3f} s a step and {fit.slope * 1e6:.0f} µs a token\n", file=out)
    return {"intercept": fit.intercept, "slope": fit.slope}


def vocabulary_table(rows, out):
    """Memory against the vocabulary, and what of it is neither weights, gradients nor optimiser state."""
    print(f"{'vocabulary':>10}{'parameters':>13}{'peak RSS, MiB':>15}{f'{STATE} B a parameter':>20}{'the rest, MiB':>15}"
          f"{'s/step':>9}{'others':>8}", file=out)
    for r in rows:
        r["state_mib"] = STATE * r["parameters"] / 2**20
        r["rest_mib"] = r["peak_rss_mib"] - r["state_mib"]
        print(f"{r['vocab_size']:10,}{r['parameters']:13,}{r['peak_rss_mib']:15,.0f}{r['state_mib']:20,.0f}"
              f"{r['rest_mib']:15,.0f}{r['seconds_per_step']:9.3f}{r['others']:8.0%}", file=out)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = ap.add_argument
    add("--tokenizer", type=Path, required=True, help="a folder with tokenizer.json and tokenizer_config.json")
    add("--collimate", type=Path, default=Path("target/release/collimate"), help="[target/release/collimate]")
    add("--python", type=Path, default=Path(sys.executable), help="a Python with requirements.txt [this one]")
    add("--pairs", type=int, nargs="*", default=[2, 4, 8, 16, 32], help="pairs a step, a row each [2 4 8 16 32]")
    add("--vocabularies", type=int, nargs="*", default=[10_000, 50_000, 150_000], help="[10000 50000 150000]")
    add("--vocabulary_pairs", type=int, default=8, help="pairs a step of the second table [8]")
    add("--prompt_tokens", type=int, default=256, help="[256]")
    add("--completion_tokens", type=int, default=128, help="[128]")
    add("--steps", type=int, default=6, help="steps a run; the first two are not timed [6]")
    add("--rounds", type=int, default=1, help="runs of each row [1]")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a further key for `collimate align`")
    add("--json", action="store_true", help="print JSON, the tables go to stderr")
    a = ap.parse_args()
    if len(set(a.pairs)) == 1:
        ap.error("--pairs: a line needs two sizes")
    out = sys.stderr if a.json else sys.stdout
    result = {"arguments": {k: str(v) for k, v in vars(a).items()}}
    if a.pairs:
        result["tokens"] = [measured(a, n) for n in a.pairs]
        result["line"] = tokens_table(result["tokens"], out)
    if a.vocabularies:
        result["vocabulary"] = [measured(a, a.vocabulary_pairs, v) for v in a.vocabularies]
        vocabulary_table(result["vocabulary"], out)
    if a.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

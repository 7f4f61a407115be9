#!/usr/bin/env python3
"""Trains one checkpoint on the same pairs with Collimate and with TRL's DPOTrainer, in turns, and compares them.

  python benches/versus_trl/run.py --data PAIRS.jsonl --tokenizer FOLDER --python PYTHON_WITH_TRL

Both sides in f32 and in bf16, TRL with all pairs of a step at once and one by one. Prints pairs/s, peak memory, the share
of what the processor's multipliers can do, Collimate's ratios to the best of TRL, and the losses. See README.md.
"""
# Standard library only, and small: a child's peak memory starts at what its parent had when it forked.
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
SKIP = 2  # first steps, left out of all timings
# glibc told to keep freed memory, instead of giving back and mapping anew the pages of every large tensor.
TUNED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.top_pad=67108864"
# Each side: its name, what it computes in, and whether TRL takes one pair at a time.
SIDES = {
    "collimate": ("Collimate", "f32", False), "collimate_bf16": ("Collimate, bf16", "bf16", False),
    "trl": ("TRL", "f32", False), "trl_single": ("TRL, single pairs", "f32", True),
    "trl_bf16": ("TRL, bf16", "bf16", False), "trl_bf16_single": ("TRL, bf16, single pairs", "bf16", True),
}
QUIET = 0.05  # share of the machine that others may take before a round begins


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = ap.add_argument
    add("--data", type=Path, help="preference pairs: JSONL (or .gz) or Parquet of prompt, chosen, rejected text")
    add("--prompt_tokens", type=int, help="instead of --data: random words, prompts of this many tokens")
    add("--completion_tokens", type=int, default=64, help="... and completions of this many [64]")
    add("--tokenizer", type=Path, required=True, help="a folder with tokenizer.json and tokenizer_config.json")
    add("--collimate", type=Path, default=Path("target/release/collimate"), help="[target/release/collimate]")
    add("--python", type=Path, default=Path(sys.executable), help="a Python with requirements.txt [this one]")
    add("--pairs", type=int, default=8, help="pairs a step [8]")
    add("--steps", type=int, default=20, help="steps a run [20]")
    add("--rounds", type=int, default=3, help="runs of each side [3]")
    add("--max_length", type=int, default=512, help="longest prompt + completion taken from --data [512]")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="[all processors]")
    add("--vocab_size", type=int, default=0, help="the checkpoint's vocabulary [the tokenizer's]")
    add("--shape", choices=["30m", "smollm2-135m", "qwen2.5-0.5b"], default="30m", help="the checkpoint's shape [30m]")
    add("--sides", type=lambda s: s.split(","), default=list(SIDES), metavar="SIDE,...",
        help=f"those that are run [{','.join(SIDES)}]")
    add("--trl_malloc", choices=["default", "tuned"], default="tuned",
        help="TRL with glibc's defaults, or with glibc told to keep freed memory [tuned]")
    add("--patience", type=int, default=120, help="seconds to wait for a quiet machine before each round [120]")
    add("--backend", help="Collimate's backend [its default]")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a further key for `collimate align`")
    add("--optim", default="adamw_torch_fused", help="TRL's optimiser [adamw_torch_fused]")
    add("--attn", default="sdpa", help="TRL's attention [sdpa]")
    add("--lora", type=int, default=0, metavar="R", help="adapters of that rank on all linear maps, on both sides [none]")
    add("--beta", type=float, default=0.1)
    add("--learning_rate", type=float, default=1e-4)
    add("--profile", action="store_true", help="also run Collimate once with --profile and print where its steps' time goes")
    add("--work", type=Path, help="keep all files in this folder [a temporary one, removed]")
    add("--json", action="store_true", help="print JSON, the table goes to stderr")
    a = ap.parse_args()
    if (a.data is None) == (a.prompt_tokens is None):
        ap.error("give --data or --prompt_tokens")
    if a.steps <= SKIP:
        ap.error(f"--steps must be above {SKIP}: the first {SKIP} are not timed")
    if unknown := [s for s in a.sides if s not in SIDES]:
        ap.error(f"--sides: {', '.join(unknown)} is none of {', '.join(SIDES)}")
    if a.prompt_tokens:
        a.max_length = a.prompt_tokens + a.completion_tokens
    return a


def cpu_seconds():
    """CPU seconds that all processes of this machine have used."""
    with open("/proc/stat") as f:
        t = [int(x) for x in f.readline().split()[1:9]]
    return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK")


def quiet(patience, say):
    """Waits until others take little of the machine; says how much they do."""
    for _ in range(max(1, patience // 3)):
        t, busy = time.perf_counter(), cpu_seconds()
        time.sleep(3)
        others = (cpu_seconds() - busy) / (time.perf_counter() - t) / os.cpu_count()
        if others <= QUIET:
            return others
    say(f"the machine is not quiet: others take {others:.0%} of it")
    return others


def run(command, log, threads, **variables):
    """Runs a command on `threads` processors: wall and CPU seconds, peak memory, and the share of those processors'
    time that others took."""
    mine = sorted(os.sched_getaffinity(0))[:threads]
    env = dict(os.environ, HF_HUB_OFFLINE="1",
               **{k: str(threads) for k in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
                                            "OPENBLAS_NUM_THREADS")}, **variables)
    with open(log, "wb") as out:
        t, busy = time.perf_counter(), cpu_seconds()
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                                 preexec_fn=lambda: os.sched_setaffinity(0, mine))
        _, status, usage = os.wait4(child.pid, 0)
        wall, busy = time.perf_counter() - t, cpu_seconds() - busy
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = Path(log).read_text(errors="replace")[-3000:]
        sys.exit(f"{tail}\nfailed with {child.returncode}: {' '.join(map(str, command))}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall_seconds": wall, "cpu_seconds": cpu, "peak_rss_mib": usage.ru_maxrss / 1024,
            "page_faults": usage.ru_minflt, "others": max(0.0, busy - cpu) / wall / os.cpu_count()}


def tool(a, script, *args):
    """A script of this folder under --python; its last line of output is JSON."""
    done = subprocess.run([a.python, HERE / script, *map(str, args)], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def collimate_command(a, work, out, bf16=False):
    command = [a.collimate.resolve(), "align", "--model", work / "model", "--data", work / "pairs.jsonl",
               "--output_dir", out, "--method", "dpo", "--beta", a.beta, "--learning_rate", a.learning_rate,
               "--lr_scheduler_type", "constant", "--max_grad_norm", 1, "--per_device_train_batch_size", a.pairs,
               "--per_device_eval_batch_size", a.pairs, "--max_length", a.max_length, "--max_steps", a.steps,
               "--shuffle", "false", "--logging_steps", 1]
    if a.lora:
        command += ["--use_peft", "true", "--lora_r", a.lora, "--lora_alpha", 2 * a.lora, "--lora_target_modules",
                    "all-linear", "--lora_dropout", 0]
    if bf16:
        command += ["--bf16", "true"]
    if a.backend:
        command += ["--backend", a.backend]
    for pair in a.set:
        key, value = pair.split("=", 1)
        command += [f"--{key}", value]
    return command


def collimate(a, work, name, bf16):
    out = work / name
    shutil.rmtree(out, ignore_errors=True)
    result = run(collimate_command(a, work, out, bf16), work / f"{name}.log", a.threads)
    metrics = {m["step"]: m for m in lines(out / "metrics.jsonl") if "loss" in m}
    times = {t["step"]: t for t in lines(out / "timing.jsonl") if "seconds" in t}
    result["steps"] = [
        {**{k: metrics[s].get(k) for k in ("loss", "grad_norm", "rewards/margins")}, **times[s]}
        for s in range(1, a.steps + 1)
    ]
    shutil.rmtree(out)
    return result


def trl(a, work, name, bf16, single):
    out = work / f"{name}.json"
    command = [a.python, HERE / "trl_side.py", "--model", work / "model", "--data", work / "pairs.jsonl", "--out", out,
               "--pairs", a.pairs, "--batch", 1 if single else a.pairs, "--steps", a.steps, "--max_length", a.max_length,
               "--threads", a.threads,
               "--beta", a.beta, "--learning_rate", a.learning_rate, "--optim", a.optim, "--attn", a.attn, "--lora", a.lora]
    command += ["--bf16"] if bf16 else []
    variables = {"GLIBC_TUNABLES": TUNED} if a.trl_malloc == "tuned" else {}
    result = run(command, work / f"{name}.log", a.threads, **variables)
    return result | json.loads(out.read_text())


def needed_flops(shape, lengths):
    """Matmul FLOPs that a step on these pairs needs: each prompt once, the head at completion tokens only, causal
    attention, the backward pass twice the forward pass, nothing recomputed."""
    h, kv, mlp, layers, vocab = (shape[k] for k in ("hidden", "key_value", "mlp", "layers", "vocab_size"))
    total = 0
    for p, c, r in lengths:
        tokens = p + c + r - 2  # the last token of a completion predicts nothing
        seen = p * (p + 1) / 2 + sum((n - 1) * p + (n - 1) * n / 2 for n in (c, r))
        total += layers * (2 * tokens * (2 * h * h + 2 * h * kv + 3 * h * mlp) + 4 * h * seen) + 2 * (c + r) * h * vocab
    return 3 * total


def summary(a, runs, steps, flops, peak):
    """Per side: the median over rounds for each step, and what these steps took together; the spread of the rounds."""
    def per_step(key):
        return [median(r["steps"][i][key] for r in runs) for i in range(SKIP, a.steps)]
    seconds = per_step("seconds")
    rates = [a.pairs * len(seconds) / sum(s["seconds"] for s in r["steps"][SKIP:]) for r in runs]
    out = {
        "seconds_per_step": median(seconds),
        "pairs_per_second": a.pairs * len(seconds) / sum(seconds),
        "tokens_per_second": sum(p + p + c + r for s in steps[SKIP:] for p, c, r in s) / sum(seconds),
        "pairs_per_second_of_rounds": rates,
        "needed_gflops": sum(flops[SKIP:]) / sum(seconds) / 1e9,
        "peak_rss_mib": median(r["peak_rss_mib"] for r in runs),
        "wall_seconds": median(r["wall_seconds"] for r in runs),
        "cpu_seconds": median(r["cpu_seconds"] for r in runs),
        "page_faults": median(r["page_faults"] for r in runs),
        "others": median(r["others"] for r in runs),
        "others_of_rounds": [r["others"] for r in runs],
    }
    out["share_of_peak"] = out["needed_gflops"] / peak
    if all("cpu_seconds" in s for r in runs for s in r["steps"]):
        out["cpu_seconds_per_step"] = median(per_step("cpu_seconds"))
    return out


def table(a, result):
    out = sys.stderr if a.json else sys.stdout
    print(f"{'':26}{'pairs/s':>9}{'s/step':>9}{'GFLOP/s':>9}{'of peak':>9}{'RSS, MiB':>10}{'run, s':>8}{'CPU, s':>8}"
          f"{'M faults':>10}  rounds: pairs/s (share of the machine that others took)", file=out)
    for name, (label, _, _) in SIDES.items():
        if name in result:
            r = result[name]
            rounds = zip(r["pairs_per_second_of_rounds"], r["others_of_rounds"])
            print(f"{label:26}{r['pairs_per_second']:9.2f}{r['seconds_per_step']:9.3f}{r['needed_gflops']:9.1f}"
                  f"{r['share_of_peak']:9.1%}{r['peak_rss_mib']:10,.0f}{r['wall_seconds']:8.1f}{r['cpu_seconds']:8.1f}"
                  f"{r['page_faults'] / 1e6:10.2f}  " + ", ".join(f"{x:.2f} ({o:.0%})" for x, o in rounds), file=out)
    peak = result["peak"]
    print(f"\npeak of {a.threads} threads: f32 {peak['f32']:,.0f} GFLOP/s, bf16 {peak['bf16']:,.0f} ({peak['unit']}); "
          f"{result['parameters']:,} parameters; {a.pairs} pairs a step, {result['tokens_per_step']:,.0f} tokens", file=out)
    for r in result["ratios"]:
        print(f"{SIDES[r['side']][0]}: {r['speed']:.2f} x the pairs/s of {SIDES[r['fastest']][0]}, "
              f"1/{r['memory']:.2f} of its memory, 1/{r['least_memory']:.2f} of the memory of "
              f"{SIDES[r['leanest']][0]}", file=out)
    for label, d in result["differences"].items():
        print(f"{label}: losses {d['loss']:.1e}, gradient norms {d['grad_norm']:.1e} (largest relative difference of a step)",
              file=out)


def profile(a, work):
    """Where the time of Collimate's steps goes, piece by piece, as `collimate align --profile` measures it."""
    out = work / "profiled"
    run([*collimate_command(a, work, out), "--profile"], work / "profiled.log", a.threads)
    measured = json.loads((out / "profile.json").read_text())
    n, to = measured["steps"], sys.stderr if a.json else sys.stdout
    print(f"\n{'piece of a step':24}{'calls':>8}{'ms':>10}{'share':>9}", file=to)
    for p in measured["pieces"]:
        print(f"{p['piece']:24}{p['calls'] / n:8.0f}{p['seconds'] / n * 1e3:10.1f}{p['share']:9.1%}", file=to)


def main():
    a = arguments()
    work = (a.work or Path(tempfile.mkdtemp(prefix="versus-trl."))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    say = lambda text: print(text, file=sys.stderr, flush=True)

    shape = tool(a, "make_checkpoint.py", "--tokenizer", a.tokenizer, "--out", work / "model", "--positions",
                 max(2048, a.max_length), "--vocab_size", a.vocab_size, "--shape", a.shape)
    source = ["--data", a.data] if a.data else ["--prompt_tokens", a.prompt_tokens, "--completion_tokens",
                                                a.completion_tokens]
    lengths = tool(a, "make_pairs.py", "--model", work / "model", "--out", work / "pairs.jsonl", "--count",
                   a.pairs * a.steps, "--max_length", a.max_length, *source)["lengths"]
    steps = [lengths[i:i + a.pairs] for i in range(0, len(lengths), a.pairs)]
    flops = [needed_flops(shape, s) for s in steps]

    run(["cc", "-O3", "-march=native", "-pthread", HERE / "peak.c", "-o", work / "peak"], work / "peak.log", a.threads)

    def peak():
        run([work / "peak", a.threads], work / "peak.log", a.threads)
        return json.loads((work / "peak.log").read_text())

    def one(side, n):
        _, number, single = SIDES[side]
        arguments = (a, work, f"{side}{n}", number == "bf16")
        return collimate(*arguments) if side.startswith("collimate") else trl(*arguments, single)

    runs, peaks, found = {k: [] for k in SIDES if k in a.sides}, [], []
    for n in range(a.rounds):
        found.append(quiet(a.patience, say))
        peaks.append(peak())
        for side in list(runs) if n % 2 == 0 else list(runs)[::-1]:
            r = one(side, n)
            runs[side].append(r)
            timed = r["steps"][SKIP:]
            say(f"round {n + 1}, {SIDES[side][0]}: {a.pairs * len(timed) / sum(s['seconds'] for s in timed):.2f} pairs/s, "
                f"peak {r['peak_rss_mib']:,.0f} MiB, {r['wall_seconds']:.0f} s in all; others {r['others']:.0%}")
    peaks.append(peak())
    best = {k: max(p[k] for p in peaks) for k in ("f32", "bf16")} | {"unit": peaks[0]["unit"]}

    # Of a processor without bf16, the peak is that of f32.
    peak_of = lambda side: best[SIDES[side][1]] or best["f32"]
    result = {k: summary(a, r, steps, flops, peak_of(k)) for k, r in runs.items()}
    result |= {"arguments": {k: str(v) for k, v in vars(a).items()}, "parameters": shape["parameters"],
               "tokens_per_step": median(sum(p + p + c + r for p, c, r in s) for s in steps),
               "peak": best, "peaks": peaks, "others_before_rounds": found, "runs": runs}
    trls = [k for k in runs if k.startswith("trl")]
    for r in (r for k in trls for r in runs[k]):
        result["versions"] = r["versions"]
        for i, s in enumerate(r["steps"]):
            want = sum(p + p + c + r for p, c, r in steps[i])
            if s["tokens"] != want:
                sys.exit(f"step {i + 1}: TRL saw {s['tokens']} tokens, not {want}: the sides are not alike")
    result["ratios"] = []
    if trls:
        fastest = max(trls, key=lambda k: result[k]["pairs_per_second"])
        leanest = min(trls, key=lambda k: result[k]["peak_rss_mib"])
        result["ratios"] = [
            {"side": k, "fastest": fastest, "leanest": leanest,
             "speed": result[k]["pairs_per_second"] / result[fastest]["pairs_per_second"],
             "memory": result[fastest]["peak_rss_mib"] / result[k]["peak_rss_mib"],
             "least_memory": result[leanest]["peak_rss_mib"] / result[k]["peak_rss_mib"]}
            for k in runs if k not in trls
        ]
    # In f32 the sides must agree; in bf16 each is as far from its f32 as it is.
    result["differences"] = {}
    for one, other in (("collimate", "trl"), ("collimate", "trl_single"), ("collimate_bf16", "collimate"),
                       ("trl_bf16", "trl"), ("trl_bf16_single", "trl_single")):
        if one in runs and other in runs:
            both = [p for x in runs[one] for y in runs[other] for p in zip(x["steps"], y["steps"])]
            relative = lambda x, y: abs(x - y) / max(abs(y), 1e-12)
            result["differences"][f"{SIDES[one][0]} - {SIDES[other][0]}"] = {
                key: max(relative(x[key], y[key]) for x, y in both) for key in ("loss", "grad_norm")}
    table(a, result)
    if a.profile:
        profile(a, work)
    if a.json:
        print(json.dumps(result))
    if not a.work:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

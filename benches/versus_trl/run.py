#!/usr/bin/env python3
"""Trains one checkpoint on the same pairs with Collimate and with TRL's DPOTrainer, in turns, and compares them.

  python benches/versus_trl/run.py --data PAIRS.jsonl --tokenizer FOLDER --python PYTHON_WITH_TRL

Prints pairs/s, tokens/s, peak memory, their ratios, and the losses of both per step. See README.md.
"""
# Standard library only, and small: a child's peak memory starts at what its parent had when it forked.
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
SKIP = 2  # first steps, left out of all timings
# glibc told to keep freed memory, instead of giving back and mapping anew the pages of every large tensor.
TUNED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.top_pad=67108864"
NAMES = {"collimate": "Collimate", "trl": "TRL", "trl_tuned": "TRL, tuned malloc"}


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
    add("--only", choices=["collimate", "trl"], help="run one side")
    add("--trl_malloc", choices=["default", "tuned", "both"], default="both",
        help="TRL with glibc's defaults, with glibc told to keep freed memory, or each in turn [both]")
    add("--trl_batch", type=int, default=0, metavar="PAIRS",
        help="TRL's per-device batch, accumulated to --pairs; small ones pad less [--pairs]")
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
    a.trl_batch = a.trl_batch or a.pairs
    if a.pairs % a.trl_batch:
        ap.error("--trl_batch must divide --pairs")
    if a.prompt_tokens:
        a.max_length = a.prompt_tokens + a.completion_tokens
    return a


def cpu_seconds():
    """CPU seconds that all processes of this machine have used."""
    with open("/proc/stat") as f:
        t = [int(x) for x in f.readline().split()[1:9]]
    return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK")


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


def collimate_command(a, work, out):
    command = [a.collimate.resolve(), "align", "--model", work / "model", "--data", work / "pairs.jsonl",
               "--output_dir", out, "--method", "dpo", "--beta", a.beta, "--learning_rate", a.learning_rate,
               "--lr_scheduler_type", "constant", "--max_grad_norm", 1, "--per_device_train_batch_size", a.pairs,
               "--per_device_eval_batch_size", a.pairs, "--max_length", a.max_length, "--max_steps", a.steps,
               "--shuffle", "false", "--logging_steps", 1]
    if a.lora:
        command += ["--use_peft", "true", "--lora_r", a.lora, "--lora_alpha", 2 * a.lora, "--lora_target_modules",
                    "all-linear", "--lora_dropout", 0]
    if a.backend:
        command += ["--backend", a.backend]
    for pair in a.set:
        key, value = pair.split("=", 1)
        command += [f"--{key}", value]
    return command


def collimate(a, work, name):
    out = work / name
    shutil.rmtree(out, ignore_errors=True)
    result = run(collimate_command(a, work, out), work / f"{name}.log", a.threads)
    metrics = {m["step"]: m for m in lines(out / "metrics.jsonl") if "loss" in m}
    times = {t["step"]: t for t in lines(out / "timing.jsonl") if "seconds" in t}
    result["steps"] = [
        {**{k: metrics[s].get(k) for k in ("loss", "grad_norm", "rewards/margins")}, **times[s]}
        for s in range(1, a.steps + 1)
    ]
    shutil.rmtree(out)
    return result


def trl(a, work, name, tuned=False):
    out = work / f"{name}.json"
    command = [a.python, HERE / "trl_side.py", "--model", work / "model", "--data", work / "pairs.jsonl", "--out", out,
               "--pairs", a.pairs, "--batch", a.trl_batch, "--steps", a.steps, "--max_length", a.max_length,
               "--threads", a.threads,
               "--beta", a.beta, "--learning_rate", a.learning_rate, "--optim", a.optim, "--attn", a.attn, "--lora", a.lora]
    variables = {"GLIBC_TUNABLES": TUNED} if tuned else {}
    result = run(command, work / f"{name}.log", a.threads, **variables)
    return result | json.loads(out.read_text())


def needed_flops(shape, lengths):
    """Matmul FLOPs that a step on these pairs needs: each prompt once, the head at completion tokens only, causal
    attention, the backward pass twice the forward pass, nothing recomputed."""
    h, mlp, layers, vocab = shape["hidden"], shape["mlp"], shape["layers"], shape["vocab_size"]
    total = 0
    for p, c, r in lengths:
        tokens = p + c + r - 2  # the last token of a completion predicts nothing
        seen = p * (p + 1) / 2 + sum((n - 1) * p + (n - 1) * n / 2 for n in (c, r))
        total += layers * (2 * tokens * (4 * h * h + 3 * h * mlp) + 4 * h * seen) + 2 * (c + r) * h * vocab
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
    sides = [n for n in NAMES if n in result]

    def show(label, key, form="{:.2f}", inverse=False, scale=1):
        cells = [result[n].get(key) for n in sides]
        text = f"{label:30}"
        for name, c in zip(sides, cells):
            text += f"{form.format(c / scale) if c is not None else '-':>{width(name)}}"
            if name != "collimate" and "collimate" in sides:
                known = None not in (c, cells[0])
                text += f"{f'{(c / cells[0] if inverse else cells[0] / c):.2f} x' if known else '':>10}"
        print(text, file=out)

    width = lambda name: max(12, len(NAMES[name]) + 2)
    out = sys.stderr if a.json else sys.stdout
    ratio = lambda n: f"{'ratio':>10}" if n != "collimate" and "collimate" in sides else ""
    print(f"{'':30}" + "".join(f"{NAMES[n]:>{width(n)}}{ratio(n)}" for n in sides), file=out)
    show("pairs/s", "pairs_per_second")
    show("tokens/s (of both sequences)", "tokens_per_second", "{:,.0f}")
    show("s/step, median", "seconds_per_step", "{:.3f}", inverse=True)
    show("CPU s/step, median", "cpu_seconds_per_step", "{:.3f}", inverse=True)
    show("needed GFLOP/s", "needed_gflops", "{:.1f}")
    show("... share of matmul peak", "share_of_peak", "{:.1%}")
    show("peak RSS, MiB", "peak_rss_mib", "{:,.0f}", inverse=True)
    show("whole run, s", "wall_seconds", "{:.1f}", inverse=True)
    show("whole run, CPU s", "cpu_seconds", "{:.1f}", inverse=True)
    show("whole run, M page faults", "page_faults", "{:.2f}", inverse=True, scale=1e6)
    print(f"\nmatmul peak {result['matmul_peak_gflops']:.0f} GFLOP/s on {a.threads} threads; "
          f"{result['parameters']:,} parameters; {a.pairs} pairs a step, {result['tokens_per_step']:,.0f} tokens"
          + (f" (with TRL's padding {result['padded_tokens_per_step']:,.0f})" if sides != ["collimate"] else ""),
          file=out)
    for n in sides:
        rounds = zip(result[n]["pairs_per_second_of_rounds"], result[n]["others_of_rounds"])
        print(f"{NAMES[n]}: pairs/s of the rounds (share of the machine that other processes took) "
              + ", ".join(f"{rate:.2f} ({others:.0%})" for rate, others in rounds), file=out)
    if "losses" in result:
        print(f"\n{'step':>4}{'Collimate':>14}{NAMES[sides[1]]:>20}{'relative':>12}", file=out)
        for s in result["losses"]:
            print(f"{s['step']:4}{s['collimate']:14.7f}{s['trl']:20.7f}{s['relative']:12.1e}", file=out)
        print(f"largest relative difference of any two runs: losses {result['loss_difference']:.1e}, gradient norms "
              f"{result['grad_norm_difference']:.1e}", file=out)


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
                 max(2048, a.max_length), "--vocab_size", a.vocab_size)
    source = ["--data", a.data] if a.data else ["--prompt_tokens", a.prompt_tokens, "--completion_tokens",
                                                a.completion_tokens]
    lengths = tool(a, "make_pairs.py", "--model", work / "model", "--out", work / "pairs.jsonl", "--count",
                   a.pairs * a.steps, "--max_length", a.max_length, *source)["lengths"]
    steps = [lengths[i:i + a.pairs] for i in range(0, len(lengths), a.pairs)]
    flops = [needed_flops(shape, s) for s in steps]

    def peak():
        run([a.python, HERE / "trl_side.py", "--peak", 1024, "--threads", a.threads, "--out", work / "peak.json"],
            work / "peak.log", a.threads)
        return json.loads((work / "peak.json").read_text())["gflops"]

    sides = {"collimate": collimate} if a.only != "trl" else {}
    if a.only != "collimate":
        if a.trl_malloc != "tuned":
            sides["trl"] = trl
        if a.trl_malloc != "default":
            sides["trl_tuned"] = lambda *args: trl(*args, tuned=True)
    runs, peaks = {k: [] for k in sides}, [peak()]
    for n in range(a.rounds):
        for side in list(sides) if n % 2 == 0 else list(sides)[::-1]:
            r = sides[side](a, work, f"{side}{n}")
            runs[side].append(r)
            timed = r["steps"][SKIP:]
            say(f"round {n + 1}, {NAMES[side]}: {a.pairs * len(timed) / sum(s['seconds'] for s in timed):.2f} pairs/s, "
                f"peak {r['peak_rss_mib']:,.0f} MiB, {r['wall_seconds']:.0f} s in all; others {r['others']:.0%}")
        peaks.append(peak())

    result = {k: summary(a, r, steps, flops, max(peaks)) for k, r in runs.items()}
    result |= {"arguments": {k: str(v) for k, v in vars(a).items()}, "parameters": shape["parameters"],
               "tokens_per_step": median(sum(p + p + c + r for p, c, r in s) for s in steps),
               "matmul_peak_gflops": max(peaks), "matmul_gflops_between_rounds": peaks, "runs": runs}
    trls = [r for k in runs if k != "collimate" for r in runs[k]]
    for r in trls:
        result["versions"] = r["versions"]
        result["padded_tokens_per_step"] = median(s["padded_tokens"] for s in r["steps"])
        for i, s in enumerate(r["steps"]):
            want = sum(p + p + c + r for p, c, r in steps[i])
            if s["tokens"] != want:
                sys.exit(f"step {i + 1}: TRL saw {s['tokens']} tokens, not {want}: the sides are not alike")
    if trls and "collimate" in runs:
        both = [list(zip(c["steps"], t["steps"])) for c in runs["collimate"] for t in trls]
        relative = lambda x, y: abs(x - y) / max(abs(y), 1e-12)
        result["losses"] = [{"step": t["step"], "collimate": c["loss"], "trl": t["loss"],
                             "relative": relative(c["loss"], t["loss"])} for c, t in both[0]]
        for key in ("loss", "grad_norm"):
            result[f"{key}_difference"] = max(relative(c[key], t[key]) for b in both for c, t in b)
    table(a, result)
    if a.profile:
        profile(a, work)
    if a.json:
        print(json.dumps(result))
    if not a.work:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

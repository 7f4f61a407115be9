#!/usr/bin/env python3
"""On a machine with an NVIDIA GPU, from the folder that pack.sh made: the tests on `cuda`, then training beside TRL.

  python3 run.py [--only tests|train] [--pairs 8 --steps 12 --prompt_tokens 512 --completion_tokens 512]

Trains a checkpoint of Qwen2.5-0.5B's shape (random weights) on random pairs in bf16 with each binary that was packed and with
TRL in each of its ways that starts here, and prints pairs/s, tokens/s, the share of the card's product (measured with
PyTorch, where it is installed) and peak memory. Everything that is printed is also in result.json.
"""
import argparse, json, os, shutil, subprocess, sys, threading, time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
SKIP = 3  # first steps, in which kernels are compiled and products are tuned


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", choices=["tests", "train"])
    ap.add_argument("--pairs", type=int, default=8, help="pairs a step [8]")
    ap.add_argument("--steps", type=int, default=12, help="steps a run [12]")
    ap.add_argument("--prompt_tokens", type=int, default=512)
    ap.add_argument("--completion_tokens", type=int, default=512)
    ap.add_argument("--shape", default="qwen2.5-0.5b")
    ap.add_argument("--python", default=sys.executable, help="a Python with PyTorch and TRL [this one]")
    a = ap.parse_args()
    if a.steps <= SKIP:
        ap.error(f"--steps must be above {SKIP}: the first {SKIP} are not timed")
    return a


def environment():
    env = dict(os.environ)
    # Where no toolkit is installed, libdevice is the one that was packed.
    roots = [env["CUDA_PATH"]] if "CUDA_PATH" in env else ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"]
    if not any(Path(r, "nvvm/libdevice/libdevice.10.bc").is_file() for r in roots):
        env["CUDA_PATH"] = str(HERE / "cuda")
    return env


def link(place, target):
    """What was at `place` where the binaries were built."""
    place = Path(place)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)


def tests(env):
    """Each test binary; of those that are run per backend, `cuda`'s alone."""
    link((HERE / "built-in").read_text().strip(), HERE / "repository")
    release = Path((HERE / "built-to").read_text().strip(), "release")
    release.mkdir(parents=True, exist_ok=True)
    link(release / "collimate", HERE / "collimate")
    found = {}
    folder = Path((HERE / "built-in").read_text().strip(), "crates/collimate")
    for name, only in (("kernels", []), ("backends", []), ("golden_trl", ["cuda::"]), ("laws", ["cuda::"]), ("blocks", [])):
        t = time.perf_counter()
        run = subprocess.run([HERE / "tests" / name, *only], cwd=folder, env=env, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
        (HERE / f"{name}.log").write_text(run.stdout)
        last = [line for line in run.stdout.splitlines() if line.startswith("test result")] or ["no result"]
        found[name] = {"passed": run.returncode == 0, "said": last[-1], "seconds": time.perf_counter() - t}
        print(f"{name:12} {'passed' if run.returncode == 0 else 'FAILED'} in {found[name]['seconds']:.0f} s: {last[-1]}",
              flush=True)
    return found


class Memory(threading.Thread):
    """The card's memory in use, asked of the driver every quarter of a second; the most of it above what was there."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before, self.most, self.over = self.used(), 0, threading.Event()

    def used(self):
        said = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                              stdout=subprocess.PIPE, text=True, check=True)
        return int(said.stdout.splitlines()[0])

    def run(self):
        while not self.over.wait(0.25):
            self.most = max(self.most, self.used())

    def peak(self):
        self.over.set()
        self.join()
        return self.most - self.before


def measured(command, log, env):
    memory = Memory()
    memory.start()
    with open(log, "wb") as out:
        code = subprocess.run([str(c) for c in command], stdout=out, stderr=out, env=env).returncode
    peak = memory.peak()
    if code:
        return None, "\n".join(log.read_text(errors="replace").splitlines()[-3:])
    return peak, None


def product(python):
    """What the card multiplies in bf16, TFLOP/s: the best of some large products."""
    code = """
import torch, time
best = 0
for n in (4096, 8192):
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    for _ in range(5): a @ b
    torch.cuda.synchronize()
    for _ in range(5):
        t = time.perf_counter()
        for _ in range(10): a @ b
        torch.cuda.synchronize()
        best = max(best, 10 * 2 * n**3 / (time.perf_counter() - t))
print(best / 1e12)
"""
    run = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return float(run.stdout) if run.returncode == 0 else None


def needed_flops(shape, lengths):
    """As benches/versus_trl counts: each prompt once, the head at completion tokens only, causal attention, the backward pass
    twice the forward pass, nothing recomputed."""
    h, kv, mlp, layers, vocab = (shape[k] for k in ("hidden", "key_value", "mlp", "layers", "vocab_size"))
    total = 0
    for p, c, r in lengths:
        tokens = p + c + r - 2
        seen = p * (p + 1) / 2 + sum((n - 1) * p + (n - 1) * n / 2 for n in (c, r))
        total += layers * (2 * tokens * (2 * h * h + 2 * h * kv + 3 * h * mlp) + 4 * h * seen) + 2 * (c + r) * h * vocab
    return 3 * total


def tool(a, script, *args):
    done = subprocess.run([a.python, HERE / script, *map(str, args)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def train(a, env):
    work = HERE / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    length = a.prompt_tokens + a.completion_tokens
    shape = tool(a, "make_checkpoint.py", "--tokenizer", HERE / "tokenizer", "--out", work / "model", "--positions",
                 max(2048, length), "--shape", a.shape)
    lengths = tool(a, "make_pairs.py", "--model", work / "model", "--out", work / "pairs.jsonl", "--count",
                   a.pairs * a.steps, "--max_length", length, "--prompt_tokens", a.prompt_tokens, "--completion_tokens",
                   a.completion_tokens)["lengths"]
    best = product(a.python)
    tokens = sum(2 * p + c + r for p, c, r in lengths) / a.steps
    flops = needed_flops(shape, lengths) / a.steps
    print(f"{shape['parameters']:,} parameters, {a.pairs} pairs and {tokens:,.0f} tokens a step; the card's product: "
          + (f"{best:.0f} TFLOP/s in bf16" if best else "not measured, as there is no PyTorch"), flush=True)

    def collimate(binary, backend):
        out = work / f"{backend}"
        command = [binary, "align", "--model", work / "model", "--data", work / "pairs.jsonl", "--output_dir", out, "--backend",
                   backend, "--method", "dpo", "--beta", 0.1, "--learning_rate", 1e-6, "--lr_scheduler_type", "constant",
                   "--max_grad_norm", 1, "--per_device_train_batch_size", a.pairs, "--per_device_eval_batch_size", a.pairs,
                   "--max_length", length, "--max_steps", a.steps, "--shuffle", "false", "--logging_steps", 1, "--bf16", "true"]
        peak, why = measured(command, work / f"{backend}.log", env)
        if why:
            return {"why": why}
        lines = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
        return {"seconds": [x["seconds"] for x in lines if "seconds" in x], "peak_mib": peak}

    def trl(name, *more):
        out = work / "trl.json"
        command = [a.python, HERE / "trl_side.py", "--model", work / "model", "--data", work / "pairs.jsonl", "--out", out,
                   "--pairs", a.pairs, "--steps", a.steps, "--max_length", length, *more]
        peak, why = measured(command, work / f"{name}.log", env)
        if why:
            return {"why": why}
        return json.loads(out.read_text()) | {"peak_mib": peak}

    sides = {"Collimate, cuda": lambda: collimate(HERE / "collimate", "cuda")}
    if (HERE / "collimate-libtorch").exists():
        sides["Collimate, libtorch-cuda"] = lambda: collimate(HERE / "collimate-libtorch", "libtorch-cuda")
    for batch in sorted({a.pairs, max(1, a.pairs // 2)}, reverse=True):
        for name, more in (("", []), (", Liger", ["--liger"]), (", padding-free, FlashAttention",
                                                                ["--padding_free", "--attn", "flash_attention_2"])):
            sides[f"TRL, {batch} pairs at a time{name}"] = (
                lambda batch=batch, more=more: trl(f"trl{batch}{len(more)}", "--batch", batch, *more))
    result = {}
    print(f"{'':48}{'pairs/s':>9}{'tokens/s':>11}{'s/step':>9}{'of product':>12}{'peak, MiB':>11}", flush=True)
    for name, side in sides.items():
        r = result[name] = side()
        if "why" in r:
            print(f"{name:48} not run: {r['why']}", flush=True)
            continue
        step = r["seconds_a_step"] = median(r["seconds"][SKIP:])
        share = f"{flops / step / best / 1e12:.1%}" if best else "?"
        print(f"{name:48}{a.pairs / step:9.2f}{tokens / step:11,.0f}{step:9.3f}{share:>12}{r['peak_mib']:11,.0f}", flush=True)
    return {"sides": result, "product_tflops": best, "flops_a_step": flops, "tokens_a_step": tokens} | shape


def main():
    a, env = arguments(), environment()
    card = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], stdout=subprocess.PIPE,
                          text=True, check=True).stdout.strip()
    print(card, flush=True)
    result = {"card": card}
    if a.only != "train":
        result["tests"] = tests(env)
    if a.only != "tests":
        if (HERE / "tokenizer").exists():
            result["training"] = train(a, env)
        else:
            print("nothing is trained: pack.sh was given no tokenizer")
    (HERE / "result.json").write_text(json.dumps(result, indent=1))
    sys.exit(any(not t["passed"] for t in result.get("tests", {}).values()))


if __name__ == "__main__":
    main()

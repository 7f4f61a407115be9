"""The same global batch by 1, 2 and 4 workers, on one machine and on two: losses, speed, bytes on the wire, memory.

    cargo build --release --features mpi
    python3 benches/workers/run.py --collimate target/release/collimate --model MODEL --data PAIRS.jsonl

All of a row's workers together have the processors of the machine: efficiency is pairs/s over those of one worker that has
them all, so that what is lost is what talking, and working in parts, costs. On two machines with as many processors each the
work would halve and the talk would not. `two hosts` are network namespaces (see hosts.sh).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS = Path(__file__).with_name("hosts.sh")


def rss_of_children(children):
    """The largest peak, in MiB, among processes that are still there."""
    peak = 0
    for pid in children:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        found = re.search(r"VmHWM:\s+(\d+)", status)
        peak = max(peak, int(found[1]) // 1024 if found else 0)
    return peak


def workers_of(program):
    found = subprocess.run(["pgrep", "-x", Path(program).name], capture_output=True, text=True)
    return found.stdout.split()


def run(options, workers, hosts, more, out):
    threads = max(1, os.cpu_count() // workers)
    command = [
        options.collimate, "align", "--model", options.model, "--data", options.data, "--output_dir", out,
        "--max_steps", options.steps, "--per_device_train_batch_size", options.pairs // workers, "--logging_steps", 1,
        "--learning_rate", "1e-5", "--backend", options.backend, "--overwrite_output_dir", "true", *more,
    ]
    if hosts:
        command = [HOSTS, workers, *command]
    elif workers > 1:
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", workers, *command]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=said, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, rss_of_children(workers_of(options.collimate)))
            time.sleep(0.05)
        said.seek(0)
        said = said.read()
    if process.returncode != 0:
        sys.exit(f"{workers} workers: {said}")
    out = Path(out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [json.loads(line)["seconds"] for line in (out / "timing.jsonl").read_text().splitlines()]
    # The first steps fill caches, and an allocator.
    seconds = sorted(seconds[2:])
    sent = re.search(r"sent to the other workers: ([\d.]+) MiB a step", said)
    return {
        "losses": [line["loss"] for line in lines if "loss" in line],
        "pairs_per_second": options.pairs / seconds[len(seconds) // 2],
        "sent_mib": float(sent[1]) if sent else 0.0,
        "peak_mib": peak,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collimate", required=True, help="the program, built with the feature mpi")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backend", default="flex")
    parser.add_argument("--pairs", type=int, default=8, help="a step, over all workers")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more of the configuration")
    parser.add_argument("--no_hosts", action="store_true", help="leave out the two hosts, which want root")
    options = parser.parse_args()
    more = [part for pair in options.set for part in ("--" + pair.split("=", 1)[0], pair.split("=", 1)[1])]
    numbers = [int(n) for n in options.workers.split(",")]
    rows = [(n, False, []) for n in numbers]
    rows += [(2, False, ["--zero_stage", "1"])]
    rows += [] if options.no_hosts else [(2, True, []), (4, True, [])]
    print(f"{options.pairs} pairs a step, {options.steps} steps, {os.cpu_count()} processors\n")
    print("| workers | pairs/s | efficiency | MiB sent by one, a step | peak RSS of one, MiB | largest loss difference |")
    print("|---|---|---|---|---|---|")
    first = None
    with tempfile.TemporaryDirectory() as desk:
        for workers, hosts, zero in rows:
            # One worker, then many: scores of the reference are not kept, so that each row computes them.
            got = run(options, workers, hosts, more + zero, str(Path(desk) / "out"))
            first = first or got
            off = max(abs(a - b) for a, b in zip(first["losses"], got["losses"], strict=True))
            name = f"{workers}{', two hosts' if hosts else ''}{', zero_stage 1' if zero else ''}"
            share = got["pairs_per_second"] / first["pairs_per_second"]
            print(f"| {name} | {got['pairs_per_second']:.2f} | {100 * share:.0f} % | {got['sent_mib']:.1f} "
                  f"| {got['peak_mib']} | {off:.1e} |", flush=True)


if __name__ == "__main__":
    main()

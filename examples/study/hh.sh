#!/usr/bin/env bash
# The data of examples/study/hh.toml, from two files of Anthropic's hh-rlhf (MIT): helpful-base/test reshaped to prompt,
# chosen and rejected, and helpful-rejection-sampled/test. Rows of up to 900 characters, as stories260k reads some 2
# characters a token and 512 tokens in all: the first 1,000 to train on, 64 of the last for held-out prompts.
#
#   examples/study/hh.sh helpful_standard.jsonl.gz helpful-rejection-sampled-test.jsonl.gz out/hh
set -euo pipefail
pairs=$1 sampled=$2 out=$3
mkdir -p "$out"
zcat "$pairs" | awk 'length($0) < 900' > "$out/all.jsonl"
head -n 1000 "$out/all.jsonl" > "$out/pairs.jsonl"
tail -n 64 "$out/all.jsonl" > "$out/prompts.jsonl"
zcat "$sampled" > "$out/sampled.jsonl"
rm "$out/all.jsonl"
wc -l "$out"/*.jsonl

#!/bin/sh
# Builds the wheel that holds the command, installs it into an empty virtual environment, and runs the README's job there.
# Wants maturin (`pip install maturin`) and Python's venv; the wheel goes to target/wheels.
set -eu
cd "$(dirname "$0")/.."
maturin build --release --out target/wheels
desk=$(mktemp -d)
trap 'rm -rf "$desk"' EXIT
python3 -m venv "$desk/venv"
"$desk/venv/bin/pip" install --quiet --no-index --find-links target/wheels --no-cache-dir collimate
collimate=$desk/venv/bin/collimate
"$collimate" --version
i=0
while [ $i -lt 40 ]; do
  printf '{"prompt": "Once upon a time", "chosen": " the cat sat on mat %s", "rejected": " a dog ran and ran %s"}\n' $i $i
  i=$((i + 1))
done > "$desk/pairs.jsonl"
"$collimate" data inspect "$desk/pairs.jsonl" --model tests/fixtures/stories260k-hf > /dev/null
"$collimate" align -q --model tests/fixtures/stories260k-hf --data "$desk/pairs.jsonl" --method averaged-dpo --beta 2 \
  --learning_rate 1e-4 --max_steps 10 --output_dir "$desk/aligned"
"$collimate" generate --model "$desk/aligned" --prompt "Once upon a time" --max_new_tokens 12
"$collimate" align -q "$desk/aligned/collimate.toml" --output_dir "$desk/again"
cmp "$desk/aligned/model.safetensors" "$desk/again/model.safetensors"

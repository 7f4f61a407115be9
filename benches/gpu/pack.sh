#!/usr/bin/env bash
# Makes a folder that a machine with an NVIDIA GPU and no network can run: binaries with `cuda`, the tests that hold it to
# the other backends, what they read, libdevice, and this folder's scripts.
#
#   benches/gpu/pack.sh FOLDER [TOKENIZER]
#
# TOKENIZER is a folder with a tokenizer.json and a tokenizer_config.json (GPT-2's, or Qwen's); without it there is nothing
# to train, only to test. A binary with `libtorch-cuda` is packed too where one was built and is named by
# COLLIMATE_LIBTORCH_CUDA; it wants the libtorch that it was linked to on the other machine. Python wheels for TRL are packed
# where WHEELS=1 (some 4 GB with PyTorch); a machine that has PyTorch and TRL does without.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$1 tokenizer=${2:-}
[ ! -e "$out" ] || { echo "$0: $out is there already" >&2; exit 1; }
[ -z "$tokenizer" ] || [ -e "$tokenizer/tokenizer.json" ] || { echo "$0: $tokenizer has no tokenizer.json" >&2; exit 1; }

scripts/setup-llvm.sh >/dev/null
tests=(laws kernels blocks golden_trl backends)
made=$(mktemp)
trap 'rm -f "$made"' EXIT
cargo build --release -p collimate --features cuda --bin collimate
cargo test --release -p collimate --features cuda "${tests[@]/#/--test=}" --no-run --message-format=json >"$made"

part=$out.part
rm -rf "$part"
mkdir -p "$part/tests" "$part/repository/tests" "$part/repository/crates/collimate"
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
cp "$target/release/collimate" "$part/collimate"
python3 - "$made" "$part/tests" <<'END'
import json, pathlib, shutil, sys
for line in open(sys.argv[1]):
    made = json.loads(line)
    if made.get("executable") and "test" in made["target"]["kind"]:
        shutil.copy(made["executable"], pathlib.Path(sys.argv[2]) / made["target"]["name"])
END
cp -r llvm/cuda "$part/cuda"
# Tests find what they read, and the command, where they were built: there the other machine has a link to this.
cp -r tests/fixtures "$part/repository/tests/fixtures"
mkdir -p "$part/repository/docs/src"
cp docs/src/backends.md "$part/repository/docs/src/"
printf '%s\n' "$PWD" >"$part/built-in"
printf '%s\n' "$target" >"$part/built-to"
cp benches/gpu/run.py benches/gpu/trl_side.py benches/versus_trl/make_checkpoint.py benches/versus_trl/make_pairs.py "$part/"
[ -z "$tokenizer" ] || cp -r "$tokenizer" "$part/tokenizer"
[ -z "${COLLIMATE_LIBTORCH_CUDA:-}" ] || cp "$COLLIMATE_LIBTORCH_CUDA" "$part/collimate-libtorch"
if [ "${WHEELS:-}" = 1 ]; then
    python3 -m pip download --quiet --dest "$part/wheels" trl==1.16.0 torch transformers datasets accelerate numpy
fi
mv "$part" "$out"
du -sh "$out"
echo "there: python3 $(basename "$out")/run.py"

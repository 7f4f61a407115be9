#!/bin/sh
# A soak: many steps of the smallest model there is, with evaluation, checkpoints and events on, and the memory held on the way.
#
#   cargo build --release --bin collimate && benches/soak.sh [STEPS] [PROGRAM]
#
# Prints the resident MiB at 20 moments, and fails if the last quarter holds more than a tenth above the second.
set -eu
steps=${1:-20000}
here=$(cd "$(dirname "$0")/.." && pwd)
program=${2:-$here/target/release/collimate}
desk=$(mktemp -d)
trap 'rm -rf "$desk"' EXIT
awk 'BEGIN { srand(1); split("the cat dog ran sat on a mat happy little girl boy big tree said once", w, " ");
  for (i = 0; i < 400; i++) {
    p = ""; c = ""; r = "";
    for (k = 0; k < 4; k++) p = p (k ? " " : "") w[1 + int(rand() * 16)];
    for (k = 0; k < 3 + int(rand() * 6); k++) c = c " " w[1 + int(rand() * 16)];
    for (k = 0; k < 3 + int(rand() * 8); k++) r = r " " w[1 + int(rand() * 16)];
    printf "{\"prompt\": \"%s\", \"chosen\": \"%s\", \"rejected\": \"%s\"}\n", p, c, r } }' > "$desk/pairs.jsonl"
nice "$program" align -q --model "$here/tests/fixtures/stories260k-hf" --data "$desk/pairs.jsonl" --output_dir "$desk/out" \
  --max_steps "$steps" --per_device_train_batch_size 1 --learning_rate 1e-5 --logging_steps 1 --eval_split 0.05 \
  --eval_steps 500 --save_steps 1000 --save_total_limit 2 --load_best_model_at_end true --report_to tensorboard \
  --boundary merge --identical_pair drop &
child=$!
: > "$desk/held"
while kill -0 $child 2> /dev/null; do
  step=$(wc -l 2> /dev/null < "$desk/out/timing.jsonl" || echo 0)
  held=$(awk '/^VmRSS/ { print $2 / 1024 }' /proc/$child/status 2> /dev/null || true)
  [ -n "$held" ] && echo "$step $held" >> "$desk/held"
  sleep 1
done
wait $child
# The end, when the result and its card are written, is no part of it.
awk -v steps="$steps" '$1 > 0 && $1 < steps { n++; step[n] = $1; held[n] = $2 }
  END {
    NR = n;
    if (NR < 8) { print "too short: " NR " moments"; exit 1 }
    for (i = 1; i <= 20; i++) { k = 1 + int((NR - 1) * (i - 1) / 19); printf "step %6d  %7.1f MiB\n", step[k], held[k] }
    q = int(NR / 4);
    for (i = q + 1; i <= 2 * q; i++) second += held[i] / q;
    for (i = NR - q + 1; i <= NR; i++) last += held[i] / q;
    printf "second quarter %.1f MiB, last quarter %.1f MiB\n", second, last;
    exit last > 1.1 * second }' "$desk/held"

#!/bin/sh
# Builds the command as it is published, in target/published: without a path of the machine that built it. Everything is
# built anew for it, which takes minutes; more arguments go to cargo.
set -eu
cd "$(dirname "$0")/.."
cargo_home=$(cd "${CARGO_HOME:-$HOME/.cargo}" && pwd)
here=$(pwd)
export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$cargo_home/registry/src= --remap-path-prefix=$cargo_home= --remap-path-prefix=$here=collimate"
# C sources name themselves in their assertions.
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$cargo_home= -ffile-prefix-map=$here=collimate"
cargo build --release --bin collimate --target-dir target/published "$@"
binary=target/published/release/collimate
for path in "$cargo_home" "$here"; do
    if grep -qaF "$path/" "$binary"; then
        echo "$binary still has $path in it" >&2
        exit 1
    fi
done
echo "$binary"

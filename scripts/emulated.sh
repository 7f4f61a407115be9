#!/usr/bin/env bash
# The kernels' tests on processors that this one is not, by qemu's user emulation: AArch64 with NEON, x86-64 with AVX2 and
# without AVX-512, x86-64 with neither. Each checks that the path is the one that is meant. With `quick`, as the gate runs it,
# every kernel against the scalar path on AArch64 alone: the rest takes minutes, and x86-64 has its narrower paths natively.
#
# Wants qemu-user, a C compiler that links for AArch64 and its libc (Debian: qemu-user, gcc-aarch64-linux-gnu,
# libc6-dev-arm64-cross), and rustup. What it builds is in target/emulated, so that nothing else is built anew.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
export CARGO_TARGET_DIR=target/emulated
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
# Without shared libraries it needs no system of its own around it.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
tests=(cargo test --release -p collimate-kernels --lib --tests)

if [ "${1:-}" = quick ]; then
    # Of each kernel, and that the path is taken.
    COLLIMATE_EXPECTED_PATH=NEON cargo test --release -p collimate-kernels --target "$target" --test paths
    COLLIMATE_EXPECTED_PATH=NEON cargo test --release -p collimate-kernels --target "$target" --lib path::
    exit
fi
COLLIMATE_EXPECTED_PATH=NEON "${tests[@]}" --target "$target"
for expected in "AVX2 Haswell" "scalar Nehalem"; do
    read -r path model <<<"$expected"
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="qemu-x86_64 -cpu $model"
    COLLIMATE_EXPECTED_PATH=$path "${tests[@]}"
done

#!/usr/bin/env bash
# Brings libtorch for `--features libtorch` into libtorch/ of this repository, which git ignores, from PyPI's wheels.
#
#   scripts/setup-libtorch.sh         the CPU half alone: 0.9 GB to fetch, 0.5 GB to keep
#   scripts/setup-libtorch.sh cuda    all of it, for libtorch-cuda: some 3 GB to fetch, 7 GB to keep
#
# PyPI's wheel for Linux on x86-64 is a CUDA build, but libtorch_cpu.so works without the rest: it wants its own two
# neighbours and two of NVIDIA's small libraries, which it finds by the wheels' own layout of folders. Nothing is
# installed outside libtorch/, and a folder that is there already and of the right version is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.9.0
kind=${1:-cpu}
case $kind in
    cpu | cuda) ;;
    *) echo "$0: \"$kind\" is neither cpu nor cuda" >&2 && exit 2 ;;
esac

# What to do next.
told() {
    cat <<END
libtorch $version ($(cat libtorch/kind)) is in $PWD/libtorch

In this repository nothing needs to be set: .cargo/config.toml points to it.

    cargo test --release --features libtorch

A build elsewhere finds it by

    export LIBTORCH=$PWD/libtorch/torch
END
}

if [ "$(cat libtorch/kind 2>/dev/null)" = "$kind" ] && [ "$(cat libtorch/torch/build-version)" = "$version" ]; then
    told
    exit
fi

fail() {
    echo "$0: $1" >&2
    exit 1
}
[ "$(uname -sm)" = "Linux x86_64" ] ||
    fail "this knows the wheels for Linux on x86_64 only; here, set LIBTORCH to a folder of libtorch $version (with include/ and lib/)"
command -v python3 >/dev/null || fail "python3 is missing (on Debian: apt-get install python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (on Debian: apt-get install python3-pip)"
command -v g++ >/dev/null || command -v c++ >/dev/null ||
    fail "a C++ compiler is missing; the bindings are compiled with it (on Debian: apt-get install g++)"

part=libtorch.part
rm -rf "$part"
mkdir -p "$part/wheels"
trap 'rm -rf "$part"' EXIT

# Any Python's wheel does, as only its libraries are used; so one is named, whatever Python is here.
fetch() {
    python3 -m pip download --quiet --disable-pip-version-check --only-binary=:all: --implementation cp \
        --python-version 3.11 --abi cp311 --abi abi3 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform linux_x86_64 \
        --dest "$part/wheels" "$@"
}
echo "fetching libtorch $version ($kind) …"
if [ "$kind" = cuda ]; then
    fetch "torch==$version"
else
    cat >"$part/requirements.txt" <<'END'
torch==2.9.0 --hash=sha256:51de31219c97c51cf4bf2be94d622e3deb5dcc526c6dc00e97c17eaec0fc1d67
nvidia-cuda-runtime-cu12==12.8.90 --hash=sha256:adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90
nvidia-cuda-cupti-cu12==12.8.90 --hash=sha256:ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182
END
    fetch --no-deps -r "$part/requirements.txt"
fi

python3 - "$part" "$kind" <<'END'
import pathlib, re, sys, zipfile

part, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
cpu = re.compile(
    r"torch/include/|torch/lib/(libtorch_cpu|libc10)\.so$|torch/lib/libgomp|torch-[^/]*/licenses?/"
    r"|nvidia/cuda_runtime/lib/libcudart\.so|nvidia/cuda_cupti/lib/libcupti\.so|nvidia_[^/]*/licenses?/",
    re.IGNORECASE,
)
cuda = re.compile(r"torch/include/|torch/lib/|nvidia/[^/]*/lib/|[^/]*/licenses?/|[^/]*/lib[^/]*\.so", re.IGNORECASE)
for wheel in sorted((part / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        wanted = [n for n in archive.namelist() if (cuda if kind == "cuda" else cpu).match(n)]
        archive.extractall(part, wanted)
    wheel.unlink()
lib = part / "torch" / "lib"
if not (lib / "libtorch.so").exists():
    (lib / "libtorch.so").symlink_to("libtorch_cpu.so")
END
rmdir "$part/wheels"
rm -f "$part/requirements.txt"
echo "$version" >"$part/torch/build-version"
echo "$kind" >"$part/kind"
rm -rf libtorch
mv "$part" libtorch
trap - EXIT
told

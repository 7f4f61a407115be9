#!/usr/bin/env bash
# Brings the LLVM that `--features cuda` is linked to into llvm/ of this repository, which git ignores, from PyPI's wheels:
# 135 MB to fetch, 400 MB to keep; and NVIDIA's libdevice (0.5 MB), which kernels want at run time for exp, log and the like.
#
#   scripts/setup-llvm.sh          what building and running want
#   scripts/setup-llvm.sh ptxas    and NVIDIA's assembler, with which the tests check the kernels for GPUs without one:
#                                  37 MB to fetch and to keep
#
# CubeCL's kernel compiler wants LLVM 23.1 as static libraries. Its build script (tracel-llvm-bundler) fetches one from the
# web, unless it finds one in place: here, since .cargo/config.toml says so. Nothing is installed outside llvm/, and a folder
# that is there already and of the right version is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

version=23.1.0-4
assembler=${1:-}
case $assembler in
    "" | ptxas) ;;
    *) echo "$0: \"$assembler\" is not ptxas, the one thing that it brings beside LLVM" >&2 && exit 2 ;;
esac
# The name of this folder is what a build that finds nothing prints: see .cargo/config.toml.
data=llvm/missing-run/scripts/setup-llvm.sh
place=$data/tracel/tracel-llvm-$version
sentinel=$place/.tracel-llvm-installed

# What to do next.
told() {
    cat <<END
LLVM $version is in $PWD/$place

In this repository nothing needs to be set: .cargo/config.toml points to it.

    cargo build --release --features cuda

To run on a GPU, where CUDA's toolkit is not installed, say where libdevice is:

    export CUDA_PATH=$PWD/llvm/cuda

A build elsewhere finds LLVM by

    export XDG_DATA_HOME=$PWD/$data
END
}

if [ -e "$sentinel" ] && [ -e llvm/cuda/nvvm/libdevice/libdevice.10.bc ] &&
    { [ -z "$assembler" ] || [ -e llvm/cuda/bin/ptxas ]; }; then
    told
    exit
fi

fail() {
    echo "$0: $1" >&2
    exit 1
}
[ "$(uname -sm)" = "Linux x86_64" ] ||
    fail "this knows the wheels for Linux on x86_64 only; elsewhere the build fetches LLVM from the web by itself"
command -v python3 >/dev/null || fail "python3 is missing (on Debian: apt-get install python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (on Debian: apt-get install python3-pip)"
# The wheel's llvm-config, which the build asks for the libraries, is a Python script.
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "python3 is older than 3.10, which LLVM's wheel wants"
command -v g++ >/dev/null || command -v c++ >/dev/null ||
    fail "a C++ compiler is missing; the bindings are compiled with it (on Debian: apt-get install g++)"

part=llvm.part
rm -rf "$part"
mkdir -p "$part/wheels"
trap 'rm -rf "$part"' EXIT

cat >"$part/requirements.txt" <<'END'
mlc-llvm-static==23.1.1.post0 --hash=sha256:dcfec888abfaa418be77d41af585805f31463584cf9c90582992c00f392c1ac5
mlc-llvm-static-extra-targets==23.1.1.post0 --hash=sha256:c36e834d9a4e9cf9759f27fece65711ece7a2fc2b5a96dbb15d66f5e9e787929
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
END
[ -z "$assembler" ] || cat >>"$part/requirements.txt" <<'END'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
END
echo "fetching LLVM $version and libdevice …"
# Any Python's wheel does, as only its files are used.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_12_x86_64 \
    --platform manylinux2010_x86_64 --dest "$part/wheels" -r "$part/requirements.txt"

python3 - "$part" "$place" <<'END'
import pathlib, shutil, sys, zipfile

part = pathlib.Path(sys.argv[1])
place = part / pathlib.Path(sys.argv[2]).relative_to("llvm")
for wheel in sorted((part / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part / "unpacked")
    wheel.unlink()
unpacked = part / "unpacked"
place.parent.mkdir(parents=True)
(unpacked / "mlc_llvm_static" / "static").rename(place)
for tool in (place / "bin").glob("llvm-config*"):
    tool.chmod(0o755)
licences = place / "licenses"
licences.mkdir()
for found in list((unpacked / "mlc_llvm_static" / "licenses").glob("*")):
    found.rename(licences / found.name)
[libdevice] = unpacked.rglob("libdevice.10.bc")
cuda = part / "cuda" / "nvvm" / "libdevice"
cuda.mkdir(parents=True)
libdevice.rename(cuda / libdevice.name)
for assembler in unpacked.rglob("bin/ptxas"):
    (part / "cuda" / "bin").mkdir()
    assembler.chmod(0o755)
    assembler.rename(part / "cuda" / "bin" / "ptxas")
for found in unpacked.glob("nvidia_nvvm*/**/[Ll]icense*"):
    if found.is_file():
        found.rename(cuda / "License.txt")
shutil.rmtree(unpacked)
END
rmdir "$part/wheels"
rm -f "$part/requirements.txt"
touch "$part/${sentinel#llvm/}"
rm -rf llvm
mv "$part" llvm
trap - EXIT
told

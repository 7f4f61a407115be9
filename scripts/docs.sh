#!/bin/sh
# Builds the site, the book and rustdoc under one address, in target/site; with `check`, also checks that everything made is
# as it would be made, every link and anchor, and each page in a browser. The two programs it needs from the registry go to
# target/tools; the browser, Debian's chromium or that of $CHROMIUM, is wanted for `check` alone.
set -eu
cd "$(dirname "$0")/.."
tools=$(pwd)/target/tools
install() {
    "$tools/bin/$1" --version 2>/dev/null | grep -qF "$2" ||
        cargo install --force "$1" --version "=$2" --locked --root "$tools" --target-dir "$tools/build" ${3:-}
}
install mdbook 0.5.3 "--no-default-features --features search"
install mdbook-katex 0.10.0
rm -rf "$tools/build"
PATH=$tools/bin:$PATH

cargo build --release --bin collimate-docs
made=target/release/collimate-docs
before=$(git status --porcelain 2>/dev/null || true)
CARGO_MANIFEST_DIR=$(pwd)/crates/docs "$made" --katex "$tools/bin/mdbook-katex"
if [ "${1:-}" = check ] && [ "$before" != "$(git status --porcelain 2>/dev/null || true)" ]; then
    echo "what is made differs from what is committed, see above" >&2
    exit 1
fi

rm -rf target/site
mdbook build docs
DOCS_RS=1 cargo doc --release --workspace --no-deps --all-features
cp -r target/doc target/site/api
"$made" finish target/site
[ "${1:-}" != check ] || "$made" check target/site
echo "target/site/index.html"

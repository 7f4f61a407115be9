// Found only where libtorch's own header of this name is not: see .cargo/config.toml.
#error "libtorch 2.9.0 is missing: run scripts/setup-libtorch.sh, or set LIBTORCH to its folder (docs/src/backends.md)"

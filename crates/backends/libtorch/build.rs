//! Tells who links a program where libtorch is: torch-sys says only what a library needs.

use std::path::PathBuf;
use std::{env, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(cuda_build)");
    // From torch-sys, which has found it.
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else { return Ok(()) };
    if lib.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-cfg=cuda_build");
    }
    // For the dependents' build scripts: a program that is started on its own needs this path in its head.
    println!("cargo:lib={}", lib.display());
    // For `cargo run` and `cargo test`: they search the libraries' folders that lie within the target folder.
    #[cfg(unix)]
    {
        let inside = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("lib");
        if inside.symlink_metadata().is_ok() {
            std::fs::remove_file(&inside)?;
        }
        std::os::unix::fs::symlink(&lib, &inside)?;
        println!("cargo:rustc-link-search=native={}", inside.display());
    }
    Ok(())
}

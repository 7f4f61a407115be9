//! The kernels compiled for GPUs and assembled by NVIDIA's own assembler, without a GPU: for A100 and H100.

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// What is wanted beside the compiler: the assembler, and libdevice where the compiler looks for it.
fn assembler() -> Result<PathBuf, String> {
    let brought = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../llvm/cuda");
    let advice = || format!("scripts/setup-llvm.sh ptxas brings it, and CUDA_PATH={} names it", brought.display());
    let root =
        std::env::var_os("CUDA_PATH").map(PathBuf::from).ok_or_else(|| format!("CUDA_PATH isn't set: {}", advice()))?;
    for file in ["bin/ptxas", "nvvm/libdevice/libdevice.10.bc"] {
        if !root.join(file).is_file() {
            return Err(format!("{} has no {file}: {}", root.display(), advice()));
        }
    }
    Ok(root.join("bin/ptxas"))
}

fn assemble(assembler: &Path, architecture: u32) -> Result<(), Failed> {
    let desk = tempfile::tempdir()?;
    let (source, made) = (desk.path().join("kernel.ptx"), desk.path().join("kernel.cubin"));
    let kernels = collimate_kernels_cube::offline::ptx(architecture)?;
    // Norm 3, positions 1, activations 8, AdamW 1, head 4, attention 10, each in two types.
    assert_eq!(kernels.len(), 2 * 27);
    for (name, ptx) in kernels {
        std::fs::write(&source, &ptx)?;
        // What an architecture alone has is a target of its own, as sm_90a.
        let target = ptx.lines().find_map(|l| l.strip_prefix(".target ")).ok_or("no target")?;
        assert!(target.starts_with(&format!("sm_{architecture}")), "{name}: {target}");
        let run =
            Command::new(assembler).args(["-v", &format!("-arch={target}"), "-o"]).args([&made, &source]).output()?;
        let said = String::from_utf8_lossy(&run.stderr);
        if !run.status.success() {
            return Err(format!("{name}, sm_{architecture}: {said}").into());
        }
        let numbers = |before: &str| {
            let words: Vec<&str> = said.split([' ', ',', '\n']).filter(|w| !w.is_empty()).collect();
            let at = words.windows(before.split(' ').count()).position(|w| w.join(" ") == before);
            at.and_then(|i| words[i - 1].parse::<u32>().ok()).unwrap_or(0)
        };
        let (registers, spilled) = (numbers("registers"), numbers("bytes spill stores"));
        println!("sm_{architecture}, {name}: {registers} registers, {spilled} bytes spilled");
        // What a unit holds of a product stays in registers, but for a number or two, and for heads twice or four times as wide.
        let wide = name.contains("heads of 128") || name.contains("heads of 256");
        assert!(registers > 0 && (spilled <= 64 || wide), "{name}: {said}");
    }
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let trial = |architecture: u32| {
        let name = format!("kernels_assemble_for_sm_{architecture}");
        match assembler() {
            Ok(ptxas) => Trial::test(name, move || assemble(&ptxas, architecture)),
            Err(why) => Trial::ignorable_test(name, move || Ok(Completion::ignored_with(why))),
        }
    };
    libtest_mimic::run(&arguments, vec![trial(80), trial(90)]).exit()
}

//! The kernels compiled for NVIDIA's GPUs where there is none: what the compiler makes of them, to be looked at.

// Reading what a C library made.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::Arc;

use burn_cubecl::CubeDevice;
use cubecl::Compiler;
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{
    DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties, MemoryDeviceProperties,
    TargetProperties, features::Features,
};
use cubecl::prelude::{BufferArg, CubeCount, CubeDim, CubeKernel};
use cubecl::profile::TimingMethod;
use cubecl_llvm::nvptx::ptx_version::PtxVersion;
use cubecl_llvm::{LlvmTarget, PlironArtifact, PlironCompiler, PlironOptions};

use crate::attention::{self, Shape};
use crate::rows::{self, Curve};

/// A GPU as far as kernels see one.
fn properties() -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 160 << 10,
        max_cube_count: (i32::MAX as u32, u16::MAX.into(), u16::MAX.into()),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(108),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: 16,
        cube_mma_reserved_shared_memory: 0,
    };
    let identity = DeviceIdentity { name: "none".into(), fingerprint: "none".into(), physical: None };
    let memory = MemoryDeviceProperties::new(80 << 30, 256);
    Arc::new(DeviceProperties::new(Features::default(), memory, hardware, TimingMethod::Device, identity))
}

/// PTX of each kernel in f32 and bf16, for GPUs of that architecture (80 is A100, 90 is H100) and drivers of CUDA 12.8.
///
/// # Errors
/// What the compiler says, as where libdevice is not found.
pub fn ptx(architecture: u32) -> Result<Vec<(String, String)>, String> {
    let client = CubeDevice::Cpu(Default::default()).client();
    let (properties, target) = (properties(), Arc::new(TargetProperties::default()));
    // Kernels are told apart by what is in buffers, not by the buffers.
    // SAFETY: nothing is launched.
    let buffer = || unsafe { BufferArg::from_raw_parts(client.empty(4), 1) };
    let mut all = Vec::new();
    for (kind, bits) in [(FloatKind::F32, "f32"), (FloatKind::BF16, "bf16")] {
        let number = ElemType::Float(kind);
        let mut compile = |name: &str, kernel: &dyn CubeKernel| {
            let mut compiler = PlironCompiler { target: LlvmTarget::Nvptx };
            let options = PlironOptions {
                sm_arch: Some(SmArch::new(architecture, false)),
                ptx_version: PtxVersion::for_driver(12080),
                ..Default::default()
            };
            let name = format!("{name}, {bits}");
            let made = compiler.compile(kernel.define(), &options).map_err(|e| format!("{name}: {e:?}"))?;
            let PlironArtifact::NvptxCode(module) = made else { unreachable!("the target is PTX") };
            // SAFETY: the module's text ends in a NUL.
            let text = unsafe { CStr::from_ptr(module.ptx.as_ptr()) }.to_string_lossy().into_owned();
            all.push((name, text));
            Ok::<_, String>(())
        };
        macro_rules! kernel {
            ($name:expr, $units:expr, $path:path, $($argument:expr),+) => {{
                use $path as made;
                let kernel = made::create_dummy_kernel(
                    properties.clone(), target.clone(), CubeCount::new_single(), CubeDim::new_1d($units), $($argument),+
                );
                compile($name, &kernel)?;
            }};
        }
        let units = 256;
        kernel!(
            "norm forward",
            256,
            rows::rms_forward,
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            896,
            1e-6,
            units,
            [number; 2]
        );
        kernel!(
            "norm backward, input",
            256,
            rows::rms_backward_input,
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            896,
            units,
            [number; 2]
        );
        kernel!(
            "norm backward, weight",
            256,
            rows::rms_backward_weight,
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            1,
            64,
            896,
            number
        );
        kernel!("rotary positions", 256, rows::rotate, buffer(), buffer(), buffer(), 1, 32, 14, 1.0, number);
        for curve in [Curve::Silu, Curve::Gelu, Curve::GeluTanh, Curve::Relu] {
            let name = format!("{curve:?}");
            kernel!(
                &format!("{name} forward"),
                256,
                rows::gated_forward,
                buffer(),
                buffer(),
                buffer(),
                1,
                curve,
                number
            );
            kernel!(
                &format!("{name} backward"),
                256,
                rows::gated_backward,
                buffer(),
                buffer(),
                buffer(),
                1,
                curve,
                number
            );
        }
        kernel!(
            "AdamW",
            256,
            rows::adamw,
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            1,
            0.9,
            0.999,
            0.1,
            0.001,
            1.0,
            1.0,
            1e-3,
            1.0,
            1e-8,
            [number, ElemType::Float(FloatKind::F32)]
        );
        for capped in [false, true] {
            let cap = if capped { ", capped" } else { "" };
            kernel!(
                &format!("head scores{cap}"),
                256,
                rows::head_scores,
                buffer(),
                buffer(),
                buffer(),
                1,
                1000,
                30.0,
                capped,
                units,
                number
            );
            kernel!(
                &format!("head gradient{cap}"),
                256,
                rows::head_gradient,
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                1,
                1000,
                30.0,
                capped,
                units,
                number
            );
        }
        kernel!("attention, along", 256, attention::along, buffer(), buffer(), buffer(), 1, 64, number);
        for (dim, capped) in [(64, false), (128, false), (256, true)] {
            let block = if dim < 256 { 64 } else { 32 };
            let shape = Shape { dim, block, units: block * block / 16, capped };
            let units = shape.units as u32;
            let what = |pass: &str| format!("attention {pass}, heads of {dim}");
            kernel!(
                &what("forward"),
                units,
                attention::forward,
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                14,
                7,
                4096,
                0.125,
                50.0,
                shape,
                number
            );
            kernel!(
                &what("backward, queries"),
                units,
                attention::backward_queries,
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                14,
                7,
                4096,
                0.125,
                50.0,
                shape,
                number
            );
            kernel!(
                &what("backward, keys"),
                units,
                attention::backward_keys,
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                buffer(),
                14,
                7,
                4096,
                0.125,
                50.0,
                shape,
                number
            );
        }
    }
    Ok(all)
}

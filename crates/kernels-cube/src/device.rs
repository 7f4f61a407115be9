//! Tensors that lie on a device of CubeCL, seen as buffers: the door to the kernels.

use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::{BufferArg, CubeDim, CubeElement};

/// A tensor's buffer, row-major and shared with the tensor.
#[derive(Clone)]
pub(crate) struct Buffer(CubeTensor);

impl Buffer {
    /// None if the tensor is elsewhere or on a tape, or its numbers are none that kernels take.
    pub fn of<const D: usize>(t: &Tensor<D>) -> Option<Self> {
        let primitive = t.clone().try_into_primitive::<CubeBackend>().ok()?;
        kind(primitive.dtype).map(|_| Self(into_contiguous(primitive)))
    }

    /// All of them, or none.
    pub fn all<const D: usize, const N: usize>(tensors: [&Tensor<D>; N]) -> Option<[Self; N]> {
        let buffers: Vec<Self> = tensors.into_iter().map_while(Self::of).collect();
        buffers.try_into().ok()
    }

    /// Of a tensor that is taken over, to be written to: copied first where it is shared.
    pub fn taken<const D: usize>(t: Tensor<D>) -> Self {
        let primitive = t.try_into_primitive::<CubeBackend>().expect("it was seen there");
        let primitive = into_contiguous(primitive);
        Self(if primitive.can_mut() { primitive } else { primitive.copy() })
    }

    /// What is there is not set.
    pub fn new(place: &Self, dims: [usize; 2], dtype: DType) -> Self {
        let client = place.client().clone();
        // A kernel that is to write nothing still wants a buffer.
        let handle = client.empty((dims[0] * dims[1] * dtype.size()).max(1));
        Self(CubeTensor::new_contiguous(client, place.0.device.clone(), dims.into(), handle, dtype))
    }

    /// Numbers of the host's.
    #[allow(unsafe_code)]
    pub fn upload<E: CubeElement>(client: &Client, numbers: &[E]) -> BufferArg {
        let handle = client.create_from_slice(E::as_bytes(numbers));
        // SAFETY: it has just been made of so many.
        unsafe { BufferArg::from_raw_parts(handle, numbers.len()) }
    }

    pub fn tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_primitive::<CubeBackend>(self.0)
    }

    pub fn arg(&self) -> BufferArg {
        self.0.clone().into_buffer_arg()
    }

    pub fn client(&self) -> &Client {
        &self.0.client
    }

    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// As kernels name it.
    pub fn kind(&self) -> ElemType {
        kind(self.0.dtype).expect("checked when it was made")
    }
}

/// The numbers that kernels take.
fn kind(dtype: DType) -> Option<ElemType> {
    match dtype {
        DType::F32 => Some(ElemType::Float(FloatKind::F32)),
        DType::BF16 => Some(ElemType::Float(FloatKind::BF16)),
        DType::F16 => Some(ElemType::Float(FloatKind::F16)),
        _ => None,
    }
}

/// Whether the device is a processor: its units are threads, which take long to wait for each other.
pub(crate) fn is_processor(client: &Client) -> bool {
    client.properties().hardware.num_cpu_cores.is_some()
}

/// Units of a cube that work on one row: a power of two, as their sums want.
pub(crate) fn units(client: &Client, most: usize) -> usize {
    if is_processor(client) {
        return 1;
    }
    let most = most.min(client.properties().hardware.max_units_per_cube as usize).max(1);
    1 << most.ilog2()
}

/// As many units in one line.
pub(crate) fn line(units: usize) -> CubeDim {
    CubeDim::new_1d(units as u32)
}

//! What numbers the decoder computes with.

use burn::tensor::{DType, Device};

use crate::error::Error;

/// The type of weights, activations and matrix products. Norms, softmax, log-sum-exp, the loss, gradients of parameters
/// and the optimiser are f32 whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32 and 8 bits of precision.
    Bf16,
    /// 16 bits with 11 bits of precision, and so small a range that gradients are scaled to fit it.
    F16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// As torch names it, and `dtype` in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The relative distance of neighbouring numbers.
    pub fn epsilon(self) -> f64 {
        match self {
            Self::F32 => 2f64.powi(-23),
            Self::Bf16 => 2f64.powi(-7),
            Self::F16 => 2f64.powi(-10),
        }
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// Whether the tensors of that device can have this type.
    pub fn supported_by(self, device: &Device) -> bool {
        device.supports_dtype(self.dtype())
    }

    /// Refuses a device that lacks this type.
    ///
    /// # Errors
    /// [`Error::Precision`], with the types that it has.
    pub fn check(self, device: &Device) -> Result<(), Error> {
        if self.supported_by(device) {
            return Ok(());
        }
        let known = Self::ALL.into_iter().filter(|p| p.supported_by(device)).map(Self::name);
        Err(Error::Precision { name: self.name(), known: known.collect::<Vec<_>>().join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::elsewhere;

    #[test]
    fn what_a_device_lacks_is_refused_by_name() {
        for p in Precision::ALL {
            p.check(&Device::flex()).unwrap();
        }
        let said = Precision::Bf16.check(&elsewhere()).unwrap_err().to_string();
        assert_eq!(said, "the device has no bfloat16 numbers; it has: float32");
    }
}

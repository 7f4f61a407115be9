//! Tensors that lie in this process's memory, seen as slices: the door to the hand-made CPU kernels.

use burn::tensor::{DType, Element, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};
use bytemuck::Pod;
use collimate_kernels::half::{narrow, widen};
use half::bf16;

/// A tensor's buffer, row-major and shared with the tensor.
pub(crate) struct View(FlexTensor);

impl View {
    /// None if the tensor is elsewhere, is not f32, or is on a tape.
    pub fn of<const D: usize>(t: &Tensor<D>) -> Option<Self> {
        let primitive = t.clone().try_into_primitive::<Flex>().ok()?;
        let view = Self(if primitive.is_contiguous() { primitive } else { primitive.to_contiguous() });
        view.0.as_slice::<f32>().is_some().then_some(view)
    }

    /// As [`of`](Self::of); of a tensor of bf16, a copy that is widened.
    pub fn or_wide<const D: usize>(t: &Tensor<D>) -> Option<Self> {
        Self::of(t).or_else(|| {
            let half = HalfView::of(t)?;
            let mut values = unwritten(half.slice().len());
            widen(half.slice(), &mut values);
            Some(Self(FlexTensor::from_data(TensorData::new(values, t.dims()))))
        })
    }

    /// The same in f32, of what is here in some type.
    pub fn wide<const D: usize>(t: &Tensor<D>) -> Self {
        let cast = || Self::of(&t.clone().cast(DType::F32)).expect("what lies beside a weight lies where it lies");
        Self::or_wide(t).unwrap_or_else(cast)
    }

    /// All of them, widened where they are bf16, or none.
    pub fn all<const D: usize, const N: usize>(tensors: [&Tensor<D>; N]) -> Option<[Self; N]> {
        let views: Vec<Self> = tensors.into_iter().map_while(Self::or_wide).collect();
        views.try_into().ok()
    }

    pub fn slice(&self) -> &[f32] {
        self.0.as_slice().expect("checked when it was made")
    }
}

/// As [`View`], of a tensor of bf16.
pub(crate) struct HalfView(FlexTensor);

impl HalfView {
    pub fn of<const D: usize>(t: &Tensor<D>) -> Option<Self> {
        let primitive = t.clone().try_into_primitive::<Flex>().ok()?;
        let view = Self(if primitive.is_contiguous() { primitive } else { primitive.to_contiguous() });
        view.0.as_slice::<bf16>().is_some().then_some(view)
    }

    /// All of them, or none.
    pub fn all<const D: usize, const N: usize>(tensors: [&Tensor<D>; N]) -> Option<[Self; N]> {
        let views: Vec<Self> = tensors.into_iter().map_while(Self::of).collect();
        views.try_into().ok()
    }

    pub fn slice(&self) -> &[bf16] {
        self.0.as_slice().expect("checked when it was made")
    }
}

/// A buffer of `len` numbers that hold anything (in this crate's tests NaN), for a kernel that writes each of them and reads
/// none before: what is overwritten is not zeroed first.
#[allow(unsafe_code, clippy::uninit_vec)]
pub(crate) fn unwritten<E: Pod>(len: usize) -> Vec<E> {
    let mut buffer = Vec::with_capacity(len);
    // SAFETY: there is room for `len`, any bits are a number of a `Pod`, and no number is read that was not written.
    unsafe { buffer.set_len(len) };
    #[cfg(test)]
    bytemuck::cast_slice_mut::<E, u8>(&mut buffer).fill(0xff);
    buffer
}

/// A tensor that takes over a buffer.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(FlexTensor::from_data(TensorData::new(values, dims)))
}

/// As [`tensor`], of bf16.
pub(crate) fn half_tensor<const D: usize>(values: Vec<bf16>, dims: [usize; D]) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(FlexTensor::from_data(TensorData::new(values, dims)))
}

/// A tensor of numbers that were computed in f32, in the type of `like`.
pub(crate) fn like<const D: usize>(like: &Tensor<D>, values: Vec<f32>, dims: [usize; D]) -> Tensor<D> {
    if like.dtype() != DType::BF16 {
        return tensor(values, dims);
    }
    let mut rounded = unwritten(values.len());
    narrow(&values, &mut rounded);
    half_tensor(rounded, dims)
}

/// Changes a tensor's numbers, widened for it where they are bf16: in place where they are not.
pub(crate) fn change<const D: usize, R>(t: &mut Tensor<D>, change: impl FnOnce(&mut [f32]) -> R) -> Option<R> {
    let Some(half) = HalfView::of(t) else { return update(t, change) };
    let mut values = unwritten(half.slice().len());
    widen(half.slice(), &mut values);
    let result = change(&mut values);
    *t = like(t, values, t.dims());
    Some(result)
}

/// Changes a tensor's buffer in place, where it has one here; a shared one is copied first.
pub(crate) fn update<const D: usize, R>(t: &mut Tensor<D>, change: impl FnOnce(&mut [f32]) -> R) -> Option<R> {
    View::of(t)?;
    Some(in_place(t, change))
}

/// As [`update`], of a tensor of bf16.
pub(crate) fn update_half<const D: usize, R>(t: &mut Tensor<D>, change: impl FnOnce(&mut [bf16]) -> R) -> Option<R> {
    HalfView::of(t)?;
    Some(in_place(t, change))
}

fn in_place<E: Element + Pod, const D: usize, R>(t: &mut Tensor<D>, change: impl FnOnce(&mut [E]) -> R) -> R {
    let elements = t.dims().iter().product();
    let mut primitive = t.extract().try_into_primitive::<Flex>().expect("it was seen there");
    if !primitive.is_contiguous() || primitive.layout().start_offset() != 0 {
        primitive = primitive.to_contiguous();
    }
    // The first rows of a larger buffer lie in it as they would alone.
    let result = change(&mut primitive.storage_mut()[..elements]);
    *t = Tensor::from_primitive::<Flex>(primitive);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_follows_the_layout() {
        let t = tensor((0..6).map(|x| x as f32).collect(), [2, 3]);
        assert_eq!(View::of(&t.clone().transpose()).unwrap().slice(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(View::of(&t.clone().narrow(0, 1, 1)).unwrap().slice(), [3., 4., 5.]);
        assert!(View::of(&t.clone().autodiff()).is_none());
        assert!(View::of(&t.cast(DType::BF16)).is_none());
    }

    #[test]
    fn an_update_leaves_copies_alone() {
        let mut t = tensor(vec![1.0, 2.0, 3.0, 4.0], [2, 2]);
        let copy = t.clone();
        update(&mut t, |s| s[3] = 9.0).unwrap();
        assert_eq!(View::of(&t).unwrap().slice(), [1., 2., 3., 9.]);
        assert_eq!(View::of(&copy).unwrap().slice(), [1., 2., 3., 4.]);
        // Of a part, only the part is kept.
        let mut part = copy.clone().narrow(0, 1, 1);
        update(&mut part, |s| s[0] = 7.0).unwrap();
        assert_eq!(View::of(&part).unwrap().slice(), [7., 4.]);
        let mut first = copy.clone().narrow(0, 0, 1);
        update(&mut first, |s| {
            assert_eq!(s, [1., 2.]);
            s[1] = 8.0;
        })
        .unwrap();
        assert_eq!(View::of(&first).unwrap().slice(), [1., 8.]);
        assert_eq!(View::of(&copy).unwrap().slice(), [1., 2., 3., 4.]);
    }
}

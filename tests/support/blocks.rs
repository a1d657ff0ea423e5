//! What tests must know of the blocks of element types to fill them with numbers that mean something.
//! Apart from the rest of this folder, so that a test that needs nothing else takes only this.

use tern::base::dtype::DType;

/// Where the half-precision scales of a block are.
pub(crate) fn scale_places(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::F32 | DType::BF16 | DType::Mxfp4 => &[],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::Tq1_0 => &[52],
        DType::Tq2_0 => &[64],
        DType::F16 | DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::Iq4Nl | DType::Iq4Xs => &[0],
    }
}

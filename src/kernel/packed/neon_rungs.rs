//! What is compiled again for each rung of NEON: the same functions, for the CPU features of the rung
//! and with its way to multiply.

/// Makes a rung of a way to multiply: the functions of formats, compiled for the CPU features that
/// it needs. The file has a function `one` for one token.
macro_rules! rung {
    ($features:literal, $dot:ty, $arrange:expr) => {
        use crate::base::dtype::DType;
        use crate::kernel::packed::PackedFn;
        use crate::kernel::packed::neon_formats as formats;
        use crate::kernel::packed::neon_tiles::{MultiplyFn, Panel, Place};

        #[target_feature(enable = $features)]
        fn multiply<const OF_16: bool, const MIN: bool, const LARGE: bool>(
            panel: &Panel,
            place: &Place,
            act: &Activations<'_>,
            out: &mut Columns<'_, f32>,
        ) {
            neon_tiles::multiply::<$dot, OF_16, MIN, LARGE>(panel, place, act, out);
        }

        /// Multiplies, with quantised weights.
        #[target_feature(enable = $features)]
        fn quantised<F: Format>(w: &Packed<'_>, act: &Activations<'_>, out: &mut Columns<'_, f32>) {
            if act.n == 1 {
                return one::<F>(w, act, out);
            }
            let large = F::LARGE && <$dot as neon_tiles::Dot>::IN_16_BITS;
            let multiply: MultiplyFn = match (F::OF_16, F::PARTS.min, large) {
                (false, false, false) => multiply::<false, false, false>,
                (false, true, _) => multiply::<false, true, false>,
                (false, false, true) => multiply::<false, false, true>,
                (true, false, _) => multiply::<true, false, false>,
                (true, true, _) => multiply::<true, true, false>,
            };
            // SAFETY: `multiply` is of this rung, which the CPU has.
            unsafe {
                neon_tiles::gemm(w, act, out, F::ZERO, neon_tiles::unpack::<F>, $arrange, multiply)
            }
        }

        /// The matmul of `dtype`.
        pub(super) fn matmul(dtype: DType) -> PackedFn {
            match dtype {
                DType::F32 | DType::F16 | DType::BF16 => {
                    $crate::kernel::packed::neon_float::matmul(dtype)
                }
                DType::Q4_0 => quantised::<formats::Q4_0>,
                DType::Q4_1 => quantised::<formats::Q4_1>,
                DType::Q5_0 => quantised::<formats::Q5_0>,
                DType::Q5_1 => quantised::<formats::Q5_1>,
                DType::Q8_0 => quantised::<formats::Q8_0>,
                DType::Q2K => quantised::<formats::Q2K>,
                DType::Q3K => quantised::<formats::Q3K>,
                DType::Q4K => quantised::<formats::Q4K>,
                DType::Q5K => quantised::<formats::Q5K>,
                DType::Q6K => quantised::<formats::Q6K>,
                DType::Iq4Nl => quantised::<formats::Iq4Nl>,
                DType::Iq4Xs => quantised::<formats::Iq4Xs>,
                DType::Mxfp4 => quantised::<formats::Mxfp4>,
                DType::Tq1_0 => quantised::<formats::Tq1_0>,
                DType::Tq2_0 => quantised::<formats::Tq2_0>,
            }
        }
    };
}
pub(super) use rung;

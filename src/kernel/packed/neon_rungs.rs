//! What is compiled again for each rung of NEON: the same functions, for the CPU features of the rung
//! and with its way to multiply.

/// Makes a rung of a way to multiply: the functions of formats, compiled for the CPU features that
/// it needs. The file has a function `one` for one token.
macro_rules! rung {
    ($features:literal, $dot:ty, $arrange:expr) => {
        use crate::base::dtype::DType;
        use crate::kernel::packed::neon_float::{Bf16, F16, F32, floats};
        use crate::kernel::packed::neon_formats as formats;
        use crate::kernel::packed::neon_tiles::{MultiplyFn, Panel, Place};
        use crate::kernel::packed::{Ahead, PackedFn};

        #[target_feature(enable = $features)]
        fn multiply<const OF_16: bool, const MIN: bool, const LARGE: bool>(
            panel: &Panel,
            place: &Place,
            act: &Activations<'_>,
            out: &mut Columns<'_, f32>,
            ahead: &mut Ahead,
        ) {
            neon_tiles::multiply::<$dot, OF_16, MIN, LARGE>(panel, place, act, out, ahead);
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
            let tokens = <$dot as neon_tiles::Dot>::TOKENS;
            let (unpack, multiply) = (neon_tiles::unpack::<F>, (multiply, tokens));
            // SAFETY: `multiply` is of this rung, which the CPU has.
            unsafe { neon_tiles::gemm(w, act, out, F::ZERO, unpack, $arrange, multiply) }
        }

        /// The matmul of `dtype`.
        pub(super) fn matmul(dtype: DType) -> PackedFn {
            $crate::kernel::packed::of_type!(dtype)
        }
    };
}
pub(super) use rung;

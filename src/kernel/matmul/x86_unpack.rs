//! From a file's blocks to the rows of a panel, for x86-64: blocks of 32.
//!
//! 256-bit vectors for both rungs: 32 codes are one vector, and one group. The formats are drawn in
//! `quant`; here a comment says only how the bits move.

use std::arch::x86_64::*;

use super::x86::Row;
use super::x86_unpack_k as k;
use crate::base::dtype::DType;
use crate::quant::{E2M1_DOUBLED, IQ4_VALUES, half_of_e8m0};

/// Unpacks whole blocks, at most a piece. `unsafe`: the CPU must have AVX2, FMA and F16C.
pub(super) type Unpack = unsafe fn(&[u8], &mut Row);

/// The unpacking of a quantised type; a float type has none, and `matmul` does not ask for it.
pub(super) fn quantised(dtype: DType) -> Unpack {
    match dtype {
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        DType::Q5_0 => q5_0,
        DType::Q5_1 => q5_1,
        DType::Iq4Nl => iq4_nl,
        DType::Mxfp4 => mxfp4,
        DType::Q2K => k::q2_k,
        DType::Q3K => k::q3_k,
        DType::Q4K => k::q4_k,
        DType::Q5K => k::q5_k,
        DType::Q6K => k::q6_k,
        DType::Iq4Xs => k::iq4_xs,
        DType::Tq1_0 => k::tq1_0,
        DType::Tq2_0 => k::tq2_0,
        DType::Q8_0 => q8_0,
        DType::F32 | DType::F16 | DType::BF16 => unreachable!("{dtype} has no codes"),
    }
}

/// 32 bytes as a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are read, of any alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 16 bytes as a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_half(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes are read, of any alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Writes 32 codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(codes: &mut [i8; 32], x: __m256i) {
    // SAFETY: 32 bytes are written, of any alignment.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), x) }
}

/// Writes eight scales or minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_floats(out: &mut [f32; 8], x: __m256) {
    // SAFETY: 32 bytes are written, of any alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
}

/// A half-precision number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)))))
}

/// The 32 nibbles of 16 bytes, the low ones first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibbles(bytes: &[u8; 16]) -> __m256i {
    let low = load_half(bytes);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// 16 in each byte whose bit of `bits` is set: a byte of `bits` is spread over eight, each of which
/// keeps its own bit, and compares with that.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifth_bits(bits: [u8; 4]) -> __m256i {
    let spread =
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let bits = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(bits)), spread);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, own), own);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// Sixteen values, for each of two lanes' look-ups.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn table(values: &[i8; 16]) -> __m256i {
    // SAFETY: 16 bytes are read, of any alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

/// The part of an array of `$len` bytes from `$at` on, as an array; all are constants.
macro_rules! part {
    ($block:expr, $at:expr, $len:literal) => {
        $block[$at..$at + $len].first_chunk::<$len>().expect("a part of the block")
    };
}
pub(super) use part;

/// An unpacking of blocks of 32: the codes of `$block`, its scale `$d`, and its minimum.
macro_rules! of_32 {
    ($name:ident, $bytes:literal, |$block:ident, $d:ident| $codes:expr, $scale:expr, $min:expr) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $name(bytes: &[u8], row: &mut Row) {
            let blocks = bytes.as_chunks::<$bytes>().0;
            let codes = row.codes.as_chunks_mut::<32>().0;
            let floats = row.scales.iter_mut().zip(&mut row.mins);
            for ($block, (codes, (scale, min))) in blocks.iter().zip(codes.iter_mut().zip(floats)) {
                store(codes, $codes);
                let $d: f32 = $scale;
                *scale = $d;
                *min = $min;
            }
        }
    };
}

of_32!(q4_0, 18, |b, d| nibbles(part!(b, 2, 16)), half([b[0], b[1]]), -8.0 * d);
of_32!(q4_1, 20, |b, d| nibbles(part!(b, 4, 16)), half([b[0], b[1]]), half([b[2], b[3]]));
of_32!(
    q5_0,
    22,
    |b, d| _mm256_or_si256(nibbles(part!(b, 6, 16)), fifth_bits([b[2], b[3], b[4], b[5]])),
    half([b[0], b[1]]),
    -16.0 * d
);
of_32!(
    q5_1,
    24,
    |b, d| _mm256_or_si256(nibbles(part!(b, 8, 16)), fifth_bits([b[4], b[5], b[6], b[7]])),
    half([b[0], b[1]]),
    half([b[2], b[3]])
);
of_32!(q8_0, 34, |b, d| load(part!(b, 2, 32)), half([b[0], b[1]]), 0.0);
of_32!(
    iq4_nl,
    18,
    |b, d| _mm256_shuffle_epi8(table(&IQ4_VALUES), nibbles(part!(b, 2, 16))),
    half([b[0], b[1]]),
    0.0
);
of_32!(
    mxfp4,
    17,
    |b, d| _mm256_add_epi8(
        _mm256_shuffle_epi8(table(&E2M1_DOUBLED), nibbles(part!(b, 1, 16))),
        _mm256_set1_epi8(12)
    ),
    half_of_e8m0(b[0]),
    -12.0 * d
);

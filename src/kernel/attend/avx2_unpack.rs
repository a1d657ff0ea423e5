//! Packed codes for AVX2: a run is two vectors of bytes. Bits are shifted in lanes of 32; what comes
//! over from the next byte is masked away.

use std::arch::x86_64::*;

use super::unpack::{CodeBits, LEVELS, Unpack, each_run};

pub(super) const UNPACK: Unpack = [three, four, five];

/// The lower halves of 32 bytes, and the upper ones. Asks for those `ahead`.
///
/// # Safety
/// 32 bytes lie there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves(packed: *const u8, ahead: usize) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(ahead).cast());
    // SAFETY: the caller's promise.
    let x = unsafe { _mm256_loadu_si256(packed.cast()) };
    [_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask)]
}

/// `bit` where the codes of one half of a run have their highest: eight bytes of such bits, of which
/// the half's first eight codes have bit `first`, the next eight the next.
///
/// # Safety
/// 8 bytes lie there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn highest(packed: *const u8, first: i64, bit: i8) -> __m256i {
    let each = 0x0101_0101_0101_0101 << first;
    let mask = _mm256_setr_epi64x(each, each << 1, each << 2, each << 3);
    // SAFETY: the caller's promise; any alignment will do.
    let bits = unsafe { _mm256_set1_epi64x(packed.cast::<i64>().read_unaligned()) };
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, mask), mask);
    _mm256_and_si256(set, _mm256_set1_epi8(bit))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn four(packed: &[u8], zeros: &[[u8; 4]], codes: &mut [i8]) {
    let ahead = packed.len();
    each_run(CodeBits::Four, packed, zeros, codes, |packed, zero, codes| {
        let codes = codes.cast::<__m256i>();
        let zero = _mm256_set1_epi32(zero as i32);
        // SAFETY: a run is 32 bytes, and 64 codes.
        unsafe {
            let [lower, upper] = halves(packed, ahead);
            _mm256_storeu_si256(codes, _mm256_sub_epi8(lower, zero));
            _mm256_storeu_si256(codes.add(1), _mm256_sub_epi8(upper, zero));
        }
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
fn five(packed: &[u8], zeros: &[[u8; 4]], codes: &mut [i8]) {
    let ahead = packed.len();
    each_run(CodeBits::Five, packed, zeros, codes, |packed, zero, codes| {
        let codes = codes.cast::<__m256i>();
        let zero = _mm256_set1_epi32(zero as i32);
        // SAFETY: a run is 32 bytes and 8 more, and 64 codes.
        unsafe {
            let [lower, upper] = halves(packed, ahead);
            let lower = _mm256_or_si256(lower, highest(packed.add(32), 0, 16));
            let upper = _mm256_or_si256(upper, highest(packed.add(32), 4, 16));
            _mm256_storeu_si256(codes, _mm256_sub_epi8(lower, zero));
            _mm256_storeu_si256(codes.add(1), _mm256_sub_epi8(upper, zero));
        }
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
fn three(packed: &[u8], _: &[[u8; 4]], codes: &mut [i8]) {
    let ahead = packed.len();
    // SAFETY: 8 bytes are read.
    let levels = unsafe { _mm256_broadcastq_epi64(_mm_loadl_epi64(LEVELS.as_ptr().cast())) };
    let mask = _mm256_set1_epi8(3);
    let shifts =
        [_mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2), _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6)];
    each_run(CodeBits::Three, packed, &[[0; 4]], codes, |packed, _, codes| {
        let codes = codes.cast::<__m256i>();
        _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(ahead).cast());
        // SAFETY: a run is 16 bytes and 8 more, and 64 codes.
        unsafe {
            let x = _mm256_broadcastsi128_si256(_mm_loadu_si128(packed.cast()));
            for (half, shift) in shifts.into_iter().enumerate() {
                let low = _mm256_and_si256(_mm256_srlv_epi32(x, shift), mask);
                let u = _mm256_or_si256(low, highest(packed.add(16), 4 * half as i64, 4));
                _mm256_storeu_si256(codes.add(half), _mm256_shuffle_epi8(levels, u));
            }
        }
    });
}

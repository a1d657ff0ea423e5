//! Packed codes for AVX-512: a run is one vector of bytes. Bits are shifted in lanes of 32; what comes
//! over from the next byte is masked away.

use std::arch::x86_64::*;

use super::unpack::{CodeBits, LEVELS, Unpack, each_run};

pub(super) const UNPACK: Unpack = [three, four, five];

/// The lower halves of 32 bytes, then the upper ones. Asks for those `ahead`.
///
/// # Safety
/// 32 bytes lie there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn halves(packed: *const u8, ahead: usize) -> __m512i {
    let shift = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(ahead).cast());
    // SAFETY: the caller's promise.
    let x = unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(packed.cast())) };
    _mm512_and_si512(_mm512_srlv_epi64(x, shift), _mm512_set1_epi8(15))
}

/// Which codes of a run have their highest bit.
///
/// # Safety
/// 8 bytes lie there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn highest(packed: *const u8) -> __mmask64 {
    // Eight codes have the same bit of eight bytes, the next eight the next.
    let each = 0x0101_0101_0101_0101i64;
    let bit = |i: u32| each << i;
    let mask = _mm512_setr_epi64(bit(0), bit(1), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7));
    // SAFETY: the caller's promise; any alignment will do.
    let bits = unsafe { packed.cast::<i64>().read_unaligned() };
    _mm512_test_epi8_mask(_mm512_set1_epi64(bits), mask)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn four(packed: &[u8], zeros: &[[u8; 4]], codes: &mut [i8]) {
    let ahead = packed.len();
    each_run(CodeBits::Four, packed, zeros, codes, |packed, zero, codes| {
        let codes = codes.cast::<__m512i>();
        // SAFETY: a run is 32 bytes, and 64 codes.
        unsafe {
            let u = halves(packed, ahead);
            _mm512_storeu_si512(codes, _mm512_sub_epi8(u, _mm512_set1_epi32(zero as i32)));
        }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn five(packed: &[u8], zeros: &[[u8; 4]], codes: &mut [i8]) {
    let ahead = packed.len();
    let bit = _mm512_set1_epi8(16);
    each_run(CodeBits::Five, packed, zeros, codes, |packed, zero, codes| {
        let codes = codes.cast::<__m512i>();
        // SAFETY: a run is 32 bytes and 8 more, and 64 codes.
        unsafe {
            let u = halves(packed, ahead);
            let u = _mm512_mask_add_epi8(u, highest(packed.add(32)), u, bit);
            _mm512_storeu_si512(codes, _mm512_sub_epi8(u, _mm512_set1_epi32(zero as i32)));
        }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn three(packed: &[u8], _: &[[u8; 4]], codes: &mut [i8]) {
    let ahead = packed.len();
    // SAFETY: 8 bytes are read.
    let levels = unsafe { _mm512_broadcastq_epi64(_mm_loadl_epi64(LEVELS.as_ptr().cast())) };
    let (mask, bit) = (_mm512_set1_epi8(3), _mm512_set1_epi8(4));
    let shift = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6);
    each_run(CodeBits::Three, packed, &[[0; 4]], codes, |packed, _, codes| {
        let codes = codes.cast::<__m512i>();
        _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(ahead).cast());
        // SAFETY: a run is 16 bytes and 8 more, and 64 codes.
        unsafe {
            let x = _mm512_broadcast_i64x2(_mm_loadu_si128(packed.cast()));
            let u = _mm512_and_si512(_mm512_srlv_epi64(x, shift), mask);
            let u = _mm512_mask_add_epi8(u, highest(packed.add(16)), u, bit);
            _mm512_storeu_si512(codes, _mm512_shuffle_epi8(levels, u));
        }
    });
}

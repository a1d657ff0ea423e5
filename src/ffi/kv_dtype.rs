//! What keys and values can be stored as.

/// The element type of the KV cache.
pub type tern_kv_dtype = u32;
/// Half precision: 2 bytes.
pub const TERN_KV_F16: tern_kv_dtype = 0;
/// Single precision: 4 bytes.
pub const TERN_KV_F32: tern_kv_dtype = 1;
/// 8 bits: 34 bytes for 32 elements of a head, which share a scale. About half the memory of
/// TERN_KV_F16, and of what a long context makes a token read. Keys beside values of fewer bits, and
/// values beside such keys, are read as those are (TERN_KV_Q5_0) where they are new.
pub const TERN_KV_Q8_0: tern_kv_dtype = 2;
/// 5 bits: 22 bytes for 32 elements. Here and below the first 4 positions, which all others attend to,
/// are kept in half precision beside, and each token reads itself and the 15 before it in half
/// precision: codes of so few bits lose most in the nearest tokens. That takes as much as 48 slots of
/// TERN_KV_F16 for each KV head. tern_session_kv_truncate() says when they are read from their codes
/// all the same.
pub const TERN_KV_Q5_0: tern_kv_dtype = 3;
/// 4 bits: 18 bytes for 32 elements.
pub const TERN_KV_Q4_0: tern_kv_dtype = 4;
/// 4 bits of heads that are rotated: what stands out in a few elements is spread by the Hadamard
/// transform over 64 (over 32 or 16 where heads are no multiple of that; heads that are no multiple of
/// 16 stay as they are). As large as TERN_KV_Q4_0, and closer to TERN_KV_F16.
pub const TERN_KV_Q4_H: tern_kv_dtype = 5;
/// 3 bits, rotated: 14 bytes for 32 elements. For values; keys lose much.
pub const TERN_KV_Q3_H: tern_kv_dtype = 6;
/// 5 bits, rotated: as large as TERN_KV_Q5_0, and closer to TERN_KV_F16.
pub const TERN_KV_Q5_H: tern_kv_dtype = 7;
/// For `kv_dtype` alone: keys TERN_KV_Q8_0, values TERN_KV_Q4_H; 2.5 times smaller than TERN_KV_F16.
pub const TERN_KV_BALANCED: tern_kv_dtype = 64;
/// For `kv_dtype` alone: keys TERN_KV_Q5_H, values TERN_KV_Q4_H; 3.2 times smaller than TERN_KV_F16.
/// TERN_ERROR_UNSUPPORTED for models that normalise their keys (QK-norm: Gemma 3, Qwen 3), which need
/// 8 bits, unless `k_dtype` says what they are to be.
pub const TERN_KV_SMALL: tern_kv_dtype = 65;
/// For `kv_dtype` alone: keys TERN_KV_Q8_0, values TERN_KV_Q3_H; 2.7 times smaller than TERN_KV_F16.
pub const TERN_KV_TINY: tern_kv_dtype = 66;

//! Guilty and innocent functions. `// found:` says how each line is found.

/// # Safety
/// `bytes` points to `n` bytes.
unsafe fn given<'a>(bytes: *const u8, n: usize) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(bytes, n) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn control_index(bytes: *const u8, n: usize, at: usize) -> u8 {
    // SAFETY: as the caller says.
    let bytes = unsafe { given(bytes, n) };
    bytes[at] // found: place, call
}

#[unsafe(no_mangle)]
extern "C" fn control_sum(a: usize, b: usize) -> usize {
    a + b // found: place, call
}

#[unsafe(no_mangle)]
extern "C" fn control_unwrap(a: usize, b: usize) -> usize {
    a.checked_mul(b).unwrap() // found: place, call
}

#[unsafe(no_mangle)]
unsafe extern "C" fn control_copy(bytes: *const u8, n: usize) -> u64 {
    let mut word = [0; 8];
    // SAFETY: as the caller says.
    word.copy_from_slice(unsafe { given(bytes, n) }); // found: place, call
    u64::from_le_bytes(word)
}

/// Becomes a part of its caller, in another module.
#[inline(always)]
pub fn inlined(bytes: &[u8], n: usize) -> u8 {
    bytes[n..].len() as u8 // found: place, call
}

/// What grows is in the standard library, and not inlined.
#[unsafe(no_mangle)]
unsafe extern "C" fn control_push(list: *mut Vec<u64>, n: u64) {
    // SAFETY: the caller has a list.
    unsafe { &mut *list }.push(n); // found: way
}

#[unsafe(no_mangle)]
unsafe extern "C" fn control_get(bytes: *const u8, n: usize, at: usize) -> u8 {
    // SAFETY: as the caller says.
    unsafe { given(bytes, n) }.get(at).copied().unwrap_or(0)
}

#[unsafe(no_mangle)]
extern "C" fn control_saturating(a: usize, b: usize) -> usize {
    a.saturating_add(b).checked_div(b).unwrap_or(0)
}

/// Never beyond its end, which the compiler sees.
#[unsafe(no_mangle)]
unsafe extern "C" fn control_bounded(bytes: *const u8, n: usize) -> u8 {
    // SAFETY: as the caller says.
    let bytes = unsafe { given(bytes, n) };
    if n > 7 { bytes[7] } else { 0 }
}

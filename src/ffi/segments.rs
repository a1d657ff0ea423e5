//! Named segments of a session's tokens: which stretch is what, and what that means for eviction.

use std::ffi::{CStr, c_char};

use super::guard::guard;
use super::handle::{SESSIONS, tern_session};
use super::pointer::{c_str, fill, out, read_sized, sized_out};
use super::status::tern_status;
use crate::base::error::{Result, err};
use crate::engine::KvSegment;

/// For `flags` of tern_kv_segment: its tokens stay whatever their scores, until it expires.
pub const TERN_KV_SEGMENT_PINNED: u32 = 1;

/// What tern_session_kv_segment_set() says of a range of positions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_kv_segment {
    /// sizeof(tern_kv_segment)
    pub struct_size: u32,
    /// Position of its first token.
    pub from_pos: u32,
    /// Position after its last token; above `from_pos`.
    pub to_pos: u32,
    /// Tokens that may follow it before it expires, which is when its own leave, but for attention
    /// sinks, and it is forgotten; 0 = it never does.
    pub ttl: u32,
    /// Tokens of a lower priority leave before those of a higher one: -128 to 127; 0 is that of all
    /// tokens without a segment.
    pub priority: i32,
    /// A sum of TERN_KV_SEGMENT_*.
    pub flags: u32,
}

/// Names a range of positions, or changes the segment of that name: whether its tokens stay, leave
/// before or after others, or leave when so many tokens have followed. At most 64 of them, which do
/// not overlap; tokens that are yet to come can be named. A name has 1 to 31 bytes.
///
///     tern_kv_segment prompt = TERN_INIT(tern_kv_segment), reading = prompt, result = prompt;
///     prompt.to_pos = n_prompt;                       // stays
///     prompt.flags = TERN_KV_SEGMENT_PINNED;
///     reading.from_pos = a, reading.to_pos = b;       // is out of date after 500 tokens
///     reading.ttl = 500;
///     result.from_pos = b, result.to_pos = c;         // goes first
///     result.priority = -1;
///     ok(tern_session_kv_segment_set(session, "system", &prompt));
///     ok(tern_session_kv_segment_set(session, "lidar", &reading));
///     ok(tern_session_kv_segment_set(session, "tool", &result));
///
/// Fails with TERN_ERROR_INVALID_ARGUMENT if the range is empty or overlaps another segment's, if a
/// number or the name is out of range, or if there are 64 already; nothing has changed then.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_segment_set(
    session: *mut tern_session,
    name: *const c_char,
    segment: *const tern_kv_segment,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for strings and structs.
        let (name, segment) = unsafe { (name_of(name)?, read_sized(segment, "segment")?) };
        let tern_kv_segment { from_pos, to_pos, ttl, priority, flags, .. } = segment;
        if flags & !TERN_KV_SEGMENT_PINNED != 0 {
            return Err(err!(InvalidArgument, "segment: flags: {flags}, expected 0 or 1"));
        }
        let priority = i8::try_from(priority).map_err(|_| {
            err!(InvalidArgument, "segment: priority: {priority}, expected -128 to 127")
        })?;
        let pinned = flags & TERN_KV_SEGMENT_PINNED != 0;
        let segment = KvSegment { name, from: from_pos, to: to_pos, pinned, priority, ttl };
        session.write()?.kv_set_segment(&segment)
    })
}

/// Describes the segment of a name. Fails with TERN_ERROR_INVALID_ARGUMENT if there is none, as
/// when it has expired or its tokens were truncated.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_segment_get(
    session: *const tern_session,
    name: *const c_char,
    segment: *mut tern_kv_segment,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for strings and structs.
        let (name, segment) = unsafe { (name_of(name)?, sized_out(segment, "segment")?) };
        segment.write(described(&session.read()?.kv_segment(name)?));
        Ok(())
    })
}

/// Forgets the segment of a name; its tokens are as all others then. Fails with
/// TERN_ERROR_INVALID_ARGUMENT if there is none.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_segment_remove(
    session: *mut tern_session,
    name: *const c_char,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for strings.
        let name = unsafe { name_of(name)? };
        session.write()?.kv_remove_segment(name)
    })
}

/// Describes a segment by its place among all, from 0, by ascending position.
///
/// Its name goes to `name`, which has room for `capacity` bytes, and ends in NUL; `name_size`
/// counts that, too, and is at most 32. Fails with TERN_ERROR_INVALID_ARGUMENT behind the last
/// segment, TERN_ERROR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_session_kv_segment_at(
    session: *const tern_session,
    index: u32,
    name: *mut c_char,
    capacity: usize,
    name_size: *mut usize,
    segment: *mut tern_kv_segment,
) -> tern_status {
    guard(|| {
        let session = SESSIONS.get(session)?;
        // SAFETY: the header's contract for structs and out parameters.
        let (name_size, segment) =
            unsafe { (out(name_size, "name_size")?, sized_out(segment, "segment")?) };
        let state = session.read()?;
        let n = state.kv_segments().len();
        let Some(found) = state.kv_segments().nth(index as usize) else {
            return Err(err!(InvalidArgument, "no segment {index}; there are {n}"));
        };
        let mut text = [0u8; 32];
        for (to, from) in text.iter_mut().zip(found.name.bytes()) {
            *to = from;
        }
        let text = text.get(..=found.name.len()).unwrap_or(b"\0"); // a name has at most 31 bytes
        // SAFETY: the header's contract for buffers.
        unsafe { fill(name.cast::<u8>(), capacity, "name", text, name_size)? };
        segment.write(described(&found));
        Ok(())
    })
}

fn described(found: &KvSegment<'_>) -> tern_kv_segment {
    tern_kv_segment {
        struct_size: 0,
        from_pos: found.from,
        to_pos: found.to,
        ttl: found.ttl,
        priority: found.priority.into(),
        flags: if found.pinned { TERN_KV_SEGMENT_PINNED } else { 0 },
    }
}

/// # Safety
/// `name` is NULL or points to a string that ends in NUL.
unsafe fn name_of<'a>(name: *const c_char) -> Result<&'a str> {
    // SAFETY: the caller's contract.
    let name: &CStr = unsafe { c_str(name, "name")? };
    name.to_str()
        .map_err(|e| err!(InvalidArgument, "name is not UTF-8 at byte {}", e.valid_up_to()))
}

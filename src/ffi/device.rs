//! tern_device_*: what this machine can run on.

use std::ffi::c_char;

use super::guard::guard;
use super::pointer::{Sized0, sized_out};
use super::status::tern_status;
use crate::base::error::err;
use crate::base::sync::OnceLock;
use crate::engine::Isa;

/// A kind of device.
pub type tern_device_kind = u32;
/// The CPU, with the fastest kernels it supports.
pub const TERN_DEVICE_CPU: tern_device_kind = 0;

/// What tern_device_describe() says.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tern_device_info {
    /// sizeof(tern_device_info)
    pub struct_size: u32,
    /// What kind of device it is.
    pub kind: tern_device_kind,
    /// Its name, with the instruction set that tern will use, as in "cpu (avx2)". Never freed.
    pub name: *const c_char,
    /// Its memory; 0 = shares the host's.
    pub memory_bytes: u64,
}
// SAFETY: integers and a pointer, laid out without padding (asserted in params.rs).
unsafe impl Sized0 for tern_device_info {}

/// The number of devices; at least one, the CPU, which is device 0.
#[unsafe(no_mangle)]
pub extern "C" fn tern_device_count() -> u32 {
    1
}

/// Describes a device.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn tern_device_describe(
    index: u32,
    info: *mut tern_device_info,
) -> tern_status {
    guard(|| {
        // SAFETY: the header's contract for structs.
        let info = unsafe { sized_out(info, "info")? };
        if index != 0 {
            return Err(err!(InvalidArgument, "no device {index}; there is 1"));
        }
        let value = tern_device_info {
            struct_size: 0,
            kind: TERN_DEVICE_CPU,
            name: cpu_name().as_ptr().cast(),
            memory_bytes: 0,
        };
        info.write(value);
        Ok(())
    })
}

/// "cpu (avx2)", ended by NUL.
fn cpu_name() -> &'static [u8; 64] {
    static NAME: OnceLock<[u8; 64]> = OnceLock::new();
    NAME.get_or_init(|| {
        let mut name = [0; 64];
        let parts = ["cpu (", Isa::best().name(), ")"];
        let bytes = parts.iter().flat_map(|part| part.bytes());
        for (to, from) in name.iter_mut().take(63).zip(bytes) {
            *to = from;
        }
        name
    })
}

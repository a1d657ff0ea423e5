//! The instruction sets that tests can run. Apart from the rest of this folder, which the benchmarks
//! share: they emulate nothing.

#[cfg(target_arch = "x86_64")]
#[path = "amx.rs"]
mod amx;

use tern::base::cpu::Isa;

/// The rungs that this process can run, with those that are emulated. From then on the emulated one
/// is the best of the whole process: not for tests with real models.
pub(crate) fn rungs() -> &'static [Isa] {
    #[cfg(target_arch = "x86_64")]
    amx::emulate();
    Isa::available()
}

//! The instruction sets that tests can run. Apart from the rest of this folder, which the benchmarks
//! share: they emulate nothing.

#[cfg(target_arch = "x86_64")]
#[path = "amx.rs"]
mod amx;

use tern::base::cpu::Isa;

/// The rungs that this process can run, with those that are emulated. From then on the emulated one
/// is the best of the whole process: not for tests with real models.
///
/// With `TERN_CPU` only the one that it names: who sets it has the others run without it.
pub(crate) fn rungs() -> &'static [Isa] {
    if std::env::var_os("TERN_CPU").is_some() {
        return std::slice::from_ref(one());
    }
    #[cfg(target_arch = "x86_64")]
    amx::emulate();
    Isa::available()
}

fn one() -> &'static Isa {
    let best = Isa::best();
    Isa::available().iter().find(|&&isa| isa == best).expect("the best is available")
}

//! How fast a core can multiply at all: the roof over prefill, for `tern bench --roof`.
//!
//! The integer kernels of each rung are built around one instruction that multiplies bytes. Here it
//! runs on registers alone, with as many sums side by side as hide how long one takes. What the
//! registers hold does not matter: integers take the same time whatever they are.

use crate::base::cpu::Isa;

/// Sums side by side. The slowest of these instructions takes five cycles, and no core begins more
/// than two of them in a cycle.
const SUMS: u64 = 12;

/// Does so many rounds of a rung's multiply instruction, and returns how many multiplications of
/// bytes those were. `None` for a rung that has no such instruction or that this CPU lacks.
///
/// AVX2 takes three instructions for what the others do in one, to multiply, to widen and to add;
/// all three are done. NEON adds to sums of 16 bits; that the kernels must widen those sometimes is
/// left out.
pub fn multiply(isa: Isa, rounds: u32) -> Option<u64> {
    if rounds == 0 || Isa::up_to(isa).last() != Some(&isa) {
        return None;
    }
    let bytes = rung(isa, u64::from(rounds))?;
    Some(u64::from(rounds) * SUMS * bytes)
}

/// The text of an instruction for each of the twelve sums.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! twelve {
    ($one:ident) => {
        concat!(
            $one!("0"),
            $one!("1"),
            $one!("2"),
            $one!("3"),
            $one!("4"),
            $one!("5"),
            $one!("6"),
            $one!("7"),
            $one!("8"),
            $one!("9"),
            $one!("10"),
            $one!("11")
        )
    };
}

/// Runs the loop of a rung the CPU has, and says how many bytes one instruction multiplies.
#[cfg(target_arch = "x86_64")]
fn rung(isa: Isa, n: u64) -> Option<u64> {
    macro_rules! dpbusd {
        ($i:literal) => {
            concat!("vpdpbusd zmm", $i, ", zmm12, zmm13\n")
        };
    }
    macro_rules! maddubs {
        ($i:literal) => {
            concat!(
                "vpmaddubsw ymm15, ymm12, ymm13\nvpmaddwd ymm15, ymm15, ymm14\n",
                "vpaddd ymm",
                $i,
                ", ymm",
                $i,
                ", ymm15\n"
            )
        };
    }
    macro_rules! run {
        ($text:expr) => {
            std::arch::asm!("2:", $text, "dec {n}", "jnz 2b", "vzeroupper", n = inout(reg) n => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
                out("xmm15") _, options(nomem, nostack))
        };
    }
    match isa {
        Isa::AmxInt8 => {
            // Eight tiles of 16 rows of 64 bytes, as `ldtilecfg` reads it.
            let mut shape = [0u8; 64];
            shape[0] = 1;
            for tile in 0..8 {
                (shape[16 + 2 * tile], shape[48 + tile]) = (64, 16);
            }
            // SAFETY: as below, with AMX, which the kernel has allowed.
            unsafe {
                std::arch::asm!("ldtilecfg [{shape}]", "2:",
                    "tdpbusd tmm0, tmm4, tmm5", "tdpbusd tmm1, tmm4, tmm5", "tdpbusd tmm2, tmm4, tmm5",
                    "tdpbusd tmm3, tmm4, tmm5", "tdpbusd tmm0, tmm4, tmm5", "tdpbusd tmm1, tmm4, tmm5",
                    "tdpbusd tmm2, tmm4, tmm5", "tdpbusd tmm3, tmm4, tmm5", "tdpbusd tmm0, tmm4, tmm5",
                    "tdpbusd tmm1, tmm4, tmm5", "tdpbusd tmm2, tmm4, tmm5", "tdpbusd tmm3, tmm4, tmm5",
                    "dec {n}", "jnz 2b", "tilerelease", shape = in(reg) shape.as_ptr(),
                    n = inout(reg) n => _, options(readonly, nostack))
            };
            Some(16 * 16 * 64)
        }
        Isa::Avx512Vnni => {
            // SAFETY: `multiply` has seen that the CPU has the instruction. Only registers that are
            // given up, and `n`, change; `n` is not 0, so the loop ends.
            unsafe { run!(twelve!(dpbusd)) };
            Some(64)
        }
        Isa::Avx2 => {
            // SAFETY: as above, with AVX2.
            unsafe { run!(twelve!(maddubs)) };
            Some(32)
        }
        _ => None,
    }
}

/// Runs the loop of a rung the CPU has, and says how many bytes one instruction multiplies.
#[cfg(target_arch = "aarch64")]
fn rung(isa: Isa, n: u64) -> Option<u64> {
    macro_rules! smmla {
        ($i:literal) => {
            concat!("smmla v", $i, ".4s, v16.16b, v17.16b\n")
        };
    }
    macro_rules! sdot {
        ($i:literal) => {
            concat!("sdot v", $i, ".4s, v16.16b, v17.16b\n")
        };
    }
    macro_rules! smlal {
        ($i:literal) => {
            concat!("smlal v", $i, ".8h, v16.8b, v17.8b\n")
        };
    }
    macro_rules! run {
        ($extension:literal, $text:expr) => {
            std::arch::asm!($extension, "2:", $text, "subs {n}, {n}, #1", "b.ne 2b",
                n = inout(reg) n => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
                out("v6") _, out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _,
                options(nomem, nostack))
        };
    }
    match isa {
        Isa::NeonI8mm => {
            // SAFETY: `multiply` has seen that the CPU has the instruction. Only registers that are
            // given up, and `n`, change; `n` is not 0, so the loop ends.
            unsafe { run!(".arch_extension i8mm", twelve!(smmla)) };
            Some(32)
        }
        Isa::NeonDotprod => {
            // SAFETY: as above, with dotprod.
            unsafe { run!(".arch_extension dotprod", twelve!(sdot)) };
            Some(16)
        }
        Isa::Neon => {
            // SAFETY: as above; every aarch64 CPU that runs Linux has NEON.
            unsafe { run!("", twelve!(smlal)) };
            Some(8)
        }
        _ => None,
    }
}

/// No rung has such an instruction.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn rung(_: Isa, _: u64) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_but_the_scalar_one_multiplies_here() {
        for &isa in Isa::available() {
            let macs = multiply(isa, 1000);
            assert_eq!(macs.is_some(), isa != Isa::Scalar, "{isa}");
            assert_eq!(macs.unwrap_or(0) % (1000 * SUMS * 8), 0);
            assert_eq!(multiply(isa, 0), None);
        }
    }

    #[test]
    fn a_rung_that_the_cpu_lacks_is_not_run() {
        for isa in Isa::ALL.into_iter().filter(|isa| !Isa::available().contains(isa)) {
            assert_eq!(multiply(isa, 1000), None);
        }
    }
}

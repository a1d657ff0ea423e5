//! What the CPU can do: the ladder of instruction sets, and which cores are the fast ones.
//!
//! A rung contains all rungs below it, so "at most this rung" is one comparison. `TERN_CPU` names a
//! rung to step down to; it is the one environment variable that the library reads, once.

use std::fmt;

use super::line::Line;
use super::log::log;
use super::sync::OnceLock;
use super::{quota, thread};

/// A rung of the ladder. Rungs of one family are in ascending order; the families do not compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain code, on every CPU.
    Scalar,
    /// x86-64: AVX2 with FMA and F16C (Haswell, Zen, and later).
    Avx2,
    /// x86-64: AVX-512 F, BW, VL, DQ and VNNI, over AVX2.
    Avx512Vnni,
    /// x86-64: AMX with 8-bit integers, over AVX-512 VNNI, where the kernel allows the process to use
    /// it (Sapphire Rapids, and later).
    AmxInt8,
    /// aarch64: Advanced SIMD (Cortex-A53, A72, and later).
    Neon,
    /// aarch64: with SDOT and UDOT (Cortex-A76, and later).
    NeonDotprod,
    /// aarch64: with SMMLA and USDOT, over dotprod (Neoverse V1, Cortex-X2, and later).
    NeonI8mm,
}

/// The rungs that this build has code for, slowest first.
#[cfg(target_arch = "x86_64")]
const LADDER: &[Isa] = &[Isa::Scalar, Isa::Avx2, Isa::Avx512Vnni, Isa::AmxInt8];
#[cfg(target_arch = "aarch64")]
const LADDER: &[Isa] = &[Isa::Scalar, Isa::Neon, Isa::NeonDotprod, Isa::NeonI8mm];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const LADDER: &[Isa] = &[Isa::Scalar];

impl Isa {
    /// Every rung of every family.
    pub const ALL: [Isa; 7] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx512Vnni,
        Isa::AmxInt8,
        Isa::Neon,
        Isa::NeonDotprod,
        Isa::NeonI8mm,
    ];

    /// The rungs that this CPU can run, slowest first; `Scalar` is always the first.
    ///
    /// Where the CPU has AMX, this asks the kernel to allow it.
    pub fn available() -> &'static [Isa] {
        Isa::up_to(LADDER[LADDER.len() - 1])
    }

    /// Those of them that are not above `most`. What stands above is neither looked for nor asked for.
    pub fn up_to(most: Isa) -> &'static [Isa] {
        static HAS: [OnceLock<bool>; Isa::ALL.len()] = [const { OnceLock::new() }; Isa::ALL.len()];
        let has = |isa: Isa| *HAS[isa as usize].get_or_init(|| isa.is_detected());
        let n = LADDER.iter().take_while(|&&isa| isa <= most && has(isa)).count();
        &LADDER[..n]
    }

    /// The rung to run on: the highest that this CPU has, or the one that `TERN_CPU` steps down to.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let wanted = std::env::var_os("TERN_CPU");
            let wanted = wanted.as_ref().map(|name| name.to_str().unwrap_or(""));
            let rung = wanted.and_then(|name| LADDER.iter().find(|isa| isa.name() == name));
            choose(rung.map_or_else(Isa::available, |&rung| Isa::up_to(rung)), wanted)
        })
    }

    /// The rung's name, as `TERN_CPU` takes it and statistics print it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512_vnni",
            Isa::AmxInt8 => "amx_int8",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon_dotprod",
            Isa::NeonI8mm => "neon_i8mm",
        }
    }

    /// The rung of that name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether the CPU has what the rung adds to the one below it.
    #[cfg(target_arch = "x86_64")]
    fn is_detected(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => has!("avx2") && has!("fma") && has!("f16c"),
            Isa::Avx512Vnni => {
                has!("avx512f")
                    && has!("avx512bw")
                    && has!("avx512vl")
                    && has!("avx512dq")
                    && has!("avx512vnni")
            }
            Isa::AmxInt8 => super::amx::request(),
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => false,
        }
    }

    /// Whether the CPU has what the rung adds to the one below it.
    #[cfg(target_arch = "aarch64")]
    fn is_detected(self) -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        match self {
            Isa::Scalar => true,
            Isa::Neon => has!("neon"),
            Isa::NeonDotprod => has!("dotprod"),
            Isa::NeonI8mm => has!("i8mm"),
            Isa::Avx2 | Isa::Avx512Vnni | Isa::AmxInt8 => false,
        }
    }

    /// Whether the CPU has what the rung adds to the one below it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_detected(self) -> bool {
        self == Isa::Scalar
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The wanted rung if the CPU has it, else the highest: a name can only step down.
fn choose(available: &[Isa], wanted: Option<&str>) -> Isa {
    let best = available.last().copied().unwrap_or(Isa::Scalar);
    match wanted {
        None | Some("") => best,
        Some(name) => match available.iter().find(|isa| isa.name() == name) {
            Some(&isa) => isa,
            None => {
                log!(Warn, "TERN_CPU={name}: this CPU has no such rung; using {best}");
                best
            }
        },
    }
}

/// Threads that the machine has a place for, by what for; each at least 1.
///
/// All are bounded by the affinity of the calling thread and by the processor time that its control
/// groups allow, rounded down: who takes more than that is stopped in the middle of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// All, the slow ones included.
    pub all: usize,
    /// Those of the fastest class.
    pub fast: usize,
    /// Those that do not share their units with another one of them (SMT).
    pub separate: usize,
}

impl Cores {
    /// Asks the system.
    ///
    /// Linux gives each core a capacity, of which the fastest has 1024; cores below three quarters
    /// of the fastest are slow. Where the kernel gives no capacities, all cores are of one class.
    pub fn count() -> Cores {
        let most = quota::cpu_quota().map_or(usize::MAX, |q| (q / 1000).max(1) as usize);
        Cores::count_up_to(most)
    }

    #[inline(never)]
    fn count_up_to(most: usize) -> Cores {
        let file = |cpu, name: &str| {
            let path = Line::<96>::of(format_args!("/sys/devices/system/cpu/cpu{cpu}/{name}"));
            Line::<64>::read(&path)
        };
        let cpus = thread::allowed_cpus();
        let capacity = |cpu| file(cpu, "cpu_capacity")?.trim().parse().ok();
        let first = |cpu| first_of(&file(cpu, "topology/thread_siblings_list")?);
        Cores {
            all: cpus.iter().count().clamp(1, most),
            fast: count_fast(cpus.iter(), capacity).min(most),
            separate: count_separate(cpus.iter(), first).min(most),
        }
    }
}

/// Cores worth a thread each: those of the fastest class that this thread may run on, at least 1.
///
/// A slow core makes the fast ones wait at each barrier.
pub fn performance_cores() -> usize {
    Cores::count().fast
}

/// The first of a list of CPUs as the kernel writes it.
fn first_of(list: &str) -> Option<usize> {
    let end = list.find(|c: char| !c.is_ascii_digit()).unwrap_or(list.len());
    list[..end].parse().ok()
}

/// CPUs, those that are threads of one core counted once: `first` of them is it by which they are known.
fn count_separate(
    cpus: impl Iterator<Item = usize>,
    first: impl Fn(usize) -> Option<usize>,
) -> usize {
    let mut seen = [0u64; MOST_CPUS / 64];
    for cpu in cpus {
        let core = first(cpu).unwrap_or(cpu) % MOST_CPUS;
        seen[core / 64] |= 1 << (core % 64);
    }
    seen.iter().map(|bits| bits.count_ones() as usize).sum::<usize>().max(1)
}

/// CPUs that Linux numbers, at most.
const MOST_CPUS: usize = 8192;

fn count_fast(
    cpus: impl Iterator<Item = usize> + Clone,
    capacity: impl Fn(usize) -> Option<u32>,
) -> usize {
    let capacity = |cpu| capacity(cpu).unwrap_or(0);
    let fastest = cpus.clone().map(capacity).max().unwrap_or(0);
    // In 64 bits, so that no capacity that a kernel may invent overflows.
    let is_fast = |cpu: &usize| u64::from(capacity(*cpu)) * 4 >= u64::from(fastest) * 3;
    cpus.filter(is_fast).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_starts_at_scalar_and_rises() {
        let available = Isa::available();
        assert_eq!(available[0], Isa::Scalar);
        assert!(available.is_sorted());
        assert!(available.contains(&Isa::best()));
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
            let below: Vec<Isa> = available.iter().copied().filter(|rung| *rung <= isa).collect();
            assert_eq!(Isa::up_to(isa), below);
        }
    }

    #[test]
    fn a_name_only_steps_down() {
        let haswell = [Isa::Scalar, Isa::Avx2];
        assert_eq!(choose(&haswell, None), Isa::Avx2);
        assert_eq!(choose(&haswell, Some("")), Isa::Avx2);
        assert_eq!(choose(&haswell, Some("scalar")), Isa::Scalar);
        assert_eq!(choose(&haswell, Some("avx512_vnni")), Isa::Avx2);
        assert_eq!(choose(&haswell, Some("neon")), Isa::Avx2);
        assert_eq!(choose(&haswell, Some("AVX")), Isa::Avx2);
    }

    #[test]
    fn only_fast_cores_count() {
        // RK3588: four Cortex-A55, four A76 of two clusters that differ a little.
        let rk3588 = [530, 530, 530, 530, 1024, 1024, 1008, 1008];
        let capacity = |cpu: usize| rk3588.get(cpu).copied();
        assert_eq!(count_fast(0..8, capacity), 4);
        assert_eq!(count_fast(0..4, capacity), 4); // pinned to the small ones: those it has
        assert_eq!(count_fast(3..5, capacity), 1);
        assert_eq!(count_fast(0..6, |_| None), 6);
        assert_eq!(count_fast(0..0, |_| None), 1);
        assert_eq!(count_fast(0..2, |_| Some(u32::MAX)), 2);
    }

    #[test]
    fn threads_of_one_core_count_once() {
        // Two cores of two threads each, numbered either way.
        let pairs = |cpu: usize| first_of(["0-1\n", "0-1\n", "2-3\n", "2-3\n"][cpu]);
        assert_eq!(count_separate(0..4, pairs), 2);
        let halves = |cpu: usize| first_of(["0,2\n", "1,3\n", "0,2\n", "1,3\n"][cpu]);
        assert_eq!(count_separate(0..4, halves), 2);
        assert_eq!(count_separate(2..4, halves), 2);
        assert_eq!(count_separate(1..4, pairs), 2);
        assert_eq!(count_separate(0..3, |_| None), 3);
        assert_eq!(count_separate(0..3, |_| first_of("?")), 3);
        assert_eq!(count_separate(0..0, |_| None), 1);
    }

    #[test]
    fn this_machine_has_a_core() {
        let cores = Cores::count();
        assert!(cores.all >= 1 && cores.all <= thread::allowed_cpus().iter().count(), "{cores:?}");
        for n in [cores.fast, cores.separate] {
            assert!(n >= 1 && n <= cores.all, "{cores:?}");
        }
    }
}

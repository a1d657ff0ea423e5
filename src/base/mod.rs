//! The ground floor: errors, element types, memory, files, threads, what the CPU can do.
//!
//! Knows nothing of models, files' formats or tokens.

pub mod aligned;
#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod brake;
pub mod clock;
pub mod cpu;
pub mod crc32c;
pub mod dtype;
pub mod error;
pub mod file;
pub mod fork;
pub mod heap;
pub mod highest;
pub mod le;
pub mod line;
pub mod log;
pub mod memory;
pub mod order;
pub mod pool;
pub mod quota;
pub mod rng;
pub mod shared;
pub mod sync;
pub mod thread;

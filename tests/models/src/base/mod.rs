//! tern's `base`, as far as threads meet in it: the sources themselves, but for what they ask of the
//! machine, which is the models'.

#[path = "../../../../src/base/error.rs"]
pub mod error;
#[path = "../../../../src/base/fork.rs"]
pub mod fork;
#[path = "../../../../src/base/highest.rs"]
pub mod highest;
#[path = "../../../../src/base/line.rs"]
pub mod line;
#[path = "../../../../src/base/order.rs"]
pub mod order;
#[path = "../../../../src/base/pool/mod.rs"]
pub mod pool;
#[path = "../../../../src/base/shared.rs"]
pub mod shared;

pub mod models;
pub mod sync;
pub mod thread;

/// No time passes in a model.
pub mod clock {
    /// Always the same.
    pub fn now_ns() -> u64 {
        1
    }
}

/// Fewer cores than any pool has threads: whoever spun would wait for who has no core.
pub mod cpu {
    /// Of the machine.
    pub struct Cores {
        /// How many.
        pub all: usize,
    }

    impl Cores {
        /// None, so that nobody spins.
        pub fn count() -> Cores {
            Cores { all: 0 }
        }
    }
}

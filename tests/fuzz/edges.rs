//! Which edges inputs take: the counters that the compiler put there, with their addresses.
#![allow(unsafe_code, reason = "tables that the linker makes")]

use std::fmt::Write as _;
use std::path::Path;

/// An edge's address, and whether it enters a function.
#[repr(C)]
#[derive(Clone, Copy)]
struct Edge {
    address: usize,
    flags: usize,
}

unsafe extern "C" {
    #[link_name = "__start___sancov_cntrs"]
    static FIRST_COUNTER: u8;
    #[link_name = "__stop___sancov_cntrs"]
    static END_OF_COUNTERS: u8;
    #[link_name = "__start___sancov_pcs"]
    static FIRST_EDGE: Edge;
    #[link_name = "__ehdr_start"]
    static START_OF_PROGRAM: u8;
}

fn counters() -> (*const u8, usize) {
    let (first, end) = (&raw const FIRST_COUNTER, &raw const END_OF_COUNTERS);
    (first, end.addr() - first.addr())
}

/// Runs all inputs of a folder, and writes a line for each edge: its address in the file, and 1 if an
/// input took it.
pub fn write(inputs: &Path, to: &Path, run: impl Fn(&[u8])) {
    let mut paths: Vec<_> = std::fs::read_dir(inputs).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let (first, n) = counters();
    let mut taken = vec![false; n];
    for path in paths {
        run(&std::fs::read(&path).unwrap());
        for (i, taken) in taken.iter_mut().enumerate() {
            // SAFETY: one byte of the table; who counts in it writes whole bytes.
            *taken |= unsafe { first.add(i).read_volatile() } > 0;
        }
    }
    let start = (&raw const START_OF_PROGRAM).addr();
    let mut text = String::new();
    for (i, taken) in taken.iter().enumerate() {
        // SAFETY: the compiler makes an edge for each counter.
        let edge = unsafe { (&raw const FIRST_EDGE).add(i).read() };
        writeln!(text, "{:x} {} {}", edge.address - start, u8::from(*taken), edge.flags & 1)
            .unwrap();
    }
    std::fs::write(to, text).unwrap();
}

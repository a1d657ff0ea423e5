//! Processes that keep the cores busy, as the rest of a robot's software does.

use std::env;
use std::os::unix::process::parent_id;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::super::args::{Result, io_error};

/// The option that makes `tern bench` such a process. Not in the help, as it is of no other use.
pub(crate) const OPTION: &str = "--spin";

/// How long they have to get going, and the scheduler to learn about them.
const WARM_UP: Duration = Duration::from_millis(200);

/// Busy processes; they end when this is dropped, or when the process that began them ends.
pub(crate) struct Busy {
    children: Vec<Child>,
}

impl Busy {
    /// Begins so many, at the priority of this process.
    pub(crate) fn start(n: usize) -> Result<Busy> {
        let mut busy = Busy { children: Vec::new() };
        if n == 0 {
            return Ok(busy);
        }
        let program = env::current_exe().map_err(|e| io_error("this program", &e))?;
        for _ in 0..n {
            let child = Command::new(&program)
                .args(["bench", OPTION])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|e| io_error("a busy process", &e))?;
            busy.children.push(child);
        }
        thread::sleep(WARM_UP);
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Fails if it has ended already, and then there is nothing to end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Computes until the process that began this one has ended.
pub(crate) fn spin() {
    let parent = parent_id();
    let mut x = 1u64;
    while parent_id() == parent {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(10) {
            for _ in 0..10_000 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            }
            std::hint::black_box(x);
        }
    }
}

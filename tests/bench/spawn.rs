//! The machine's own limit: starting and reaping /bin/true with nothing around it.

use std::{process::Command, time::Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::throughput::rate;

/// Threads that start processes.
const THREADS: usize = 4;

/// `count` processes, a few at a time.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock"
)]
pub(crate) fn measure(count: usize) -> Result<Value> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for _ in (thread..count).step_by(THREADS) {
                    // One that does not start shows as a rate that nobody believes.
                    Command::new("/bin/true").status().ok();
                }
            });
        }
    });
    Ok(json!({"processes": count, "per_second": rate(count, begun.elapsed())}))
}

//! What the system says of processes and of itself: processor time, memory, and how busy others are.
//!
//! Reads /proc and nothing else. Called by the measurements.

use std::{fmt, fs, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use serde::Serialize;

/// Where a run was made, and what else the machine was doing just before it.
#[derive(Debug, Serialize)]
pub(crate) struct Load {
    /// Processors.
    cores: usize,
    /// The system's load averages.
    load_average: String,
    /// Processors that others kept busy in the second before.
    busy_cores: f64,
    kernel: String,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores, of which others kept {:.2} busy just before; load {}; Linux {}",
            self.cores, self.busy_cores, self.load_average, self.kernel
        )
    }
}

impl Load {
    /// Looks for a second.
    pub(crate) async fn now() -> Result<Self> {
        let before = busy_ticks()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let busy = busy_ticks()?.saturating_sub(before);
        let averages = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            load_average: averages
                .split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            busy_cores: seconds(busy),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
        })
    }
}

/// Ticks, of a hundred a second, that the host of a virtual machine took from its processors since it was started.
pub(crate) fn stolen_ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    // cpu user nice system idle iowait irq softirq steal
    let stolen = line.split_whitespace().nth(8);
    Ok(stolen.map_or(Ok(0), str::parse)?)
}

/// Ticks of all processors that were not idle.
fn busy_ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
    let busy = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(at, _)| !matches!(at, 3 | 4));
    Ok(busy.map(|(_, ticks)| ticks).sum())
}

/// Processor seconds that a process has used, its threads and no children.
pub(crate) fn cpu_seconds(pid: Pid) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(')').context("a stat without a name")?;
    let mut fields = after.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("a short stat")?.parse()?) };
    Ok(seconds(next()? + next()?))
}

/// The kernel counts in hundredths of a second on every machine that this runs on.
#[expect(
    clippy::cast_precision_loss,
    reason = "ticks of a machine's life stay far below 2^53"
)]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / 100.0
}

/// VmRSS in MiB.
pub(crate) fn resident_mib(pid: Pid) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.context("the process has no VmRSS")?;
    let kib = words.split_whitespace().next().context("no number")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// Bytes that a process has had written to disk.
pub(crate) fn written_bytes(pid: Pid) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"));
    Ok(line.context("no write_bytes")?.trim().parse()?)
}

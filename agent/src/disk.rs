//! The disk of this node: what is free on it, and work on it off the runtime's threads.
//!
//! Decides nothing. Called by whatever of the agent touches files.

use std::{io, path::Path};

use trainyard_core::node::Disk;

/// What is free on the disk of this folder, to who is not root, and how large it is. Blocks.
///
/// # Errors
/// When it cannot be seen.
pub(crate) fn seen(folder: &Path) -> io::Result<Disk> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(Disk {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Work on the disk, off the runtime's threads.
///
/// # Errors
/// Those of the work, and when it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = trainyard_runtime::blocking(work).await;
    done.map_err(io::Error::other).and_then(|done| done)
}

//! Following a trainer's `output.log` while it grows, at no cost while it does not.
//!
//! Owns the reader and the kernel's watch on the file. Never interprets a line. Called by the scribe.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::exec::{
    output::{OutputLine, OutputReader},
    unix,
};

/// Lines at a time: at most 32 MiB in memory, usually far less.
const LINES: usize = 512;
/// What is written within this time is read, and made durable, together.
const GATHER: Duration = Duration::from_millis(20);
/// How soon the file is looked at again where the kernel does not tell of changes.
const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_millis(500);
/// The kernel is asked to tell of changes after so many looks: to begin and to end a watch costs more than a short task.
const LOOKS: u32 = 4;

/// A file that is followed from an offset.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    start: u64,
    reader: Option<OutputReader>,
    events: Option<AsyncFd<OwnedFd>>,
    pace: Duration,
    dirty: bool,
    /// Looks until the kernel is asked; then it is not asked again.
    looks: u32,
}

impl Follower {
    /// Follows `path` from `start`; nothing is read yet.
    pub(super) fn new(path: PathBuf, start: u64) -> Self {
        Self {
            events: None,
            path,
            start,
            reader: None,
            pace: SOON,
            dirty: true,
            looks: LOOKS,
        }
    }

    /// Returns when there may be more. Can be dropped and called again.
    pub(super) async fn changed(&mut self) {
        if !self.dirty {
            match &self.events {
                Some(events) => next_change(events).await,
                None => {
                    tokio::time::sleep(self.pace).await;
                    self.ask_kernel();
                }
            }
            self.dirty = true;
        }
        tokio::time::sleep(GATHER).await;
    }

    /// What comes before the next look is found by it, what comes after it is told.
    fn ask_kernel(&mut self) {
        if self.looks == 0 {
            return;
        }
        self.looks -= 1;
        if self.looks == 0 {
            let path = &self.path;
            self.events = watch(path)
                .inspect_err(|error| tracing::debug!(path = %path.display(), %error, "no watch on the output; it is polled"))
                .ok();
        }
    }

    /// Further whole lines; none when there are none yet.
    pub(super) async fn read(&mut self) -> io::Result<Vec<OutputLine>> {
        self.dirty = false;
        let (path, start, reader) = (self.path.clone(), self.start, self.reader.take());
        let read = move || {
            let mut reader = match reader {
                Some(reader) => reader,
                None => match OutputReader::open(&path, start) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Ok((None, Vec::new()));
                    }
                    opened => opened?,
                },
            };
            let lines = reader.read_lines(LINES)?;
            Ok((Some(reader), lines))
        };
        let done = trainyard_runtime::blocking(read).await;
        let (reader, lines) = done.map_err(io::Error::other).and_then(|read| read)?;
        self.start = reader.as_ref().map_or(self.start, OutputReader::offset);
        self.reader = reader;
        self.pace = if lines.is_empty() && self.looks == 0 {
            (self.pace * 2).min(LATE)
        } else {
            SOON
        };
        Ok(lines)
    }
}

impl Drop for Follower {
    /// The kernel takes some 15 ms to end a watch: not on a thread that others wait for.
    fn drop(&mut self) {
        if let Some(events) = self.events.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(events)));
        }
    }
}

/// Lines at the end of the file: those in its last 64 KiB.
pub(super) async fn tail(path: &Path) -> io::Result<Vec<OutputLine>> {
    let path = path.to_owned();
    let read = move || {
        let length = std::fs::metadata(&path)?.len();
        // It starts within a record; the reader goes on to the next whole one.
        OutputReader::open(&path, length.saturating_sub(64 << 10))?.read_lines(usize::MAX)
    };
    let done = trainyard_runtime::blocking(read).await;
    done.map_err(io::Error::other).and_then(|read| read)
}

fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    if trainyard_runtime::is_simulated() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let events = inotify::init(flags)?;
    inotify::add_watch(&events, path, inotify::WatchFlags::MODIFY)?;
    unix::register(events)
}

/// Waits for the next change and takes in all that are there.
async fn next_change(events: &AsyncFd<OwnedFd>) {
    let Ok(mut ready) = events.readable().await else {
        return tokio::time::sleep(LATE).await;
    };
    let mut buffer = [0; 4096];
    while rustix::io::read(events.get_ref(), &mut buffer).is_ok_and(|count| count > 0) {}
    ready.clear_ready();
}

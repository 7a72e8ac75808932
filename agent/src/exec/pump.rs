//! The trainer's two pipes, from the shim's side.
//!
//! Owns reading both pipes and writing their lines to `output.log` in the order of arrival. It never
//! blocks except on the disk. The shim's loop calls it.

use super::clock;
use super::lines::{LineSplitter, OutputLog, encode};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

struct Pipe {
    stream: char,
    file: Option<File>,
    splitter: LineSplitter,
}

/// Both pipes and the file that they end in.
pub(crate) struct Pump {
    pipes: [Pipe; 2],
    log: OutputLog,
    chunk: Vec<u8>,
}

impl Pump {
    /// Pumps the read ends `out` and `err` into `log`.
    pub(crate) fn new(out: OwnedFd, err: OwnedFd, log: OutputLog) -> Self {
        let pipe = |stream, fd: OwnedFd| Pipe {
            stream,
            file: Some(File::from(fd)),
            splitter: LineSplitter::default(),
        };
        Self {
            pipes: [pipe('o', out), pipe('e', err)],
            log,
            chunk: vec![0; 64 * 1024],
        }
    }

    /// The pipes that have not ended, with the index that [`Self::read`] takes.
    pub(crate) fn open_pipes(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        self.pipes
            .iter()
            .enumerate()
            .filter_map(|(index, pipe)| Some((index, pipe.file.as_ref()?.as_fd())))
            .collect()
    }

    /// Whether both pipes have ended.
    pub(crate) fn ended(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.file.is_none())
    }

    /// Reads once from a pipe that is ready.
    pub(crate) fn read(&mut self, index: usize) {
        let Some(pipe) = self.pipes.get_mut(index) else {
            return;
        };
        let Some(file) = &mut pipe.file else { return };
        let count = match file.read(&mut self.chunk) {
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                return;
            }
            Err(_) => 0,
        };
        let at = clock::wall_us();
        let (mut records, mut payload) = (Vec::new(), 0);
        let stream = pipe.stream;
        let mut emit = |line: &[u8]| {
            encode(&mut records, at, stream, line);
            payload += line.len() as u64;
        };
        if count == 0 {
            pipe.file = None;
            pipe.splitter.finish(&mut emit);
        } else {
            let bytes = self.chunk.get(..count).unwrap_or_default();
            pipe.splitter.push(bytes, &mut emit);
        }
        if !records.is_empty() {
            self.log.append(&records, payload);
        }
    }

    /// Ends both pipes, whether or not a writer is left; returns the bytes that were lost.
    pub(crate) fn finish(&mut self) -> u64 {
        for pipe in &mut self.pipes {
            pipe.file = None;
            let (mut records, mut payload) = (Vec::new(), 0);
            let stream = pipe.stream;
            pipe.splitter.finish(|line| {
                encode(&mut records, clock::wall_us(), stream, line);
                payload += line.len() as u64;
            });
            if !records.is_empty() {
                self.log.append(&records, payload);
            }
        }
        self.log.sync();
        self.log.lost_bytes()
    }
}

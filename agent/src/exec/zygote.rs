//! The shim that others are forked from: loaded once, so that a task's shim costs a fork and not the start of a program
//! of tens of megabytes, its relocations above all.
//!
//! Owns what agent and zygote say to each other: orders on its standard input, words on its standard output, which its
//! shims share with it until they have said their own. It has a single thread, knows nothing of a task but its folder,
//! and is no part of any task's life: what it has forked outlives it, as it outlives the agent. It ends when the agent
//! does, since its input is closed then. [`super::shim::main`] calls it; [`super::shims`] is its other end.

use super::files::Hello;
use super::procfs;
use super::unix::{self, Forked};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, StdinLock};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a shim is given instead of a task's folder when others are to be forked from it.
pub(crate) const ZYGOTE: &str = "-";
/// The longest word: the kernel writes so much to a pipe at one go, however many write to it.
pub(crate) const LONGEST_WORD: usize = 4096;
/// What is kept of an explanation, so that its word fits, whatever its letters are escaped to.
const LONGEST_REASON: usize = 512;

/// What the agent wants of the zygote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// A shim for the task in this folder; words about it carry this number.
    Begin(u64, PathBuf),
    /// The shim of this number has taken too long.
    Kill(u64),
}

/// What is said to the agent, one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// By the shim of this number.
    Hello(u64, Hello),
    /// By the zygote: the shim of this number has ended, and not well.
    Ended(u64),
}

impl Order {
    /// As it stands on the pipe, with a zero byte at its end: no path holds one.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (number, folder) = match self {
            Self::Begin(number, folder) => (number, Some(folder.as_os_str())),
            Self::Kill(number) => (number, None),
        };
        let mut bytes = number.to_string().into_bytes();
        if let Some(folder) = folder {
            bytes.push(b' ');
            bytes.extend_from_slice(folder.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    /// Without the zero byte.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.splitn(2, |&byte| byte == b' ');
        let number = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let folder = parts.next().map(|path| OsString::from_vec(path.to_vec()));
        Some(folder.map_or(Self::Kill(number), |path| Self::Begin(number, path.into())))
    }
}

/// In the shim that is forked: what it is to run. `None` in the zygote itself, when the agent has ended.
///
/// Must be called in a process with a single thread.
pub(super) fn serve() -> Option<(u64, PathBuf)> {
    let signals = watch_children().ok()?;
    // What every shim needs to know is known before there is one. One that does not know it asks again.
    procfs::boot_id().ok();
    let mut zygote = Zygote::default();
    let input = io::stdin().lock();
    loop {
        if wait(&input, &signals) {
            zygote.read_orders(&input)?;
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        zygote.reap();
        while let Some(order) = zygote.next_order() {
            if let Some(own) = zygote.carry_out(order) {
                return Some(own);
            }
        }
    }
}

/// A child's end wakes the loop below. The shims inherit that it is blocked, and want it so.
fn watch_children() -> io::Result<SignalFd> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&children, flags)?)
}

/// Waits for an order or a child's end; whether there may be an order.
fn wait(input: &StdinLock<'static>, signals: &SignalFd) -> bool {
    let mut fds = [
        PollFd::new(input.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    // Interrupted: nothing is lost by another round.
    poll(&mut fds, PollTimeout::NONE).is_ok_and(|_| {
        let [orders, _] = &fds;
        orders.any().unwrap_or(true)
    })
}

#[derive(Debug, Default)]
struct Zygote {
    /// Orders as they came, up to where they have been taken.
    came: Vec<u8>,
    /// The shims that have not ended, by pid.
    living: BTreeMap<i32, u64>,
}

impl Zygote {
    /// `None` when there will be none any more. Reads what is there and no further: a shim that is forked must not
    /// find others' orders in a buffer of its own.
    fn read_orders(&mut self, input: &StdinLock<'static>) -> Option<()> {
        let mut chunk = [0; 4096];
        match nix::unistd::read(input, &mut chunk) {
            Ok(0) => None,
            Ok(count) => {
                self.came.extend_from_slice(chunk.get(..count)?);
                Some(())
            }
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => Some(()),
            Err(_) => None,
        }
    }

    fn next_order(&mut self) -> Option<Order> {
        loop {
            let end = self.came.iter().position(|&byte| byte == 0)?;
            let order: Vec<u8> = self.came.drain(..=end).collect();
            // What is no order comes from nobody who waits for an answer.
            let order = order
                .split_last()
                .and_then(|(_, order)| Order::decode(order));
            if order.is_some() {
                return order;
            }
        }
    }

    /// In the new shim, what it is to run.
    fn carry_out(&mut self, order: Order) -> Option<(u64, PathBuf)> {
        match order {
            Order::Begin(number, folder) => match unix::fork_into(None) {
                Ok(Forked::Child { .. }) => {
                    settle(&folder);
                    return Some((number, folder));
                }
                Ok(Forked::Parent(pid)) => {
                    self.living.insert(pid, number);
                }
                Err(error) => {
                    let why = Hello::Failed(format!("forking its shim failed: {error}"));
                    say(&Word::Hello(number, why));
                }
            },
            Order::Kill(number) => {
                for (&pid, _) in self.living.iter().filter(|(_, other)| **other == number) {
                    // Not reaped yet, so the pid is its own.
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
            }
        }
        None
    }

    /// Those that ended well have said what there was to say.
    fn reap(&mut self) {
        loop {
            let (pid, well) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code == 0),
                Ok(WaitStatus::Signaled(pid, ..)) => (pid, false),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(number) = self.living.remove(&pid.as_raw())
                && !well
            {
                say(&Word::Ended(number));
            }
        }
    }
}

/// Makes the forked process the shim of the task in `folder`: as one that is started for it, its words go to the task's
/// folder. Without these it would only be silent.
fn settle(folder: &Path) {
    if let Ok(log) = std::fs::File::create(folder.join(super::files::SHIM_ERR)) {
        nix::unistd::dup2_stderr(&log).ok();
    }
    if let Ok(nothing) = std::fs::File::open("/dev/null") {
        nix::unistd::dup2_stdin(&nothing).ok();
    }
    // For whoever looks at the processes: the command line is the zygote's.
    let task = folder.file_name().map_or(&b"?"[..], OsStr::as_bytes);
    let name = [b"shim ", task].concat();
    let name = name.get(..15).unwrap_or(&name);
    if let Ok(name) = std::ffi::CString::new(name) {
        rustix::thread::set_name(&name).ok();
    }
}

/// Says the shim's one word, and lets go of the pipe: that it is closed tells the agent that the zygote has ended and no
/// shim is left that has something to say.
pub(super) fn say_hello(number: u64, hello: Hello) {
    say(&Word::Hello(number, short(hello)));
    if let Ok(nothing) = std::fs::File::options().write(true).open("/dev/null") {
        nix::unistd::dup2_stdout(&nothing).ok();
    }
}

/// In one write, so that no other's word comes between. That the agent has died meanwhile is no concern.
fn say(word: &Word) {
    let mut line = serde_json::to_vec(word).unwrap_or_default();
    line.push(b'\n');
    nix::unistd::write(io::stdout(), &line).ok();
}

/// Fits into [`LONGEST_WORD`]. The group's folder is in proc.json.
fn short(mut hello: Hello) -> Hello {
    match &mut hello {
        Hello::Started(record) => record.cgroup = None,
        Hello::Failed(reason) | Hello::NotExecutable(reason) | Hello::Refused(reason) => {
            let fits = (0..=LONGEST_REASON)
                .rev()
                .find(|&at| reason.is_char_boundary(at));
            reason.truncate(fits.unwrap_or(0));
        }
        Hello::NotFound | Hello::NoFolder | Hello::Busy | Hello::RunsAlready(_) => {}
    }
    hello
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_were_written_however_they_are_cut() {
        let orders = [
            Order::Begin(7, PathBuf::from("/data/a task\nof two lines")),
            Order::Kill(7),
            Order::Begin(8, OsString::from_vec(vec![b'/', 0xff]).into()),
        ];
        let bytes: Vec<u8> = orders.iter().flat_map(Order::encode).collect();
        let mut zygote = Zygote::default();
        let mut read = Vec::new();
        for byte in bytes {
            zygote.came.push(byte);
            read.extend(zygote.next_order());
        }
        assert_eq!(read, orders);
    }

    #[test]
    fn a_word_fits_into_one_write_however_long_its_reason_is() {
        let reason = "\u{1}".repeat(100_000);
        for hello in [Hello::Failed(reason.clone()), Hello::NotExecutable(reason)] {
            let line = serde_json::to_vec(&Word::Hello(u64::MAX, short(hello))).unwrap();
            assert!(line.len() < LONGEST_WORD, "{}", line.len());
        }
    }
}

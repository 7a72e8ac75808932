//! The shim: the process that stands between the agent and one trainer.
//!
//! Owns the trainer's life: it starts it, reads its output, stops it, kills what it leaves behind
//! and writes down how it ended. It runs one thread and one poll loop, with no runtime. It never
//! talks to the network and never decides to stop. The hidden subcommand `trainyard shim` calls
//! [`main`]; the agent speaks to it only through the task's folder and SIGTERM.

use super::files::{self, ExitRecord, Hello, LaunchSpec, ProcRecord, StopRecord};
use super::lines::OutputLog;
use super::pump::Pump;
use super::spawn::spawn_trainer;
use super::zygote::{self, ZYGOTE};
use super::{ProcIdent, cgroup, clock, descend, durable, lock, procfs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long leftovers may take to die of SIGKILL before they are counted as stuck.
const SWEEP_LIMIT: Duration = Duration::from_secs(20);
/// How long the pipes are read after the last process of the trainer has gone: somebody else may
/// have been handed an end of one.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How soon the record of the exit is tried again that the disk refused, in milliseconds.
const WRITE_AGAIN: u16 = 1_000;
/// How soon the leftovers are looked at again when no SIGCHLD comes.
const SWEEP_TICK: Duration = Duration::from_millis(50);

/// Runs the task in `task_dir` to its end. Returns the process's exit code: 0 when `exit.json` was
/// written, 1 when the trainer did not start, 2 when how it ended could not be written
/// because the folder was gone.
///
/// Must be called in a process of its own, with a single thread, whose stdout is the launcher's
/// pipe. In place of a folder it may be told to be the process that others are forked from.
#[must_use]
pub fn main(task_dir: &Path) -> i32 {
    // It was started as /proc/self/exe, and would be listed as `exe`.
    std::fs::write("/proc/self/comm", "trainyard").ok();
    if task_dir == Path::new(ZYGOTE) {
        return match zygote::serve() {
            Some((number, task_dir)) => attend(&task_dir, |hello| {
                zygote::say_hello(number, hello);
            }),
            None => 0,
        };
    }
    attend(task_dir, |hello| say(&hello))
}

/// The whole life of the shim of the task in `task_dir`.
fn attend(task_dir: &Path, say: impl Fn(Hello)) -> i32 {
    let (mut shim, proc_record) = match Shim::start(task_dir) {
        Ok(started) => started,
        Err(refusal) => {
            say(refusal);
            return 1;
        }
    };
    say(Hello::Started(proc_record));
    match shim.run() {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!(
                "how the trainer ended could not be written: {error}"
            ));
            2
        }
    }
}

/// Where the trainer's life stands.
enum Phase {
    /// The main process runs; with the moment at which it is killed, if it was asked to stop.
    Running { kill_at: Option<Instant> },
    /// The main process has ended, others are being killed.
    Sweeping { give_up_at: Instant },
    /// All have ended, what is left in the pipes is read.
    Draining { give_up_at: Instant },
    /// Nothing is left to do.
    Done,
}

struct Shim {
    task_dir: PathBuf,
    pid: i32,
    trainer: i32,
    cgroup: Option<PathBuf>,
    default_grace: Duration,
    signals: SignalFd,
    pump: Pump,
    phase: Phase,
    stop_since: Option<Instant>,
    killed_by_us: bool,
    ended_by_machine: bool,
    /// Nothing that the trainer started is left: whatever loses its parent becomes this process's
    /// child, and it has none.
    childless: bool,
    started_at_us: u64,
    started: Instant,
    ended_at_us: u64,
    ran: Duration,
    oom_before: u64,
    oom_killed: bool,
    /// Exit code or signal of the main process.
    end: Option<(Option<i32>, Option<i32>)>,
    leftovers: BTreeSet<i32>,
    stuck: usize,
    /// Held for as long as this process lives.
    _lock: File,
}

impl Shim {
    fn start(task_dir: &Path) -> Result<(Self, ProcRecord), Hello> {
        let task_dir =
            std::path::absolute(task_dir).map_err(|e| failed("resolving the task folder", &e))?;
        let signals = become_shim().map_err(|e| failed("setting up the shim", &e))?;
        let lock = lock::take(&task_dir)?;
        refuse_ended(&task_dir)?;
        let spec: LaunchSpec = durable::read_json(&task_dir.join(files::LAUNCH))
            .and_then(|spec| spec.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|e| failed("reading launch.json", &e))?;
        // A trainer may fill the disk in its first moment.
        for record in [files::PROC, files::EXIT] {
            durable::reserve(&task_dir.join(record))
                .map_err(|e| failed("reserving room for what is to be noted of the trainer", &e))?;
        }
        let log = OutputLog::open(task_dir.join(files::OUTPUT));
        let (started_at_us, started) = (clock::wall_us(), clock::monotonic());
        let me = ProcIdent::current().map_err(|e| failed("looking at /proc", &e))?;
        let cgroup = cgroup::make(&me);
        let oom_before = oom_kills(cgroup.as_deref());
        let spawned = spawn_trainer(&spec, cgroup.as_deref())
            .inspect_err(|_| cgroup::remove(cgroup.as_deref()))?;
        let record = record_processes(&task_dir, me, spawned.pid, cgroup).map_err(|e| {
            descend::kill_all(&BTreeSet::from([spawned.pid]));
            failed("writing proc.json", &e)
        })?;
        let shim = Self {
            task_dir,
            pid: record.shim.pid,
            trainer: record.trainer.pid,
            cgroup: record.cgroup.clone(),
            default_grace: Duration::from_millis(spec.grace_ms),
            signals,
            pump: Pump::new(spawned.stdout.into(), spawned.stderr.into(), log),
            phase: Phase::Running { kill_at: None },
            stop_since: None,
            killed_by_us: false,
            ended_by_machine: false,
            childless: false,
            started_at_us,
            started,
            ended_at_us: 0,
            ran: Duration::ZERO,
            oom_before,
            oom_killed: false,
            end: None,
            leftovers: BTreeSet::new(),
            stuck: 0,
            _lock: lock,
        };
        Ok((shim, record))
    }

    fn run(&mut self) -> io::Result<()> {
        while !matches!(self.phase, Phase::Done) {
            self.wait_for_events()?;
            self.take_signals();
            self.reap();
            self.advance();
        }
        self.write_exit()
    }

    /// Waits for a signal, output or a deadline, and reads the output there is.
    fn wait_for_events(&mut self) -> io::Result<()> {
        let ready: Vec<usize> = {
            let pipes = self.pump.open_pipes();
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(
                pipes
                    .iter()
                    .map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)),
            );
            match poll(&mut fds, self.poll_timeout()) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            pipes
                .iter()
                .zip(fds.iter().skip(1))
                .filter(|(_, polled)| polled.any().unwrap_or(true))
                .map(|((index, _), _)| *index)
                .collect()
        };
        for index in ready {
            self.pump.read(index);
        }
        Ok(())
    }

    fn poll_timeout(&self) -> PollTimeout {
        let until = match self.phase {
            Phase::Running { kill_at: None } => return PollTimeout::NONE,
            Phase::Running { kill_at: Some(at) } | Phase::Draining { give_up_at: at } => {
                at.saturating_duration_since(clock::monotonic())
            }
            Phase::Sweeping { .. } => SWEEP_TICK,
            Phase::Done => Duration::ZERO,
        };
        // One millisecond more, since the timeout is rounded down; a cut one only wakes early.
        let millis = u16::try_from(until.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        PollTimeout::from(millis)
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if i32::try_from(info.ssi_signo) == Ok(Signal::SIGTERM as i32) {
                self.stop();
            }
        }
    }

    /// Passes a stop on to the trainer. A further one can only shorten the grace.
    fn stop(&mut self) {
        let asked: Option<StopRecord> =
            durable::read_json(&self.task_dir.join(files::STOP)).unwrap_or_default();
        // A machine that goes down sends it to all processes: the trainer may have died of its own before.
        let died = matches!(self.end, Some((None, Some(15)) | (Some(143), None)));
        let concerns = died || matches!(self.phase, Phase::Running { .. });
        self.ended_by_machine |= asked.is_none() && concerns;
        let Phase::Running { kill_at } = &mut self.phase else {
            return;
        };
        let grace = asked.map_or(self.default_grace, |stop| {
            Duration::from_millis(stop.grace_ms)
        });
        let first = self.stop_since.is_none();
        let since = *self.stop_since.get_or_insert_with(clock::monotonic);
        // A grace beyond what the clock can count is no deadline at all.
        let at = since.checked_add(grace);
        *kill_at = match (*kill_at, at) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
        if first {
            descend::signal_session(self.trainer, Signal::SIGTERM);
            // One that was suspended would not see it.
            descend::signal_session(self.trainer, Signal::SIGCONT);
        }
    }

    /// Takes the status of every process that has ended.
    fn reap(&mut self) {
        loop {
            let (pid, end) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, (Some(code), None)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, (None, Some(signal as i32))),
                Err(nix::errno::Errno::ECHILD) => {
                    self.childless = true;
                    return;
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if pid.as_raw() == self.trainer && self.end.is_none() {
                self.main_ended(end);
            }
        }
    }

    fn main_ended(&mut self, end: (Option<i32>, Option<i32>)) {
        self.ended_at_us = clock::wall_us();
        self.ran = clock::monotonic().saturating_duration_since(self.started);
        self.oom_killed = end.1 == Some(Signal::SIGKILL as i32)
            && !self.killed_by_us
            && oom_kills(self.cgroup.as_deref()) > self.oom_before;
        self.end = Some(end);
        self.phase = Phase::Sweeping {
            give_up_at: clock::monotonic() + SWEEP_LIMIT,
        };
    }

    fn advance(&mut self) {
        let now = clock::monotonic();
        match self.phase {
            Phase::Running { kill_at: Some(at) } if now >= at => self.kill_trainer(now),
            Phase::Sweeping { give_up_at } => self.sweep(now, give_up_at),
            Phase::Draining { give_up_at } if self.pump.ended() || now >= give_up_at => {
                self.phase = Phase::Done;
            }
            Phase::Running { .. } | Phase::Draining { .. } | Phase::Done => {}
        }
    }

    fn kill_trainer(&mut self, now: Instant) {
        self.killed_by_us = true;
        cgroup::kill(self.cgroup.as_deref());
        descend::signal_session(self.trainer, Signal::SIGKILL);
        descend::kill_all(&descend::descendants(self.pid));
        // Again in a second, for what was forked in between.
        self.phase = Phase::Running {
            kill_at: Some(now + Duration::from_secs(1)),
        };
    }

    fn sweep(&mut self, now: Instant, give_up_at: Instant) {
        let mut left = match self.childless {
            true => BTreeSet::new(),
            false => descend::descendants(self.pid),
        };
        left.extend(cgroup::members(self.cgroup.as_deref()));
        if left.is_empty() || now >= give_up_at {
            self.stuck = left.len();
            cgroup::remove(self.cgroup.as_deref());
            self.phase = if self.pump.ended() {
                Phase::Done
            } else {
                Phase::Draining {
                    give_up_at: now + DRAIN_LIMIT,
                }
            };
            return;
        }
        cgroup::kill(self.cgroup.as_deref());
        descend::kill_all(&left);
        self.leftovers.extend(left);
    }

    fn write_exit(&mut self) -> io::Result<()> {
        let output_lost_bytes = self.pump.finish();
        let (code, signal) = self.end.unwrap_or_default();
        let max_rss_kib = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| usage.max_rss());
        let record = ExitRecord {
            code,
            signal,
            max_rss_bytes: u64::try_from(max_rss_kib).unwrap_or(0).saturating_mul(1024),
            started_at_us: self.started_at_us,
            ended_at_us: self.ended_at_us,
            killed_leftovers: u32::try_from(self.leftovers.len()).unwrap_or(u32::MAX),
            stuck_leftovers: u32::try_from(self.stuck).unwrap_or(u32::MAX),
            oom_killed: self.oom_killed,
            output_lost_bytes,
            ended_by_machine: self.ended_by_machine,
            ran_us: u64::try_from(self.ran.as_micros()).ok(),
        };
        write_patiently(&self.task_dir.join(files::EXIT), &record)
    }
}

/// Writes how the trainer ended into the room that its launch reserved, again and again for as long as there is somebody
/// who could read it: without the record the true end is lost and the node takes the blame.
fn write_patiently(path: &Path, record: &ExitRecord) -> io::Result<()> {
    let mut said = String::new();
    loop {
        let Err(error) = durable::write_reserved_json(path, record) else {
            return Ok(());
        };
        let folder = path.parent().map(Path::try_exists);
        if matches!(folder, Some(Ok(false))) {
            return Err(error);
        }
        let words = format!("cannot write the exit yet: {error}");
        if said != words {
            complain(&words);
            said = words;
        }
        // Nothing to wait for but time. A failure to wait only makes the tries come sooner.
        poll(&mut [], PollTimeout::from(WRITE_AGAIN)).ok();
    }
}

/// Those of the trainer's own group, or, where the kernel does not count by groups, of the whole machine.
fn oom_kills(cgroup: Option<&Path>) -> u64 {
    cgroup::oom_kills(cgroup).unwrap_or_else(procfs::oom_kills)
}

/// Leaves the launcher's session and takes over signals and orphans.
fn become_shim() -> io::Result<SignalFd> {
    // Fails only for a process that leads a group already, such as one started by hand.
    rustix::process::setsid().ok();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut taken = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        taken.add(signal);
    }
    taken.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&taken, flags)?)
}

/// An order may be read late: by a zygote that was stopped, whose agent has begun the task anew since. A launch takes the
/// record of an earlier exit away; what has one, or has ended, is not to run again.
fn refuse_ended(task_dir: &Path) -> Result<(), Hello> {
    for name in [files::EXIT, files::END] {
        let there = task_dir.join(name).try_exists();
        if there.map_err(|error| failed("looking at the task's end", &error))? {
            let words = format!("the task has ended already: its folder holds {name}");
            return Err(Hello::Failed(words));
        }
    }
    Ok(())
}

fn failed(what: &str, error: &io::Error) -> Hello {
    Hello::Failed(format!("{what} failed: {error}"))
}

fn record_processes(
    task_dir: &Path,
    shim: ProcIdent,
    trainer: i32,
    cgroup: Option<PathBuf>,
) -> io::Result<ProcRecord> {
    let record = ProcRecord {
        shim,
        trainer: ProcIdent::of(trainer)?,
        cgroup,
    };
    durable::write_reserved_json(&task_dir.join(files::PROC), &record)?;
    Ok(record)
}

/// Says the one line to the launcher. That it has died meanwhile is no concern of the shim's.
fn say(hello: &Hello) {
    let mut line = serde_json::to_vec(hello).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(&line).and_then(|()| stdout.flush()));
}

/// Leaves a line in `shim.err`.
fn complain(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

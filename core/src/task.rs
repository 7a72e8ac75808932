//! A task as its node lives it: preparing, running, draining, ended; and what is to be done at each
//! step, as data.
//!
//! Never starts, stops or reads anything: the agent's run actor carries the effects out and says what
//! came of them. What comes too late for the state that the task is in changes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    failure::{StopCause, TaskEnd},
    ids::TaskKey,
    time::Timestamp,
};

/// How a task stands, as its node reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which task.
    pub task: TaskKey,
    /// How it stands.
    pub phase: Phase,
    /// What the node does at present, for people.
    pub detail: String,
    /// The first record that the node still has or will make: those before it were acknowledged to it. 0 where it does
    /// not say so.
    pub kept_from: u64,
}

/// The ways in which a task can stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Fetching, building.
    Preparing,
    /// Of a gang: all is prepared, and it starts when all others are too. Rank 0 names the port where they meet.
    Waiting(Option<u16>),
    /// The trainer process runs, since then.
    Running(Timestamp),
    /// The process is gone, or there never was one.
    Ended(Box<Ended>),
}

/// The end of a task, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When its process started; `None` when there never was one.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub at: Timestamp,
    /// How.
    pub end: TaskEnd,
}

/// A wish that a task stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Why.
    pub cause: StopCause,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
}

/// Where the ranks of a gang meet; the coordinator says it when all are prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The addresses of the nodes, by rank.
    pub addresses: Vec<String>,
    /// On the node of rank 0.
    pub port: u16,
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its folder is there: begin.
    Begin,
    /// It is to stop.
    Stop(Stop),
    /// All is there that its process needs; rank 0 of a gang has this port.
    Ready(Option<u16>),
    /// All others of its gang are prepared too.
    Launch(Meeting),
    /// Its process runs since then: just launched, or found again.
    Started(Timestamp),
    /// Preparing or launching failed.
    Failed(Failure),
    /// Its process has gone.
    Gone(Gone),
    /// It has run as long as it may.
    LimitReached,
    /// All that it said is kept.
    Drained(Drained),
}

/// Why a task has no process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong and the way out.
    pub error: String,
    /// Whose fault it is.
    pub fault: Fault,
}

/// Whose fault it is that a task has no process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The job's: it would be the same everywhere.
    Job,
    /// Of what all nodes share: the coordinator, a store, an index of packages, the network.
    Shared,
    /// Of this node alone: its disk, its programs.
    Node,
}

/// How a process went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// By itself or by a signal.
    Exited {
        /// Exit code, if it exited.
        code: Option<i32>,
        /// Signal, if it died of one.
        signal: Option<i32>,
        /// The kernel killed it for memory.
        oom_killed: bool,
        /// Its machine ended it, as at a reboot: neither the coordinator nor its agent had asked for it.
        by_machine: bool,
        /// For how long it ran.
        ran: Duration,
    },
    /// Nobody knows how.
    Vanished(String),
}

/// What is known once the last word is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The last lines of output, oldest first.
    pub last_lines: Vec<String>,
    /// The number of the last record.
    pub last_seq: u64,
    /// When.
    pub at: Timestamp,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Prepare the process.
    Prepare,
    /// Give the preparation up.
    Abandon,
    /// Start the process, one of a gang with where it meets; cannot be interrupted.
    Launch(Option<Meeting>),
    /// Wait for the process to go.
    Watch,
    /// Say so at this time.
    WatchLimit(Timestamp),
    /// Write down why it stops, before it is signalled.
    NoteStop(Stop),
    /// Ask the process to end within this time.
    Signal(Duration),
    /// Keep all that it said.
    Drain,
    /// Tell how it stands.
    Report,
    /// It is over: keep and report it.
    End(Box<Ended>),
}

/// What is said of a trainer that its machine ended.
const BY_MACHINE: &str = "its machine ended it with SIGTERM, as at a reboot; neither a user nor the platform had asked for that";

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Preparing,
    Waiting(Option<u16>),
    Launching,
    Running(Timestamp),
    Draining(Option<Timestamp>, TaskEnd),
    Ended(Box<Ended>),
}

/// What a task that is prepared starts upon.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Go {
    /// At once.
    Alone,
    /// When it is told.
    Word,
    /// It was told while it prepared, in a life of its agent that came after the gang was let go.
    Told(Meeting),
}

/// One task on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    state: State,
    go: Go,
    stop: Option<Stop>,
    time_limit: Option<Duration>,
    grace: Duration,
}

impl Task {
    /// A task with its limits; `stop` when it was told to stop in an earlier life of its node.
    #[must_use]
    pub fn new(time_limit: Option<Duration>, grace: Duration, stop: Option<Stop>) -> Self {
        Self {
            state: State::Preparing,
            go: Go::Alone,
            stop,
            time_limit,
            grace,
        }
    }

    /// The same as one of a gang of `world_size`, whose processes start when all of them can.
    #[must_use]
    pub fn among(mut self, world_size: u32) -> Self {
        if world_size > 1 {
            self.go = Go::Word;
        }
        self
    }

    /// How it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Preparing | State::Launching | State::Draining(None, _) => Phase::Preparing,
            State::Waiting(port) => Phase::Waiting(*port),
            State::Running(since) | State::Draining(Some(since), _) => Phase::Running(*since),
            State::Ended(ended) => Phase::Ended(ended.clone()),
        }
    }

    /// Takes what happened; says what is to be done.
    #[must_use]
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Begin => self.begin(),
            Input::Stop(stop) => self.stop(stop),
            Input::LimitReached => self.stop(Stop {
                cause: StopCause::TimeLimit,
                grace: self.grace,
            }),
            Input::Ready(port) => self.ready(port),
            Input::Launch(meeting) => self.launch(meeting),
            Input::Started(at) => self.started(at),
            Input::Failed(failure) => self.failed(failure),
            Input::Gone(gone) => self.gone(gone),
            Input::Drained(drained) => self.drained(drained),
        }
    }

    fn begin(&mut self) -> Vec<Effect> {
        match (&self.state, self.stop) {
            (State::Preparing, None) => vec![Effect::Report, Effect::Prepare],
            (State::Preparing, Some(_)) => self.drain(None, TaskEnd::default()),
            (State::Waiting(_) | State::Launching | State::Running(_), _)
            | (State::Draining(..) | State::Ended(_), _) => Vec::new(),
        }
    }

    /// The first cause stays; a repeated wish can shorten the grace.
    fn stop(&mut self, stop: Stop) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let State::Draining(since, end) = &mut self.state {
            // What it said and made is under way, which is cut short: it ends as it was asked to. It was not too long,
            // and its place is about to be free.
            let matters = !matches!(stop.cause, StopCause::TimeLimit | StopCause::Preempted);
            if self.stop.is_none() && matters {
                self.stop = Some(stop);
                end.stop_cause = cause_of(stop.cause, *since, end);
                effects.push(Effect::NoteStop(stop));
            }
            return effects;
        }
        if matches!(self.state, State::Ended(_)) {
            return effects;
        }
        if self.stop.is_none() {
            self.stop = Some(stop);
            effects.push(Effect::NoteStop(stop));
        }
        match self.state {
            State::Preparing => {
                effects.push(Effect::Abandon);
                effects.extend(self.drain(None, TaskEnd::default()));
            }
            State::Waiting(_) => effects.extend(self.drain(None, TaskEnd::default())),
            State::Running(_) => effects.push(Effect::Signal(stop.grace)),
            State::Launching | State::Draining(..) | State::Ended(_) => {}
        }
        effects
    }

    fn ready(&mut self, port: Option<u16>) -> Vec<Effect> {
        if self.state != State::Preparing {
            return Vec::new();
        }
        let meeting = match &self.go {
            Go::Alone => None,
            Go::Told(meeting) => Some(meeting.clone()),
            Go::Word => {
                self.state = State::Waiting(port);
                return vec![Effect::Report];
            }
        };
        self.state = State::Launching;
        vec![Effect::Launch(meeting)]
    }

    /// The word can come again, and while an agent that was started anew prepares again.
    fn launch(&mut self, meeting: Meeting) -> Vec<Effect> {
        match (&self.state, &self.go) {
            (State::Waiting(_), _) => {
                self.state = State::Launching;
                vec![Effect::Launch(Some(meeting))]
            }
            (State::Preparing, Go::Word | Go::Told(_)) => {
                self.go = Go::Told(meeting);
                Vec::new()
            }
            (State::Preparing, Go::Alone)
            | (State::Launching | State::Running(_), _)
            | (State::Draining(..) | State::Ended(_), _) => Vec::new(),
        }
    }

    fn started(&mut self, at: Timestamp) -> Vec<Effect> {
        if !matches!(self.state, State::Preparing | State::Launching) {
            return Vec::new();
        }
        self.state = State::Running(at);
        let mut effects = vec![Effect::Report, Effect::Watch];
        if let Some(stop) = self.stop {
            effects.push(Effect::Signal(stop.grace));
        } else if let Some(limit) = self.time_limit {
            effects.push(Effect::WatchLimit(at.plus(limit)));
        }
        effects
    }

    fn failed(&mut self, failure: Failure) -> Vec<Effect> {
        if !matches!(self.state, State::Preparing | State::Launching) {
            return Vec::new();
        }
        let end = TaskEnd {
            error: Some(failure.error),
            infrastructure: failure.fault != Fault::Job,
            node_fault: failure.fault == Fault::Node,
            ..TaskEnd::default()
        };
        self.drain(None, end)
    }

    fn gone(&mut self, gone: Gone) -> Vec<Effect> {
        let State::Running(since) = self.state else {
            return Vec::new();
        };
        let ran = match &gone {
            Gone::Exited { ran, .. } => Some(*ran),
            Gone::Vanished(_) => None,
        };
        let end = match gone {
            Gone::Exited {
                code,
                signal,
                oom_killed,
                by_machine,
                ran: _,
            } => TaskEnd {
                exit_code: code,
                signal,
                oom_killed,
                error: by_machine.then(|| BY_MACHINE.to_owned()),
                infrastructure: by_machine,
                ..TaskEnd::default()
            },
            Gone::Vanished(error) => TaskEnd {
                error: Some(error),
                infrastructure: true,
                node_fault: true,
                ..TaskEnd::default()
            },
        };
        // An earlier agent may have stopped it on a disk that took no word of why, or it was to be stopped by now. Its
        // shim takes that for the machine's end, having found no word of it either.
        if self.stop.is_none()
            && end.is_like_a_stop()
            && self.time_limit.is_some_and(|most| ran >= Some(most))
        {
            self.stop = Some(Stop {
                cause: StopCause::TimeLimit,
                grace: self.grace,
            });
        }
        // One that ended by itself within its time may be heard of when that is over.
        let in_time = ran
            .zip(self.time_limit)
            .is_some_and(|(ran, most)| ran < most);
        if in_time && !end.is_like_a_stop() {
            self.stop = self.stop.filter(|stop| stop.cause != StopCause::TimeLimit);
        }
        self.drain(Some(since), end)
    }

    fn drain(&mut self, since: Option<Timestamp>, mut end: TaskEnd) -> Vec<Effect> {
        end.stop_cause = self.stop.and_then(|stop| cause_of(stop.cause, since, &end));
        self.state = State::Draining(since, end);
        vec![Effect::Drain]
    }

    fn drained(&mut self, drained: Drained) -> Vec<Effect> {
        let State::Draining(started, end) = &self.state else {
            return Vec::new();
        };
        let end = TaskEnd {
            last_lines: drained.last_lines,
            last_seq: drained.last_seq,
            ..end.clone()
        };
        let ended = Box::new(Ended {
            started: *started,
            at: drained.at,
            end,
        });
        self.state = State::Ended(ended.clone());
        vec![Effect::End(ended)]
    }
}

/// Whether it has ended since it was told to. A stop ends a trainer and not its shim: one that ended with its machine may
/// be why its peers failed, and not they why it did.
fn cause_of(cause: StopCause, since: Option<Timestamp>, end: &TaskEnd) -> Option<StopCause> {
    let with_its_machine = since.is_some() && end.infrastructure;
    (!with_its_machine || cause != StopCause::PeerFailed).then_some(cause)
}

#[cfg(test)]
mod tests;

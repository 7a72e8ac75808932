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
}

/// The three ways in which a task can stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Fetching, building.
    Preparing,
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

/// What happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its folder is there: begin.
    Begin,
    /// It is to stop.
    Stop(Stop),
    /// All is there that its process needs.
    Ready,
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
    /// Start the process; cannot be interrupted.
    Launch,
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Preparing,
    Launching,
    Running(Timestamp),
    Draining(Option<Timestamp>, TaskEnd),
    Ended(Box<Ended>),
}

/// One task on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    state: State,
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
            stop,
            time_limit,
            grace,
        }
    }

    /// How it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Preparing | State::Launching | State::Draining(None, _) => Phase::Preparing,
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
            Input::Ready => self.ready(),
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
            (State::Launching | State::Running(_), _)
            | (State::Draining(..) | State::Ended(_), _) => Vec::new(),
        }
    }

    /// The first cause stays; a repeated wish can shorten the grace.
    fn stop(&mut self, stop: Stop) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let State::Draining(_, end) = &mut self.state {
            // What it said and made is under way, which is cut short: it ends as it was asked to. It was not too long.
            if self.stop.is_none() && stop.cause != StopCause::TimeLimit {
                self.stop = Some(stop);
                end.stop_cause = Some(stop.cause);
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
            State::Running(_) => effects.push(Effect::Signal(stop.grace)),
            State::Launching | State::Draining(..) | State::Ended(_) => {}
        }
        effects
    }

    fn ready(&mut self) -> Vec<Effect> {
        if self.state != State::Preparing {
            return Vec::new();
        }
        self.state = State::Launching;
        vec![Effect::Launch]
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
        let end = match gone {
            Gone::Exited {
                code,
                signal,
                oom_killed,
            } => TaskEnd {
                exit_code: code,
                signal,
                oom_killed,
                ..TaskEnd::default()
            },
            Gone::Vanished(error) => TaskEnd {
                error: Some(error),
                infrastructure: true,
                node_fault: true,
                ..TaskEnd::default()
            },
        };
        self.drain(Some(since), end)
    }

    fn drain(&mut self, since: Option<Timestamp>, mut end: TaskEnd) -> Vec<Effect> {
        end.stop_cause = self.stop.map(|stop| stop.cause);
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

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3);
    const CANCEL: Stop = Stop {
        cause: StopCause::Cancelled,
        grace: Duration::from_secs(1),
    };

    fn task() -> Task {
        Task::new(None, GRACE, None)
    }

    fn running(mut task: Task) -> Task {
        assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
        assert_eq!(task.step(Input::Ready), [Effect::Launch]);
        let effects = task.step(Input::Started(Timestamp(7)));
        assert_eq!(effects[..2], [Effect::Report, Effect::Watch]);
        task
    }

    fn exited(code: i32) -> Input {
        Input::Gone(Gone::Exited {
            code: Some(code),
            signal: None,
            oom_killed: false,
        })
    }

    fn drained(task: &mut Task) -> Box<Ended> {
        let effects = task.step(Input::Drained(Drained {
            last_lines: vec!["bye".into()],
            last_seq: 9,
            at: Timestamp(50),
        }));
        let [Effect::End(ended)] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(task.phase(), Phase::Ended(ended.clone()));
        ended.clone()
    }

    #[test]
    fn a_task_that_exits_is_drained_and_then_ended() {
        let mut task = running(task());
        assert_eq!(task.step(exited(3)), [Effect::Drain]);
        assert_eq!(task.phase(), Phase::Running(Timestamp(7)));
        let ended = drained(&mut task);
        assert_eq!(ended.started, Some(Timestamp(7)));
        assert_eq!(ended.end.exit_code, Some(3));
        assert_eq!((ended.end.last_seq, ended.end.stop_cause), (9, None));
    }

    #[test]
    fn a_stop_while_preparing_gives_up_and_leaves_no_process() {
        let mut task = task();
        assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
        let effects = task.step(Input::Stop(CANCEL));
        assert_eq!(
            effects,
            [Effect::NoteStop(CANCEL), Effect::Abandon, Effect::Drain]
        );
        assert_eq!(task.step(Input::Ready), [], "it comes too late");
        let ended = drained(&mut task);
        assert_eq!(ended.started, None);
        assert_eq!(ended.end.stop_cause, Some(StopCause::Cancelled));
    }

    #[test]
    fn a_stop_during_the_launch_reaches_the_process_that_comes_of_it() {
        let mut task = task();
        assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
        assert_eq!(task.step(Input::Ready), [Effect::Launch]);
        assert_eq!(task.step(Input::Stop(CANCEL)), [Effect::NoteStop(CANCEL)]);
        assert_eq!(
            task.step(Input::Started(Timestamp(7))),
            [Effect::Report, Effect::Watch, Effect::Signal(CANCEL.grace)]
        );
    }

    #[test]
    fn the_first_cause_of_a_stop_stays_and_the_signal_is_repeated() {
        let mut task = running(task());
        let effects = task.step(Input::Stop(CANCEL));
        assert_eq!(
            effects,
            [Effect::NoteStop(CANCEL), Effect::Signal(CANCEL.grace)]
        );
        assert_eq!(task.step(Input::LimitReached), [Effect::Signal(GRACE)]);
        assert_eq!(task.step(exited(0)), [Effect::Drain]);
        assert_eq!(task.step(Input::Stop(CANCEL)), [], "it comes too late");
        let ended = drained(&mut task);
        assert_eq!(ended.end.stop_cause, Some(StopCause::Cancelled));
    }

    #[test]
    fn a_stop_while_results_are_stored_is_noted_and_a_time_limit_is_not() {
        let mut task = running(task());
        assert_eq!(task.step(exited(0)), [Effect::Drain]);
        assert_eq!(task.step(Input::LimitReached), [], "it ran no longer");
        let effects = task.step(Input::Stop(CANCEL));
        assert_eq!(effects, [Effect::NoteStop(CANCEL)]);
        assert_eq!(task.step(Input::Stop(CANCEL)), [], "once");
        let end = drained(&mut task).end;
        assert_eq!(
            (end.exit_code, end.stop_cause),
            (Some(0), Some(StopCause::Cancelled))
        );
    }

    #[test]
    fn a_time_limit_counts_from_the_start_and_stops_with_the_jobs_own_grace() {
        let limit = Duration::from_micros(10);
        let mut task = Task::new(Some(limit), GRACE, None);
        assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
        let effects = task.step(Input::Started(Timestamp(7)));
        assert_eq!(effects.last(), Some(&Effect::WatchLimit(Timestamp(17))));
        let stop = Stop {
            cause: StopCause::TimeLimit,
            grace: GRACE,
        };
        assert_eq!(
            task.step(Input::LimitReached),
            [Effect::NoteStop(stop), Effect::Signal(GRACE)]
        );
    }

    #[test]
    fn a_failure_before_the_start_says_whose_fault_it_is() {
        let mut task = task();
        assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
        let failure = Failure {
            error: "no such dataset".into(),
            fault: Fault::Job,
        };
        assert_eq!(task.step(Input::Failed(failure)), [Effect::Drain]);
        let ended = drained(&mut task);
        assert_eq!(ended.end.error.as_deref(), Some("no such dataset"));
        assert!(!ended.end.infrastructure && ended.started.is_none());
    }

    #[test]
    fn a_fault_of_what_all_nodes_share_is_not_that_of_the_node() {
        for (fault, expected) in [
            (Fault::Job, (false, false)),
            (Fault::Shared, (true, false)),
            (Fault::Node, (true, true)),
        ] {
            let mut task = task();
            assert_eq!(task.step(Input::Begin), [Effect::Report, Effect::Prepare]);
            let error = "it cannot be fetched".to_owned();
            let failure = Input::Failed(Failure { error, fault });
            assert_eq!(task.step(failure), [Effect::Drain]);
            let end = drained(&mut task).end;
            assert_eq!((end.infrastructure, end.node_fault), expected);
        }
    }

    #[test]
    fn a_task_told_to_stop_in_an_earlier_life_is_not_prepared_again_but_stopped() {
        let mut never_started = Task::new(None, GRACE, Some(CANCEL));
        assert_eq!(never_started.step(Input::Begin), [Effect::Drain]);
        let mut found = Task::new(None, GRACE, Some(CANCEL));
        assert_eq!(
            found.step(Input::Started(Timestamp(7))),
            [Effect::Report, Effect::Watch, Effect::Signal(CANCEL.grace)]
        );
    }

    #[test]
    fn a_process_that_vanished_is_the_nodes_fault() {
        let mut task = running(task());
        let gone = Input::Gone(Gone::Vanished("the shim is gone".into()));
        assert_eq!(task.step(gone), [Effect::Drain]);
        let ended = drained(&mut task);
        assert!(ended.end.infrastructure);
        assert_eq!(ended.started, Some(Timestamp(7)));
    }
}

//! The one who writes a run's lines into its spool: the agent's own words and the trainer's output,
//! each once and in order.
//!
//! Owns the place up to which the output is kept, and patience with a full disk. Never decides
//! anything about the task. A task of the run actor, which starts it and hears of its end.

use std::{collections::VecDeque, fs::File, path::PathBuf, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use trainyard_core::{
    ids::TaskKey,
    record::{self, LogLine, LogStream, Record},
    task::Drained,
    time::Timestamp,
};

use super::{
    follow::{Follower, tail},
    run::blocking,
};
use crate::{
    clock,
    exec::output::{OutputLine, Stream},
    spool::{Spool, SpoolError},
};

/// The longest line of the agent's own.
const OWN_LINE: usize = 16 << 10;
/// Lines that the end of a task is explained with, and the length that each may have there.
const LAST_LINES: usize = 20;
const LAST_LINE: usize = 2 << 10;
/// How soon a write is tried again that the disk refused.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the end of a task waits for a disk that stays full. A job has to end, and what fills the
/// disk may be this very task's output.
const LAST_PATIENCE: Duration = Duration::from_secs(120);
/// Words that may wait; they wait only for a disk.
const QUEUE: usize = 1_024;
/// Records at the end of a spool in which last words are looked for.
const MOST_SAID: u64 = 32;
/// How long words of the agent's own wait for others, or for output, to go to the disk and to the coordinator with them.
const LINGER: Duration = Duration::from_millis(50);

/// The level of the agent's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Debug,
    Info,
    Warning,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
        }
    }
}

#[derive(Debug)]
enum Command {
    Note(LogLine),
    Follow,
    Finish(Vec<LogLine>),
}

/// A record, and where the output is to be read on after it.
type Entry = (Record, Option<u64>);

/// The way to a scribe. A cheap handle.
#[derive(Clone, Debug)]
pub(super) struct Scribe(mpsc::Sender<Command>);

/// The scribe at work.
#[derive(Debug)]
pub(super) struct Desk {
    task: TaskKey,
    spool: Spool,
    output: PathBuf,
    commands: mpsc::Receiver<Command>,
    follower: Option<Follower>,
    /// Words that are not kept yet, and until when they may wait.
    held: Vec<Entry>,
    held_until: Option<Instant>,
    last: VecDeque<String>,
    /// Output that an earlier life of the agent has kept.
    earlier: bool,
    /// What an earlier life has told.
    inherits: bool,
    complained: bool,
    /// How long a refusal is borne: without end while the trainer runs.
    patience: Option<Duration>,
    last_patience: Duration,
}

/// A scribe for the task with this spool and this output.
pub(super) fn scribe(task: TaskKey, spool: Spool, output: PathBuf) -> (Scribe, Desk) {
    let (sender, commands) = mpsc::channel(QUEUE);
    let desk = Desk {
        task,
        earlier: spool.state().source_offset > 0,
        inherits: spool.state().last_seq > 0,
        spool,
        output,
        commands,
        follower: None,
        held: Vec::new(),
        held_until: None,
        last: VecDeque::new(),
        complained: false,
        patience: None,
        last_patience: LAST_PATIENCE,
    };
    (Scribe(sender), desk)
}

impl Scribe {
    /// Adds a line of the agent's own. Only a disk that has been full for long makes it lose one.
    pub(super) fn note(&self, level: Level, text: impl Into<String>) {
        self.tell(Command::Note(own_line(level, text.into())));
    }

    /// The trainer runs: its output is there.
    pub(super) fn follow(&self) {
        self.tell(Command::Follow);
    }

    /// The trainer has gone: its output is kept to the end, and then these last words. Never lost: it
    /// waits for room.
    pub(super) async fn finish(&self, words: Vec<(Level, String)>) {
        let line = |(level, text)| own_line(level, text);
        let words = words.into_iter().map(line).collect();
        // The desk is gone only when the whole run is.
        self.0.send(Command::Finish(words)).await.ok();
    }

    fn tell(&self, command: Command) {
        if self.0.try_send(command).is_err() {
            tracing::debug!("a line of the agent's own is dropped");
        }
    }
}

impl Desk {
    /// Writes until the end is told; answers when all is on disk.
    pub(super) async fn work(mut self) -> Result<Drained, SpoolError> {
        let mut commands = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = self.commands.recv_many(&mut commands, QUEUE) => {
                    if count == 0 {
                        return Err(SpoolError::Closed);
                    }
                }
                () = changed(self.follower.as_mut()) => self.take_output().await?,
                () = due(self.held_until) => self.keep_with_held(Vec::new()).await?,
            }
            if self.carry_out(&mut commands).await? {
                return Ok(self.drained());
            }
        }
    }

    /// True after the last one.
    async fn carry_out(&mut self, commands: &mut Vec<Command>) -> Result<bool, SpoolError> {
        for command in commands.drain(..) {
            match command {
                Command::Note(line) => {
                    self.held.push((Record::Log(line), None));
                    self.held_until
                        .get_or_insert_with(|| Instant::now() + LINGER);
                }
                Command::Follow => self.follow(),
                Command::Finish(words) => {
                    self.patience = Some(self.last_patience);
                    match self.keep_the_rest(words).await {
                        Err(error @ (SpoolError::DiskFull { .. } | SpoolError::File { .. })) => {
                            self.lose_the_rest(&error).await;
                        }
                        kept => kept?,
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn keep_the_rest(&mut self, words: Vec<LogLine>) -> Result<(), SpoolError> {
        self.follow();
        self.take_output().await?;
        self.complete_last_lines().await;
        let said = self.said_last().await;
        let mut words = words;
        words.retain(|line| !said.contains(&line.text));
        let words = words.into_iter().map(|line| (Record::Log(line), None));
        self.keep_with_held(words.collect()).await
    }

    /// The agent's own words behind all output: those of an earlier life that was killed before it had written down that
    /// the task has ended are not said again.
    async fn said_last(&self) -> Vec<String> {
        if !self.inherits {
            return Vec::new();
        }
        let after = self.spool.state().last_seq.saturating_sub(MOST_SAID);
        let read = self.spool.unsent_after(after, usize::MAX, u64::MAX);
        let mut said = Vec::new();
        for spooled in read.await.unwrap_or_default() {
            let Record::Log(line) = spooled.record else {
                continue;
            };
            match line.stream {
                LogStream::Stdout | LogStream::Stderr => said.clear(),
                LogStream::System => said.push(line.text),
                LogStream::Callback => {}
            }
        }
        said
    }

    /// What was said before goes first.
    async fn keep_with_held(&mut self, records: Vec<Entry>) -> Result<(), SpoolError> {
        self.held_until = None;
        let mut all = std::mem::take(&mut self.held);
        all.extend(records);
        self.keep(all).await
    }

    /// The output that could not be kept makes room for the end.
    async fn lose_the_rest(&mut self, error: &SpoolError) {
        tracing::error!(task = %self.task, %error, "the disk stayed full: output is lost");
        self.earlier = true;
        self.last.truncate(LAST_LINES - 1);
        self.complete_last_lines().await;
        let path = self.output.clone();
        let empty = move || {
            let file = File::options().write(true).open(&path)?;
            trainyard_runtime::lasting(&path, &[], |_| file.set_len(0))
        };
        let emptied = blocking(empty).await;
        if let Err(error) = emptied {
            tracing::warn!(task = %self.task, %error, "the output cannot be emptied");
        }
        let text = format!("the rest of the output is lost: {error}");
        let line = own_line(Level::Warning, text);
        if let Err(error) = self.spool.append(vec![(Record::Log(line), None)]).await {
            tracing::warn!(task = %self.task, %error, "nor can this be kept");
        }
    }

    fn follow(&mut self) {
        let start = self.spool.state().source_offset;
        let output = &self.output;
        self.follower
            .get_or_insert_with(|| Follower::new(output.clone(), start));
    }

    async fn take_output(&mut self) -> Result<(), SpoolError> {
        while let Some(follower) = &mut self.follower {
            // Lines that wait for the coordinator are on the disk once, in the trainer's own file.
            self.spool.has_room().await;
            let lines = match follower.read().await {
                Ok(lines) => lines,
                Err(error) => {
                    tracing::error!(task = %self.task, %error, "the trainer's output cannot be read");
                    return Ok(());
                }
            };
            if lines.is_empty() {
                break;
            }
            let mut records = Vec::with_capacity(lines.len());
            for line in lines {
                self.remember(&line.text);
                records.extend(entries(&line));
            }
            self.keep_with_held(records).await?;
        }
        Ok(())
    }

    fn remember(&mut self, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(cut(text.to_owned(), LAST_LINE));
    }

    /// An earlier life of the agent has read some of the last lines.
    async fn complete_last_lines(&mut self) {
        if !self.earlier || self.last.len() >= LAST_LINES {
            return;
        }
        match tail(&self.output).await {
            Ok(lines) => {
                self.last.clear();
                for line in lines {
                    self.remember(&line.text);
                }
            }
            Err(error) => {
                tracing::warn!(task = %self.task, %error, "the last lines cannot be read");
            }
        }
    }

    /// Writes until the disk takes it: the trainer goes on, and its lines wait in its file. At the end
    /// of the task patience has an end, too.
    async fn keep(&mut self, records: Vec<Entry>) -> Result<(), SpoolError> {
        if records.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            match self.spool.append(records.clone()).await {
                Ok(_) => {
                    self.complained = false;
                    return Ok(());
                }
                Err(error @ (SpoolError::DiskFull { .. } | SpoolError::File { .. })) => {
                    if !self.complained {
                        tracing::error!(task = %self.task, %error, "lines wait for the disk");
                        self.complained = true;
                    }
                    if self.patience.is_some_and(|most| begun.elapsed() >= most) {
                        return Err(error);
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                Err(
                    error @ (SpoolError::Damaged { .. }
                    | SpoolError::Newer { .. }
                    | SpoolError::AckAhead { .. }
                    | SpoolError::TooLarge { .. }
                    | SpoolError::Encode(_)
                    | SpoolError::Broken { .. }
                    | SpoolError::Closed),
                ) => return Err(error),
            }
        }
    }

    fn drained(self) -> Drained {
        Drained {
            last_lines: self.last.into(),
            last_seq: self.spool.state().last_seq,
            at: clock::now(),
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn changed(follower: Option<&mut Follower>) {
    match follower {
        Some(follower) => follower.changed().await,
        None => std::future::pending().await,
    }
}

pub(super) fn own_line(level: Level, text: String) -> LogLine {
    LogLine {
        at: clock::now(),
        stream: LogStream::System,
        level: level.name().to_owned(),
        text: cut(text, OWN_LINE),
    }
}

/// A line of the output, which is several where it is too long: what is no UTF-8 grows when it becomes text. The last of
/// them stands for the place behind the line.
fn entries(line: &OutputLine) -> Vec<Entry> {
    let pieces = record::pieces(&line.text);
    let mut entries: Vec<Entry> = pieces
        .map(|piece| (Record::Log(log_line(line, piece)), None))
        .collect();
    if let Some((_, offset)) = entries.last_mut() {
        *offset = Some(line.offset_after);
    }
    entries
}

fn log_line(line: &OutputLine, text: &str) -> LogLine {
    LogLine {
        at: Timestamp(i64::try_from(line.at_us).unwrap_or(i64::MAX)),
        stream: match line.stream {
            Stream::Out => LogStream::Stdout,
            Stream::Err => LogStream::Stderr,
        },
        level: String::new(),
        text: text.to_owned(),
    }
}

/// At most `limit` bytes; what was longer ends with a mark.
fn cut(mut text: String, limit: usize) -> String {
    const MARK: &str = " … (cut)";
    if text.len() <= limit {
        return text;
    }
    let room = limit.saturating_sub(MARK.len());
    let fits = (0..=room).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(fits.unwrap_or(0));
    text.push_str(MARK);
    text
}

#[cfg(test)]
mod tests;

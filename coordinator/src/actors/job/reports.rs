//! What nodes say of a job's tasks, compared with what is wanted.
//!
//! Owns which words are news: nodes say all that they know again and again. Decides nothing: news are events for core's
//! machine. Called by the job's actor.

use std::{ops::RangeInclusive, sync::Arc};

use ractor::ActorProcessingErr;
use trainyard_core::{
    failure::{StopCause, TaskEnd},
    ids::{AttemptNo, NodeName, SessionNo, TaskKey},
    job::{Attempt, Event, JobState, Part},
    task::{Ended, Phase, Report},
};

use super::{Done, State};
use crate::clock;

impl State {
    pub(super) async fn report(
        &mut self,
        (node, session): (&NodeName, SessionNo),
        report: Report,
    ) -> Result<(), ActorProcessingErr> {
        let task = report.task;
        self.note_kept(node, &report).await?;
        let wanted = self.part(task).filter(|part| part.allocation.node == *node);
        let Some(part) = wanted.filter(|part| !part.is_over()) else {
            let (peers, node) = (Arc::clone(&self.peers), node.clone());
            let refuse = move || peers.refuse((node, session), &report);
            return Ok(self.once_stored(refuse).await?);
        };
        let news = self.is_news(part, &report.detail);
        let may_go = self.may_go(part);
        let unheard = part.started_at.is_none();
        self.heard.note(task.attempt, task.rank, clock::now());
        self.told_in.note(task, session);
        let starting = self.job.state == JobState::Starting;
        let open = starting || self.job.state == JobState::Running;
        let event = match report.phase {
            Phase::Preparing if starting && news => Event::Preparing(task, report.detail),
            Phase::Waiting(port) if open && may_go => Event::Waiting(task, port),
            Phase::Running(at) if starting && unheard => Event::Started(task, at),
            Phase::Ended(ended) => return self.ended(task, *ended).await,
            Phase::Running(_) if self.is_waited_for(node) => Event::Heard(task),
            Phase::Preparing | Phase::Waiting(_) | Phase::Running(_) => {
                return self.stop_again(node, task).await;
            }
        };
        self.event(event, None).await
    }

    /// A node that still has records from a number on, and whose coordinator lacks some before it, speaks to a store that
    /// was restored from a backup, or cannot read them any more: nobody has those.
    async fn note_kept(
        &mut self,
        node: &NodeName,
        report: &Report,
    ) -> Result<(), ActorProcessingErr> {
        let task = report.task;
        let wanted = self.part(task).filter(|part| part.allocation.node == *node);
        let open = wanted.filter(|part| !part.is_over());
        let upto = report.kept_from.saturating_sub(1);
        match open.filter(|part| part.stored_seq < upto) {
            Some(_) => self.never_comes(task, upto).await,
            None => Ok(()),
        }
    }

    /// A task of the live attempt.
    pub(super) fn part(&self, task: TaskKey) -> Option<&Part> {
        let live = self.job.live()?;
        live.part(task.rank).filter(|_| live.number == task.attempt)
    }

    fn is_news(&self, part: &Part, detail: &str) -> bool {
        let size = self.job.live().map_or(1, Attempt::world_size);
        match size > 1 {
            true => part.is_news(detail, size, clock::now()),
            false => self.job.reason != detail,
        }
    }

    /// A rank is ready for the first time, or once more after the others were let go.
    fn may_go(&self, part: &Part) -> bool {
        let live = self.job.live();
        let ends = live.is_some_and(|live| live.blame.is_some() || live.leaves());
        let late = live.is_some_and(|live| live.let_go_at.is_some());
        !ends && !self.job.cancel_requested && (late || !part.waits)
    }

    async fn ended(&mut self, task: TaskKey, ended: Ended) -> Result<(), ActorProcessingErr> {
        let Some(part) = self.part(task) else {
            return Ok(());
        };
        if part.end.is_some() {
            return match part.missing(&ended.end) {
                Some(missing) => self.cut_short(task, ended.end, missing).await,
                None => Ok(()),
            };
        }
        let starting = self.job.state == JobState::Starting;
        let unheard = starting && part.started_at.is_none();
        // Of a short task only the newest report comes.
        if let Some(at) = ended.started.filter(|_| unheard) {
            self.event(Event::Started(task, at), None).await?;
        }
        self.event(Event::Ended(task, ended.end), None).await
    }

    /// Its node has told of more records than it can read: those that are missing never come, and the job says so.
    async fn cut_short(
        &mut self,
        task: TaskKey,
        end: TaskEnd,
        missing: RangeInclusive<u64>,
    ) -> Result<(), ActorProcessingErr> {
        let line = self.lost(task, &missing);
        let step = self.job.step(clock::now(), Event::Ended(task, end))?;
        let unable = self.take(step, vec![line], Done::Answer(None)).await?;
        self.end_unable(unable).await
    }

    /// Its node was lost, the job waits for it, and here it speaks.
    fn is_waited_for(&self, node: &NodeName) -> bool {
        let live = self.job.live();
        let ends = live.is_some_and(|live| live.blame.is_some() || live.leaves());
        let runs = self.job.state == JobState::Running && !self.job.cancel_requested;
        runs && !ends && self.job.reason.starts_with(&format!("node {node} "))
    }

    /// A stop may have been lost on the way: a live task that is to end hears of it again.
    async fn stop_again(&self, node: &NodeName, task: TaskKey) -> Result<(), ActorProcessingErr> {
        let live = self.job.live();
        let ends = live.is_some_and(|live| live.blame.is_some());
        let goes = live.is_some_and(|live| live.leaves());
        let cause = match self.job.cancel_requested {
            true => Some(StopCause::Cancelled),
            false if ends => Some(StopCause::PeerFailed),
            false => goes.then_some(StopCause::Preempted),
        };
        // Of one that has ended an agent may wait for records that it cannot read for now: it is told that nobody else does.
        let waits = self.job.state != JobState::Finishing || self.job.cancel_requested;
        if let Some(cause) = cause.filter(|_| waits) {
            let stop = self.stop_frame(task, cause);
            self.send(node.clone(), stop).await?;
        }
        Ok(())
    }

    pub(super) async fn no_trace(
        &mut self,
        attempt: AttemptNo,
        node: &NodeName,
        session: SessionNo,
    ) -> Result<(), ActorProcessingErr> {
        let live = self.job.live().filter(|live| live.number == attempt);
        let rank = live.and_then(|live| live.rank_on(node));
        let task = rank.map(|rank| self.job.task(attempt, rank));
        let Some((task, part)) = task.and_then(|task| Some((task, self.part(task)?))) else {
            return Ok(self.tell_scheduler().await?);
        };
        let ends = live.is_some_and(|live| live.blame.is_some() || live.leaves())
            || self.job.cancel_requested;
        let fresh = part.started_at.is_none() && part.end.is_none();
        if self.job.state == JobState::Starting && fresh && !ends {
            return match self.start_frame(task) {
                Err(end) => self.end_unable(vec![(task, end)]).await,
                Ok(start) => Ok(self.send(node.clone(), start).await?),
            };
        }
        // Its start reached the node after that, and was heard of before this: in that very session.
        if self.told_in.since(task, session) {
            return Ok(());
        }
        let why = format!("node {node} came back without a trace of the attempt");
        self.event(Event::AttemptLost(task, why), None).await
    }
}

//! Tasks without a run that could go on: they are tried again for as long as there may be a trainer, and given up after
//! that.
//!
//! Owns the pauses between the tries. Called by Runs alone.

use std::{io, sync::Arc, time::Duration};

use ractor::ActorProcessingErr;
use tokio::time::Instant;
use trainyard_core::{
    failure::StopCause,
    ids::TaskKey,
    record::Record,
    task::{Phase, Stop},
};

use super::{Entry, RunsMsg, RunsRef, State, has_ended};
use crate::{
    actors::{
        give_up::give_up,
        node::Node,
        run::{RunMsg, blocking},
        scribe::{Level, own_line},
    },
    dataset::Told,
    folder::{Order, TaskFolder},
    spool::SpoolError,
};

/// A run that fails so often, each time within [`WINDOW`] of the last, is in trouble, which is told.
pub(super) const MOST_FAILURES: u32 = 3;
const WINDOW: Duration = Duration::from_secs(60);
/// It is given up after so much time in pauses, when its trainer's shim has gone: a lack of descriptors or of memory, or a
/// disk that is busy or full, mostly ends sooner. By the pauses below that is the eleventh failure, after 22.3 s.
pub(super) const BORNE: Duration = Duration::from_secs(20);
/// What a failed run has under way is over by then. It doubles with each failure, up to a bound.
pub(super) const RESTART_AFTER: Duration = Duration::from_millis(100);
const RESTART_AT_LATEST: Duration = Duration::from_secs(30);
/// The bound without a shim: a stop is heard by the next run.
pub(super) const ALONE_AT_LATEST: Duration = Duration::from_secs(4);
/// The grace of a trainer that is stopped without a run, where neither the stop nor a readable order names one.
const GRACE: Duration = Duration::from_secs(30);

impl Entry {
    /// Counts a failure; after how long it is tried again.
    fn fails(&mut self, now: Instant) -> Duration {
        let again = |at: &Instant| now.duration_since(*at) < WINDOW;
        if self.failed_at.replace(now).filter(again).is_none() {
            self.failures = 0;
            self.borne = Duration::ZERO;
        }
        self.failures += 1;
        self.pause()
    }

    /// After so many failures.
    pub(super) fn pause(&self) -> Duration {
        let doubled = RESTART_AFTER.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        doubled.min(RESTART_AT_LATEST)
    }

    /// Whether it is given up where no shim is left. Of one that waits only a stop is to come to its end.
    fn is_hopeless(&self, waits: bool) -> bool {
        let borne = self.borne >= BORNE && !waits;
        self.failures >= MOST_FAILURES && (borne || self.stop.is_some())
    }
}

/// Whether a run has failed for something that the node lacks for now: what its task told can be opened later.
pub(super) fn is_passing(error: &ActorProcessingErr) -> bool {
    let spool = error.downcast_ref::<SpoolError>();
    spool.is_some_and(SpoolError::is_passing)
}

impl State {
    /// A task has no run that could go on, for this reason, which passes or not. It is tried again, for as long as there
    /// may be a trainer: it is not given up for what the agent cannot read or write. Without one it is, some time later,
    /// unless its trainer has ended and the reason passes: what became of it is in the folder.
    pub(super) async fn trouble(
        &mut self,
        myself: &RunsRef,
        task: TaskKey,
        (why, passes): (&str, bool),
    ) {
        self.stop_again(task);
        // Another node may begin what has not begun here.
        let waits = passes && self.has_begun(task);
        let Some(entry) = self.entries.get_mut(&task) else {
            return;
        };
        tracing::error!(%task, %why, "a run has failed");
        let now = Instant::now();
        let mut again = entry.fails(now);
        let (failures, order) = (entry.failures, entry.order.clone());
        let hopeless = entry.is_hopeless(waits);
        if hopeless && without_names(entry.told.clone()).await {
            // It goes on without them, and has its own time for whatever else may be in its way.
            entry.borne = Duration::ZERO;
            myself.send_after(RESTART_AFTER, move || RunsMsg::Again(task));
            return;
        }
        if failures >= MOST_FAILURES {
            let folder = TaskFolder::of(&self.node.tasks(), task);
            let has_gone = matches!(blocking(move || folder.has_shim()).await, Ok(false));
            if has_gone && hopeless {
                let node = Arc::clone(&self.node);
                let given_up = give_up(node, (task, order), why.to_owned());
                self.tasks.spawn(given_up);
                return;
            }
            let runs_on = if has_gone {
                again = again.min(ALONE_AT_LATEST);
                ""
            } else {
                ", and its trainer runs on"
            };
            let words = format!(
                "the agent of node {} cannot go on with this task for now{runs_on}: {why}; it is tried again",
                self.node.name
            );
            self.say_trouble(task, words, failures == MOST_FAILURES);
        }
        if let Some(entry) = self.entries.get_mut(&task) {
            entry.borne = entry.borne.saturating_add(again);
        }
        myself.send_after(again, move || RunsMsg::Again(task));
    }

    /// Whether it is known to have, or to have had, a trainer.
    fn has_begun(&self, task: TaskKey) -> bool {
        let report = self.node.board.report_of(task);
        report.is_some_and(|report| matches!(report.phase, Phase::Running(_)))
    }

    /// To the coordinator, and once to the job's log.
    pub(super) fn say_trouble(&self, task: TaskKey, words: String, first: bool) {
        let report = self.node.board.report_of(task);
        // It may be tried every few seconds for days.
        if report.as_ref().is_none_or(|known| known.detail != words) {
            tracing::warn!(%task, words);
            let phase = report.map_or(Phase::Preparing, |report| report.phase);
            self.tell(task, phase, words.clone());
        }
        let spool = self.node.board.spool_of(task).filter(|_| first);
        if let Some(spool) = spool {
            self.tasks.spawn(async move {
                // The spool may be the trouble.
                let line = Record::Log(own_line(Level::Warning, words));
                spool.append(vec![(line, None)]).await.ok();
            });
        }
    }

    /// The look at the folder is a part of it: what it holds may have become readable.
    pub(super) async fn again(
        &mut self,
        myself: &RunsRef,
        task: TaskKey,
    ) -> Result<(), ActorProcessingErr> {
        let waits = |entry: &&Entry| entry.run.is_none();
        let Some(entry) = self.entries.get(&task).filter(waits) else {
            return Ok(());
        };
        if has_ended(&self.node, task) {
            return Ok(());
        }
        let folder = TaskFolder::of(&self.node.tasks(), task);
        let known = entry.order.clone();
        let look = move || {
            let read = || -> io::Result<Order> {
                let order = folder.order()?;
                order.ok_or_else(|| io::ErrorKind::NotFound.into())
            };
            let order = known.map_or_else(|| read().map(Arc::new), Ok);
            // One that has ended has, whether or not it can be read how it was ordered.
            let end = folder.end()?;
            let found = end.is_some() || folder.created()?;
            Ok((order, end, found))
        };
        let (order, end, found) = match blocking(look).await {
            Ok(seen) => seen,
            Err(error) => {
                let why = error.to_string();
                self.trouble(myself, task, (&why, false)).await;
                return Ok(());
            }
        };
        if let Ok(order) = &order {
            self.knows(task, order);
        }
        match (order, end) {
            (order, Some(ended)) => {
                let order = order.as_ref().ok();
                self.over_again(myself, (task, ended), order).await;
            }
            (Ok(order), None) => self.start(myself, order, found).await?,
            (Err(error), None) => {
                let why = error.to_string();
                self.trouble(myself, task, (&why, false)).await;
            }
        }
        Ok(())
    }

    /// What was ordered can be read.
    fn knows(&mut self, task: TaskKey, order: &Arc<Order>) {
        if let Some(entry) = self.entries.get_mut(&task)
            && entry.order.replace(Arc::clone(order)).is_none()
        {
            // Its trainer was told to wait all the time.
            entry.told.owing().begin();
        }
        // The run makes it known who calls; until then nobody is refused.
        self.node.registry.expect(order.secret.expose());
        self.doubt();
    }

    /// One that has just ended needs no stop; one that has no run is stopped by its folder.
    pub(super) fn stop(&mut self, task: TaskKey, cause: StopCause, grace: Option<Duration>) {
        let Some(entry) = self.entries.get_mut(&task) else {
            self.stop_waiting(task, cause);
            return;
        };
        let first = entry.stop.map_or(cause, |(first, _)| first);
        entry.stop = Some((first, grace));
        if let Some(run) = &entry.run {
            run.cast(RunMsg::Stop(cause, grace)).ok();
            return;
        }
        if has_ended(&self.node, task) {
            return;
        }
        let order = entry.order.clone();
        self.stop_by_folder(task, order.as_deref(), (cause, grace));
    }

    /// A run has failed. A stop may have come to it, and the next one may not come so far either.
    fn stop_again(&self, task: TaskKey) {
        if let Some(entry) = self.entries.get(&task)
            && let Some(stop) = entry.stop
        {
            self.stop_by_folder(task, entry.order.as_deref(), stop);
        }
    }

    /// Stops what may run of a task that has no run.
    fn stop_by_folder(
        &self,
        task: TaskKey,
        order: Option<&Order>,
        (cause, grace): (StopCause, Option<Duration>),
    ) {
        self.node.slots.leaves(task);
        let own = order.map(|order| order.spec.grace_period);
        let grace = grace.or(own).unwrap_or(GRACE);
        let (node, stop) = (Arc::clone(&self.node), Stop { cause, grace });
        self.tasks.spawn(async move {
            if let Err(error) = stop_alone(node, task, stop).await {
                tracing::error!(%task, %error, "a trainer cannot be stopped");
            }
        });
    }
}

/// Whether all that was in the way is that it cannot be read what the trainer has called its checkpoints. No trainer loses
/// its outcome for that: they are taken as not known.
async fn without_names(told: Told) -> bool {
    blocking(move || Ok(told.give_up())).await.unwrap_or(false)
}

/// Stops the trainer of a task that has no run. The first cause stays.
async fn stop_alone(node: Arc<Node>, task: TaskKey, stop: Stop) -> io::Result<()> {
    let folder = TaskFolder::of(&node.tasks(), task);
    let work = move || {
        if let Ok(None) = folder.stop() {
            match folder.note_stop(&stop) {
                // It has not begun: its next run is told.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                noted => noted?,
            }
        }
        let Some((processes, _)) = folder.processes()? else {
            return Ok(());
        };
        let trainers = &node.trainers;
        let asked = trainers.request_stop(folder.path(), &processes.shim, stop.grace);
        asked.map(drop).map_err(io::Error::other)
    };
    blocking(work).await
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ractor::{Actor, ActorRef, SupervisionEvent};
    use tokio::sync::mpsc;

    use super::*;

    /// After how many failures it is given up, and after how much time in pauses, where each run works for so long; none
    /// where it is not.
    fn given_up((is_to_stop, waits): (bool, bool), works: Duration) -> Option<(u32, Duration)> {
        let mut entry = Entry::new(None, Told::default());
        entry.stop = is_to_stop.then_some((StopCause::Cancelled, None));
        let mut now = Instant::now();
        while entry.borne < BORNE * 100 {
            let again = entry.fails(now).min(ALONE_AT_LATEST);
            if entry.is_hopeless(waits) {
                return Some((entry.failures, entry.borne));
            }
            entry.borne += again;
            now += again + works;
        }
        None
    }

    #[test]
    fn what_fails_is_borne_for_some_time_with_growing_pauses_and_hardly_where_it_is_to_stop() {
        // What it works in between is not held against it.
        for works in [0, 25] {
            let works = Duration::from_secs(works);
            let (pauses, few) = (Duration::from_millis(22_300), Duration::from_millis(300));
            assert_eq!(given_up((false, false), works), Some((11, pauses)));
            for waits in [false, true] {
                assert_eq!(given_up((true, waits), works), Some((3, few)));
            }
        }
    }

    #[test]
    fn a_trainer_that_has_ended_is_never_given_up_for_a_lack_that_passes_unless_it_is_to_stop() {
        assert_eq!(given_up((false, true), Duration::ZERO), None);
    }

    /// Fails at its first word; its supervisor says whether that passes.
    struct Child;

    impl Actor for Child {
        type Msg = SpoolError;
        type State = ();
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<SpoolError>,
            (): (),
        ) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<SpoolError>,
            error: SpoolError,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            Err(error.into())
        }
    }

    struct Parent;

    impl Actor for Parent {
        type Msg = ();
        type State = mpsc::Sender<bool>;
        type Arguments = mpsc::Sender<bool>;

        async fn pre_start(
            &self,
            _: ActorRef<()>,
            passes: mpsc::Sender<bool>,
        ) -> Result<mpsc::Sender<bool>, ActorProcessingErr> {
            Ok(passes)
        }

        async fn handle_supervisor_evt(
            &self,
            _: ActorRef<()>,
            event: SupervisionEvent,
            passes: &mut mpsc::Sender<bool>,
        ) -> Result<(), ActorProcessingErr> {
            if let SupervisionEvent::ActorFailed(_, error) = event {
                passes.send(is_passing(&error)).await?;
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn it_is_known_of_a_run_that_has_failed_whether_what_it_lacks_passes() {
        let (sender, mut passes) = mpsc::channel(1);
        let (parent, ended) = Actor::spawn(None, Parent, sender).await.unwrap();
        let path = PathBuf::from("spool");
        for (error, expected) in [
            (SpoolError::DiskFull { path: path.clone() }, true),
            (SpoolError::Broken { path }, false),
        ] {
            let spawned = Actor::spawn_linked(None, Child, (), parent.get_cell()).await;
            spawned.unwrap().0.cast(error).unwrap();
            assert_eq!(passes.recv().await, Some(expected));
        }
        parent.stop(None);
        ended.await.unwrap();
    }

    #[test]
    fn a_failure_long_after_the_one_before_is_the_first_of_its_own() {
        let mut entry = Entry::new(None, Told::default());
        let first = Instant::now();
        entry.fails(first);
        entry.borne = RESTART_AFTER;
        assert_eq!(entry.fails(first + WINDOW), RESTART_AFTER);
        assert_eq!((entry.failures, entry.borne), (1, Duration::ZERO));
    }
}

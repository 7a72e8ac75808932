//! Tasks that had ended before this life of the agent: their end is told once it is known what is left of what they told.
//!
//! Owns how long that is waited for. Called by Runs alone.

use std::{sync::Arc, time::Duration};

use trainyard_core::{
    ids::TaskKey,
    task::{Ended, Phase, Report},
};

use super::{
    Entry, RunsMsg, RunsRef, State,
    trouble::{ALONE_AT_LATEST, BORNE, MOST_FAILURES},
};
use crate::{
    folder::{Order, TaskFolder},
    spool::{Spool, SpoolError},
};

impl Entry {
    /// Its records cannot be read: after how long it is tried again; none where it is told that they are lost.
    fn tries_again(&mut self, error: &SpoolError) -> Option<Duration> {
        // However long it takes to fail: it has no run that could be well in between.
        self.failures = self.failures.saturating_add(1);
        let again = self.pause().min(ALONE_AT_LATEST);
        let early = self.borne < BORNE;
        let waits = if error.is_passing() {
            // A stop is to come to its end.
            early || self.stop.is_none()
        } else {
            early && !error.is_loss()
        };
        self.borne = self.borne.saturating_add(again);
        waits.then_some(again)
    }
}

impl State {
    /// It has ended. Where what it told cannot be opened for now, it stands as it was, and this is tried again: whoever
    /// hears of its end waits for no record that nobody has. Where it is lost, its end says that nothing of it is kept.
    pub(super) fn over(
        &mut self,
        myself: &RunsRef,
        (task, ended): (TaskKey, Ended),
        fault: Option<SpoolError>,
    ) {
        self.give_back(task);
        let again = fault.as_ref().and_then(|error| {
            let entry = self.entries.get_mut(&task)?;
            Some((entry.tries_again(error)?, entry.failures))
        });
        if let (Some(error), Some((again, failures))) = (&fault, again) {
            if failures >= MOST_FAILURES {
                let words = format!(
                    "the agent of node {} cannot open what this task has told for now, and so not say how it ended: {error}; it is tried again",
                    self.node.name
                );
                self.say_trouble(task, words, false);
            }
            myself.send_after(again, move || RunsMsg::Again(task));
            return;
        }
        let kept_from = fault.map_or(0, |_lost| ended.end.last_seq.saturating_add(1));
        self.node.board.report(Report {
            task,
            phase: Phase::Ended(Box::new(ended)),
            detail: String::new(),
            kept_from,
        });
        self.doubt();
    }

    /// It has ended, and its end was not told yet.
    pub(super) async fn over_again(
        &mut self,
        myself: &RunsRef,
        (task, ended): (TaskKey, Ended),
        order: Option<&Arc<Order>>,
    ) {
        let mut fault = None;
        if self.node.board.spool_of(task).is_none()
            && let Some(told) = self.entries.get(&task).map(|entry| entry.told.clone())
        {
            let folder = TaskFolder::of(&self.node.tasks(), task);
            let spool = Spool::open(folder.spool(), self.node.spool_bytes).await;
            fault = spool.as_ref().err().cloned();
            self.hear(task, order.map(Arc::as_ref), (spool, told));
        }
        self.over(myself, (task, ended), fault);
    }
}

/// How a task that has ended stands until its end is told.
pub(super) fn before(ended: &Ended) -> Phase {
    ended.started.map_or(Phase::Preparing, Phase::Running)
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use trainyard_core::failure::StopCause;

    use super::*;
    use crate::dataset::Told;

    /// For how long its records are waited for, if not without end.
    fn waited(error: &SpoolError, is_to_stop: bool) -> Option<Duration> {
        let mut entry = Entry::new(None, Told::default());
        entry.stop = is_to_stop.then_some((StopCause::Fenced, None));
        let mut waited = Duration::ZERO;
        while let Some(again) = entry.tries_again(error) {
            waited += again;
            if waited > BORNE * 100 {
                return None;
            }
        }
        Some(waited)
    }

    fn refused(errno: i32) -> SpoolError {
        SpoolError::File {
            action: "open",
            path: PathBuf::from("spool"),
            source: Arc::new(io::Error::from_raw_os_error(errno)),
        }
    }

    #[test]
    fn what_a_task_told_is_given_up_at_once_where_it_is_damaged_and_waited_for_where_the_lack_may_pass()
     {
        let path = PathBuf::from("spool");
        let damaged = SpoolError::Damaged {
            path: path.clone(),
            offset: 0,
            last_good: 0,
        };
        let newer = SpoolError::Newer {
            path: path.clone(),
            offset: 0,
            last_good: 0,
        };
        let bounded = Some(Duration::from_millis(22_300));
        for stop in [false, true] {
            assert_eq!(waited(&damaged, stop), Some(Duration::ZERO));
            assert_eq!(waited(&refused(nix::libc::EIO), stop), bounded);
            let without_end = if stop { bounded } else { None };
            for passing in [
                refused(nix::libc::EMFILE),
                SpoolError::DiskFull { path: path.clone() },
                newer.clone(),
            ] {
                assert_eq!(waited(&passing, stop), without_end, "{passing}");
            }
        }
    }
}

//! What was decided, as whoever asks may see it.
//!
//! Owns who sees what: of a job whoever may read it, of a node alone whoever may see nodes, and refusals whoever operates
//! the cluster; of another job that it names the number only whoever may read that one too. Decides nothing. Called by both doors.

use std::{collections::BTreeMap, time::Duration};

use futures::Stream;
use trainyard_core::{
    access::Permission,
    decision::{Decision, Kind},
    ids::{JobId, NodeName},
    job::Job,
    time::Timestamp,
};

use super::{ApiError, Caller, Service, access::Target, reader::Reader, users::not_authenticated};
use crate::store::{EventsOf, Store, StoredEvent};

/// Rows that are looked at for each one that a page may have.
const LOOKS: usize = 10;
/// Rows on a page of a stream.
const PAGE: usize = 200;
/// How often it is looked at, of a stream that tells nothing, whether its caller may still be told.
const BEAT: Duration = Duration::from_secs(10);

/// Which of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsAsked {
    /// Only about this job, or for it.
    pub job: Option<JobId>,
    /// Only about this node.
    pub node: Option<NodeName>,
    /// Only what was decided then and later.
    pub since: Option<Timestamp>,
    /// Only behind this number; none begins at the beginning, which of a job is its acceptance, number 0.
    pub after: Option<u64>,
    /// Rows on a page; 0 takes 50.
    pub limit: usize,
}

/// A page. It may be short, or even empty, and not be the last.
#[derive(Debug)]
pub struct EventsPage {
    /// Oldest first.
    pub rows: Vec<StoredEvent>,
    /// Up to which number it was looked.
    seen: u64,
    /// There may be more behind that.
    more: bool,
}

impl EventsPage {
    /// Behind which number there may be more; none on the last page.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.more.then_some(self.seen)
    }
}

/// A caller's view of what was decided.
struct View {
    reader: Reader,
    sees_nodes: bool,
    operates: bool,
    /// Whether the caller may not know of a job, each looked up once.
    hidden: BTreeMap<JobId, bool>,
}

impl View {
    /// What of it is told: whoever may see what it is about may not know of another job that it names.
    fn told(&mut self, store: &Store, row: StoredEvent) -> Option<StoredEvent> {
        let about = &row.decision;
        let shown = match about.job {
            Some(job) => !self.hides(store, job),
            None if about.nodes.is_empty() => self.operates,
            None => self.sees_nodes,
        };
        shown.then(|| StoredEvent {
            decision: row.decision.without(|job| self.hides(store, job)),
            ..row
        })
    }

    fn hides(&mut self, store: &Store, job: JobId) -> bool {
        let reader = &self.reader;
        let known = self.hidden.entry(job);
        *known.or_insert_with(|| reader.hides(store, job))
    }
}

impl Service {
    /// What was decided, oldest first, as far as the caller may see it. Of a job its acceptance too, which its row tells.
    ///
    /// # Errors
    /// When nobody is logged in, there is no such job, the caller may not read it or not see nodes.
    pub async fn events(
        &self,
        caller: &Caller,
        asked: EventsAsked,
    ) -> Result<EventsPage, ApiError> {
        let job = self.may_follow(caller, &asked)?;
        let accepted = job.as_ref().and_then(|job| accepted(job, &asked));
        let limit = self.page(asked.limit);
        let left = limit.saturating_sub(usize::from(accepted.is_some()));
        let mut page = self.page_of_events(caller, &asked, left).await?;
        page.rows.splice(0..0, accepted);
        Ok(page)
    }

    /// Pages of what was decided, and then of what is decided as it is stored.
    ///
    /// # Errors
    /// As [`Service::events`]; when too much is followed already.
    pub fn follow_events(
        &self,
        caller: &Caller,
        mut asked: EventsAsked,
    ) -> Result<impl Stream<Item = Result<Vec<StoredEvent>, ApiError>> + Send + use<>, ApiError>
    {
        let job = self.may_follow(caller, &asked)?;
        let first = job.as_ref().and_then(|job| accepted(job, &asked));
        let permit = self.stream(caller)?;
        let (service, caller) = (self.clone(), caller.clone());
        let rows = self.page(PAGE);
        Ok(async_stream::try_stream! {
            let _held = permit;
            let mut noted = service.store().noted();
            if let Some(first) = first {
                yield vec![first];
            }
            loop {
                noted.borrow_and_update();
                // A stream outlives logins and memberships.
                let caller = service.still(&caller)?;
                service.may_follow(&caller, &asked)?;
                let mut page = service.page_of_events(&caller, &asked, rows).await?;
                let found = std::mem::take(&mut page.rows);
                if !found.is_empty() {
                    yield found;
                }
                asked.after = Some(page.seen);
                if page.more {
                    continue;
                }
                tokio::select! {
                    () = tokio::time::sleep(BEAT) => {}
                    changed = noted.changed() => if changed.is_err() { break },
                    () = service.stop().cancelled() => break,
                }
            }
        })
    }

    /// Lets whoever may ask for it through; answers with the job that is asked about.
    fn may_follow(&self, caller: &Caller, asked: &EventsAsked) -> Result<Option<Job>, ApiError> {
        if caller.is_anonymous() {
            return Err(not_authenticated());
        }
        if asked.node.is_some() && asked.job.is_none() {
            self.require(caller, Permission::ReadNodes, Target::Cluster)?;
        }
        asked.job.map(|job| self.readable(caller, job)).transpose()
    }

    async fn page_of_events(
        &self,
        caller: &Caller,
        asked: &EventsAsked,
        limit: usize,
    ) -> Result<EventsPage, ApiError> {
        let may = |wanted| self.require(caller, wanted, Target::Cluster).is_ok();
        let mut view = View {
            reader: self.reader(caller),
            sees_nodes: may(Permission::ReadNodes),
            operates: may(Permission::Operate),
            hidden: BTreeMap::new(),
        };
        let of = EventsOf {
            job: asked.job,
            node: asked.node.clone(),
        };
        let since = asked.since.unwrap_or(Timestamp(i64::MIN));
        let mut after = asked.after.unwrap_or_default();
        self.blocking(move |store| {
            let mut rows = Vec::new();
            let mut left = limit.saturating_mul(LOOKS);
            while rows.len() < limit && left > 0 {
                let wanted = limit.saturating_sub(rows.len());
                let some = store.events(&of, (after, since), wanted)?;
                left = left.saturating_sub(wanted);
                let whole = some.len() < wanted;
                for row in some {
                    after = row.id;
                    rows.extend(view.told(store, row));
                }
                if whole {
                    let page = EventsPage {
                        rows,
                        seen: after,
                        more: false,
                    };
                    return view.reader.checked(page);
                }
            }
            view.reader.checked(EventsPage {
                rows,
                seen: after,
                more: true,
            })
        })
        .await
    }
}

/// The beginning of a job, which is no row of its own: a submission writes no more than its job.
fn accepted(job: &Job, asked: &EventsAsked) -> Option<StoredEvent> {
    let since = asked.since.is_none_or(|since| job.created_at >= since);
    let begins = asked.after.is_none() && asked.node.is_none() && since;
    let words = format!("submitted by {}", job.submitted_by);
    begins.then(|| StoredEvent {
        id: 0,
        decision: Decision::of_job(job.created_at, Kind::Accepted, job.id, words),
    })
}

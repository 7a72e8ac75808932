//! The service: what both doors can ask for, in core types.
//!
//! Owns the answers of the contract to what a state does not allow, and what both doors share. Decides nothing about jobs; the actors and the core
//! do. Called by `grpc` and `rest`.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
};
use trainyard_proto::status::Kind;

use super::{
    ApiError, Caller,
    agents::{AgentPolicy, Agents},
    figures::Counted,
    follow::Follower,
    refusals::Refusals,
    streams::{Following, Streams},
    submit,
    users::{UserSettings, Users},
};
use crate::{
    actors::{jobs::Coming, root::Tree},
    auth::Keys,
    config::Http,
    datasets::Datasets,
    store::{Bounds, Store},
    telemetry::Telemetry,
    trackers::Board,
};

/// Clients give up on an answer after about 30 s.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// How much is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that have not ended.
    pub open_jobs: u64,
    /// Jobs that wait, by project, where that is limited.
    pub queued: BTreeMap<i64, u32>,
    /// GPUs at once, by project, where it may not borrow more.
    pub gpus: BTreeMap<i64, u32>,
    /// Streams followed at once.
    pub streams: usize,
    /// Of them by one caller.
    pub streams_per_caller: usize,
    /// Rows on a page of points or lines; lists of anything else have 1,000 at most.
    pub page_rows: usize,
}

/// What the service is made of.
#[derive(Debug)]
pub struct ServiceArgs {
    /// Read here, written by the actors.
    pub store: Store,
    /// The way to the actors.
    pub tree: Tree,
    /// Signs and checks user tokens.
    pub keys: Keys,
    /// What the configuration says about users.
    pub users: UserSettings,
    /// What agents must show.
    pub agents: AgentPolicy,
    /// Datasets, snapshots and where files lie.
    pub datasets: Datasets,
    /// How this coordinator is reached; empty to take the request's word.
    pub public_url: String,
    /// How much is accepted.
    pub limits: Limits,
    /// What is asked of HTTP clients.
    pub http: Http,
    /// Where calls are counted.
    pub telemetry: Telemetry,
    /// Cancelled when the coordinator stops.
    pub stop: CancellationToken,
    /// How the trackers do.
    pub board: Board,
}

/// The service. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    tree: Tree,
    users: Users,
    agents: Agents,
    datasets: Datasets,
    public_url: String,
    limits: Limits,
    http: Http,
    telemetry: Telemetry,
    stop: CancellationToken,
    board: Board,
    submits: Arc<Semaphore>,
    more_under_way: Arc<AtomicU64>,
    coming: Coming,
    streams: Arc<Streams>,
    /// Reports over all jobs at once.
    reports: Arc<Semaphore>,
    /// Dry runs at once.
    dry_runs: Arc<Semaphore>,
    refusals: Refusals,
    counted: Counted,
}

/// Which jobs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    /// Only older ones than this.
    pub before: Option<JobId>,
    /// Only in these states; empty takes all.
    pub states: Vec<JobState>,
    /// Only of this project.
    pub project_id: Option<i64>,
    /// At most so many; 0 takes 50.
    pub limit: usize,
    /// At most so much text, in bytes, and one job in any case; 0 takes [`PAGE_BYTES`].
    pub bytes: usize,
}

/// A page of jobs. It may be short, or even empty, and not be the last.
#[derive(Debug)]
pub struct JobsPage {
    /// Newest first.
    pub rows: Vec<Job>,
    /// There may be more before this one.
    pub next: Option<JobId>,
}

/// Text of jobs in one answer, in bytes: a job may bring a MiB of notes.
const PAGE_BYTES: usize = 8 << 20;
/// Rows on a page of jobs, datasets or results, whatever the settings allow for points and lines.
const LIST_ROWS: usize = 1_000;
/// Jobs that are looked at for one page, for each row that a page may have: whoever may read none would
/// have all of them looked at.
const LOOKS: usize = 10;
/// Reports over all jobs that are made at once; others wait.
const REPORTS: usize = 2;

impl Service {
    /// The service over a running tree.
    #[must_use]
    pub fn new(args: ServiceArgs) -> Self {
        let users = Users::new(args.store.clone(), args.keys, args.users);
        let inner = Inner {
            users,
            agents: Agents::new(args.store.clone(), args.agents),
            store: args.store,
            tree: args.tree,
            datasets: args.datasets,
            public_url: args.public_url,
            streams: Streams::new(args.limits.streams, args.limits.streams_per_caller),
            counted: Counted::default(),
            limits: args.limits,
            http: args.http,
            telemetry: args.telemetry,
            stop: args.stop,
            board: args.board,
            submits: Arc::new(Semaphore::new(submit::UNDER_WAY)),
            more_under_way: Arc::default(),
            coming: Coming::default(),
            reports: Arc::new(Semaphore::new(REPORTS)),
            dry_runs: Arc::new(Semaphore::new(REPORTS)),
            refusals: Refusals::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The way to the actors, for the sessions of agents.
    pub(super) fn tree(&self) -> &Tree {
        &self.inner.tree
    }

    /// Cancelled when the coordinator stops.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// What is asked of HTTP clients.
    pub(super) fn http(&self) -> &Http {
        &self.inner.http
    }

    /// Where calls are counted.
    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.inner.telemetry
    }

    /// What was counted of jobs at last.
    pub(super) fn counted(&self) -> &Counted {
        &self.inner.counted
    }

    /// How much is accepted.
    pub(super) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Places of submissions under way.
    pub(super) fn submits(&self) -> &Arc<Semaphore> {
        &self.inner.submits
    }

    /// Places of reports over all jobs.
    pub(super) fn reports(&self) -> &Arc<Semaphore> {
        &self.inner.reports
    }

    /// Places of dry runs, each of which takes a copy of what the scheduler knows.
    pub(super) fn dry_runs(&self) -> &Arc<Semaphore> {
        &self.inner.dry_runs
    }

    /// Which refused submissions are noted.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Jobs of arrays under way beyond one a submission.
    pub(super) fn more_under_way(&self) -> &Arc<AtomicU64> {
        &self.inner.more_under_way
    }

    /// Jobs of projects that are on their way to the queue.
    pub(super) fn coming(&self) -> &Coming {
        &self.inner.coming
    }

    /// Rows on a page of points or lines at most.
    pub(super) fn series_rows(&self) -> usize {
        self.inner.limits.page_rows
    }

    /// Rows on a page of anything else at most.
    pub(super) fn page_rows(&self) -> usize {
        self.series_rows().min(LIST_ROWS)
    }

    /// Datasets, snapshots and where files lie.
    pub(super) fn data(&self) -> &Datasets {
        &self.inner.datasets
    }

    /// How this coordinator is reached, if its settings say so.
    pub(super) fn public_url(&self) -> Option<&str> {
        Some(self.inner.public_url.as_str()).filter(|url| !url.is_empty())
    }

    /// Whether it is reached over TLS without anything in between.
    pub(super) fn encrypts(&self) -> bool {
        self.inner.agents.policy().tls.is_on()
    }

    /// The store, for what only one door reads.
    pub(super) fn store(&self) -> &Store {
        &self.inner.store
    }

    /// How the trackers do; its snapshot never waits, as metrics want it.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.inner.board
    }

    /// Agents and their tokens.
    pub(super) fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    /// Users and their tokens.
    pub(super) fn users(&self) -> &Users {
        &self.inner.users
    }

    /// Proxies whose word about addresses is believed.
    pub(super) fn trusted_proxies(&self) -> &[ipnet::IpNet] {
        &self.users().settings().trusted_proxies
    }

    /// One job, with the reason why it waits.
    ///
    /// # Errors
    /// When there is none that the caller may read.
    pub async fn job(&self, caller: &Caller, id: JobId) -> Result<Job, ApiError> {
        let job = self.readable(caller, id)?;
        Ok(self.with_reason(caller, job).await)
    }

    /// A page of the jobs that the caller may read, newest first. A project that is named must be one
    /// that the caller may see.
    ///
    /// # Errors
    /// `Project not found`; when the store cannot be read.
    pub async fn jobs(&self, caller: &Caller, wanted: Jobs) -> Result<JobsPage, ApiError> {
        if let Some(project) = wanted.project_id {
            self.lists(caller, project)?;
        }
        let reader = self.reader(caller);
        let bounds = Bounds {
            rows: self.page(wanted.limit),
            bytes: match wanted.bytes {
                0 => PAGE_BYTES,
                bytes => bytes,
            },
            looks: self.page_rows().saturating_mul(LOOKS),
        };
        let waiting = |state: &JobState| !state.is_terminal();
        let only_open = !wanted.states.is_empty() && wanted.states.iter().all(waiting);
        let scan = move |store: &Store| {
            let keep = |job: &Job| {
                (wanted.states.is_empty() || wanted.states.contains(&job.state))
                    && (wanted.project_id.is_none() || wanted.project_id == job.spec.project_id)
                    && reader.reads(store, job)
            };
            let found = if only_open {
                // Few among many that have ended.
                store.jobs_open(wanted.before, bounds, keep)
            } else {
                store.jobs(wanted.before, bounds, keep)
            };
            reader.checked(found?)
        };
        let found = self.blocking(scan).await?;
        let rows = self.with_reasons(caller, found.jobs).await?;
        let next = found.next;
        Ok(JobsPage { rows, next })
    }

    /// A place for a stream of this caller.
    pub(super) fn stream(&self, caller: &Caller) -> Result<Following, ApiError> {
        self.inner.streams.take(caller)
    }

    pub(super) fn follower(&self, job: JobId) -> Follower {
        Follower {
            store: self.inner.store.clone(),
            job,
            stop: self.inner.stop.clone(),
        }
    }

    pub(super) fn page(&self, wanted: usize) -> usize {
        let most = self.page_rows();
        if wanted == 0 {
            most.min(50)
        } else {
            wanted.min(most)
        }
    }
}

pub(crate) fn stopping() -> ApiError {
    ApiError::new(Kind::Unavailable, "the coordinator is stopping")
}

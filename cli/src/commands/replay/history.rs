//! The cluster's own history as rows of a trace: from a store, a backup, an export, or the running coordinator.
//!
//! Owns what becomes of a row. Never changes a store.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use trainyard_coordinator::store::{CareError, NodeRow, care::Care};
use trainyard_core::{ids::JobId, job::Job, past::PastJob, time::Timestamp};
use trainyard_proto::{
    convert::{time, timestamp},
    v1::{self, StreamHistoryRequest, report_service_client::ReportServiceClient},
};
use trainyard_replay::trace::TraceJob;

use crate::client::Client;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In the order of submission.
    pub(super) jobs: Vec<TraceJob>,
    /// The GPUs of each node that has any.
    pub(super) nodes: Vec<u32>,
    /// Jobs that are left out.
    pub(super) without_gpus: u64,
    /// Rows that cannot be read.
    pub(super) damaged: u64,
}

impl History {
    fn take(&mut self, past: PastJob, since: Option<Timestamp>) {
        if since.is_some_and(|since| past.submitted_at < since) {
            return;
        }
        if past.gpus == 0 {
            self.without_gpus += 1;
            return;
        }
        self.jobs.push(row(past));
    }

    /// The runs of a job of a file: what still runs there did so until the newest moment of which the file tells.
    fn take_all(&mut self, job: &Job, (since, newest): (Option<Timestamp>, Timestamp)) {
        for past in PastJob::of(job, newest) {
            self.take(past, since);
        }
    }

    /// One that is revoked may never be back.
    fn node(&mut self, row: &NodeRow) {
        let gpus = if row.revoked {
            0
        } else {
            row.capacity.gpus.len()
        };
        let gpus = u32::try_from(gpus).unwrap_or(u32::MAX);
        self.nodes.extend((gpus > 0).then_some(gpus));
    }

    fn sorted(mut self) -> Self {
        self.jobs.sort_by_key(|job| (job.submit, job.id));
        self
    }
}

/// A run of a job as a row of a trace.
fn row(past: PastJob) -> TraceJob {
    TraceJob {
        id: past.job.0,
        submit: past.submitted_at.0.div_euclid(1_000_000),
        user: past.user,
        vc: past.project.map(|id| id.to_string()).unwrap_or_default(),
        name: past.name,
        gpus: past.gpus,
        nodes: past.nodes,
        preemptible: Some(past.preemptible),
        priority: past.priority,
        // A trace counts whole seconds, and a job that ran took some of one.
        duration: whole(past.ran).max(1),
        limit: past.limit.map_or(0, whole),
    }
}

fn whole(span: Duration) -> i64 {
    let up = u64::from(span.subsec_nanos() > 0);
    i64::try_from(span.as_secs() + up).unwrap_or(i64::MAX)
}

/// Of a file: a store that nobody has open, a backup, or lines of an export.
pub(super) fn of_file(path: &Path, since: Option<Timestamp>) -> anyhow::Result<History> {
    if is_export(path)? {
        let mut newest = Timestamp::default();
        of_export(path, |job| newest = newest.max(PastJob::newest(job)))?;
        let mut found = History::default();
        let (nodes, damaged) = of_export(path, |job| found.take_all(job, (since, newest)))?;
        (found.nodes, found.damaged) = (nodes, damaged);
        return Ok(found.sorted());
    }
    let care = Care::open(path, false).map_err(in_use)?;
    let mut newest = Timestamp::default();
    care.each_job(|job| newest = newest.max(PastJob::newest(&job)))?;
    let mut found = History::default();
    found.damaged = care.each_job(|job| found.take_all(&job, (since, newest)))?;
    for row in care.nodes()? {
        found.node(&row);
    }
    Ok(found.sorted())
}

/// Who replays what has run need not stop the coordinator that holds it.
fn in_use(error: CareError) -> anyhow::Error {
    let CareError::InUse { path } = &error else {
        return error.into();
    };
    anyhow::anyhow!(
        "the store {} is in use by a coordinator that runs, or by another command; leave --store out and the coordinator is asked, or name a backup that `trainyard store backup` has made",
        path.display()
    )
}

/// An export begins with a line of JSON, a store never does.
fn is_export(path: &Path) -> anyhow::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let mut first = Vec::new();
    file.take(1).read_to_end(&mut first).with_context(cannot)?;
    Ok(first == b"{")
}

/// A line of an export; of other kinds no more is read.
#[derive(Debug, Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    row: Value,
}

#[derive(Debug, Deserialize)]
struct JobRow {
    job: Job,
}

/// Tells of all jobs; and says the GPUs of nodes that have any, and how many lines cannot be read.
fn of_export(path: &Path, mut each: impl FnMut(&Job)) -> anyhow::Result<(Vec<u32>, u64)> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let mut found = History::default();
    for text in BufReader::new(file).lines() {
        let line: Result<Line, _> = serde_json::from_str(&text.with_context(cannot)?);
        let Ok(line) = line else {
            found.damaged += 1;
            continue;
        };
        match line.kind.as_str() {
            "job" => match serde_json::from_value::<JobRow>(line.row) {
                Ok(JobRow { job }) => each(&job),
                Err(_) => found.damaged += 1,
            },
            "node" => match serde_json::from_value::<NodeRow>(line.row) {
                Ok(row) => found.node(&row),
                Err(_) => found.damaged += 1,
            },
            _ => {}
        }
    }
    Ok((found.nodes, found.damaged))
}

/// Of the running coordinator.
pub(super) async fn of_coordinator(
    client: &mut Client,
    since: Option<Timestamp>,
) -> anyhow::Result<History> {
    let request = StreamHistoryRequest {
        since: since.map(timestamp),
    };
    let mut pieces = client
        .call(async |via| ReportServiceClient::new(via).stream_history(request).await)
        .await?;
    let mut found = History::default();
    loop {
        let piece = match pieces.message().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(found.sorted()),
            Err(status) => return Err(client.diagnosed(status).await.into()),
        };
        for node in piece.nodes {
            found.nodes.extend((node.gpus > 0).then_some(node.gpus));
        }
        for job in piece.jobs {
            found.take(past(job), since);
        }
    }
}

fn past(job: v1::PastJob) -> PastJob {
    let span = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let limit = span(job.time_limit_seconds);
    PastJob {
        job: JobId(job.job_id),
        submitted_at: job.submitted_at.as_ref().map(time).unwrap_or_default(),
        user: job.user,
        project: job.project.parse().ok(),
        name: job.name,
        nodes: job.nodes,
        gpus: job.gpus,
        ran: span(job.ran_seconds),
        limit: (!limit.is_zero()).then_some(limit),
        preemptible: job.preemptible,
        priority: job.priority,
    }
}

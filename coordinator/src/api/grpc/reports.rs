//! `ReportService`: what was used, what was decided, and the history of jobs.

use std::pin::Pin;

use futures::{Stream, TryStreamExt as _};
use tonic::{Request, Response, Status, async_trait};
use trainyard_core::{
    ids::{JobId, NodeName},
    past::PastJob,
    time::Timestamp,
    usage::{By, Row},
};
use trainyard_proto::{
    convert::{time, timestamp},
    v1::{self, report_service_server::ReportService},
};

use super::{
    caller,
    pages::{size, token},
};
use crate::{
    api::{ApiError, EventsAsked, Past, Service, UsageAsked},
    store::{NodeRow, StoredEvent},
};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct ReportDoor(pub(super) Service);

#[async_trait]
impl ReportService for ReportDoor {
    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Answer<v1::GetUsageResponse> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let asked = UsageAsked {
            from: request.from.as_ref().map(time),
            to: request.to.as_ref().map(time),
            by: by(request.by)?,
        };
        let report = self.0.usage(&caller, asked).await?;
        let rows = report.rows.into_iter();
        let rows = rows.map(|row| used(row.used, row.project_name));
        Ok(Response::new(v1::GetUsageResponse {
            from: Some(timestamp(report.window.from)),
            to: Some(timestamp(report.window.to)),
            rows: rows.collect(),
            total: Some(used(report.total, None)),
        }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Answer<v1::ListEventsResponse> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let asked = EventsAsked {
            after: token(&request.page_token)?,
            limit: size(request.page_size),
            ..asked(
                request.job_id,
                request.node,
                request.since.as_ref().map(time),
            )
        };
        let page = self.0.events(&caller, asked).await?;
        let next = page.next().map(|next| next.to_string());
        Ok(Response::new(v1::ListEventsResponse {
            events: page.rows.into_iter().map(event).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    type StreamEventsStream = Streamed<v1::StreamEventsResponse>;

    async fn stream_events(
        &self,
        request: Request<v1::StreamEventsRequest>,
    ) -> Answer<Self::StreamEventsStream> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let asked = EventsAsked {
            after: request.after_event_id,
            ..asked(
                request.job_id,
                request.node,
                request.since.as_ref().map(time),
            )
        };
        let pages = self.0.follow_events(&caller, asked)?;
        let pages = pages.map_err(Status::from).map_ok(|rows| {
            let events = rows.into_iter().map(event).collect();
            v1::StreamEventsResponse { events }
        });
        Ok(Response::new(Box::pin(pages)))
    }

    type StreamHistoryStream = Streamed<v1::StreamHistoryResponse>;

    async fn stream_history(
        &self,
        request: Request<v1::StreamHistoryRequest>,
    ) -> Answer<Self::StreamHistoryStream> {
        let caller = caller(&self.0, &request)?;
        let since = request.into_inner().since.as_ref().map(time);
        let pieces = self.0.history(&caller, since)?;
        let told = |piece| futures::stream::iter(history(piece).into_iter().map(Ok));
        let pieces = pieces.map_err(Status::from).map_ok(told).try_flatten();
        Ok(Response::new(Box::pin(pieces)))
    }
}

/// A message is about as large at most: clients take 4 MiB, and names may be long.
const MESSAGE: usize = 1 << 20;

/// One piece of it in as many messages as it takes.
fn history(piece: Past) -> Vec<v1::StreamHistoryResponse> {
    match piece {
        Past::Jobs(jobs) => {
            let told = parts(jobs.into_iter().map(past_job), MESSAGE).into_iter();
            let told = told.map(|jobs| v1::StreamHistoryResponse {
                jobs,
                ..v1::StreamHistoryResponse::default()
            });
            told.collect()
        }
        Past::Nodes(nodes) => {
            let node = |row: NodeRow| v1::PastNode {
                gpus: u32::try_from(row.capacity.gpus.len()).unwrap_or(u32::MAX),
                name: row.name.0,
            };
            let told = parts(nodes.into_iter().map(node), MESSAGE).into_iter();
            let told = told.map(|nodes| v1::StreamHistoryResponse {
                nodes,
                ..v1::StreamHistoryResponse::default()
            });
            told.collect()
        }
    }
}

/// In parts of so many bytes each, or of one row that is larger.
fn parts<T: prost::Message>(rows: impl Iterator<Item = T>, most: usize) -> Vec<Vec<T>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let size = row.encoded_len();
        if bytes + size > most && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(row);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn past_job(job: PastJob) -> v1::PastJob {
    v1::PastJob {
        job_id: job.job.0,
        submitted_at: Some(timestamp(job.submitted_at)),
        user: job.user,
        project: job.project.map(|id| id.to_string()).unwrap_or_default(),
        name: job.name,
        nodes: job.nodes,
        gpus: job.gpus,
        ran_seconds: job.ran.as_secs_f64(),
        time_limit_seconds: job.limit.unwrap_or_default().as_secs_f64(),
        preemptible: job.preemptible,
        priority: job.priority,
    }
}

fn by(number: i32) -> Result<By, ApiError> {
    match v1::UsageBy::try_from(number) {
        Ok(v1::UsageBy::Unspecified | v1::UsageBy::Project) => Ok(By::Project),
        Ok(v1::UsageBy::User) => Ok(By::User),
        Ok(v1::UsageBy::Both) => Ok(By::Both),
        Err(_) => {
            let words = format!("is {number}, and jobs are put together by project, user or both");
            Err(ApiError::field("by", words))
        }
    }
}

/// Which events, from the first on.
fn asked(job: u64, node: String, since: Option<Timestamp>) -> EventsAsked {
    EventsAsked {
        job: (job > 0).then_some(JobId(job)),
        node: (!node.is_empty()).then_some(NodeName(node)),
        since,
        ..EventsAsked::default()
    }
}

fn event(row: StoredEvent) -> v1::Event {
    let decision = row.decision;
    v1::Event {
        event_id: row.id,
        at: Some(timestamp(decision.at)),
        kind: decision.kind.name().to_owned(),
        job_id: decision.job.map(|job| job.0),
        attempt: decision.attempt.map(|attempt| attempt.0),
        nodes: decision.nodes.into_iter().map(|node| node.0).collect(),
        for_job_id: decision.for_job.map(|job| job.0),
        words: decision.words,
    }
}

fn used(row: Row, project_name: Option<String>) -> v1::UsageRow {
    v1::UsageRow {
        project_id: row.project,
        project_name: project_name.unwrap_or_default(),
        user: row.user.unwrap_or_default(),
        jobs: row.jobs,
        gpu_hours: row.gpu_hours,
        cpu_hours: row.cpu_hours,
        wasted_gpu_hours: row.wasted_gpu_hours,
        waited_seconds: row.waited_s,
        wait_mean_seconds: row.wait_mean_s,
        wait_p90_seconds: row.wait_p90_s,
        preemptions: row.preemptions,
        failures: row.failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_jobs_with_long_names_no_message_of_the_history_is_larger_than_clients_take() {
        use prost::Message as _;
        let job = |id| v1::PastJob {
            job_id: id,
            name: "n".repeat(10_000),
            ..v1::PastJob::default()
        };
        let parts = parts((0..1_000).map(job), MESSAGE);
        let ids: Vec<u64> = parts.iter().flatten().map(|job| job.job_id).collect();
        assert_eq!(ids, (0..1_000).collect::<Vec<_>>());
        assert!(parts.len() > 9, "{}", parts.len());
        for jobs in parts {
            let told = v1::StreamHistoryResponse {
                jobs,
                ..v1::StreamHistoryResponse::default()
            };
            assert!(told.encoded_len() < 2 * MESSAGE);
        }
    }
}

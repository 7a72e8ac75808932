//! `JobService`: submitting, watching and stopping jobs.

use std::pin::Pin;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::{Request, Response, Status, async_trait};
use trainyard_core::{
    ids::JobId,
    job::JobState,
    record::{LogLine, LogStream},
    sched::Change,
    spec::{JobSpec, Violation},
};
use trainyard_proto::{
    convert::{WireError, job_spec, timestamp},
    v1::{self, job_service_server::JobService},
};

use super::{
    caller,
    pages::{size, token},
};
use crate::{
    api::{ApiError, Explained, Jobs, Page, Service, ShortNode},
    store::{Sizable, StoredLine, StoredPoint},
};

/// Text in one message of lines or points, so that any client's limit of 4 MiB is kept.
const TEXT: usize = 1 << 20;
/// Text of jobs in one message, in bytes: clients take 4 MiB.
const JOBS: usize = 2 << 20;

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct JobDoor(pub(super) Service);

#[async_trait]
impl JobService for JobDoor {
    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Answer<v1::SubmitJobResponse> {
        let caller = caller(&self.0, &request)?;
        let v1::SubmitJobRequest {
            spec,
            idempotency_key: key,
        } = request.into_inner();
        let missing = || ApiError::field("spec", "is missing; say what is to be run");
        let (spec, wrong) = job_spec(spec.ok_or_else(missing)?);
        well_formed(&spec, wrong)?;
        let key = (!key.is_empty()).then_some(key);
        let job = self.0.submit(&caller, spec, key).await;
        let job = Some(job.map_err(below_spec)?.into());
        Ok(Response::new(v1::SubmitJobResponse { job }))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answer<v1::GetJobResponse> {
        let caller = caller(&self.0, &request)?;
        let job = self
            .0
            .job(&caller, JobId(request.into_inner().job_id))
            .await?;
        let job = Some(job.into());
        Ok(Response::new(v1::GetJobResponse { job }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Answer<v1::ListJobsResponse> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let states: Result<Vec<_>, _> = request.states().map(state).collect();
        let page = self.0.jobs(
            &caller,
            Jobs {
                before: token(&request.page_token)?.map(JobId),
                states: states?,
                project_id: request.project_id,
                limit: size(request.page_size),
                bytes: JOBS,
            },
        );
        let page = page.await?;
        let next_page_token = page.next.map(|id| id.to_string()).unwrap_or_default();
        let jobs = page.rows.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListJobsResponse {
            jobs,
            next_page_token,
        }))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Answer<v1::CancelJobResponse> {
        let caller = caller(&self.0, &request)?;
        let v1::CancelJobRequest {
            job_id,
            whole_array,
        } = request.into_inner();
        let (job, told) = match whole_array {
            true => self.0.cancel_array(&caller, JobId(job_id)).await?,
            false => (self.0.cancel(&caller, JobId(job_id)).await?, 1),
        };
        let job = Some(job.into());
        Ok(Response::new(v1::CancelJobResponse { job, told }))
    }

    async fn explain_job(
        &self,
        request: Request<v1::ExplainJobRequest>,
    ) -> Answer<v1::ExplainJobResponse> {
        let caller = caller(&self.0, &request)?;
        let id = JobId(request.into_inner().job_id);
        let (job, why) = self.0.explain(&caller, id).await?;
        Ok(Response::new(v1::ExplainJobResponse {
            explanation: why.map(explanation),
            job: Some(job.into()),
        }))
    }

    async fn foresee_job(
        &self,
        request: Request<v1::ForeseeJobRequest>,
    ) -> Answer<v1::ForeseeJobResponse> {
        let caller = caller(&self.0, &request)?;
        let missing = || ApiError::field("spec", "is missing; say what is to be run");
        let spec = request.into_inner().spec.ok_or_else(missing)?;
        let (spec, wrong) = job_spec(spec);
        well_formed(&spec, wrong)?;
        let foreseen = self.0.foresee(&caller, spec).await;
        let (nodes, why) = foreseen.map_err(below_spec)?;
        Ok(Response::new(v1::ForeseeJobResponse {
            nodes,
            explanation: why.map(explanation),
        }))
    }

    type WatchJobStream = Streamed<v1::WatchJobResponse>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Answer<Self::WatchJobStream> {
        let caller = caller(&self.0, &request)?;
        let states = self
            .0
            .follow_job(&caller, JobId(request.into_inner().job_id))?;
        let states = states.map_err(Status::from).map_ok(|job| {
            let job = Some(job.into());
            v1::WatchJobResponse { job }
        });
        Ok(Response::new(Box::pin(states)))
    }

    async fn list_metrics(
        &self,
        request: Request<v1::ListMetricsRequest>,
    ) -> Answer<v1::ListMetricsResponse> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let after = token(&request.page_token)?.unwrap_or(0);
        let job = JobId(request.job_id);
        let page = self
            .0
            .points(
                &caller,
                (job, request.with_superseded),
                (after, size(request.page_size)),
            )
            .await?;
        let (rows, more) = first_message(page);
        let last = rows.last().filter(|_| more);
        let next_page_token = last.map(|row| row.id.to_string()).unwrap_or_default();
        let points = rows.into_iter().map(point).collect();
        Ok(Response::new(v1::ListMetricsResponse {
            points,
            next_page_token,
        }))
    }

    type StreamMetricsStream = Streamed<v1::StreamMetricsResponse>;

    async fn stream_metrics(
        &self,
        request: Request<v1::StreamMetricsRequest>,
    ) -> Answer<Self::StreamMetricsStream> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let of = (JobId(request.job_id), request.with_superseded);
        let pages = self.0.follow_points(&caller, of, request.after_point_id)?;
        let messages = messages(pages).map_ok(|rows| {
            let points = rows.into_iter().map(point).collect();
            v1::StreamMetricsResponse { points }
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn list_logs(
        &self,
        request: Request<v1::ListLogsRequest>,
    ) -> Answer<v1::ListLogsResponse> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let stream = log_stream(request.stream())?;
        let after = token(&request.page_token)?.unwrap_or(0);
        let job = JobId(request.job_id);
        let keep = move |line: &LogLine| stream.is_none_or(|wanted| line.stream == wanted);
        let page = self
            .0
            .lines(&caller, job, (after, size(request.page_size)), keep)
            .await?;
        let (rows, more) = first_message(page);
        let last = rows.last().filter(|_| more);
        let next_page_token = last.map(|row| row.id.to_string()).unwrap_or_default();
        let lines = rows.into_iter().map(line).collect();
        Ok(Response::new(v1::ListLogsResponse {
            lines,
            next_page_token,
        }))
    }

    type StreamLogsStream = Streamed<v1::StreamLogsResponse>;

    async fn stream_logs(
        &self,
        request: Request<v1::StreamLogsRequest>,
    ) -> Answer<Self::StreamLogsStream> {
        let caller = caller(&self.0, &request)?;
        let v1::StreamLogsRequest {
            job_id,
            after_line_id,
            follow,
        } = request.into_inner();
        let pages = self
            .0
            .follow_lines(&caller, JobId(job_id), (after_line_id, follow))?;
        let messages = messages(pages).map_ok(|rows| {
            let lines = rows.into_iter().map(line).collect();
            v1::StreamLogsResponse { lines }
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// Names what could not be read together with what is wrong in what could.
fn well_formed(spec: &JobSpec, wrong: Vec<WireError>) -> Result<(), ApiError> {
    if wrong.is_empty() {
        // The service's check says the same.
        return Ok(());
    }
    let unread = wrong.into_iter().map(|error| Violation {
        field: error.field().to_owned(),
        message: error.to_string(),
    });
    let found = below(spec.check());
    Err(ApiError::invalid(unread.chain(found).collect()))
}

/// The violations of a specification are those of the field that holds it.
fn below_spec(error: ApiError) -> Status {
    if error.violations.is_empty() {
        return error.into();
    }
    ApiError::invalid(below(error.violations)).into()
}

fn below(found: Vec<Violation>) -> Vec<Violation> {
    let below = |found: Violation| Violation {
        field: match found.field.as_str() {
            // On the wire they are texts.
            "advanced_config" | "split_strategy" => format!("spec.{}_json", found.field),
            field => format!("spec.{field}"),
        },
        message: found.message,
    };
    found.into_iter().map(below).collect()
}

fn state(wire: v1::JobState) -> Result<JobState, ApiError> {
    Ok(match wire {
        v1::JobState::Unspecified => {
            let words = "holds an unspecified state; leave states out for all of them";
            return Err(ApiError::field("states", words));
        }
        v1::JobState::Pending => JobState::Pending,
        v1::JobState::Queued => JobState::Queued,
        v1::JobState::Starting => JobState::Starting,
        v1::JobState::Running => JobState::Running,
        v1::JobState::Finishing => JobState::Finishing,
        v1::JobState::Completed => JobState::Completed,
        v1::JobState::Failed => JobState::Failed,
        v1::JobState::Cancelled => JobState::Cancelled,
    })
}

fn log_stream(wire: v1::LogStream) -> Result<Option<LogStream>, ApiError> {
    match wire {
        v1::LogStream::Unspecified => Ok(None),
        v1::LogStream::Stdout
        | v1::LogStream::Stderr
        | v1::LogStream::System
        | v1::LogStream::Callback => Ok(Some(wire.into())),
    }
}

fn point(row: StoredPoint) -> v1::MetricPoint {
    let progress = row.progress;
    let checkpoint = progress.checkpoint.map(|checkpoint| checkpoint.path);
    v1::MetricPoint {
        point_id: row.id,
        attempt: row.attempt.0,
        rank: row.rank.0,
        epoch: progress.epoch,
        step: progress.step,
        values: progress.values,
        checkpoint_path: checkpoint.unwrap_or_default(),
        reported_at: Some(timestamp(progress.at)),
    }
}

fn line(row: StoredLine) -> v1::LogLine {
    let line = row.line;
    v1::LogLine {
        line_id: row.id,
        attempt: row.attempt.0,
        rank: row.rank.0,
        stream: v1::LogStream::from(line.stream).into(),
        level: line.level,
        text: line.text,
        written_at: Some(timestamp(line.at)),
    }
}

/// Rows in groups that each fit into one message.
fn by_text<T: Sizable>(rows: Vec<T>) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut size = 0;
    for row in rows {
        let text = row.size();
        match groups.last_mut() {
            Some(group) if size + text <= TEXT => {
                size += text;
                group.push(row);
            }
            Some(_) | None => {
                size = text;
                groups.push(vec![row]);
            }
        }
    }
    groups
}

fn explanation(why: Explained) -> v1::Explanation {
    let Explained { why, nodes } = why;
    let [early, middle, late] = match why.expected {
        Some(moments) => moments.map(|then| Some(timestamp(then))),
        None => [const { None }; 3],
    };
    let place = why.place.map(|place| v1::QueuePlace {
        ahead: u64::try_from(place.ahead).unwrap_or(u64::MAX),
        waiting: u64::try_from(place.waiting).unwrap_or(u64::MAX),
        because: place.because(),
    });
    let suggested = |changes: Vec<Change>| {
        let changes = changes.into_iter().map(|change| v1::SuggestedChange {
            field: change.field.to_owned(),
            from: change.from,
            to: change.to,
        });
        changes.collect()
    };
    v1::Explanation {
        reason: why.words,
        place,
        short_nodes: nodes.into_iter().map(short_node).collect(),
        changes: suggested(why.changes),
        expected_early: early,
        expected_middle: middle,
        expected_late: late,
        together: suggested(why.together),
        more_short_nodes: u32::try_from(why.short_more).unwrap_or(u32::MAX),
    }
}

fn short_node(node: ShortNode) -> v1::ShortNode {
    let holders = node.holders.into_iter().map(|holder| {
        let (epoch, total_epochs) = holder.epochs.unwrap_or_default();
        v1::Holder {
            job_id: holder.job.0,
            epoch,
            total_epochs,
            expected_end: holder.ends.map(timestamp),
        }
    });
    v1::ShortNode {
        node: node.short.node.0,
        lacks: node.short.lacks,
        holders: holders.collect(),
        others: u32::try_from(node.others).unwrap_or(u32::MAX),
    }
}

/// What of a page fits into one message, and whether there is more.
fn first_message<T: Sizable>(page: Page<T>) -> (Vec<T>, bool) {
    let mut messages = by_text(page.rows).into_iter();
    let first = messages.next().unwrap_or_default();
    (first, page.more || messages.next().is_some())
}

/// Pages as messages.
fn messages<T: Sizable + Send>(
    pages: impl Stream<Item = Result<Vec<T>, ApiError>> + Send,
) -> impl Stream<Item = Result<Vec<T>, Status>> + Send {
    pages.flat_map(|page| match page {
        Ok(rows) => stream::iter(by_text(rows).into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(Status::from(error))]),
    })
}

#[cfg(test)]
mod tests {
    use trainyard_core::{ids::AttemptNo, record::LogLine, time::Timestamp};

    use super::*;

    #[test]
    fn long_lines_are_spread_over_messages_and_none_is_lost() {
        let row = |id: u64| StoredLine {
            id,
            attempt: AttemptNo(1),
            rank: trainyard_core::ids::Rank(0),
            line: LogLine {
                at: Timestamp(0),
                stream: LogStream::Stdout,
                level: String::new(),
                text: "x".repeat(300_000),
            },
        };
        let groups = by_text((1..=10).map(row).collect());
        assert_eq!(
            groups.iter().map(Vec::len).collect::<Vec<_>>(),
            [3, 3, 3, 1]
        );
        let ids: Vec<u64> = groups.iter().flatten().map(|row| row.id).collect();
        assert_eq!(ids, (1..=10).collect::<Vec<_>>());
    }
}

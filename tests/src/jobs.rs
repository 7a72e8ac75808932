//! Jobs as the suites submit them, and what they look at afterwards.

use std::collections::BTreeMap;

use tonic::Status;
use trainyard_proto::v1::{
    self, JobState, LogLine, MetricPoint, job_service_client::JobServiceClient,
};

use crate::{
    cluster::{Authenticated, Cluster},
    wait::until,
};

/// The jobs of a cluster, over gRPC.
#[derive(Clone, Debug)]
pub struct Jobs(pub JobServiceClient<Authenticated>);

/// A job that runs `command`.
#[must_use]
pub fn command(command: &[&str]) -> v1::JobSpec {
    v1::JobSpec {
        framework: "command".to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        ..v1::JobSpec::default()
    }
}

/// A job that runs a shell script.
#[must_use]
pub fn shell(script: &str) -> v1::JobSpec {
    command(&["sh", "-c", script])
}

/// A job that runs a Python script with the trainer SDK at hand.
#[must_use]
pub fn python(script: &str) -> v1::JobSpec {
    command(&["python3", "-c", script])
}

impl Jobs {
    /// Connects.
    pub async fn of(cluster: &Cluster) -> Self {
        Self(cluster.jobs().await)
    }

    /// Submits a job that is accepted.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&mut self, spec: v1::JobSpec) -> u64 {
        self.try_submit(spec)
            .await
            .expect("the job is accepted")
            .job_id
    }

    /// Submits.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn try_submit(&mut self, spec: v1::JobSpec) -> Result<v1::Job, Status> {
        let request = v1::SubmitJobRequest {
            spec: Some(spec),
            idempotency_key: String::new(),
        };
        let answer = self.0.submit_job(request).await?.into_inner();
        Ok(answer.job.expect("the answer holds the job"))
    }

    /// One job as it is now.
    ///
    /// # Panics
    /// When there is none.
    pub async fn get(&mut self, job_id: u64) -> v1::Job {
        let answer = self.0.get_job(v1::GetJobRequest { job_id }).await;
        answer
            .expect("the job is found")
            .into_inner()
            .job
            .expect("it is there")
    }

    /// Waits until the job is in `state`.
    ///
    /// # Panics
    /// When it ends in another state, or takes too long.
    pub async fn reaches(&self, job_id: u64, state: JobState) -> v1::Job {
        until(&format!("job {job_id} is {state:?}"), async || {
            let job = self.clone().get(job_id).await;
            let ended = is_over(&job) && job.state() != state;
            assert!(!ended, "job {job_id} ended otherwise: {job:?}");
            (job.state() == state).then_some(job)
        })
        .await
    }

    /// Waits until the job has ended.
    pub async fn ends(&self, job_id: u64) -> v1::Job {
        until(&format!("job {job_id} has ended"), async || {
            // A coordinator that is just being killed does not answer.
            let request = v1::GetJobRequest { job_id };
            let answer = self.clone().0.get_job(request).await.ok()?;
            answer.into_inner().job.filter(is_over)
        })
        .await
    }

    /// Asks for a stop.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn cancel(&mut self, job_id: u64) -> Result<v1::Job, Status> {
        let answer = self
            .0
            .cancel_job(v1::CancelJobRequest {
                job_id,
                ..Default::default()
            })
            .await?;
        Ok(answer.into_inner().job.expect("the answer holds the job"))
    }

    /// All points that were ever stored of a job.
    ///
    /// # Panics
    /// When they cannot be read.
    pub async fn points(&mut self, job_id: u64) -> Vec<MetricPoint> {
        let mut points = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListMetricsRequest {
                job_id,
                page_size: 1_000,
                page_token,
                with_superseded: true,
            };
            let answer = self.0.list_metrics(request).await.expect("points are read");
            let page = answer.into_inner();
            points.extend(page.points);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return points;
            }
        }
    }

    /// All lines of a job's log.
    ///
    /// # Panics
    /// When they cannot be read.
    pub async fn lines(&mut self, job_id: u64) -> Vec<LogLine> {
        let request = v1::StreamLogsRequest {
            job_id,
            after_line_id: 0,
            follow: false,
        };
        let stream = self.0.stream_logs(request).await.expect("lines are read");
        let mut stream = stream.into_inner();
        let mut lines = Vec::new();
        while let Some(page) = stream.message().await.expect("the stream goes on") {
            lines.extend(page.lines);
        }
        lines
    }

    /// The texts of what the trainer itself wrote, in order.
    pub async fn output(&mut self, job_id: u64) -> Vec<String> {
        let own = [v1::LogStream::Stdout, v1::LogStream::Stderr];
        let lines = self.lines(job_id).await.into_iter();
        lines
            .filter(|line| own.contains(&line.stream()))
            .map(|line| line.text)
            .collect()
    }
}

/// Completed, failed or cancelled.
#[must_use]
pub fn is_over(job: &v1::Job) -> bool {
    use JobState::{Cancelled, Completed, Failed};
    [Completed, Failed, Cancelled].contains(&job.state())
}

/// The job's outcome.
///
/// # Panics
/// When it has none yet.
#[must_use]
pub fn outcome(job: &v1::Job) -> &v1::Outcome {
    job.outcome.as_ref().expect("an ended job has an outcome")
}

/// Environment variables for a job.
#[must_use]
pub fn variables(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    of.iter().map(owned).collect()
}

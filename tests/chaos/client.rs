//! The users: they submit, cancel and look, and try again when nobody answers.
//!
//! Owns no wish. Writes down what was accepted. Called by the world and the check.

use std::{collections::BTreeSet, future::Future, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{
    cluster::{Authenticated, Bearer, EMAIL, PASSWORD},
    jobs::{Jobs, python, variables},
};
use tonic::{Code, Status};
use trainyard_net::{ClientTls, Connection, Plain};
use trainyard_proto::v1::{
    self, auth_service_client::AuthServiceClient, job_service_client::JobServiceClient,
    node_service_client::NodeServiceClient,
};

use crate::{
    fleet::ADDRESS,
    plan::{End, Until, Wish},
    record::Record,
};

/// How long one call may take.
const CALL: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(200);
/// How often somebody looks at what waits. Nothing may wait for so long without a reason.
const LOOK: Duration = Duration::from_secs(1);

/// What is said to who is to follow a job that has not succeeded.
const UNSUCCESSFUL: &str = "run it again first";

const TRAINER: &str = include_str!("trainer.py");

/// Logged in; a cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    connection: Connection,
    bearer: Option<Bearer>,
    record: Record,
    /// Daemons of trainers keep no environment, by which they could be known.
    bare: bool,
}

impl Client {
    /// Waits for a coordinator and logs in.
    pub(crate) async fn log_in(record: Record, bare: bool) -> Result<Self> {
        let url = format!("http://{ADDRESS}");
        let mut client = Self {
            connection: Connection::new(&url, ClientTls::default(), Plain::Anywhere)?,
            bearer: None,
            record,
            bare,
        };
        let request = v1::LoginRequest {
            email: EMAIL.to_owned(),
            password: PASSWORD.to_owned(),
        };
        let connection = client.connection.clone();
        let log_in = async || {
            let channel = connection.connect().await;
            let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
            AuthServiceClient::new(channel).login(request.clone()).await
        };
        let answer = client.patiently("login", log_in).await?.into_inner();
        let token = answer.tokens.context("no tokens")?.access_token;
        client.bearer = Some(Bearer::of(&token)?);
        Ok(client)
    }

    /// Tries again whatever may be over later; what never will be is an error.
    async fn patiently<T, F: Future<Output = Result<T, Status>>>(
        &self,
        what: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        loop {
            let refused = match tokio::time::timeout(CALL, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_elapsed) => Status::deadline_exceeded("no answer"),
            };
            let final_word = matches!(
                refused.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::AlreadyExists
                    | Code::PermissionDenied
                    | Code::FailedPrecondition
                    | Code::Unauthenticated
                    | Code::Unimplemented
                    | Code::DataLoss
            );
            if final_word {
                bail!(refused);
            }
            self.record
                .count(&format!("{what} again: {:?}", refused.code()));
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn jobs(&self) -> Result<Jobs, Status> {
        let channel = self.channel().await?;
        let bearer = self.bearer.clone();
        let bearer = bearer.ok_or_else(|| Status::unauthenticated("not logged in"))?;
        let jobs = JobServiceClient::with_interceptor(channel, bearer);
        Ok(Jobs(jobs.max_decoding_message_size(64 << 20)))
    }

    async fn channel(&self) -> Result<tonic::transport::Channel, Status> {
        let channel = self.connection.connect().await;
        channel.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Submits the wish of this number with its key, until it is accepted. Whoever does it again gets the same job. None
    /// if it was refused, since it was to follow a job that has not succeeded.
    pub(crate) async fn submit(&self, number: usize, wish: &Wish) -> Result<Option<u64>> {
        let mut spec = spec(wish, self.bare);
        if let Some((before, until)) = wish.order.after {
            let Some(id) = self.awaited(before).await else {
                self.record.lock().refused.insert(number);
                return Ok(None);
            };
            match until {
                Until::Succeeds => spec.after = vec![id],
                Until::Ends => spec.after_any = vec![id],
            }
        }
        let request = v1::SubmitJobRequest {
            spec: Some(spec),
            idempotency_key: format!("wish-{number}"),
        };
        let submit = async || {
            let mut jobs = self.jobs().await?;
            jobs.0.submit_job(request.clone()).await
        };
        let answer = match self.patiently("submit", submit).await {
            Err(error)
                if wish.order.after.is_some() && error.to_string().contains(UNSUCCESSFUL) =>
            {
                self.record.lock().refused.insert(number);
                return Ok(None);
            }
            answer => answer?.into_inner(),
        };
        let id = answer.job.context("no job")?.job_id;
        let known = *self.record.lock().ids.entry(number).or_insert(id);
        ensure!(
            known == id,
            "wish {number} was job {known} and is now job {id}"
        );
        Ok(Some(id))
    }

    /// The job of that wish, once it is known; none if it was refused.
    async fn awaited(&self, number: usize) -> Option<u64> {
        loop {
            let (known, refused) = {
                let record = self.record.lock();
                let known = record.ids.get(&number).copied();
                (known, record.refused.contains(&number))
            };
            if known.is_some() || refused {
                return known;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Cancels, until it is accepted or too late.
    pub(crate) async fn cancel(&self, id: u64) -> Result<()> {
        self.record.lock().cancelled.insert(id);
        let cancel = async || self.jobs().await?.cancel(id).await;
        match self.patiently("cancel", cancel).await {
            Ok(_) => Ok(()),
            Err(error) => match error.downcast_ref::<Status>().map(Status::code) {
                Some(Code::FailedPrecondition | Code::InvalidArgument) => Ok(()),
                _ => Err(error),
            },
        }
    }

    pub(crate) async fn job(&self, id: u64) -> Result<v1::Job> {
        let request = v1::GetJobRequest { job_id: id };
        let get = async || self.jobs().await?.0.get_job(request).await;
        let answer = self.patiently("get", get).await?.into_inner();
        answer.job.context("no job")
    }

    /// Every job there is.
    pub(crate) async fn all(&self) -> Result<Vec<v1::Job>> {
        let request = v1::ListJobsRequest {
            page_size: 1_000,
            ..v1::ListJobsRequest::default()
        };
        let list = async || self.jobs().await?.0.list_jobs(request.clone()).await;
        Ok(self.patiently("list", list).await?.into_inner().jobs)
    }

    /// Looks at what waits, for ever. INV-08: each has a reason, unless it has only just begun to wait.
    pub(crate) async fn look_at_those_who_wait(&self) -> Result<()> {
        let mut before = BTreeSet::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let silent = self.all().await?.into_iter().filter(|job| {
                let waits = matches!(job.state(), v1::JobState::Pending | v1::JobState::Queued);
                waits && job.reason.is_empty()
            });
            let silent = silent.map(|job| (job.job_id, job.attempts.len()));
            let silent: BTreeSet<_> = silent.collect();
            if let Some((job, _)) = silent.intersection(&before).next() {
                bail!("INV-08: job {job} waits without a reason");
            }
            before = silent;
        }
    }

    /// The points of a job: those that count, or all.
    pub(crate) async fn points(
        &self,
        id: u64,
        with_superseded: bool,
    ) -> Result<Vec<v1::MetricPoint>> {
        let request = v1::ListMetricsRequest {
            job_id: id,
            page_size: 10_000,
            page_token: String::new(),
            with_superseded,
        };
        let list = async || self.jobs().await?.0.list_metrics(request.clone()).await;
        Ok(self.patiently("points", list).await?.into_inner().points)
    }

    /// The lines of a job, all that there are.
    pub(crate) async fn lines(&self, id: u64) -> Result<Vec<v1::LogLine>> {
        let request = v1::ListLogsRequest {
            job_id: id,
            page_size: 100_000,
            ..v1::ListLogsRequest::default()
        };
        let list = async || self.jobs().await?.0.list_logs(request.clone()).await;
        Ok(self.patiently("lines", list).await?.into_inner().lines)
    }

    async fn nodes_door(&self) -> Result<NodeServiceClient<Authenticated>, Status> {
        let bearer = self.bearer.clone();
        let bearer = bearer.ok_or_else(|| Status::unauthenticated("not logged in"))?;
        Ok(NodeServiceClient::with_interceptor(
            self.channel().await?,
            bearer,
        ))
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<v1::Node>> {
        let list = async || {
            self.nodes_door()
                .await?
                .list_nodes(v1::ListNodesRequest {})
                .await
        };
        Ok(self.patiently("nodes", list).await?.into_inner().nodes)
    }

    /// As an operator who has looked at the node.
    pub(crate) async fn resume(&self, name: &str) -> Result<()> {
        let request = v1::ResumeRequest {
            name: name.to_owned(),
        };
        let resume = async || self.nodes_door().await?.resume(request.clone()).await;
        self.patiently("resume", resume).await?;
        Ok(())
    }
}

fn spec(wish: &Wish, bare: bool) -> v1::JobSpec {
    let mut spec = python(TRAINER);
    (spec.epochs, spec.batch_size, spec.learning_rate) = (wish.epochs, 1, 0.01);
    let end = match wish.end {
        End::Completes => "exit 0".to_owned(),
        End::Exits(code) => format!("exit {code}"),
        End::Dies(signal) => format!("signal {signal}"),
        End::Never => "never".to_owned(),
    };
    let pace = wish.pace.as_secs_f64().to_string();
    let bare = if bare { "1" } else { "" };
    let resumes = if wish.resumes { "1" } else { "" };
    spec.environment = variables(&[
        ("CHAOS_END", &end),
        ("CHAOS_PACE", &pace),
        ("CHAOS_CHILDREN", wish.children.word()),
        ("CHAOS_RESUMES", resumes),
        ("CHAOS_BARE", bare),
    ]);
    spec.resources = Some(v1::ResourceRequest {
        cpus: wish.order.cpus,
        gpus: wish.gpus,
        ..v1::ResourceRequest::default()
    });
    spec.nodes = wish.nodes;
    spec.priority = wish.order.priority;
    spec.preemptible = wish.order.preemptible;
    if let (jobs @ 1.., at_most) = wish.order.array {
        spec.indices = format!("1-{jobs}%{at_most}");
    }
    spec.grace_period = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let on_lost = if wish.waits {
        v1::OnLost::Wait
    } else {
        v1::OnLost::Retry
    };
    spec.retry = Some(v1::RetryPolicy {
        limit: Some(100),
        backoff: Some(prost_types::Duration::default()),
        on_lost: on_lost.into(),
        ..v1::RetryPolicy::default()
    });
    spec
}

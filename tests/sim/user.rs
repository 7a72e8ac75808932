//! Users: they submit jobs, cancel them, run them again, and look at what waits.
//!
//! Owns nothing: what they are told stands in `told`. They try until they are answered, as clients do. Called by the
//! world.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Request as Call, Status, metadata::MetadataValue, transport::Channel};
use trainyard_net::{ClientTls, Connection, Plain};
use trainyard_proto::v1::{
    CancelJobRequest, Job, JobSpec, JobState as Shown, ListJobsRequest, LoginRequest, OnLost,
    ResourceRequest, RetryPolicy, SubmitJobRequest, auth_service_client::AuthServiceClient,
    job_service_client::JobServiceClient,
};
use turmoil::net::TcpStream;

use crate::{
    hosts::COORDINATOR,
    nature,
    plan::{Again, Terms, Wish},
    told::{Accepted, Cancelled},
    trace::Trace,
    wire,
};

/// How long a user waits for an answer, and before the next try.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);
/// How closely a user watches a job that is to be cancelled in a certain state.
const WATCH: Duration = Duration::from_millis(10);
/// How often somebody looks at what waits. Nothing may wait for so long without a reason.
const LOOK: Duration = Duration::from_secs(5);

/// What is said to who waits for the success of a job that has ended otherwise.
const UNSUCCESSFUL: &str = "run it again first";

/// Submits one job when its time comes, and does to it what is wished; tries until each is done.
pub(crate) async fn user(
    (number, wish): (usize, Wish),
    (accepted, caller): (Accepted, Caller),
    trace: Trace,
) -> turmoil::Result {
    tokio::time::sleep(wish.at).await;
    let Some(job) = ask_for((number, &wish), (&accepted, &caller)).await? else {
        trace.note(format!("user: wish {number} is refused"));
        accepted.refuse(number);
        return Ok(());
    };
    accepted.set(number, job);
    trace.note(format!("user: wish {number} is job {job}"));
    change_mind(&wish, job, (&accepted, &caller), &trace).await?;
    accepted.is_content();
    Ok(())
}

/// The job that comes of a wish; none if it is refused, since it waits for one that has not succeeded.
async fn ask_for(
    (number, wish): (usize, &Wish),
    (accepted, caller): (&Accepted, &Caller),
) -> Result<Option<u64>, Status> {
    let after = accepted.awaited(&wish.order.after).await;
    let after_any = accepted.awaited(&wish.order.after_any).await;
    let Some(awaited) = after.zip(after_any) else {
        return Ok(None);
    };
    let asked = caller.again(|| submit(caller, (number, wish), &awaited));
    match asked.await {
        Err(status) if status.message().contains(UNSUCCESSFUL) => Ok(None),
        submitted => submitted.map(Some),
    }
}

/// Cancels the job, or has it run again, as is wished.
async fn change_mind(
    wish: &Wish,
    job: u64,
    (accepted, caller): (&Accepted, &Caller),
    trace: &Trace,
) -> Result<(), Status> {
    if let Some(wait) = wish.cancel_after {
        tokio::time::sleep(wait).await;
        let answer = caller.again(|| cancel(caller, (job, accepted))).await?;
        trace.note(format!("user: job {job} is cancelled ({answer:?})"));
    } else if let Some(state) = wish.cancel_in {
        while accepted.state(job).is_none_or(|now| now < state) {
            tokio::time::sleep(WATCH).await;
        }
        trace.note(format!("user: job {job} is to be cancelled now"));
        let answer = caller.again(|| cancel(caller, (job, accepted))).await?;
        trace.note(format!("user: job {job} is cancelled ({answer:?})"));
    }
    for (times, again) in wish.again.iter().enumerate() {
        while !accepted.has_ended(job, times) {
            tokio::time::sleep(AGAIN).await;
        }
        tokio::time::sleep(again.after).await;
        let answer = caller.again(|| run_again(caller, (job, again), accepted));
        answer.await?;
        trace.note(format!("user: job {job} runs again ({again:?})"));
    }
    Ok(())
}

/// All of them, until none wants anything more.
pub(crate) async fn all(
    users: Vec<impl Future<Output = turmoil::Result> + 'static>,
) -> turmoil::Result {
    let mut at_work = tokio::task::JoinSet::new();
    for user in users {
        at_work.spawn_local(user);
    }
    while let Some(content) = at_work.join_next().await {
        content??;
    }
    Ok(())
}

/// Looks at what waits, for ever. INV-08: each has a reason, unless it has only just begun to wait.
pub(crate) async fn onlooker(caller: Caller, trace: Trace) -> turmoil::Result {
    let mut before: BTreeMap<u64, usize> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        // Who cannot look does not know for how long what is seen next has waited.
        let seen = tokio::time::timeout(PATIENCE, waiting(&caller)).await;
        let Ok(Ok(jobs)) = seen else {
            before.clear();
            caller.set(None);
            continue;
        };
        // Neither is it one that the scheduler has not looked yet.
        let says =
            |reason: &str| !reason.is_empty() && !reason.contains("has not looked at the queue");
        let silent = jobs.iter().filter(|job| !says(&job.reason));
        let silent = silent.map(|job| (job.job_id, job.attempts.len()));
        let silent: BTreeMap<u64, usize> = silent.collect();
        for (job, attempts) in &silent {
            if before.get(job) == Some(attempts) {
                trace.note(format!("job {job} waits without a reason"));
                return Err(format!("INV-08: job {job} waits without a reason").into());
            }
        }
        before = silent;
    }
}

type Bearer = MetadataValue<tonic::metadata::Ascii>;

/// Who calls, with the token that it was given. A clone has the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller(Arc<Mutex<Option<Bearer>>>);

impl Caller {
    /// Until it is done, or refused for good.
    pub(crate) async fn again<T>(
        &self,
        call: impl AsyncFn() -> Result<T, Status>,
    ) -> Result<T, Status> {
        loop {
            match tokio::time::timeout(PATIENCE, call()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(status)) if status.code() == Code::Unauthenticated => self.set(None),
                Ok(Err(status)) if is_final(&status) => return Err(status),
                Ok(Err(_)) | Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn set(&self, bearer: Option<Bearer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bearer;
    }

    pub(crate) async fn enter(&self) -> Result<(Channel, Bearer), Status> {
        let unavailable = |error: String| Status::unavailable(error);
        let url = format!("http://{COORDINATOR}:{}", wire::PORT);
        let connection = Connection::new(&url, ClientTls::default(), Plain::Anywhere);
        let connection = connection.map_err(|error| unavailable(error.to_string()))?;
        let channel = connection.through(wire::dial(None)).connect().await;
        let channel = channel.map_err(|error| unavailable(error.to_string()))?;
        let known = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(bearer) = known {
            return Ok((channel, bearer));
        }
        let login = LoginRequest {
            email: "admin@example.com".to_owned(),
            password: "admin123".to_owned(),
        };
        let tokens = AuthServiceClient::new(channel.clone()).login(login).await?;
        let token = tokens.into_inner().tokens.unwrap_or_default().access_token;
        let bearer: Bearer = format!("Bearer {token}")
            .parse()
            .map_err(|_e| Status::internal("no token"))?;
        self.set(Some(bearer.clone()));
        Ok((channel, bearer))
    }
}

/// No later try is answered better. A node that could hold the job may be known later.
fn is_final(status: &Status) -> bool {
    let words = [
        "no node could ever hold",
        "nodes that each hold its resources",
    ];
    let waits = words.iter().any(|words| status.message().contains(words));
    let wrong = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::PermissionDenied
    );
    wrong && !waits
}

async fn submit(
    caller: &Caller,
    (number, wish): (usize, &Wish),
    (after, after_any): &(Vec<u64>, Vec<u64>),
) -> Result<u64, Status> {
    let (channel, bearer) = caller.enter().await?;
    let order = &wish.order;
    let spec = JobSpec {
        name: format!("wish-{number}"),
        framework: "command".to_owned(),
        epochs: wish.script.epochs,
        batch_size: 8,
        learning_rate: 0.01,
        command: wish.script.argv(),
        resources: Some(ResourceRequest {
            cpus: wish.cpus,
            gpus: wish.gpus,
            memory_bytes: wish.memory_gib << 30,
            ..ResourceRequest::default()
        }),
        nodes: wish.nodes,
        grace_period: Some(prost_types::Duration {
            seconds: 3,
            nanos: 0,
        }),
        preemptible: order.preemptible,
        priority: order.priority,
        indices: order.indices(),
        after: after.clone(),
        after_any: after_any.clone(),
        not_before: order.not_before.map(nature::moment),
        time_limit: time_limit(&wish.terms),
        retry: retry(&wish.terms),
        ..JobSpec::default()
    };
    let mut call = Call::new(SubmitJobRequest {
        spec: Some(spec),
        idempotency_key: format!("wish-{number}"),
    });
    call.metadata_mut().insert("authorization", bearer);
    let submitted = JobServiceClient::new(channel).submit_job(call).await?;
    Ok(submitted.into_inner().job.unwrap_or_default().job_id)
}

fn time_limit(terms: &Terms) -> Option<prost_types::Duration> {
    (terms.seconds > 0).then(|| prost_types::Duration {
        seconds: terms.seconds.into(),
        nanos: 0,
    })
}

/// None where all is as by default.
fn retry(terms: &Terms) -> Option<RetryPolicy> {
    let on_lost = match terms.waits {
        true => OnLost::Wait,
        false => OnLost::Retry,
    };
    let says = terms.limit.is_some() || terms.waits;
    says.then(|| RetryPolicy {
        limit: terms.limit,
        on_lost: on_lost.into(),
        ..RetryPolicy::default()
    })
}

/// A page of those that wait.
async fn waiting(caller: &Caller) -> Result<Vec<Job>, Status> {
    let (channel, bearer) = caller.enter().await?;
    let mut call = Call::new(ListJobsRequest {
        page_size: 1_000,
        states: vec![Shown::Pending.into(), Shown::Queued.into()],
        ..ListJobsRequest::default()
    });
    call.metadata_mut().insert("authorization", bearer);
    let listed = JobServiceClient::new(channel).list_jobs(call).await?;
    Ok(listed.into_inner().jobs)
}

/// Over REST, where it is offered. One that runs already was started by a try without an answer.
async fn run_again(
    caller: &Caller,
    (job, again): (u64, &Again),
    accepted: &Accepted,
) -> Result<(), Status> {
    let (_channel, bearer) = caller.enter().await?;
    let bearer = bearer.to_str().map_err(|_e| Status::internal("no token"))?;
    let verb = if again.goes_on {
        "start?resume=true"
    } else {
        "restart"
    };
    let request = format!(
        "POST /api/v1/training/jobs/{job}/{verb} HTTP/1.1\r\nhost: {COORDINATOR}\r\nauthorization: {bearer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    accepted.tries_again(job);
    let answer = ask(&request).await;
    let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
    let code = answer.split(' ').nth(1).unwrap_or_default();
    // Any other answer says nothing of what becomes of it.
    if code == "200" || code.starts_with('4') {
        accepted.is_answered(job, code == "200");
    }
    match code {
        "200" => Ok(()),
        // A try whose answer was lost has started it.
        "400" if answer.contains("start job with status") => Ok(()),
        "401" => Err(Status::unauthenticated(answer)),
        "400" | "404" | "422" => Err(Status::invalid_argument(answer)),
        _ => Err(Status::unavailable(answer)),
    }
}

async fn ask(request: &str) -> std::io::Result<String> {
    let mut wire = TcpStream::connect((COORDINATOR, wire::PORT)).await?;
    wire.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    wire.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// How it stands by that; none if it has ended meanwhile.
async fn cancel(
    caller: &Caller,
    (job, accepted): (u64, &Accepted),
) -> Result<Option<Cancelled>, Status> {
    let (channel, bearer) = caller.enter().await?;
    let mut call = Call::new(CancelJobRequest {
        job_id: job,
        ..CancelJobRequest::default()
    });
    call.metadata_mut().insert("authorization", bearer);
    accepted.is_unwanted(job);
    match JobServiceClient::new(channel).cancel_job(call).await {
        Err(status) if status.code() == Code::FailedPrecondition => Ok(None),
        Err(status) => {
            tracing::debug!(job, %status, "not cancelled");
            Err(status)
        }
        Ok(answer) => {
            let shown = answer.into_inner().job.unwrap_or_default().state();
            let ended = shown == Shown::Cancelled;
            let how = if ended {
                Cancelled::Ended
            } else {
                Cancelled::Asked
            };
            accepted.cancel(job, how);
            Ok(Some(how))
        }
    }
}

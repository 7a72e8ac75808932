//! Users: they submit jobs, cancel them, run them again, and look at what waits.
//!
//! Owns what they were told. They try until they are answered, as clients do. Called by the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Request as Call, Status, metadata::MetadataValue, transport::Channel};
use trainyard_core::job::JobState;
use trainyard_net::{ClientTls, Connection, Plain};
use trainyard_proto::v1::{
    CancelJobRequest, Job, JobSpec, JobState as Shown, ListJobsRequest, LoginRequest,
    ResourceRequest, SubmitJobRequest, auth_service_client::AuthServiceClient,
    job_service_client::JobServiceClient,
};
use turmoil::net::TcpStream;

use crate::{
    hosts::COORDINATOR,
    nature,
    plan::{Again, Wish},
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

/// What users were told, and what they see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// The number of each job that was accepted, in the order of the wishes.
    jobs: Vec<Option<u64>>,
    /// Users who want nothing more.
    content: usize,
    /// How often running a job again was asked for.
    again: BTreeMap<u64, u32>,
    /// Where jobs stand.
    states: BTreeMap<u64, JobState>,
    /// Jobs that wait, each with the number of its attempts.
    waiting: BTreeSet<(u64, usize)>,
    /// Wishes that were refused, since they wait for a job that had not succeeded.
    refused: BTreeSet<usize>,
}

impl Accepted {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs that are known, each with the number of its wish: an array has several.
    pub(crate) fn all(&self, wishes: &[Wish]) -> Vec<(usize, u64)> {
        let told = self.told();
        let first = told.jobs.iter().enumerate().zip(wishes);
        let all = first.flat_map(|((number, first), wish)| {
            let first = first
                .iter()
                .flat_map(|first| *first..*first + wish.order.jobs());
            first.map(move |job| (number, job))
        });
        all.collect()
    }

    /// The job of a wish; of an array the first.
    pub(crate) fn of(&self, wish: usize) -> Option<u64> {
        self.told().jobs.get(wish).copied().flatten()
    }

    /// How many wishes are jobs, or were refused.
    pub(crate) fn answered(&self) -> usize {
        let told = self.told();
        told.jobs.iter().flatten().count() + told.refused.len()
    }

    /// Whether a wish was refused, since it waits for a job that had not succeeded.
    pub(crate) fn is_refused(&self, wish: usize) -> bool {
        self.told().refused.contains(&wish)
    }

    /// The jobs that wait, each with the number of its attempts.
    pub(crate) fn waiting(&self) -> BTreeSet<(u64, usize)> {
        self.told().waiting.clone()
    }

    /// The jobs of the wishes that one waits for, once each is known or refused; none if one was refused.
    async fn awaited(&self, wishes: &[usize]) -> Option<Vec<u64>> {
        let mut jobs = Vec::new();
        for wish in wishes {
            while self.of(*wish).is_none() {
                if self.is_refused(*wish) {
                    return None;
                }
                tokio::time::sleep(AGAIN).await;
            }
            jobs.extend(self.of(*wish));
        }
        Some(jobs)
    }

    /// How many users want nothing more.
    pub(crate) fn content(&self) -> usize {
        self.told().content
    }

    /// How often running this job again was asked for.
    pub(crate) fn again(&self, job: u64) -> u32 {
        self.told().again.get(&job).copied().unwrap_or(0)
    }

    /// What users can see.
    pub(crate) fn shows(&self, job: &trainyard_core::job::Job) {
        let mut told = self.told();
        let (id, state) = (job.id.0, job.state);
        told.states.insert(id, state);
        told.waiting.retain(|(waits, _)| *waits != id);
        if matches!(state, JobState::Pending | JobState::Queued) {
            told.waiting.insert((id, job.attempts.len()));
        }
    }

    fn state(&self, job: u64) -> Option<JobState> {
        self.told().states.get(&job).copied()
    }

    fn set(&self, wish: usize, job: u64) {
        let all = &mut self.told().jobs;
        if all.len() <= wish {
            all.resize(wish + 1, None);
        }
        if let Some(place) = all.get_mut(wish) {
            *place = Some(job);
        }
    }
}

/// Submits one job when its time comes, and does to it what is wished; tries until each is done.
pub(crate) async fn user(
    (number, wish): (usize, Wish),
    (accepted, caller): (Accepted, Caller),
    trace: Trace,
) -> turmoil::Result {
    tokio::time::sleep(wish.at).await;
    let Some(job) = ask_for((number, &wish), (&accepted, &caller)).await? else {
        trace.note(format!("user: wish {number} is refused"));
        let mut told = accepted.told();
        told.refused.insert(number);
        told.content += 1;
        return Ok(());
    };
    accepted.set(number, job);
    trace.note(format!("user: wish {number} is job {job}"));
    change_mind(&wish, job, (&accepted, &caller), &trace).await?;
    accepted.told().content += 1;
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
        caller.again(|| cancel(caller, job)).await?;
        trace.note(format!("user: job {job} is cancelled"));
    } else if let Some(state) = wish.cancel_in {
        while accepted.state(job).is_none_or(|now| now < state) {
            tokio::time::sleep(WATCH).await;
        }
        trace.note(format!("user: job {job} is to be cancelled now"));
        caller.again(|| cancel(caller, job)).await?;
    }
    for again in &wish.again {
        while !accepted.state(job).is_some_and(JobState::is_terminal) {
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
        let silent = jobs.iter().filter(|job| job.reason.is_empty());
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
    *accepted.told().again.entry(job).or_default() += 1;
    let request = format!(
        "POST /api/v1/training/jobs/{job}/{verb} HTTP/1.1\r\nhost: {COORDINATOR}\r\nauthorization: {bearer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let answer = ask(&request).await;
    let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
    let code = answer.split(' ').nth(1).unwrap_or_default();
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

async fn cancel(caller: &Caller, job: u64) -> Result<(), Status> {
    let (channel, bearer) = caller.enter().await?;
    let mut call = Call::new(CancelJobRequest {
        job_id: job,
        ..CancelJobRequest::default()
    });
    call.metadata_mut().insert("authorization", bearer);
    match JobServiceClient::new(channel).cancel_job(call).await {
        // It has ended meanwhile.
        Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
        Err(status) => {
            tracing::debug!(job, %status, "not cancelled");
            Err(status)
        }
        answered => answered.map(drop),
    }
}

//! The programs of the simulated hosts: a coordinator, agents, and a user who submits jobs.
//!
//! Owns how each is started on what the world gives it. What they do is the product's own code. Called by the world.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use tokio::sync::watch;
use tonic::{Code, Request as Call, Status, metadata::MetadataValue, transport::Channel};
use tower::ServiceExt as _;
use trainyard_agent::{
    boot::simulated::{self, Machine},
    callbacks::{self, Registry},
};
use trainyard_coordinator::{
    boot::{self, CoordinatorOptions, Simulated},
    config::{Config, Secret},
    listen::Listener,
    store::Store,
};
use trainyard_core::resources::Capacity;
use trainyard_net::{ClientTls, Connection, Plain};
use trainyard_proto::v1::{
    CancelJobRequest, JobSpec, LoginRequest, ResourceRequest, SubmitJobRequest,
    auth_service_client::AuthServiceClient, job_service_client::JobServiceClient,
};

use crate::{
    disk::Disk,
    plan::{Cluster, Wish},
    trace::Trace,
    wire,
    yard::Yard,
};

/// The coordinator's name in the network.
pub(crate) const COORDINATOR: &str = "coordinator";
const TOKEN: &str = "a-join-token-that-is-good-for-the-whole-simulation";
/// How often trainers try to report.
const REPORTS: Duration = Duration::from_millis(100);
/// How long the user waits for an answer, and before the next try.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);

/// What a coordinator is started with, each time.
#[derive(Clone, Debug)]
pub(crate) struct Office {
    pub(crate) disk: Disk,
    pub(crate) data_dir: PathBuf,
    pub(crate) store: watch::Sender<Option<Store>>,
    /// Why it has ended by itself.
    pub(crate) ended: watch::Sender<Option<String>>,
    pub(crate) cluster: Cluster,
}

pub(crate) async fn coordinator(office: Office) -> turmoil::Result {
    office.ended.send_replace(None);
    let ended = serve(&office).await;
    office.store.send_replace(None);
    office.ended.send_replace(Some(ended));
    // The host stays until the world starts it anew.
    std::future::pending().await
}

async fn serve(office: &Office) -> String {
    let wires = match wire::listen().await {
        Ok(wires) => wires,
        Err(error) => return error.to_string(),
    };
    let database = redb::Database::builder().create_with_backend(office.disk.clone());
    let database = match database {
        Ok(database) => database,
        Err(error) => return format!("the store does not open: {error}"),
    };
    let mut config = match Config::load(None, []) {
        Ok(config) => config,
        Err(error) => return error.to_string(),
    };
    config.store.data_dir = office.data_dir.clone();
    config.store.reserve_mib = 0;
    config.auth.join_token = Secret::new(TOKEN.to_owned());
    config.leases.suspect_after_seconds = office.cluster.suspect_after;
    config.leases.lost_after_seconds = office.cluster.lost_after;
    let options = CoordinatorOptions {
        config,
        dev: true,
        ready_file: None,
    };
    let simulated = Simulated {
        disk: database,
        listener: Listener::Simulated(wires),
        opened: office.store.clone(),
    };
    let ran = boot::run_on(Some(simulated), options, std::future::pending()).await;
    ran.err()
        .map_or_else(|| "it stopped".to_owned(), |error| error.to_string())
}

/// What an agent is started with, each time.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) name: String,
    pub(crate) yard: Yard,
    pub(crate) data_dir: PathBuf,
    /// What the machine has when it is asked.
    pub(crate) capacity: Arc<Mutex<Capacity>>,
    pub(crate) ended: watch::Sender<Option<String>>,
}

impl Post {
    fn capacity(&self) -> Capacity {
        let capacity = self.capacity.lock().unwrap_or_else(PoisonError::into_inner);
        capacity.clone()
    }
}

pub(crate) async fn agent(post: Post) -> turmoil::Result {
    post.ended.send_replace(None);
    let (registry, registered) = watch::channel(None);
    let machine = Machine {
        coordinator: format!("http://{COORDINATOR}:{}", wire::PORT),
        dial: wire::dial(),
        token: TOKEN.to_owned(),
        name: post.name.clone(),
        capacity: post.capacity(),
        boot_id: post.yard.boot_id(),
        data_dir: post.data_dir.clone(),
        trainers: Arc::new(post.yard.clone()),
        registry,
    };
    let reports = trainyard_runtime::in_place(reports(post.yard.clone(), registered));
    let ended = match simulated::run(machine).await {
        Ok(()) => "it stopped".to_owned(),
        Err(error) => error.to_string(),
    };
    reports.abort();
    post.ended.send_replace(Some(ended));
    std::future::pending().await
}

/// The calls of this machine's trainers, through the agent's own router. One that has no answer is made again.
#[expect(
    clippy::infinite_loop,
    reason = "it ends with its machine, which drops it"
)]
async fn reports(yard: Yard, mut registered: watch::Receiver<Option<Registry>>) {
    let registry = match registered.wait_for(Option::is_some).await {
        Ok(registry) => registry.clone(),
        Err(_) => return,
    };
    let Some(registry) = registry else { return };
    let router = callbacks::router(registry);
    loop {
        for call in yard.calls() {
            let request = Request::builder()
                .method(Method::POST)
                .uri(call.path.as_str())
                .body(Body::from(call.body.clone()));
            let Ok(request) = request else { continue };
            let answer = router.clone().oneshot(request).await;
            if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                yard.answered(&call);
            }
        }
        tokio::time::sleep(REPORTS).await;
    }
}

/// What the user was told: the number of each job that was accepted, in the order of the wishes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted(Arc<Mutex<Vec<Option<u64>>>>);

impl Accepted {
    pub(crate) fn all(&self) -> Vec<Option<u64>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, wish: usize, job: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() <= wish {
            all.resize(wish + 1, None);
        }
        if let Some(place) = all.get_mut(wish) {
            *place = Some(job);
        }
    }
}

/// Submits one job when its time comes and cancels it, if that is wished; tries until each is done.
pub(crate) async fn user(
    (number, wish): (usize, Wish),
    accepted: Accepted,
    trace: Trace,
) -> turmoil::Result {
    tokio::time::sleep(wish.at).await;
    let caller = Caller::default();
    let job = caller.again(|| submit(&caller, number, &wish)).await?;
    accepted.set(number, job);
    trace.note(format!("user: wish {number} is job {job}"));
    if let Some(wait) = wish.cancel_after {
        tokio::time::sleep(wait).await;
        caller.again(|| cancel(&caller, job)).await?;
        trace.note(format!("user: job {job} is cancelled"));
    }
    Ok(())
}

type Bearer = MetadataValue<tonic::metadata::Ascii>;

/// Who calls, with the token that it was given.
#[derive(Debug, Default)]
struct Caller(Mutex<Option<Bearer>>);

impl Caller {
    /// Until it is done, or refused for good.
    async fn again<T>(&self, call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
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

    async fn enter(&self) -> Result<(Channel, Bearer), Status> {
        let unavailable = |error: String| Status::unavailable(error);
        let url = format!("http://{COORDINATOR}:{}", wire::PORT);
        let connection = Connection::new(&url, ClientTls::default(), Plain::Anywhere);
        let connection = connection.map_err(|error| unavailable(error.to_string()))?;
        let channel = connection.through(wire::dial()).connect().await;
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
    let waits = status.message().contains("no node could ever hold");
    let wrong = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::PermissionDenied
    );
    wrong && !waits
}

async fn submit(caller: &Caller, number: usize, wish: &Wish) -> Result<u64, Status> {
    let (channel, bearer) = caller.enter().await?;
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
            ..ResourceRequest::default()
        }),
        grace_period: Some(prost_types::Duration {
            seconds: 3,
            nanos: 0,
        }),
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

async fn cancel(caller: &Caller, job: u64) -> Result<(), Status> {
    let (channel, bearer) = caller.enter().await?;
    let mut call = Call::new(CancelJobRequest { job_id: job });
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

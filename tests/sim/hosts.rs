//! The programs of the simulated hosts: a coordinator and agents.
//!
//! Owns how each is started on what the world gives it. What they do is the product's own code. Called by the world.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use tokio::sync::watch;
use tower::ServiceExt as _;
use trainyard_agent::{
    boot::simulated::{self, Machine},
    callbacks::{self, Registry},
};
use trainyard_coordinator::{
    actors::{ask, root::Tree, scheduler::SchedulerMsg},
    boot::{self, CoordinatorOptions, Simulated},
    broken::Broken,
    config::{Config, Secret},
    listen::Listener,
    store::Store,
};
use trainyard_core::{ids::JobId, resources::Capacity};

use crate::{disk::Disk, files::Files, plan::Cluster, told::Accepted, wire, yard::Yard};

/// The coordinator's name in the network.
pub(crate) const COORDINATOR: &str = "coordinator";
const TOKEN: &str = "a-join-token-that-is-good-for-the-whole-simulation";
/// How often trainers try to report.
const REPORTS: Duration = Duration::from_millis(100);
/// How often it is asked at the least why jobs wait. Nothing may wait for so long without a reason.
const LOOK: Duration = Duration::from_millis(100);
/// So soon somebody has to make room, in seconds.
const PROMPT: u32 = 3;

/// What a coordinator is started with, each time.
#[derive(Clone, Debug)]
pub(crate) struct Office {
    pub(crate) disk: Disk,
    pub(crate) data_dir: PathBuf,
    pub(crate) store: watch::Sender<Option<Store>>,
    /// Why it has ended by itself.
    pub(crate) ended: watch::Sender<Option<String>>,
    pub(crate) cluster: Cluster,
    /// Its actors, while they work.
    pub(crate) grown: watch::Sender<Option<Tree>>,
    /// Invariants that it found broken itself.
    pub(crate) broken: Broken,
    /// What users have, to know who waits.
    pub(crate) accepted: Accepted,
    /// What was seen from inside that may not be.
    pub(crate) found: watch::Sender<Option<String>>,
}

pub(crate) async fn coordinator(office: Office) -> turmoil::Result {
    office.ended.send_replace(None);
    office.grown.send_replace(None);
    let asks = office
        .cluster
        .prompt
        .then(|| trainyard_runtime::in_place(asks(office.clone())));
    let ended = serve(&office).await;
    asks.iter().for_each(tokio::task::JoinHandle::abort);
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
    let mut config = match Config::load(None, []) {
        Ok(config) => config,
        Err(error) => return error.to_string(),
    };
    config.store.data_dir = office.data_dir.clone();
    config.store.reserve_mib = 0;
    config.auth.join_token = Secret::new(TOKEN.to_owned());
    config.leases.suspect_after_seconds = office.cluster.suspect_after;
    config.leases.lost_after_seconds = office.cluster.lost_after;
    config.nodes.gang_patience_seconds = 60;
    if office.cluster.prompt {
        config.scheduling.round_seconds = PROMPT;
        config.scheduling.settled_seconds = PROMPT;
        config.scheduling.restart_cost_seconds = 1;
    }
    let options = CoordinatorOptions {
        config,
        dev: true,
        ready_file: None,
    };
    let disk = office.disk.clone();
    let simulated = Simulated {
        disk: Box::new(move |builder| builder.create_with_backend(disk.open())),
        listener: Listener::Simulated(wires),
        opened: office.store.clone(),
        grown: office.grown.clone(),
        broken: office.broken.clone(),
    };
    let ran = boot::run_on(Some(simulated), options, std::future::pending()).await;
    ran.err()
        .map_or_else(|| "it stopped".to_owned(), |error| error.to_string())
}

/// INV-08: whoever waits has a reason, unless it has only just begun to wait.
async fn asks(office: Office) {
    let mut grown = office.grown.subscribe();
    let scheduler = match grown.wait_for(Option::is_some).await {
        Ok(tree) => tree.as_ref().map(|tree| tree.scheduler.clone()),
        Err(_) => return,
    };
    let Some(scheduler) = scheduler else { return };
    let mut before = BTreeSet::new();
    let (mut stored, mut left_out) = (None, Duration::ZERO);
    loop {
        tokio::time::sleep(office.cluster.asks).await;
        // From then on nobody sees what is stored, and so who waits no more.
        if !office.disk.is_read() {
            before.clear();
            continue;
        }
        // Who waits, and where, changes by a commit; and as time goes on.
        let commits = office.store.borrow().as_ref().map(Store::commits);
        left_out += office.cluster.asks;
        if commits == stored && left_out < LOOK {
            continue;
        }
        (stored, left_out) = (commits, Duration::ZERO);
        let mut silent = BTreeSet::new();
        let waiting: Vec<_> = office.accepted.waiting().into_iter().collect();
        let jobs = waiting.iter().map(|wait| JobId(wait.0)).collect();
        // Who cannot ask does not know for how long what is seen next has waited.
        if !waiting.is_empty()
            && let Ok(reasons) = ask(&scheduler, |reply| SchedulerMsg::Reasons(jobs, reply)).await
        {
            let told = waiting.into_iter().zip(reasons);
            let untold = told.filter(|(_, reason)| reason.as_deref().is_none_or(str::is_empty));
            silent.extend(untold.map(|(wait, _)| wait));
        }
        if let Some((job, _)) = silent.intersection(&before).next() {
            let words = format!("INV-08: the scheduler has no reason why job {job} waits");
            office.found.send_replace(Some(words));
            return;
        }
        before = silent;
    }
}

/// What an agent is started with, each time.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) name: String,
    pub(crate) yard: Yard,
    pub(crate) files: Files,
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
        dial: wire::dial(Some(post.files.clone())),
        token: TOKEN.to_owned(),
        name: post.name.clone(),
        capacity: post.capacity(),
        boot_id: post.yard.boot_id(),
        data_dir: post.data_dir.clone(),
        trainers: Arc::new(post.yard.clone()),
        registry,
    };
    let reports = trainyard_runtime::in_place(reports(post.clone(), registered));
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
async fn reports(post: Post, mut registered: watch::Receiver<Option<Registry>>) {
    let registry = match registered.wait_for(Option::is_some).await {
        Ok(registry) => registry.clone(),
        Err(_) => return,
    };
    let Some(registry) = registry else { return };
    let router = callbacks::router(registry);
    loop {
        for call in post.yard.calls() {
            let request = Request::builder()
                .method(Method::POST)
                .uri(call.path.as_str())
                .body(Body::from(call.body.clone()));
            let Ok(request) = request else { continue };
            let answer = router.clone().oneshot(request).await;
            let answered = answer.is_ok_and(|answer| answer.status() == StatusCode::OK);
            if answered && post.files.gone().is_none() {
                post.yard.answered(&call);
            }
        }
        tokio::time::sleep(REPORTS).await;
    }
}

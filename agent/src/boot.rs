//! The life of an agent: start in order, serve, stop in order. Trainers go on when it stops.
//!
//! Owns the lock on the data folder and the ready file. Never decides anything about a task. Called
//! by the binary.

pub mod simulated;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ractor::Actor;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trainyard_config::Secret;
use trainyard_core::{
    device::GivingBack,
    node::Room,
    resources::{Capacity, Gpu},
};
use trainyard_net::{ClientTls, Connection, Plain, client::SetupError};

use crate::{
    actors::{
        node::Node,
        root::{Root, RootArgs},
    },
    board::Board,
    callbacks::{self, BindError, CallbackServer, Registry},
    clock,
    dataset::{self, DatasetOptions},
    devices::{Devices, Gpus},
    embedded::{self, ExtractError, Extracted},
    environment::EnvironmentStore,
    exec::{shims::Shims, trainers::Trainers},
    folder,
    inventory::{self, Inventory, SimulatedGpu},
    link::{self, Access, Identity, LinkState},
    ports::{PortRange, Ports},
    slots::Slots,
    spares::Spares,
};

/// How often the lock of the data folder is tried for, 50 ms apart.
const LOCK_ATTEMPTS: u32 = 10;
/// How long open callbacks may take to be answered at the end.
const CALLBACKS_PATIENCE: Duration = Duration::from_secs(5);
/// How long the actors may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How an agent is started.
pub struct AgentOptions {
    /// `https://host:port`, or `http://` on this machine.
    pub coordinator: String,
    /// Whom the agent trusts, and the certificate that it shows.
    pub tls: ClientTls,
    /// Whether plain text may leave this machine.
    pub plain: Plain,
    /// A join token; empty when the data folder holds a credential.
    pub token: String,
    /// The node's name; the host's where none is given.
    pub name: Option<String>,
    /// Holds everything that the agent must remember. Created if missing.
    pub data_dir: PathBuf,
    /// Where other nodes reach this one; where none is given, the address from which it speaks to the coordinator.
    pub address: Option<String>,
    /// The ports where gangs may meet.
    pub ports: PortRange,
    /// CPU slots to offer; the machine's processors where none are given.
    pub slots: Option<u32>,
    /// GPUs to pretend to have.
    pub simulated_gpus: Option<Vec<SimulatedGpu>>,
    /// What a task may tell before the coordinator takes it, in bytes: beyond half of it metrics are thinned.
    pub spool_bytes: u64,
    /// No new task is taken while less is free on the disk of the data folder, in bytes; of a small disk a twentieth.
    pub reserve_bytes: u64,
    /// Who is asked about the memory of GPUs; the machine's driver where nobody is given.
    pub devices: Option<Arc<dyn Devices>>,
    /// When a GPU that a task has left is given to another.
    pub giving_back: GivingBack,
    /// Who starts and stops trainers; shims of `shim_command` where nobody is given.
    pub trainers: Option<Arc<dyn Trainers>>,
    /// The operator's own trainers, which go before the embedded ones.
    pub trainers_dir: Option<PathBuf>,
    /// What the operator says about this node.
    pub labels: BTreeMap<String, String>,
    /// How a shim is started: the path of the binary and `shim`.
    pub shim_command: Vec<String>,
    /// The cache of datasets, and what becomes of checkpoints.
    pub datasets: DatasetOptions,
    /// Written as JSON once the coordinator has welcomed this node.
    pub ready_file: Option<PathBuf>,
}

/// Without the token.
impl fmt::Debug for AgentOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentOptions")
            .field("coordinator", &self.coordinator)
            .field("name", &self.name)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// Why an agent did not start or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The URL is none, or a file of TLS is of no use.
    #[error(transparent)]
    Connection(#[from] SetupError),
    /// There is neither a credential nor a token to get one.
    #[error(
        "this node has not joined the cluster yet; make a token with `trainyard node token` and give it with --token or TRAINYARD_TOKEN"
    )]
    NoToken,
    /// The folder cannot be used.
    #[error(
        "data folder {} cannot be used: {source}; give a folder with --data-dir that this user can write, on a disk with room",
        .path.display()
    )]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Another agent has the folder.
    #[error(
        "data folder {} is in use by another agent; stop that one, or give this one another folder with --data-dir",
        .path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Trainers and SDK could not be laid down.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// Trainers cannot be listened to.
    #[error(transparent)]
    Callbacks(#[from] BindError),
    /// Trainers are no longer listened to.
    #[error("the endpoint for trainers has failed: {0}; start the agent again, trainers go on")]
    CallbacksFailed(String),
    /// The tree of actors did not start.
    #[error("the agent cannot start: {0}")]
    Start(String),
    /// The token is not the right one, or another agent has the name.
    #[error("the coordinator at {coordinator} refused this agent: {reason}")]
    Refused {
        /// Where the coordinator is.
        coordinator: String,
        /// What it said.
        reason: String,
    },
    /// The ready file cannot be written.
    #[error("ready file {} cannot be written: {source}; give another path", .path.display())]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A part that the rest relies on has failed.
    #[error("a part of the agent has failed: {0}; start it again, trainers go on")]
    Failed(String),
}

/// What the ready file says.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    name: &'a str,
    pid: u32,
    data_dir: &'a Path,
    callback_address: String,
}

/// Runs an agent until `stop` resolves and everything has ended in order.
pub async fn run(
    options: AgentOptions,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BootError> {
    let connection = link::connection(&options.coordinator, options.tls.clone(), options.plain)?;
    let (data_dir, _lock) = take_data_dir(&options.data_dir).await?;
    let registry = Registry::new(Arc::new(clock::now));
    let server = callbacks::bind(&data_dir, registry.clone()).await?;
    let (link_state, link) = watch::channel(LinkState::Down);
    let doors = (registry, &server, link.clone());
    let (node, identity, access) = settle(&options, connection, data_dir, doors).await?;
    node.trainers.keep_ready();
    let (failed, failure) = watch::channel(None);
    let args = RootArgs {
        node: Arc::clone(&node),
        access,
        identity,
        link_state,
        failed,
    };
    let root = Root::spawn(None, Root, args).await;
    let (root, ended) = root.map_err(|error| BootError::Start(error.to_string()))?;
    let callbacks = Callbacks::serve(server);
    let trouble = trouble(&options, &node, link, [failure, callbacks.failure.clone()]);
    let outcome = tokio::select! {
        () = stop => Ok(()),
        error = trouble => Err(error),
    };
    tracing::info!("the agent stops; trainers go on");
    callbacks.stop().await;
    root.stop(None);
    if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
        tracing::warn!("the agent did not stop in order in time");
    }
    outcome
}

/// All that the actors stand on.
async fn settle(
    options: &AgentOptions,
    connection: Connection,
    data_dir: PathBuf,
    (registry, server, link): (Registry, &CallbackServer, watch::Receiver<LinkState>),
) -> Result<(Arc<Node>, Identity, Access), BootError> {
    let Seen {
        identity,
        extracted,
    } = look_around(options, &data_dir).await?;
    let access = enter(options, connection, &identity, &data_dir).await?;
    let datasets = dataset::open(&data_dir, access.clone(), options.datasets);
    let datasets = datasets.await.map_err(BootError::Start)?;
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let shims = || Arc::new(Shims::new(options.shim_command.clone())) as Arc<dyn Trainers>;
    let node = Node {
        name: identity.name.clone(),
        trainers: options.trainers.clone().unwrap_or_else(shims),
        path: std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned()),
        extracted,
        trainers_dir: options.trainers_dir.as_ref().map(absolute),
        environments: EnvironmentStore::new(data_dir.clone()),
        registry,
        callbacks: server.address(),
        link,
        board: Board::default(),
        spares: Spares::below(&data_dir),
        spool_bytes: options.spool_bytes,
        slots: Slots::new(identity.capacity.clone()),
        ports: Ports::new(options.ports),
        gpus: gpus(options, &identity).await?,
        room: Room {
            reserve: options.reserve_bytes,
        },
        datasets,
        data_dir,
    };
    Ok((Arc::new(node), identity, access))
}

/// Its GPUs and whom to ask about them.
async fn gpus(options: &AgentOptions, identity: &Identity) -> Result<Gpus, BootError> {
    let gpus = identity.capacity.gpus.iter();
    let uuids = gpus.map(|gpu| gpu.uuid.clone()).collect();
    let (given, rule) = (options.devices.clone(), options.giving_back);
    let pretended = options.simulated_gpus.is_some();
    let find = move || Gpus::find(uuids, given, pretended, rule);
    let found = trainyard_runtime::blocking(find).await;
    found.map_err(|error| BootError::Start(error.to_string()))
}

/// Resolves when the agent cannot go on.
async fn trouble(
    options: &AgentOptions,
    node: &Node,
    link: watch::Receiver<LinkState>,
    [of_tree, of_callbacks]: [watch::Receiver<Option<String>>; 2],
) -> BootError {
    tokio::select! {
        error = refused(link.clone(), &options.coordinator) => error,
        error = not_ready(link, options, node) => error,
        reason = reason_in(of_tree) => BootError::Failed(reason),
        reason = reason_in(of_callbacks) => BootError::CallbacksFailed(reason),
    }
}

/// Resolves when somebody has given a reason.
async fn reason_in(mut failure: watch::Receiver<Option<String>>) -> String {
    let given = failure.wait_for(Option::is_some).await;
    let reason = given.ok().and_then(|reason| reason.clone());
    match reason {
        Some(reason) => reason,
        None => std::future::pending().await,
    }
}

/// Creates the folder and keeps all other agents out of it for as long as the file is open.
async fn take_data_dir(wanted: &Path) -> Result<(PathBuf, File), BootError> {
    let path = std::path::absolute(wanted).unwrap_or_else(|_| wanted.to_owned());
    let work = move || {
        let fail = |source| BootError::DataDir {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&path).map_err(fail)?;
        let lock = path.join("lock");
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        let lock = options.open(lock).map_err(fail)?;
        if !lock_soon(&lock).map_err(fail)? {
            return Err(BootError::InUse { path });
        }
        folder::private_folder(&path.join("tasks")).map_err(fail)?;
        Ok((path, lock))
    };
    let done = trainyard_runtime::blocking(work).await;
    done.map_err(|error| BootError::Start(error.to_string()))?
}

/// Takes the lock; false when another process keeps it. A process that is just being started holds a
/// copy of all that its parent has open, for a moment: so it is tried more than once.
fn lock_soon(lock: &File) -> io::Result<bool> {
    for _ in 0..LOCK_ATTEMPTS {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {
                // A failure to wait only makes the tries come sooner.
                nix::poll::poll(&mut [], nix::poll::PollTimeout::from(50_u16)).ok();
            }
            Err(TryLockError::Error(source)) => return Err(source),
        }
    }
    Ok(false)
}

/// What is here, and who this node is.
struct Seen {
    identity: Identity,
    extracted: Extracted,
}

async fn look_around(options: &AgentOptions, data_dir: &Path) -> Result<Seen, BootError> {
    let wanted = inventory::Options {
        slots: options.slots,
        simulated_gpus: options.simulated_gpus.clone(),
        node: options.name.clone(),
    };
    let folder = data_dir.to_owned();
    let look = move || {
        let extracted = embedded::extract(&folder)?;
        let agent_id = agent_id(&folder).map_err(|source| BootError::DataDir {
            path: folder,
            source,
        })?;
        Ok::<_, BootError>((extracted, agent_id, inventory::detect(wanted)))
    };
    let done = trainyard_runtime::blocking(look).await;
    let done = done.map_err(|error| BootError::Start(error.to_string()))?;
    let (extracted, agent_id, inventory) = done?;
    let hostname = || inventory.hostname.clone();
    let identity = Identity {
        name: options.name.clone().unwrap_or_else(hostname),
        agent_id,
        boot_id: inventory.boot_id.clone(),
        capacity: capacity(inventory),
        address: options.address.clone(),
        labels: options.labels.clone(),
    };
    Ok(Seen {
        identity,
        extracted,
    })
}

/// What this agent shows the coordinator.
async fn enter(
    options: &AgentOptions,
    connection: Connection,
    identity: &Identity,
    data_dir: &Path,
) -> Result<Access, BootError> {
    let token = Some(options.token.clone()).filter(|token| !token.is_empty());
    let (name, agent_id) = (identity.name.clone(), identity.agent_id.clone());
    let folder = data_dir.to_owned();
    let open = move || {
        let who = (name.as_str(), agent_id.as_str());
        let access = Access::open(connection, who, token.map(Secret::new), &folder);
        access.map_err(|source| BootError::DataDir {
            path: folder,
            source,
        })
    };
    let opened = trainyard_runtime::blocking(open).await;
    let access = opened.map_err(|error| BootError::Start(error.to_string()))??;
    if !access.can_enter() {
        return Err(BootError::NoToken);
    }
    Ok(access)
}

/// The same for the life of the data folder.
fn agent_id(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join("agent-id");
    if let Some(id) = crate::exec::durable::read_json(&path)? {
        return Ok(id);
    }
    let id = format!("{:032x}", rand::random::<u128>());
    crate::exec::durable::write_json(&path, &id)?;
    Ok(id)
}

fn capacity(inventory: Inventory) -> Capacity {
    let gpu = |gpu: inventory::Gpu| Gpu {
        uuid: gpu.uuid,
        model: gpu.model,
        memory_bytes: gpu.memory_bytes,
    };
    Capacity {
        cpus: inventory.cpus,
        memory_bytes: inventory.memory_bytes,
        gpus: inventory.gpus.into_iter().map(gpu).collect(),
    }
}

/// Resolves when the coordinator does not take this agent.
async fn refused(mut link: watch::Receiver<LinkState>, coordinator: &str) -> BootError {
    let state = link.wait_for(|state| matches!(state, LinkState::Refused(_)));
    let state = state.await.map(|state| state.clone());
    match state {
        Ok(LinkState::Refused(reason)) => BootError::Refused {
            coordinator: coordinator.to_owned(),
            reason,
        },
        Ok(LinkState::Up | LinkState::Down) | Err(_) => std::future::pending().await,
    }
}

/// Writes the ready file after the first welcome; resolves only when that fails.
async fn not_ready(
    mut link: watch::Receiver<LinkState>,
    options: &AgentOptions,
    node: &Node,
) -> BootError {
    let up = link.wait_for(|state| *state == LinkState::Up).await.is_ok();
    if let Some(path) = options.ready_file.as_ref().filter(|_| up) {
        let ready = Ready {
            name: &node.name,
            pid: std::process::id(),
            data_dir: &node.data_dir,
            callback_address: node.callbacks.to_string(),
        };
        if let Err(source) = crate::exec::durable::write_json(path, &ready) {
            let path = path.clone();
            return BootError::ReadyFile { path, source };
        }
    }
    std::future::pending().await
}

/// The endpoint for trainers while it serves.
struct Callbacks {
    end: CancellationToken,
    tasks: TaskTracker,
    failure: watch::Receiver<Option<String>>,
}

impl Callbacks {
    fn serve(server: CallbackServer) -> Self {
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (failed, failure) = watch::channel(None);
        let stop = end.clone().cancelled_owned();
        tasks.spawn(async move {
            if let Err(error) = server.run(stop).await {
                failed.send_replace(Some(error.to_string()));
            }
        });
        tasks.close();
        Self {
            end,
            tasks,
            failure,
        }
    }

    /// Takes no new calls; trainers try again, and find the next agent on the same port.
    async fn stop(&self) {
        self.end.cancel();
        let done = tokio::time::timeout(CALLBACKS_PATIENCE, self.tasks.wait());
        if done.await.is_err() {
            tracing::warn!("a trainer's call is still open");
        }
    }
}

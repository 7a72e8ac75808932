//! From a configuration to a coordinator that serves, and back.
//!
//! Owns the order: data folder and store, secrets and first user, actors, listener, ready file; and at
//! the end the same backwards. A failed commit or a failed actor of the root ends the process: it
//! begins again from the store. Called by the `trainyard` binary.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use ractor::Actor;
use serde::Serialize;
use thiserror::Error;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use trainyard_net::TlsError;

use crate::{
    actors::{
        AskError, ask,
        root::{Root, RootArgs, RootMsg, Tree},
    },
    api::{AgentPolicy, Limits, Service, ServiceArgs, UserSettings, remove_left_over},
    auth::{Keys, Lives, Oidc, OidcError},
    broken::Broken,
    config::{Config, ConfigError, Secret},
    datasets::Datasets,
    identity::{self, Identity, IdentityError},
    keeping::Keeping,
    listen::{self, Certificates, ListenError, Listener},
    storage::{Guard, Storage, StorageArgs, StorageError},
    store::{OpenError, Store, StoreOptions},
    telemetry::Telemetry,
    trackers::Board,
};

/// How long calls under way may take to end.
const CLOSE: Duration = Duration::from_secs(5);
/// How long the tree may take to stop in order.
const STOP: Duration = Duration::from_secs(15);

/// What the binary asks for.
#[derive(Debug)]
pub struct CoordinatorOptions {
    /// All settings.
    pub config: Config,
    /// Make the development user if there is none.
    pub dev: bool,
    /// Written once the coordinator serves.
    pub ready_file: Option<PathBuf>,
}

/// Why the coordinator did not start, or ended by itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Secrets or the first user could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The address is taken or not this machine's.
    #[error(
        "cannot listen on {address}: {source}; free the port, or choose another with --listen (port 0 takes any)"
    )]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file in the data folder, or the ready file, could not be written.
    #[error("cannot write {}: {source}; see that its folder exists and may be written to", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The artifact store could not be opened.
    #[error("the artifact store cannot be used: {0} (storage.artifacts)")]
    Storage(#[from] StorageError),
    /// The issuer's settings cannot be used.
    #[error("the issuer of [oidc] cannot be used: {0}")]
    Oidc(#[from] OidcError),
    /// The actors did not start.
    #[error("the coordinator's actors did not start: {0}")]
    Actors(String),
    /// The actors started and do not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The settings contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The doors could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It ended by itself, after nothing that was acknowledged was lost.
    #[error("{0}")]
    Failed(String),
}

/// The ready file.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    address: String,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    join_token: Option<&'a str>,
    pid: u32,
}

/// Makes the database on the disk of a simulation.
pub type Disk = Box<dyn Fn(&redb::Builder) -> Result<redb::Database, redb::DatabaseError> + Send>;

/// What a coordinator stands on in a simulation.
pub struct Simulated {
    /// In place of the file in the data folder.
    pub disk: Disk,
    /// In place of the port.
    pub listener: Listener,
    /// Given the store once it is open, to look at it.
    pub opened: watch::Sender<Option<Store>>,
    /// Given the actors once they work, to ask them.
    pub grown: watch::Sender<Option<Tree>>,
    /// Where broken invariants are counted, also those of coordinators before.
    pub broken: Broken,
}

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Simulated");
        shown.field("listener", &self.listener);
        shown.finish_non_exhaustive()
    }
}

/// Runs a coordinator until `stop` is ready.
///
/// # Errors
/// Names what could not be opened or written and the way out; or why it ended by itself.
pub async fn run(
    options: CoordinatorOptions,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BootError> {
    run_on(None, options, stop).await
}

/// As [`run`], on what a simulation gives it.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    simulated: Option<Simulated>,
    options: CoordinatorOptions,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BootError> {
    options.config.check_transport(options.dev)?;
    let certificates = Certificates::load(&options.config.tls)?;
    let (failed, failure) = watch::channel(None);
    let seen = simulated.as_ref();
    let seen = seen.map(|simulated| (simulated.grown.clone(), simulated.broken.clone()));
    let (grown, broken) = seen.unzip();
    let (store, listener) = open_store(simulated, &options.config, failed.clone()).await?;
    let identity = identity::establish(&store, &options.config.auth, options.dev).await?;
    let token_file = options.config.store.data_dir.join("join-token");
    keep_join_token(&token_file, identity.join_token.as_ref())?;
    let board = Board::default();
    let datasets = open_datasets(&options.config, &store, &identity).await?;
    datasets.tend();
    let args = RootArgs {
        store: store.clone(),
        policy: options.config.scheduling.policy(),
        lease: options.config.lease(),
        cordon_after: options.config.nodes.cordon_after_failures,
        gang_patience: options.config.gang_patience(),
        failed,
        trackers: options.config.trackers.clone(),
        board: board.clone(),
        artifacts: datasets.root(),
        broken: broken.unwrap_or_default(),
    };
    let (root, ended) = Actor::spawn(None, Root, args)
        .await
        .map_err(|error| BootError::Actors(error.to_string()))?;
    let tree = ask(&root, RootMsg::Tree).await?;
    if let Some(grown) = grown {
        grown.send_replace(Some(tree.clone()));
    }
    let closing = CancellationToken::new();
    let keeping = Keeping::start(&store, options.config.retention(), board.clone());
    let stores = (store, datasets.clone());
    let service = service(&options.config, stores, (tree, board), &identity, &closing)?;
    let until = (stop, failure, closing.clone());
    let doors = (service, certificates);
    let outcome = serve(&options, (doors, listener), &identity, until).await;
    closing.cancel();
    close(keeping, datasets).await;
    root.stop(None);
    if tokio::time::timeout(STOP, ended).await.is_err() {
        tracing::warn!("the actors did not stop in time; nothing that was acknowledged is lost");
    }
    tracing::info!("coordinator has stopped");
    outcome
}

/// Ends what works beside the actors; each may be cut off anywhere.
async fn close(keeping: Keeping, datasets: Datasets) {
    if tokio::time::timeout(CLOSE, keeping.close()).await.is_err() {
        tracing::warn!("a block was still being sealed when the coordinator stopped");
    }
    if tokio::time::timeout(CLOSE, datasets.close()).await.is_err() {
        tracing::warn!("a dataset was still being read when the coordinator stopped");
    }
}

/// Serves until it is told to stop, or fails; then lets the calls under way end: streams end at once,
/// and what still holds the store after this would keep its file.
async fn serve(
    options: &CoordinatorOptions,
    ((service, certificates), listener): ((Service, Option<Certificates>), Option<Listener>),
    identity: &Identity,
    (stop, mut failure, closing): (
        impl Future<Output = ()> + Send + 'static,
        watch::Receiver<Option<String>>,
        CancellationToken,
    ),
) -> Result<(), BootError> {
    let address = options.config.server.listen;
    let (listener, address) = match listener {
        Some(listener) => (listener, address),
        None => bind(address).await?,
    };
    let scheme = if certificates.is_some() {
        "https"
    } else {
        "http"
    };
    let setup = (&options.config, certificates);
    let mut doors = pin!(listen::serve(listener, service, setup, closing.clone()));
    if let Some(path) = &options.ready_file {
        write_ready(path, (scheme, address), identity.join_token.as_ref())?;
    }
    tracing::info!(%scheme, %address, data = %options.config.store.data_dir.display(), "coordinator serves");
    let outcome = tokio::select! {
        () = stop => Ok(()),
        failed = failure.wait_for(Option::is_some) => Err(BootError::Failed(words(failed))),
        served = &mut doors => return served.map_err(BootError::from),
    };
    closing.cancel();
    if tokio::time::timeout(CLOSE, doors).await.is_err() {
        tracing::warn!("some calls had not ended when the coordinator stopped");
    }
    outcome
}

async fn bind(address: SocketAddr) -> Result<(Listener, SocketAddr), BootError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| BootError::Bind { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    Ok((Listener::Tcp(listener), address))
}

fn words(failed: Result<watch::Ref<'_, Option<String>>, watch::error::RecvError>) -> String {
    let said = failed.ok().and_then(|text| text.clone());
    said.unwrap_or_else(|| "the coordinator's actors have ended".to_owned())
}

async fn open_store(
    simulated: Option<Simulated>,
    config: &Config,
    failed: watch::Sender<Option<String>>,
) -> Result<(Store, Option<Listener>), BootError> {
    let options = StoreOptions {
        path: config.store_path(),
        cache_bytes: usize::try_from(config.store.cache_mib)
            .unwrap_or(usize::MAX)
            .saturating_mul(1 << 20),
        reserve_bytes: config.store.reserve_mib.saturating_mul(1 << 20),
    };
    let fatal = move |error: crate::store::FatalStoreError| {
        tracing::error!(%error, "the store has stopped");
        failed.send_replace(Some(error.to_string()));
    };
    if let Some(simulated) = simulated {
        let store = Store::open_on(simulated.disk, options, Box::new(fatal))?;
        simulated.opened.send_replace(Some(store.clone()));
        return Ok((store, Some(simulated.listener)));
    }
    let opening = move || {
        let store = Store::open(options, Box::new(fatal))?;
        if let Err(error) = remove_left_over(store.folder()) {
            tracing::error!(%error, "it cannot be seen whether something of a backup is left in the data folder");
        }
        Ok::<_, OpenError>(store)
    };
    let opened = trainyard_runtime::blocking(opening).await;
    let gone = |error: tokio::task::JoinError| BootError::Failed(error.to_string());
    Ok((opened.map_err(gone)??, None))
}

/// Opens the artifact store and what knows datasets.
async fn open_datasets(
    config: &Config,
    store: &Store,
    identity: &Identity,
) -> Result<Datasets, BootError> {
    let args = StorageArgs {
        artifacts: config.artifacts(),
        options: config.storage_options.clone(),
        roots: config.datasets.roots(),
        own: config.store.data_dir.clone(),
        guard: Guard::new(config.datasets.networks()),
        key: identity.way_key.clone(),
        way_for: Duration::from_secs(u64::from(config.storage.way_minutes) * 60),
        upload_bytes: u64::from(config.storage.upload_mib) << 20,
        part_bytes: u64::from(config.storage.part_mib) << 20,
    };
    let opening = trainyard_runtime::blocking(move || Storage::open(args)).await;
    let gone = |error: tokio::task::JoinError| BootError::Failed(error.to_string());
    let storage = opening.map_err(gone)??;
    let datasets = Datasets::new(store.clone(), storage, config);
    datasets.map_err(|error| BootError::Failed(error.message))
}

fn service(
    config: &Config,
    (store, datasets): (Store, Datasets),
    (tree, board): (Tree, Board),
    identity: &Identity,
    closing: &CancellationToken,
) -> Result<Service, BootError> {
    let minutes = u64::from(config.auth.access_token_minutes);
    let days = u64::from(config.auth.refresh_token_days);
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let telemetry = Telemetry::new().map_err(|error| BootError::Failed(error.to_string()))?;
    Ok(Service::new(ServiceArgs {
        http: config.http.clone(),
        telemetry,
        store,
        tree,
        keys: Keys::new(
            &identity.keys,
            Lives {
                access: Duration::from_secs(minutes * 60),
                refresh: Duration::from_secs(days * 86_400),
            },
        ),
        users: user_settings(config)?,
        agents: AgentPolicy {
            join_token: identity.join_token.clone(),
            tls: config.tls.clone(),
        },
        datasets,
        public_url: config.storage.public_url.clone(),
        limits: Limits {
            open_jobs: u64::from(config.limits.open_jobs),
            queued: config.scheduling.queued(),
            gpus: config.scheduling.most_gpus(),
            streams: count(config.limits.streams),
            streams_per_caller: count(config.limits.streams_per_caller),
            page_rows: count(config.limits.page_rows),
        },
        stop: closing.clone(),
        board,
    }))
}

fn user_settings(config: &Config) -> Result<UserSettings, BootError> {
    let login = &config.login;
    let oidc = Some(&config.oidc).filter(|oidc| !oidc.issuer.is_empty());
    Ok(UserSettings {
        open_registration: config.auth.open_registration,
        open_reads: config.auth.open_reads,
        failures: (login.failures_per_account, login.failures_per_address),
        registrations: login.registrations_per_address,
        window: Duration::from_secs(u64::from(login.window_seconds)),
        trusted_proxies: login.trusted(),
        oidc: oidc.cloned().map(Oidc::new).transpose()?,
    })
}

/// The join token that is good for ever stands in a file, so that scripts find it; none leaves none.
fn keep_join_token(path: &Path, token: Option<&Secret>) -> Result<(), BootError> {
    if let Some(token) = token {
        return write_private(path, format!("{}\n", token.expose()).as_bytes());
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BootError::File {
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

fn write_ready(
    path: &Path,
    (scheme, address): (&str, SocketAddr),
    join_token: Option<&Secret>,
) -> Result<(), BootError> {
    let ready = Ready {
        address: address.to_string(),
        url: format!("{scheme}://{address}"),
        join_token: join_token.map(Secret::expose),
        pid: std::process::id(),
    };
    let json = serde_json::to_vec(&ready).map_err(|error| BootError::Failed(error.to_string()))?;
    write_private(path, &json)
}

/// Replaces a file at once; it holds a token, so it is its owner's alone.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), BootError> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(|source| BootError::File {
        path: path.to_path_buf(),
        source,
    })
}

//! An agent in a simulation: the same actors on the same folder, over a wire and with trainers of the simulation.
//!
//! What it has not: the endpoint on 127.0.0.1, for which the simulation's trainers use its router, and trainers
//! and SDK laid out on the disk. Called by the simulation alone; docs/adr/0017 says what for.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use ractor::Actor;
use tokio::sync::watch;
use trainyard_config::Secret;
use trainyard_core::{device::GivingBack, node::Room, resources::Capacity};
use trainyard_net::{ClientTls, Dial, Plain};

use super::{BootError, agent_id, reason_in, refused, take_data_dir};
use crate::{
    actors::{
        node::Node,
        root::{Root, RootArgs},
    },
    board::Board,
    callbacks::Registry,
    clock,
    dataset::{self, DatasetOptions},
    devices::{Gpus, Pretended},
    embedded::Extracted,
    environment::EnvironmentStore,
    exec::trainers::Trainers,
    link::{self, Access, Identity, LinkState},
    ports::{PortRange, Ports},
    slots::Slots,
    spares::Spares,
};

/// The machine that the agent runs on.
#[derive(Debug)]
pub struct Machine {
    /// Where the coordinator is.
    pub coordinator: String,
    /// How wires are laid.
    pub dial: Dial,
    /// A join token.
    pub token: String,
    /// The node's name.
    pub name: String,
    /// What it has now.
    pub capacity: Capacity,
    /// Changes when it starts anew.
    pub boot_id: String,
    /// Its disk.
    pub data_dir: PathBuf,
    /// Its trainers.
    pub trainers: Arc<dyn Trainers>,
    /// The registry of the agent that runs now: whom trainers call.
    pub registry: watch::Sender<Option<Registry>>,
}

/// What a task may tell before the coordinator takes it, in bytes.
const SPOOL: u64 = 128 << 20;

/// What has to be free for work to be taken, in bytes.
const RESERVE: u64 = 64 << 20;

/// Runs an agent until its host ends it, or it ends itself.
///
/// # Errors
/// As [`super::run`].
pub async fn run(machine: Machine) -> Result<(), BootError> {
    let connection = link::connection(&machine.coordinator, ClientTls::default(), Plain::Anywhere)?;
    let connection = connection.through(machine.dial.clone());
    let (data_dir, _lock) = take_data_dir(&machine.data_dir).await?;
    let of_folder = |source| BootError::DataDir {
        path: machine.data_dir.clone(),
        source,
    };
    let identity = Identity {
        name: machine.name.clone(),
        agent_id: agent_id(&data_dir).map_err(of_folder)?,
        boot_id: machine.boot_id.clone(),
        capacity: machine.capacity.clone(),
        address: Some(machine.name.clone()),
        labels: BTreeMap::new(),
    };
    let who = (identity.name.as_str(), identity.agent_id.as_str());
    let token = Some(Secret::new(machine.token.clone()));
    let access = Access::open(connection, who, token, &data_dir).map_err(of_folder)?;
    let registry = Registry::new(Arc::new(clock::now));
    let (link_state, link) = watch::channel(LinkState::Down);
    let doors = (&access, registry.clone(), link.clone());
    let node = node(&machine, data_dir, doors).await?;
    let (failed, failure) = watch::channel(None);
    let args = RootArgs {
        node: Arc::new(node),
        access,
        identity,
        link_state,
        failed,
    };
    let root = Root::spawn(None, Root, args).await;
    let (_root, _ended) = root.map_err(|error| BootError::Start(error.to_string()))?;
    machine.registry.send_replace(Some(registry));
    tokio::select! {
        biased;
        error = refused(link, &machine.coordinator) => Err(error),
        reason = reason_in(failure) => Err(BootError::Failed(reason)),
    }
}

async fn node(
    machine: &Machine,
    data_dir: PathBuf,
    (access, registry, link): (&Access, Registry, watch::Receiver<LinkState>),
) -> Result<Node, BootError> {
    let options = DatasetOptions::default();
    let datasets = dataset::open(&data_dir, access.clone(), options).await;
    Ok(Node {
        name: machine.name.clone(),
        trainers: Arc::clone(&machine.trainers),
        path: String::new(),
        extracted: Extracted {
            trainers_dir: data_dir.join("trainers"),
            sdk_dir: data_dir.join("sdk"),
        },
        trainers_dir: None,
        environments: EnvironmentStore::new(data_dir.clone()),
        registry,
        callbacks: SocketAddr::from(([127, 0, 0, 1], 1)),
        link,
        board: Board::default(),
        spares: Spares::below(&data_dir),
        spool_bytes: SPOOL,
        slots: Slots::new(machine.capacity.clone()),
        ports: Ports::new(PortRange::default()),
        room: Room { reserve: RESERVE },
        gpus: Gpus {
            uuids: Vec::new(),
            devices: Arc::new(Pretended),
            rule: GivingBack::default(),
        },
        datasets: datasets.map_err(BootError::Start)?,
        data_dir,
    })
}

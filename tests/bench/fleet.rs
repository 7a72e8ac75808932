//! Agents that are none: many in this process, each with the two streams of a real one, its heartbeats and its full
//! reports. A task that is started there runs until it is told to stop, and does nothing.
//!
//! Owns how they speak. Measures nothing. Called by the measurements that need more agents than a machine can hold.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use tests::cluster::Cluster;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, transport::Channel};
use trainyard_net::Connection;
use trainyard_proto::v1::{
    Attach, Capacity, ConnectRequest, ConnectResponse, Gpu, Heartbeat, Hello, JoinRequest, TaskKey,
    TaskPhase, TaskReport, Welcome, agent_service_client::AgentServiceClient,
    connect_request::Frame, connect_response::Frame as Order,
};

/// Agents that connect at once.
const AT_ONCE: usize = 32;
/// As real agents have it: they try again after a part of this, drawn anew each time.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// As real agents have it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What each of them offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) slots: u32,
    pub(crate) gpus: u32,
    /// With a data stream of its own; whoever sends records opens it itself.
    pub(crate) attaches: bool,
    /// Whoever loses its coordinator looks for it until it is there again.
    pub(crate) comes_back: bool,
}

impl Offer {
    /// Of one that has no more than these, and is gone when its coordinator is.
    pub(crate) fn of(slots: u32, gpus: u32) -> Self {
        Self {
            slots,
            gpus,
            attaches: false,
            comes_back: false,
        }
    }
}

/// A running task of one of them: where its records may be sent.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) task: TaskKey,
    pub(crate) node: String,
    pub(crate) session: u64,
    pub(crate) credential: String,
}

/// All of them; they are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    agents: JoinSet<Result<()>>,
    connected: Arc<AtomicUsize>,
    started: mpsc::UnboundedReceiver<Running>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Agent {
    connection: Connection,
    token: String,
    number: usize,
    offer: Offer,
    doors: Arc<Semaphore>,
    connected: Arc<AtomicUsize>,
    started: mpsc::UnboundedSender<Running>,
}

/// A connection on which one of them was welcome.
#[derive(Debug)]
struct Line {
    outgoing: mpsc::Sender<ConnectRequest>,
    incoming: Streaming<ConnectResponse>,
    welcome: Welcome,
    _data: Option<(mpsc::Sender<ConnectRequest>, Streaming<ConnectResponse>)>,
}

impl Fleet {
    /// Connects `count` of them, and returns when all are welcome.
    pub(crate) async fn connect(cluster: &Cluster, count: usize, offer: Offer) -> Result<Self> {
        let connection = cluster.connection().tuned(|endpoint| {
            endpoint
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true)
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "as many as there are tasks in the load"
        )]
        let (telling, started) = mpsc::unbounded_channel();
        let mut fleet = Self {
            agents: JoinSet::new(),
            connected: Arc::default(),
            started,
        };
        let doors = Arc::new(Semaphore::new(AT_ONCE));
        for number in 0..count {
            let agent = Agent {
                connection: connection.clone(),
                token: cluster.join_token.clone(),
                number,
                offer,
                doors: Arc::clone(&doors),
                connected: Arc::clone(&fleet.connected),
                started: telling.clone(),
            };
            fleet.agents.spawn(agent.live());
        }
        fleet.is_whole(count).await?;
        Ok(fleet)
    }

    /// Waits until so many are connected.
    pub(crate) async fn is_whole(&mut self, count: usize) -> Result<()> {
        let mut tick = interval(Duration::from_millis(20));
        while self.connected.load(Ordering::Relaxed) < count {
            tick.tick().await;
            self.check()?;
        }
        Ok(())
    }

    /// Fails when one of them has.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.agents.try_join_next() {
            Some(ended) => Err(ended?.err().unwrap_or_else(|| anyhow!("an agent has left"))),
            None => Ok(()),
        }
    }

    /// The next task that one of them was told to run.
    pub(crate) async fn started(&mut self) -> Result<Running> {
        tokio::select! {
            running = self.started.recv() => running.context("all agents have left"),
            Some(ended) = self.agents.join_next() => {
                Err(ended?.err().unwrap_or_else(|| anyhow!("an agent has left")))
            }
        }
    }
}

impl Agent {
    fn name(&self) -> String {
        format!("sim-{:05}", self.number)
    }

    async fn live(self) -> Result<()> {
        let door = self.doors.acquire().await?;
        let credential = self.join().await?;
        let mut line = self.call(&credential).await?;
        drop(door);
        loop {
            self.connected.fetch_add(1, Ordering::Relaxed);
            let ended = self.serve(line, &credential).await;
            self.connected.fetch_sub(1, Ordering::Relaxed);
            if !self.offer.comes_back {
                return ended;
            }
            line = self.call_again(&credential).await;
        }
    }

    async fn call_again(&self, credential: &str) -> Line {
        loop {
            tokio::time::sleep(PATIENCE.mul_f64(rand::random())).await;
            if let Ok(line) = self.call(credential).await {
                return line;
            }
        }
    }

    /// Connects, and is welcome.
    async fn call(&self, credential: &str) -> Result<Line> {
        let (outgoing, requests) = mpsc::channel(64);
        let hello = Frame::Hello(self.hello(credential));
        outgoing.send(request(hello)).await?;
        let mut incoming = self.open(credential, requests).await?;
        let first = incoming.message().await?.and_then(|said| said.frame);
        let Some(Order::Welcome(welcome)) = first else {
            return Err(anyhow!("the first word was no welcome"));
        };
        let data = match self.offer.attaches {
            true => Some(self.attach(credential, welcome.session).await?),
            false => None,
        };
        Ok(Line {
            outgoing,
            incoming,
            welcome,
            _data: data,
        })
    }

    /// Until its coordinator is gone.
    async fn serve(&self, mut line: Line, credential: &str) -> Result<()> {
        let every = line.welcome.heartbeat_interval.context("no interval")?;
        let mut tasks = BTreeMap::new();
        let mut beat = interval(Duration::try_from(every)?);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.reset();
        loop {
            tokio::select! {
                said = line.incoming.message() => {
                    let order = said?.and_then(|said| said.frame).context("the stream has ended")?;
                    let told = self.obey(order, &mut tasks, (line.welcome.session, credential));
                    if let Some(report) = told? {
                        line.outgoing.send(request(Frame::Report(report))).await?;
                    }
                }
                _ = beat.tick() => {
                    let tasks = tasks.values().cloned().collect();
                    let beat = Heartbeat { tasks, ..Heartbeat::default() };
                    line.outgoing.send(request(Frame::Heartbeat(beat))).await?;
                }
            }
        }
    }

    /// A task that is to start runs at once.
    fn obey(
        &self,
        order: Order,
        tasks: &mut BTreeMap<(u64, u32), TaskReport>,
        (session, credential): (u64, &str),
    ) -> Result<Option<TaskReport>> {
        match order {
            Order::Start(start) => {
                let task = start.task.context("a start without a task")?;
                let report = TaskReport {
                    task: Some(task),
                    phase: TaskPhase::Running.into(),
                    started_at: Some(task_time()),
                    ..TaskReport::default()
                };
                tasks.insert((task.job_id, task.attempt), report.clone());
                let running = Running {
                    task,
                    node: self.name(),
                    session,
                    credential: credential.to_owned(),
                };
                self.started.send(running).ok();
                Ok(Some(report))
            }
            Order::Stop(_)
            | Order::Forget(_)
            | Order::Welcome(_)
            | Order::Ack(_)
            | Order::Launch(_) => Ok(None),
        }
    }

    async fn join(&self) -> Result<String> {
        let mut client = AgentServiceClient::new(self.connection.connect().await?);
        let asked = JoinRequest {
            token: self.token.clone(),
            node_name: self.name(),
            agent_id: self.name(),
        };
        Ok(client.join(asked).await?.into_inner().credential)
    }

    fn hello(&self, credential: &str) -> Hello {
        let gpu = |number| Gpu {
            uuid: format!("GPU-{}-{number}", self.name()),
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_bytes: 80 << 30,
        };
        Hello {
            node_name: self.name(),
            token: credential.to_owned(),
            protocol_version: 1,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: "6b1d0d6c-2b0a-4a44-9f4e-0a1f2b3c4d5e".to_owned(),
            capacity: Some(Capacity {
                cpus: self.offer.slots,
                memory_bytes: 512 << 30,
                gpus: (0..self.offer.gpus).map(gpu).collect(),
            }),
            labels: BTreeMap::from([("rack".to_owned(), format!("r{}", self.number % 40))]),
            tasks: Vec::new(),
            agent_id: self.name(),
            ..Hello::default()
        }
    }

    async fn open(
        &self,
        credential: &str,
        requests: mpsc::Receiver<ConnectRequest>,
    ) -> Result<Streaming<ConnectResponse>> {
        let mut client = AgentServiceClient::new(self.connection.connect().await?);
        let mut request = Request::new(ReceiverStream::new(requests));
        let header = format!("Bearer {credential}").parse()?;
        request.metadata_mut().insert("authorization", header);
        Ok(client.connect(request).await?.into_inner())
    }

    /// The data stream, which says nothing as long as no task does.
    async fn attach(
        &self,
        credential: &str,
        session: u64,
    ) -> Result<(mpsc::Sender<ConnectRequest>, Streaming<ConnectResponse>)> {
        let (outgoing, requests) = mpsc::channel(8);
        let first = attach(&self.name(), session, credential);
        outgoing.send(request(Frame::Attach(first))).await?;
        Ok((outgoing, self.open(credential, requests).await?))
    }
}

/// The first word of a data stream.
pub(crate) fn attach(node: &str, session: u64, credential: &str) -> Attach {
    Attach {
        node_name: node.to_owned(),
        session,
        token: credential.to_owned(),
    }
}

pub(crate) fn request(frame: Frame) -> ConnectRequest {
    ConnectRequest { frame: Some(frame) }
}

/// A connection that behaves as a real agent's.
pub(crate) async fn channel(cluster: &Cluster) -> Result<Channel> {
    Ok(cluster.connection().connect().await?)
}

/// Any moment: nobody looks at when such a task began.
fn task_time() -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: 1_790_000_000,
        nanos: 0,
    }
}

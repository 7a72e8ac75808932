//! A cluster on loopback: one coordinator, any number of agents, all real processes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue, errors::InvalidMetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use trainyard_net::{ClientTls, Connection, Plain};
use trainyard_proto::v1::{
    self, auth_service_client::AuthServiceClient, job_service_client::JobServiceClient,
    node_service_client::NodeServiceClient,
};

use crate::{process::Process, wait::until};

/// The development user of every coordinator started here.
pub const EMAIL: &str = "admin@example.com";
/// Its password.
pub const PASSWORD: &str = "admin123";

/// Adds the access token to every call.
#[derive(Clone, Debug)]
pub struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    /// Of this access token.
    ///
    /// # Errors
    /// When it is none that a header can hold.
    pub fn of(token: &str) -> Result<Self, InvalidMetadataValue> {
        Ok(Self(format!("Bearer {token}").parse()?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A channel on which every call carries the token.
pub type Authenticated = InterceptedService<Channel, Bearer>;

/// How a coordinator is started.
#[derive(Clone, Debug, Default)]
pub struct CoordinatorSetup {
    /// Variables of the environment, such as `TRAINYARD__LEASES__LOST_AFTER_SECONDS`.
    pub variables: BTreeMap<String, String>,
    /// A file of settings, as TOML; empty for none.
    pub settings: String,
    /// Whom its clients trust and what they show; with an authority they speak TLS.
    pub tls: ClientTls,
}

/// A running cluster; all of it ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    folder: TempDir,
    setup: CoordinatorSetup,
    coordinator: Option<Process>,
    agents: BTreeMap<String, Process>,
    /// `host:port` of the coordinator; the same after a restart.
    pub address: String,
    /// What agents must show.
    pub join_token: String,
    token: String,
}

impl Cluster {
    /// Starts a coordinator and logs in.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(binary: &str) -> Self {
        Self::start_with(binary, CoordinatorSetup::default()).await
    }

    /// As [`Cluster::start`], with settings of one's own.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_with(binary: &str, setup: CoordinatorSetup) -> Self {
        let mut cluster = Self {
            binary: binary.into(),
            folder: tempfile::tempdir().expect("a folder for the cluster"),
            setup,
            coordinator: None,
            agents: BTreeMap::new(),
            address: "127.0.0.1:0".to_owned(),
            join_token: String::new(),
            token: String::new(),
        };
        cluster.start_coordinator().await;
        cluster.token = cluster.log_in().await;
        cluster
    }

    /// Starts the coordinator, at the same address as before if there was one.
    ///
    /// # Panics
    /// When it runs already or does not come up.
    pub async fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none(), "it runs already");
        let ready = self.path("coordinator.ready");
        fs::remove_file(&ready).ok();
        let mut command = self.command();
        command
            .args([
                "coordinator",
                "--dev",
                "--listen",
                &self.address,
                "--data-dir",
            ])
            .arg(self.path("coordinator"))
            .arg("--ready-file")
            .arg(&ready)
            .envs(&self.setup.variables);
        if !self.setup.settings.is_empty() {
            let file = self.path("coordinator.toml");
            fs::write(&file, &self.setup.settings).expect("the settings are written");
            command.arg("--config").arg(file);
        }
        let mut process = Process::start(&mut command, &self.path("coordinator.log"));
        let said = read_ready(&ready, &mut process).await;
        self.address = text(&said, "address");
        // Only with --dev or where one is configured.
        let token = said.get("join_token").and_then(Value::as_str);
        self.join_token = token.unwrap_or_default().to_owned();
        self.coordinator = Some(process);
    }

    /// What is started from now on is this binary; what runs stays what it is.
    pub fn uses(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// `kill -9` of the coordinator.
    pub fn kill_coordinator(&mut self) {
        self.coordinator = None;
    }

    /// The coordinator's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn coordinator(&mut self) -> &mut Process {
        self.coordinator.as_mut().expect("the coordinator runs")
    }

    /// Starts (or starts again) an agent with `arguments` added, and waits until it is welcomed.
    ///
    /// # Panics
    /// When it runs already or does not come up.
    pub async fn agent(&mut self, name: &str, arguments: &[&str]) {
        self.agent_with(name, arguments, &[]).await;
    }

    /// As [`Cluster::agent`], with variables of the environment added.
    ///
    /// # Panics
    /// When it runs already or does not come up.
    pub async fn agent_with(&mut self, name: &str, arguments: &[&str], variables: &[(&str, &str)]) {
        assert!(!self.agents.contains_key(name), "it runs already");
        let ready = self.path(&format!("{name}.ready"));
        fs::remove_file(&ready).ok();
        let mut command = self.agent_command(name, &self.join_token);
        command.arg("--ready-file").arg(&ready).args(arguments);
        command.envs(variables.iter().copied());
        let mut process = Process::start(&mut command, &self.path(&format!("{name}.log")));
        read_ready(&ready, &mut process).await;
        self.agents.insert(name.to_owned(), process);
    }

    /// The command line of an agent.
    #[must_use]
    pub fn agent_command(&self, name: &str, token: &str) -> Command {
        let mut command = self.command();
        let url = self.url();
        command.args([
            "agent",
            "--coordinator",
            &url,
            "--token",
            token,
            "--name",
            name,
        ]);
        command.arg("--data-dir").arg(self.agent_data(name));
        command
    }

    /// The data folder of an agent.
    #[must_use]
    pub fn agent_data(&self, name: &str) -> PathBuf {
        self.path(&format!("agent-{name}"))
    }

    /// `kill -9` of an agent; its trainers go on.
    pub fn kill_agent(&mut self, name: &str) {
        self.agents.remove(name);
    }

    /// The process of an agent.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn agent_process(&mut self, name: &str) -> &mut Process {
        self.agents.get_mut(name).expect("the agent runs")
    }

    /// Waits for the end of an agent, and returns what it wrote.
    ///
    /// # Panics
    /// When there is none of that name.
    pub async fn agent_ends(&mut self, name: &str) -> String {
        let mut process = self.agents.remove(name).expect("the agent runs");
        process.ended().await;
        process.log()
    }

    /// A path in the cluster's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.setup.tls.ca {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }

    /// The access token of the development user.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Jobs over gRPC.
    pub async fn jobs(&self) -> JobServiceClient<Authenticated> {
        let channel = self.channel().await;
        JobServiceClient::with_interceptor(channel, self.bearer())
            .max_decoding_message_size(64 << 20)
    }

    /// Nodes over gRPC.
    pub async fn nodes(&self) -> NodeServiceClient<Authenticated> {
        NodeServiceClient::with_interceptor(self.channel().await, self.bearer())
    }

    /// A connection of its own.
    pub async fn channel(&self) -> Channel {
        let connection = self.connection();
        until("the coordinator takes connections", async || {
            connection.connect().await.ok()
        })
        .await
    }

    /// The way to the coordinator, for any client.
    ///
    /// # Panics
    /// When a file of the setup's TLS is of no use.
    #[must_use]
    pub fn connection(&self) -> Connection {
        let made = Connection::new(&self.url(), self.setup.tls.clone(), Plain::Loopback);
        made.expect("the setup is sound")
    }

    /// Runs the command line client to its end, logged in by environment.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command
            .env("TRAINYARD_COORDINATOR", self.url())
            .env("TRAINYARD_ACCESS_TOKEN", &self.token)
            .args(arguments);
        command.output().expect("the client starts")
    }

    /// The binary with a clean home.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("XDG_CONFIG_HOME", self.path("home"))
            .env("NO_COLOR", "1")
            .env_remove("TRAINYARD_TOKEN")
            .current_dir(self.folder.path());
        if let Some(ca) = &self.setup.tls.ca {
            command.env("TRAINYARD_TLS_CA", ca);
        }
        command
    }

    fn bearer(&self) -> Bearer {
        Bearer::of(&self.token).expect("a header")
    }

    async fn log_in(&self) -> String {
        let request = v1::LoginRequest {
            email: EMAIL.to_owned(),
            password: PASSWORD.to_owned(),
        };
        let answer = AuthServiceClient::new(self.channel().await)
            .login(request)
            .await;
        let tokens = answer.expect("the login succeeds").into_inner().tokens;
        tokens.expect("there are tokens").access_token
    }
}

impl Drop for Cluster {
    /// Agents are asked to end, and whatever trainers still run go with their folders.
    fn drop(&mut self) {
        for name in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.kill_agent(&name);
        }
        self.coordinator = None;
        for (pid, command) in processes() {
            let folder = self.folder.path();
            let works_there = fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|place| place.starts_with(folder));
            let below = works_there || command.contains(&*folder.to_string_lossy());
            if below {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }
}

/// Every process with its command line, arguments separated by blanks.
#[must_use]
pub fn processes() -> Vec<(i32, String)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let bytes = fs::read(entry.path().join("cmdline")).ok()?;
        let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
        Some((pid, words))
    })
    .collect()
}

async fn read_ready(path: &Path, process: &mut Process) -> Value {
    let process = std::cell::RefCell::new(process);
    until("the ready file is written", async || {
        let text = fs::read_to_string(path).ok();
        if text.is_none() {
            let mut process = process.borrow_mut();
            assert!(!process.has_ended(), "it ended: {}", process.log());
        }
        serde_json::from_str(&text?).ok()
    })
    .await
}

fn text(value: &Value, key: &str) -> String {
    let found = value.get(key).and_then(Value::as_str);
    found.expect("the ready file holds it").to_owned()
}

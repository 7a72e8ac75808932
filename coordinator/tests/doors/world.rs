//! A coordinator in this process with a data folder of its own, and clients for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::wait::until;
use tokio::{sync::oneshot, task::JoinSet};
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use trainyard_coordinator::{
    boot::{self, BootError, CoordinatorOptions},
    config::Config,
};
use trainyard_proto::v1::{
    self, agent_service_client::AgentServiceClient, connect_request::Frame,
    job_service_client::JobServiceClient, node_service_client::NodeServiceClient,
};

/// No condition in these tests takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running coordinator.
pub(crate) struct World {
    pub(crate) address: String,
    pub(crate) join_token: String,
    /// Of the development user.
    pub(crate) token: String,
    pub(crate) http: Client,
    /// Of nodes that have joined.
    credentials: Mutex<BTreeMap<String, String>>,
    /// Nodes that have said hello, with their agents.
    agents: Mutex<BTreeSet<(String, String)>>,
    folder: TempDir,
    stop: oneshot::Sender<()>,
    running: JoinSet<Result<(), BootError>>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    /// On a data folder that may have been used before.
    pub(crate) async fn on(folder: TempDir) -> Self {
        Self::set_up(folder, |_| ()).await
    }

    /// With settings of its own.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::set_up(tempfile::tempdir().unwrap(), change).await
    }

    /// One that looks every second who should make room, and leaves nobody alone for long.
    pub(crate) async fn eager() -> Self {
        let world = Self::with(|config| {
            config.scheduling.round_seconds = 1;
            config.scheduling.settled_seconds = 0;
            config.scheduling.restart_cost_seconds = 0;
        });
        world.await
    }

    /// On such a folder, with settings of its own.
    pub(crate) async fn set_up(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let ready_file = folder.path().join("ready.json");
        std::fs::remove_file(&ready_file).ok();
        let mut config = Config::load(None, []).unwrap();
        config.server.listen = "127.0.0.1:0".parse().unwrap();
        config.store.data_dir = folder.path().join("data");
        config.store.reserve_mib = 0;
        // Silence is no matter here, however slow the machine is.
        config.leases.suspect_after_seconds = 600;
        config.leases.lost_after_seconds = 1_200;
        change(&mut config);
        let options = CoordinatorOptions {
            config,
            dev: true,
            ready_file: Some(ready_file.clone()),
        };
        let (stop, stopped) = oneshot::channel();
        let mut running = JoinSet::new();
        running.spawn(boot::run(options, async {
            stopped.await.ok();
        }));
        let ready = ready(&ready_file, &mut running).await;
        let mut world = Self {
            address: ready["address"].as_str().unwrap().to_owned(),
            join_token: ready["join_token"].as_str().unwrap().to_owned(),
            token: String::new(),
            http: Client::new(),
            credentials: Mutex::default(),
            agents: Mutex::default(),
            folder,
            stop,
            running,
        };
        let (status, tokens) = world.login("admin@example.com", "admin123").await;
        assert_eq!(status, 200, "{tokens}");
        world.token = tokens["access_token"].as_str().unwrap().to_owned();
        world
    }

    /// Stops in order; the data folder remains.
    pub(crate) async fn stop(mut self) -> TempDir {
        let store = self.data().join("trainyard.redb");
        self.stop.send(()).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.running.join_next());
        ended.await.unwrap().unwrap().unwrap().unwrap();
        // Here its process goes on, and with it for a moment whoever still had the store in hand.
        until("nobody has the store", async || {
            let file = std::fs::File::open(&store).unwrap();
            file.try_lock().is_ok().then_some(())
        })
        .await;
        self.folder
    }

    /// The coordinator's data folder.
    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) async fn login(&self, user: &str, password: &str) -> (u16, Value) {
        let form = [("username", user), ("password", password)];
        self.send(self.plain(Method::POST, "/auth/login").form(&form))
            .await
    }

    /// A request without a token.
    pub(crate) fn plain(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}/api/v1{path}", self.address);
        self.http.request(method, url)
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> (u16, Value) {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap())
    }

    /// GET as the development user.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let request = self.plain(Method::GET, path).bearer_auth(&self.token);
        self.send(request).await
    }

    /// POST without a body as the development user.
    pub(crate) async fn post(&self, path: &str) -> (u16, Value) {
        let request = self.plain(Method::POST, path).bearer_auth(&self.token);
        self.send(request).await
    }

    /// POST as the development user.
    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.plain(Method::POST, path).bearer_auth(&self.token);
        self.send(request.json(body)).await
    }

    /// Any call with this token; a body of null is none.
    pub(crate) async fn call(
        &self,
        token: &str,
        (method, path): (Method, &str),
        body: Value,
    ) -> (u16, Value) {
        let request = self.plain(method, path).bearer_auth(token);
        let request = match body.is_null() {
            true => request,
            false => request.json(&body),
        };
        self.send(request).await
    }

    /// Makes a user and logs it in; answers with its number and both tokens.
    pub(crate) async fn user(&self, email: &str, role: &str) -> (u64, Value) {
        let body = json!({"email": email, "password": "correct horse", "system_role": role});
        let (status, user) = self.post_json("/users", &body).await;
        assert_eq!(status, 201, "{user}");
        let (status, tokens) = self.login(email, "correct horse").await;
        assert_eq!(status, 200, "{tokens}");
        (user["id"].as_u64().unwrap(), tokens)
    }

    /// Submits a job and returns its id.
    pub(crate) async fn submit(&self, body: &Value) -> u64 {
        let (status, job) = self.post_json("/training/jobs", body).await;
        assert_eq!(status, 200, "{job}");
        job["id"].as_u64().unwrap()
    }

    /// Founds a project and returns its number.
    pub(crate) async fn project(&self, name: &str) -> i64 {
        let (status, project) = self.post_json("/projects", &json!({"name": name})).await;
        assert_eq!(status, 201, "{project}");
        project["id"].as_i64().unwrap()
    }

    /// As [`World::user`], with the access token alone.
    pub(crate) async fn somebody(&self, name: &str, role: &str) -> (u64, String) {
        let (id, tokens) = self.user(&format!("{name}@example.com"), role).await;
        (id, tokens["access_token"].as_str().unwrap().to_owned())
    }

    /// Puts a user into a project.
    pub(crate) async fn member(&self, project: i64, user: u64, role: &str) {
        let body = json!({"role": role});
        let path = format!("/projects/{project}/members/{user}");
        let request = self.plain(Method::PUT, &path).bearer_auth(&self.token);
        let (status, answer) = self.send(request.json(&body)).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Waits until the job has this status.
    pub(crate) async fn until(&self, id: u64, status: &str) {
        let path = format!("/training/jobs/{id}");
        until(&format!("job {id} is {status}"), async || {
            (self.get(&path).await.1["status"] == status).then_some(())
        })
        .await;
    }

    /// A call of a trainer.
    pub(crate) async fn callback(&self, secret: &str, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}/t/{secret}/api/v1{path}", self.address);
        self.send(self.http.post(url).json(body)).await
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub(crate) async fn jobs(&self) -> JobServiceClient<InterceptedService<Channel, Bearer>> {
        self.jobs_of(&self.token).await
    }

    pub(crate) async fn jobs_of(
        &self,
        token: &str,
    ) -> JobServiceClient<InterceptedService<Channel, Bearer>> {
        let bearer = Bearer(token.to_owned());
        JobServiceClient::with_interceptor(self.channel().await, bearer)
    }

    pub(crate) async fn nodes(&self) -> NodeServiceClient<InterceptedService<Channel, Bearer>> {
        let bearer = Bearer(self.token.clone());
        NodeServiceClient::with_interceptor(self.channel().await, bearer)
    }
}

impl World {
    /// Exchanges a token for a credential, as an agent does.
    pub(crate) async fn join_as(
        &self,
        token: &str,
        (node, agent_id): (&str, &str),
    ) -> Result<String, Status> {
        let request = v1::JoinRequest {
            token: token.to_owned(),
            node_name: node.to_owned(),
            agent_id: agent_id.to_owned(),
        };
        let mut agents = AgentServiceClient::new(self.channel().await);
        let credential = agents.join(request).await?.into_inner().credential;
        let mut credentials = self.credentials.lock().unwrap();
        credentials.insert(node.to_owned(), credential.clone());
        Ok(credential)
    }

    /// A call beside the session, with the credential of the node `n1`.
    pub(crate) fn of_agent<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(credential) = self.credential("n1") {
            let value = format!("Bearer {credential}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    /// The credential of a node that has joined.
    pub(crate) fn credential(&self, node: &str) -> Option<String> {
        self.credentials.lock().unwrap().get(node).cloned()
    }

    /// A first frame with a credential in place of a join token.
    pub(crate) async fn entered(&self, first: Frame) -> Result<Frame, Status> {
        Ok(match first {
            Frame::Hello(mut hello) if !hello.token.starts_with("tya:") => {
                let kept = self.credential(&hello.node_name);
                let kept = kept.filter(|_| hello.token == self.join_token);
                let who = (hello.node_name.as_str(), hello.agent_id.as_str());
                hello.token = match kept.filter(|_| self.knows(who)) {
                    Some(kept) => kept,
                    None => self.join_as(&hello.token, who).await?,
                };
                let who = (hello.node_name.clone(), hello.agent_id.clone());
                self.agents.lock().unwrap().insert(who);
                Frame::Hello(hello)
            }
            Frame::Attach(mut attach) if attach.token == self.join_token => {
                let kept = self.credential(&attach.node_name);
                attach.token = kept.unwrap_or(attach.token);
                Frame::Attach(attach)
            }
            other @ (Frame::Attach(_)
            | Frame::Hello(_)
            | Frame::Heartbeat(_)
            | Frame::Report(_)
            | Frame::Batch(_)) => other,
        })
    }

    fn knows(&self, (node, agent_id): (&str, &str)) -> bool {
        let agents = self.agents.lock().unwrap();
        agents.contains(&(node.to_owned(), agent_id.to_owned()))
    }
}

/// Puts a token on each call.
#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::try_from(format!("Bearer {}", self.0));
        let value = value.map_err(|error| Status::internal(error.to_string()))?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// What the ready file says once it is there.
pub(crate) async fn ready(path: &Path, running: &mut JoinSet<Result<(), BootError>>) -> Value {
    let written = until("the ready file is written", async || {
        let text = std::fs::read(path).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    });
    tokio::select! {
        ready = written => ready,
        ended = running.join_next() => panic!("the coordinator did not start: {ended:?}"),
    }
}

/// A submission of framework ultralytics.
pub(crate) fn yolo() -> Value {
    json!({"config": {
        "framework": "ultralytics", "model_name": "yolo11n", "task_type": "object_detection",
        "dataset_path": "/data/set", "dataset_format": "yolo", "epochs": 2, "batch_size": 8,
        "learning_rate": 0.01,
    }})
}

/// A submission of framework command.
pub(crate) fn command() -> Value {
    json!({"config": {"framework": "command", "command": ["/bin/true"]}})
}

/// Keys of an object in their order.
pub(crate) fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

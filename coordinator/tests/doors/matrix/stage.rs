//! A coordinator with a caller of each kind, and what calls are about: made anew for every call that is
//! let through, because most such calls change it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::table::CALLERS;
use crate::{
    agent::Agent,
    datasets::{add, folders, snapshot_job},
    world::{World, command},
};

const PASSWORD: &str = "correct horse";

/// The coordinator and its people.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) project: i64,
    tokens: BTreeMap<&'static str, String>,
    number: AtomicU64,
    files: TempDir,
    channel: Channel,
    _agent: Agent,
}

/// What a call is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    /// By the word in braces.
    pub(super) names: BTreeMap<&'static str, String>,
    /// A number that no other target has.
    pub(super) number: u64,
    /// The address of `user`, `insider` or `account`.
    pub(super) email: String,
    /// The project, where the call names it beside its path.
    pub(super) project: Option<i64>,
}

impl Target {
    pub(super) fn name(&self, word: &str) -> String {
        self.names.get(word).cloned().unwrap_or_default()
    }

    pub(super) fn job(&self) -> u64 {
        let found = ["job", "theirs", "ended"].map(|word| self.name(word));
        found.concat().parse().unwrap_or_default()
    }
}

impl Stage {
    pub(super) async fn set(world: World) -> Self {
        let project = world.project("ours").await;
        let agent = Agent::join(&world, "standing", 1).await;
        let drain = trainyard_proto::v1::DrainRequest {
            name: "standing".into(),
            reason: "so that jobs wait".into(),
            ..Default::default()
        };
        world.nodes().await.drain(drain).await.unwrap();
        let mut stage = Self {
            channel: world.channel().await,
            world,
            project,
            tokens: BTreeMap::new(),
            number: AtomicU64::new(1),
            files: tempfile::tempdir().unwrap(),
            _agent: agent,
        };
        stage.people().await;
        stage
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    async fn people(&mut self) {
        let world = &self.world;
        let roles = [
            ("guest", "guest", None),
            ("standard", "standard_engineer", None),
            ("advanced", "advanced_engineer", None),
            ("manager", "manager", None),
            ("admin", "admin", None),
            ("viewer", "standard_engineer", Some("viewer")),
            ("member", "standard_engineer", Some("member")),
            ("lead", "standard_engineer", Some("admin")),
            ("other", "standard_engineer", None),
        ];
        for (name, role, within) in roles {
            let (id, token) = world.somebody(&format!("a-{name}"), role).await;
            if let Some(within) = within {
                world.member(self.project, id, within).await;
            }
            if name == "other" {
                let theirs = world.project("theirs").await;
                world.member(theirs, id, "admin").await;
            }
            self.tokens.insert(name, token);
        }
        let account = self.account("ci").await;
        let id = account["id"].as_u64().unwrap();
        world.member(self.project, id, "member").await;
        let key = self.key(id).await;
        let key = key["key"].as_str().unwrap().to_owned();
        self.tokens.insert("key", key);
        assert_eq!(self.tokens.len() + 1, CALLERS.len());
    }

    async fn account(&self, name: &str) -> Value {
        let body = json!({"name": name});
        let (status, account) = self.world.post_json("/service-accounts", &body).await;
        assert_eq!(status, 201, "{account}");
        account
    }

    async fn key(&self, account: u64) -> Value {
        let body = json!({"user_id": account, "name": "main"});
        let (status, key) = self.world.post_json("/api-keys", &body).await;
        assert_eq!(status, 201, "{key}");
        key
    }

    /// The caller's token; a new one where the call ends its session.
    pub(super) async fn token(&self, caller: &'static str, ends: bool) -> Option<String> {
        let token = self.tokens.get(caller)?;
        if !ends || caller == "key" {
            return Some(token.clone());
        }
        let email = format!("a-{caller}@example.com");
        let (status, tokens) = self.world.login(&email, PASSWORD).await;
        assert_eq!(status, 200, "{tokens}");
        Some(tokens["access_token"].as_str().unwrap().to_owned())
    }

    /// A refresh token that was not used.
    pub(super) async fn refresh_token(&self) -> String {
        let (_, tokens) = self.world.login("a-guest@example.com", PASSWORD).await;
        tokens["refresh_token"].as_str().unwrap().to_owned()
    }

    /// What a call with these words in braces is about.
    pub(super) async fn target(&self, call: &str) -> Target {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let mut target = Target {
            number,
            ..Target::default()
        };
        for word in call.split('{').skip(1) {
            let word = word.split('}').next().unwrap();
            self.make(word, &mut target).await;
        }
        target
    }

    async fn make(&self, word: &str, target: &mut Target) {
        let (word, name) = match word {
            "framework" => ("framework", "ultralytics".to_owned()),
            "model" => ("model", "yolo11n".to_owned()),
            "project" => {
                target.project = Some(self.project);
                ("project", self.project.to_string())
            }
            "job" => ("job", self.job(Some(self.project)).await.to_string()),
            "theirs" => ("theirs", self.job(None).await.to_string()),
            "ended" => ("ended", self.ended(Some(self.project)).await.to_string()),
            "user" => ("user", self.user(target, false).await),
            "insider" => ("insider", self.user(target, true).await),
            "account" => ("account", self.new_account(target).await),
            "key" => {
                let account = self.new_account(target).await;
                let key = self.key(account.parse().unwrap()).await;
                ("key", key["id"].as_str().unwrap().to_owned())
            }
            "dataset" => ("dataset", self.dataset(target.number).await),
            "snapshot" => ("snapshot", self.snapshot(target.number).await),
            "token" => {
                let made = self.world.post_json("/nodes/tokens", &json!({})).await;
                ("token", made.1["id"].as_str().unwrap().to_owned())
            }
            "node" => ("node", "standing".to_owned()),
            "window" => {
                let body = json!({"all_nodes": true, "length_seconds": 1});
                let made = self.world.post_json("/maintenance", &body).await;
                ("window", made.1["id"].to_string())
            }
            "secret" => ("secret", "f".repeat(64)),
            "file" => ("file", "artifacts/checkpoints/1/best.pt".to_owned()),
            "way" => ("way", self.way().await),
            other => panic!("nobody knows how to make {other}"),
        };
        target.names.insert(word, name);
    }

    async fn job(&self, project: Option<i64>) -> u64 {
        let mut body = command();
        body["project_id"] = json!(project);
        self.world.submit(&body).await
    }

    async fn ended(&self, project: Option<i64>) -> u64 {
        let job = self.job(project).await;
        self.end(job).await;
        job
    }

    async fn end(&self, job: u64) {
        let path = format!("/training/jobs/{job}/cancel");
        let (status, answer) = self.world.post(&path).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// A signed link by which a file is stored, behind `/files/`.
    async fn way(&self) -> String {
        let job = self.job(None).await;
        let path = format!("/training/jobs/{job}/checkpoints/upload-url");
        let body = json!({"checkpoint_filename": "best.pt", "content_type": "x"});
        let (status, told) = self.world.post_json(&path, &body).await;
        assert_eq!(status, 200, "{told}");
        let url = told["upload_url"].as_str().unwrap();
        url.split_once("/api/v1/files/").unwrap().1.to_owned()
    }

    async fn user(&self, target: &mut Target, inside: bool) -> String {
        target.email = format!("u{}@example.com", target.number);
        let body = json!({"email": target.email, "password": PASSWORD});
        let (status, user) = self.world.post_json("/users", &body).await;
        assert_eq!(status, 201, "{user}");
        let id = user["id"].as_u64().unwrap();
        if inside {
            self.world.member(self.project, id, "viewer").await;
        }
        id.to_string()
    }

    async fn new_account(&self, target: &mut Target) -> String {
        let name = format!("ci{}", target.number);
        let account = self.account(&name).await;
        target.email = account["email"].as_str().unwrap().to_owned();
        account["id"].to_string()
    }

    /// A folder with images of its own.
    pub(super) fn folder(&self, number: u64) -> String {
        let folder = self.files.path().join(format!("set{number}"));
        folders(&folder, 1);
        std::fs::write(folder.join("cat/own.png"), number.to_string()).unwrap();
        folder.display().to_string()
    }

    async fn dataset(&self, number: u64) -> String {
        let id = format!("set{number}");
        add(&self.world, &id, &self.folder(number)).await;
        id
    }

    /// One that no job trains on any more.
    async fn snapshot(&self, number: u64) -> String {
        let dataset = self.dataset(number).await;
        let body = snapshot_job(&dataset);
        let (status, job) = self.world.post_json("/training/jobs", &body).await;
        assert_eq!(status, 200, "{job}");
        self.end(job["id"].as_u64().unwrap()).await;
        job["dataset_snapshot_id"].as_str().unwrap().to_owned()
    }
}

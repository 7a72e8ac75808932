//! Checkpoints that attempts store and jobs begin with, in a folder and in a bucket: what an older attempt sends harms
//! nothing.

use std::{fs, path::PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use tests::{s3::Server, wait::until};
use tonic::{Code, Status};
use trainyard_core::record::{Checkpoint, Progress, Record};
use trainyard_proto::v1::{self, StartTask, agent_service_client::AgentServiceClient};

mod strangers;

use crate::{
    agent::{Agent, epoch, exited},
    datasets::detail,
    s3::settings,
    world::{World, command},
};

/// An artifact store where this test can look.
struct Store {
    world: World,
    root: PathBuf,
    /// Locations start so.
    name: String,
    /// What a late upload is answered with.
    late: u16,
    server: Option<Server>,
}

impl Store {
    async fn folder() -> Self {
        let world = World::start().await;
        let root = world.data().join("artifacts").canonicalize().unwrap();
        Self {
            name: root.display().to_string(),
            world,
            root,
            late: 400,
            server: None,
        }
    }

    async fn bucket() -> Self {
        let server = Server::start().await;
        let world = World::with(|config| {
            settings(&server, config);
            config.storage.artifacts = "s3://artifacts/train".to_owned();
        });
        Self {
            world: world.await,
            root: server.bucket("artifacts").join("train"),
            name: "s3://artifacts/train".to_owned(),
            // The bucket knows nothing of attempts.
            late: 200,
            server: Some(server),
        }
    }

    fn location(&self, job: u64, file: &str) -> String {
        format!("{}/checkpoints/{job}/{file}", self.name)
    }

    fn kept(&self, job: u64, file: &str) -> String {
        let path = self.root.join(format!("checkpoints/{job}/{file}"));
        fs::read_to_string(path).expect("it is stored")
    }

    /// Names of uploads that are not published.
    fn waiting(&self, job: u64) -> Vec<String> {
        let found = fs::read_dir(self.root.join(format!("uploads/{job}")));
        let found = found.into_iter().flatten().flatten();
        let mut names: Vec<_> = found
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Puts a checkpoint there, as an earlier run would have.
    fn put(&self, job: u64, file: &str, text: &str) -> String {
        let folder = self.root.join(format!("checkpoints/{job}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(file), text).unwrap();
        self.location(job, file)
    }

    async fn way(&self, start: &StartTask, file: &str) -> Result<String, Status> {
        self.way_of(start, file, 0).await
    }

    /// For the upload of this number.
    async fn way_of(&self, start: &StartTask, file: &str, upload: u64) -> Result<String, Status> {
        let mut client = AgentServiceClient::new(self.world.channel().await);
        let request = self.world.of_agent(v1::SignUploadRequest {
            task: start.task,
            secret: start.secret.clone(),
            filename: file.to_owned(),
            size_bytes: 7,
            upload,
        });
        Ok(client.sign_upload(request).await?.into_inner().url)
    }

    async fn send(&self, way: &str, text: &str) -> u16 {
        let request = self.world.http.put(self.url(way)).body(text.to_owned());
        request.send().await.unwrap().status().as_u16()
    }

    async fn publish(&self, start: &StartTask, file: &str) -> Result<(), Status> {
        self.publish_of(start, file, 0).await
    }

    async fn publish_of(&self, start: &StartTask, file: &str, upload: u64) -> Result<(), Status> {
        let mut client = AgentServiceClient::new(self.world.channel().await);
        let request = self.world.of_agent(v1::PublishUploadRequest {
            task: start.task,
            secret: start.secret.clone(),
            filename: file.to_owned(),
            upload,
        });
        client.publish_upload(request).await.map(drop)
    }

    async fn download(&self, start: &StartTask) -> Result<v1::SignDownloadResponse, Status> {
        let mut client = AgentServiceClient::new(self.world.channel().await);
        let request = self.world.of_agent(v1::SignDownloadRequest {
            task: start.task,
            secret: start.secret.clone(),
        });
        Ok(client.sign_download(request).await?.into_inner())
    }

    fn url(&self, way: &str) -> String {
        match way.starts_with('/') {
            true => format!("http://{}{way}", self.world.address),
            false => way.to_owned(),
        }
    }
}

/// An attempt that is over ends, and the job's next one runs.
async fn next(store: &Store, agent: &mut Agent, start: &StartTask, query: &str) -> StartTask {
    let task = start.task.unwrap();
    agent.report(exited(task, 0, 0)).await;
    agent.forget().await;
    let path = format!("/training/jobs/{}/start{query}", task.job_id);
    let (status, job) = store.world.post(&path).await;
    assert_eq!(status, 200, "{job}");
    agent.run().await
}

/// A job whose second attempt has stored a checkpoint, and a way of its first one.
struct Overtaken {
    store: Store,
    agent: Agent,
    job: u64,
    first: StartTask,
    second: StartTask,
    late: String,
}

impl Overtaken {
    async fn on(store: Store) -> Self {
        let mut agent = Agent::join(&store.world, "n1", 4).await;
        let job = store.world.submit(&command()).await;
        let first = agent.run().await;
        let late = store.way(&first, "last.pt").await.unwrap();
        let never = store.way(&first, "best.pt").await.unwrap();
        assert_eq!(store.send(&never, "never published").await, 200);
        let second = next(&store, &mut agent, &first, "").await;
        Self {
            store,
            agent,
            job,
            first,
            second,
            late,
        }
    }

    async fn the_second_stores(&self, text: &str) {
        let way = self.store.way(&self.second, "last.pt").await.unwrap();
        assert_eq!(self.store.send(&way, text).await, 200);
        self.store.publish(&self.second, "last.pt").await.unwrap();
        let again = self.store.publish(&self.second, "last.pt").await;
        again.expect("it is so already: only the answer was lost");
        assert_eq!(self.store.kept(self.job, "last.pt"), text);
        let waiting = self.store.waiting(self.job);
        assert_eq!(waiting, [""; 0], "what was left is cleared away");
    }

    /// Its way is good for an hour, and its agent has not heard.
    async fn the_first_harms_nothing(&self) {
        let Self { store, first, .. } = self;
        assert_eq!(store.send(&self.late, "of the first").await, store.late);
        let published = store.publish(first, "last.pt").await;
        assert_eq!(published.unwrap_err().code(), Code::NotFound);
        let way = store.way(first, "last.pt").await;
        assert_eq!(way.unwrap_err().code(), Code::NotFound);
        let path = format!("/training/jobs/{}/checkpoints", self.job);
        let (_, listed) = store.world.get(&path).await;
        let listed = listed["checkpoints"].as_array().unwrap().len();
        assert_eq!(listed, 1, "what is not published is not there");
    }
}

async fn an_older_attempt(store: Store) {
    let job = Overtaken::on(store).await;
    job.the_second_stores("of the second").await;
    job.the_first_harms_nothing().await;
    assert_eq!(job.store.kept(job.job, "last.pt"), "of the second");
    job.the_second_stores("and once more").await;
    let nothing = job.store.publish(&job.second, "best.pt").await;
    assert_eq!(nothing.unwrap_err().code(), Code::NotFound);
    drop(job.agent);
}

#[tokio::test]
async fn what_an_older_attempt_sends_late_replaces_nothing_in_a_folder() {
    an_older_attempt(Store::folder().await).await;
}

#[tokio::test]
async fn what_an_older_attempt_sends_late_replaces_nothing_in_a_bucket() {
    an_older_attempt(Store::bucket().await).await;
}

#[tokio::test]
async fn what_is_sent_again_while_its_publication_goes_on_is_published() {
    let store = Store::bucket().await;
    let server = store.server.as_ref().unwrap();
    let mut agent = Agent::join(&store.world, "n1", 4).await;
    let job = store.world.submit(&command()).await;
    let start = agent.run().await;
    let way = store.way(&start, "last.pt").await.unwrap();
    assert_eq!(store.send(&way, "weights").await, 200);
    let held = server.hold_copies().await;
    let begun = until("a copy is under way", async || {
        (server.copies() == 1).then_some(())
    });
    // Its agent hears nothing and begins anew.
    tokio::select! {
        _ = store.publish(&start, "last.pt") => panic!("copies are held"),
        () = begun => {}
    }
    assert_eq!(store.send(&way, "weights").await, 200);
    drop(held);
    store.publish(&start, "last.pt").await.unwrap();
    assert_eq!(store.kept(job, "last.pt"), "weights");
}

#[tokio::test]
async fn what_is_sent_while_an_older_upload_of_the_file_is_being_published_is_not_lost() {
    let store = Store::bucket().await;
    let server = store.server.as_ref().unwrap();
    let mut agent = Agent::join(&store.world, "n1", 4).await;
    let job = store.world.submit(&command()).await;
    let start = agent.run().await;
    let older = store.way_of(&start, "last.pt", 1).await.unwrap();
    assert_eq!(store.send(&older, "epoch 1").await, 200);
    let held = server.hold_copies().await;
    let begun = until("a copy is under way", async || {
        (server.copies() == 1).then_some(())
    });
    // The trainer has ended: its agent gives the round up and sends the last one.
    tokio::select! {
        _ = store.publish_of(&start, "last.pt", 1) => panic!("copies are held"),
        () = begun => {}
    }
    let newer = store.way_of(&start, "last.pt", 2).await.unwrap();
    assert_eq!(store.send(&newer, "epoch 2").await, 200);
    drop(held);
    store.publish_of(&start, "last.pt", 2).await.unwrap();
    assert_eq!(store.kept(job, "last.pt"), "epoch 2");
    assert_eq!(store.waiting(job), [""; 0]);
    // What was never sent is told, though another upload of the file was the last.
    let nothing = store.publish_of(&start, "last.pt", 3).await;
    assert_eq!(nothing.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_publication_that_waits_is_refused_when_its_attempt_is_over_by_then() {
    let store = Store::bucket().await;
    let server = store.server.as_ref().unwrap();
    let mut agent = Agent::join(&store.world, "n1", 4).await;
    let job = store.world.submit(&command()).await;
    let first = agent.run().await;
    for file in ["best.pt", "last.pt"] {
        let way = store.way(&first, file).await.unwrap();
        assert_eq!(store.send(&way, "of the first").await, 200);
    }
    let held = server.hold_copies().await;
    let begun = async || {
        until("a copy is under way", async || {
            (server.copies() == 1).then_some(())
        })
        .await;
    };
    let (copied, waited, second) = tokio::join!(
        store.publish(&first, "best.pt"),
        async {
            begun().await;
            store.publish(&first, "last.pt").await
        },
        async {
            begun().await;
            let second = next(&store, &mut agent, &first, "").await;
            drop(held);
            second
        },
    );
    copied.unwrap();
    assert_eq!(waited.unwrap_err().code(), Code::NotFound);
    let way = store.way(&second, "best.pt").await.unwrap();
    assert_eq!(store.send(&way, "of the second").await, 200);
    store.publish(&second, "best.pt").await.unwrap();
    assert_eq!(store.kept(job, "best.pt"), "of the second");
    let kept = store.root.join(format!("checkpoints/{job}/last.pt"));
    assert!(!kept.exists(), "the first is over");
}

#[tokio::test]
async fn an_attempt_begins_with_what_the_one_before_it_was_still_publishing() {
    let store = Store::bucket().await;
    let server = store.server.as_ref().unwrap();
    let mut agent = Agent::join(&store.world, "n1", 4).await;
    let job = store.world.submit(&command()).await;
    let first = agent.run().await;
    let location = store.put(job, "last.pt", "old");
    let way = store.way(&first, "last.pt").await.unwrap();
    assert_eq!(store.send(&way, "the newest").await, 200);
    let held = server.hold_copies().await;
    let query = format!("?checkpoint_path={location}&resume=true");
    let (published, begins) = tokio::join!(store.publish(&first, "last.pt"), async {
        until("a copy is under way", async || {
            (server.copies() == 1).then_some(())
        })
        .await;
        let second = next(&store, &mut agent, &first, &query).await;
        let mut asked = std::pin::pin!(store.download(&second));
        // Whoever asks for anything else is answered meanwhile.
        let others = async {
            for _ in 0..3 {
                let path = format!("/training/jobs/{job}/checkpoints");
                assert_eq!(store.world.get(&path).await.0, 200);
            }
        };
        tokio::select! {
            early = &mut asked => panic!("it is being published: {early:?}"),
            () = others => drop(held),
        }
        asked.await.unwrap()
    });
    published.unwrap();
    assert_eq!(begins.size_bytes, 10, "of the newest");
}

/// A job that names nothing, then its checkpoint, then a path of a node.
async fn beginnings(store: Store) {
    let mut agent = Agent::join(&store.world, "n1", 4).await;
    let job = store.world.submit(&command()).await;
    let first = agent.run().await;
    let none = v1::SignDownloadResponse::default();
    assert_eq!(store.download(&first).await.unwrap(), none);
    let location = store.put(job, "last.pt", "weights");
    let query = format!("?checkpoint_path={location}&resume=true");
    let second = next(&store, &mut agent, &first, &query).await;
    assert_eq!(second.spec.as_ref().unwrap().resume_from, location);
    a_way_is_for_one_file(&store, &second).await;
    no_stranger_gets_it(&store, &second).await;
    fs::remove_file(store.root.join(format!("checkpoints/{job}/last.pt"))).unwrap();
    let gone = store.download(&second).await.unwrap_err();
    let words = format!("checkpoint '{location}' is not in the artifact store");
    assert!(gone.message().starts_with(&words), "{gone:?}");
    let third = next(&store, &mut agent, &second, "?checkpoint_path=/nfs/last.pt").await;
    assert_eq!(store.download(&third).await.unwrap(), none);
}

async fn a_way_is_for_one_file(store: &Store, start: &StartTask) {
    let way = store.download(start).await.unwrap();
    assert_eq!(way.size_bytes, 7);
    let got = store.world.http.get(store.url(&way.url)).send().await;
    assert_eq!(got.unwrap().text().await.unwrap(), "weights");
    store.put(start.task.unwrap().job_id, "best.pt", "secret");
    let other = store.url(&way.url).replace("last.pt", "best.pt");
    let got = store.world.http.get(other).send().await;
    assert_eq!(got.unwrap().status(), 403);
}

async fn no_stranger_gets_it(store: &Store, start: &StartTask) {
    for (secret, attempt) in [("guessed", 2), (&*start.secret, 1), (&*start.secret, 3)] {
        let stranger = StartTask {
            task: start.task.map(|task| v1::TaskKey { attempt, ..task }),
            secret: secret.to_owned(),
            ..start.clone()
        };
        let refused = store.download(&stranger).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_live_task_gets_a_way_to_what_it_begins_with_in_a_folder() {
    beginnings(Store::folder().await).await;
}

#[tokio::test]
async fn a_live_task_gets_a_way_to_what_it_begins_with_in_a_bucket() {
    beginnings(Store::bucket().await).await;
}

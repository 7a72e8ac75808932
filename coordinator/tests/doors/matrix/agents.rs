//! Every method of `AgentService` × every credential that is not this agent's own.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use trainyard_proto::v1::{self, agent_service_client::AgentServiceClient, connect_request::Frame};

use crate::{
    agent::{Agent, hello},
    datasets::{add, folders, snapshot_job},
    world::World,
};

/// Node `n1` with a task that trains on a dataset, and what others could show in its place.
struct Scene {
    world: World,
    agent: Agent,
    task: v1::StartTask,
    shown: [(&'static str, String); 4],
    _files: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
        let world = World::start().await;
        let mut agent = Agent::join(&world, "n1", 1).await;
        let files = tempfile::tempdir().unwrap();
        folders(files.path(), 2);
        add(&world, "pets", &files.path().display().to_string()).await;
        world.submit(&snapshot_job("pets")).await;
        let task = agent.start().await;
        let token = world.join_token.clone();
        let other = world.join_as(&token, ("n2", "id-of-n2")).await.unwrap();
        let revoked = world.join_as(&token, ("n3", "id-of-n3")).await.unwrap();
        let (status, answer) = world.post("/nodes/n3/revoke").await;
        assert_eq!(status, 200, "{answer}");
        let shown = [
            ("nothing", String::new()),
            ("another node's", other),
            ("a revoked one", revoked),
            ("a user's token", world.token.clone()),
        ];
        Self {
            world,
            agent,
            task,
            shown,
            _files: files,
        }
    }

    async fn client(&self) -> AgentServiceClient<tonic::transport::Channel> {
        AgentServiceClient::new(self.world.channel().await)
    }

    /// As node `n1`, with a credential in the first frame or in the header.
    async fn connect(&self, credential: &str, in_header: bool, attach: bool) -> Result<(), Status> {
        let token = match in_header {
            true => String::new(),
            false => credential.to_owned(),
        };
        let first = match attach {
            true => Frame::Attach(v1::Attach {
                node_name: "n1".into(),
                session: self.agent.session,
                token,
            }),
            false => {
                let mut first = hello(&self.world, "n1", 1);
                first.token = token;
                Frame::Hello(first)
            }
        };
        let (out, frames) = mpsc::channel(1);
        let frame = Some(first);
        out.send(v1::ConnectRequest { frame }).await.unwrap();
        let request = Request::new(ReceiverStream::new(frames));
        let request = with(request, in_header.then_some(credential));
        self.client().await.connect(request).await.map(|_| ())
    }

    async fn manifest(&self, credential: &str) -> Result<(), Status> {
        let request = v1::FetchManifestRequest {
            task: self.task.task,
            secret: self.task.secret.clone(),
            after_path: String::new(),
        };
        let request = with(Request::new(request), Some(credential));
        let pages = self.client().await.fetch_manifest(request).await?;
        pages.into_inner().message().await.map(|_| ())
    }

    async fn upload(&self, credential: &str) -> Result<(), Status> {
        let request = v1::SignUploadRequest {
            task: self.task.task,
            secret: self.task.secret.clone(),
            filename: "best.pt".into(),
            size_bytes: 1,
            upload: 0,
        };
        let request = with(Request::new(request), Some(credential));
        self.client().await.sign_upload(request).await.map(|_| ())
    }

    async fn publish(&self, credential: &str) -> Result<(), Status> {
        let request = v1::PublishUploadRequest {
            task: self.task.task,
            secret: self.task.secret.clone(),
            filename: "best.pt".into(),
            upload: 0,
        };
        let request = with(Request::new(request), Some(credential));
        let answer = self.client().await.publish_upload(request).await;
        answer.map(|_| ())
    }

    async fn complete(&self, credential: &str) -> Result<(), Status> {
        let request = v1::CompleteUploadRequest {
            task: self.task.task,
            secret: self.task.secret.clone(),
            upload_id: "upload".into(),
            key: "none of its own".into(),
            tags: Vec::new(),
            size_bytes: 1,
        };
        let request = with(Request::new(request), Some(credential));
        let answer = self.client().await.complete_upload(request).await;
        answer.map(|_| ())
    }

    async fn download(&self, credential: &str) -> Result<(), Status> {
        let request = v1::SignDownloadRequest {
            task: self.task.task,
            secret: self.task.secret.clone(),
        };
        let request = with(Request::new(request), Some(credential));
        let answer = self.client().await.sign_download(request).await;
        answer.map(|_| ())
    }

    async fn join(&self, token: &str) -> Result<(), Status> {
        let request = v1::JoinRequest {
            token: token.to_owned(),
            node_name: "n4".into(),
            agent_id: "id-of-n4".into(),
        };
        self.client().await.join(request).await.map(|_| ())
    }
}

/// With the credential in the header; an empty one is none.
fn with<T>(mut request: Request<T>, credential: Option<&str>) -> Request<T> {
    if let Some(credential) = credential.filter(|text| !text.is_empty()) {
        let value = format!("Bearer {credential}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn code(answer: Result<(), Status>) -> Code {
    answer.map_or_else(|status| status.code(), |()| Code::Ok)
}

#[tokio::test]
async fn an_agent_gets_nowhere_with_what_is_not_its_own() {
    let scene = Scene::set().await;
    // In the order of what is shown: nothing, another node's, a revoked one, a user's token.
    let nobody = Code::Unauthenticated;
    let connect = [nobody, Code::PermissionDenied, nobody, nobody];
    // To another node the task is not there.
    let beside = [nobody, Code::NotFound, nobody, nobody];
    for (at, (what, shown)) in scene.shown.iter().enumerate() {
        for (in_header, attach) in [(false, false), (true, false), (false, true), (true, true)] {
            let found = code(scene.connect(shown, in_header, attach).await);
            let how = format!("in header: {in_header}, attach: {attach}");
            assert_eq!(found, connect[at], "Connect with {what}, {how}");
        }
        assert_eq!(
            code(scene.manifest(shown).await),
            beside[at],
            "FetchManifest with {what}"
        );
        assert_eq!(
            code(scene.upload(shown).await),
            beside[at],
            "SignUpload with {what}"
        );
        let others = [
            ("PublishUpload", scene.publish(shown).await),
            ("CompleteUpload", scene.complete(shown).await),
            ("SignDownload", scene.download(shown).await),
        ];
        for (call, answer) in others {
            assert_eq!(code(answer), beside[at], "{call} with {what}");
        }
        assert_eq!(code(scene.join(shown).await), nobody, "Join with {what}");
    }
    // So the refusals came of the credential, and nobody has taken the place of the agent.
    let own = scene.world.credential("n1").unwrap();
    assert_eq!(code(scene.manifest(&own).await), Code::Ok);
    assert_eq!(code(scene.upload(&own).await), Code::Ok);
    assert_eq!(code(scene.download(&own).await), Code::Ok);
    assert_eq!(code(scene.publish(&own).await), Code::NotFound);
    let words = scene.publish(&own).await.unwrap_err();
    assert!(
        words.message().contains("best.pt"),
        "nothing was sent: {words}"
    );
    let none = scene.complete(&own).await;
    assert_eq!(
        code(none),
        Code::InvalidArgument,
        "it is no upload of the task"
    );
    assert_eq!(code(scene.connect(&own, false, true).await), Code::Ok);
}

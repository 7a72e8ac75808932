//! The client against a coordinator of the tests' own over a real socket: refresh, refusals, a
//! port where nobody listens.

use std::sync::{Arc, Mutex};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use trainyard_core::spec::Violation;
use trainyard_proto::{
    status::bad_request,
    v1::{
        LoginResponse, MeRequest, MeResponse, RefreshResponse,
        auth_service_server::{AuthService, AuthServiceServer},
    },
};

use super::*;
use crate::exit::Exit;

/// Accepts the access token `fresh` and gives it for the refresh token `renew`.
#[derive(Clone, Default)]
struct Door {
    seen: Arc<Mutex<Vec<String>>>,
}

fn tokens() -> Option<TokenPair> {
    Some(TokenPair {
        access_token: "fresh".into(),
        refresh_token: "renew-2".into(),
    })
}

#[tonic::async_trait]
impl AuthService for Door {
    async fn login(
        &self,
        request: Request<LoginRequest>,
    ) -> Result<Response<LoginResponse>, Status> {
        let asked = request.into_inner();
        if asked.email.is_empty() {
            return Err(bad_request(&[Violation {
                field: "email".into(),
                message: "is empty; give one".into(),
            }]));
        }
        if asked.password != "right" {
            return Err(Status::unauthenticated("Incorrect email or password"));
        }
        Ok(Response::new(LoginResponse { tokens: tokens() }))
    }

    async fn refresh(
        &self,
        request: Request<RefreshRequest>,
    ) -> Result<Response<RefreshResponse>, Status> {
        if request.into_inner().refresh_token != "renew" {
            return Err(Status::unauthenticated("the token has expired"));
        }
        Ok(Response::new(RefreshResponse { tokens: tokens() }))
    }

    async fn me(&self, request: Request<MeRequest>) -> Result<Response<MeResponse>, Status> {
        let header = request.metadata().get("authorization");
        let header = header.and_then(|value| value.to_str().ok()).unwrap_or("");
        self.seen.lock().unwrap().push(header.to_owned());
        if header != "Bearer fresh" {
            return Err(Status::unauthenticated("the token has expired"));
        }
        Ok(Response::new(MeResponse {
            email: "a@example.com".into(),
            ..MeResponse::default()
        }))
    }
}

/// A coordinator on a runtime of its own, so that its end takes all connections along.
struct Served {
    url: String,
    door: Door,
    runtime: Option<Runtime>,
}

impl Served {
    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve() -> Served {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let door = Door::default();
    let server = Server::builder().add_service(AuthServiceServer::new(door.clone()));
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let incoming = TcpListenerStream::new(listener);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    Served {
        url,
        door,
        runtime: Some(runtime),
    }
}

fn stored(folder: &tempfile::TempDir, refresh_token: &str) -> Identity {
    Identity::Stored {
        login: Login {
            email: "a@example.com".into(),
            access_token: "stale".into(),
            refresh_token: refresh_token.into(),
        },
        file: folder.path().join("credentials.json"),
    }
}

async fn me(client: &mut Client) -> anyhow::Result<MeResponse> {
    client
        .call(async |via| AuthServiceClient::new(via).me(MeRequest {}).await)
        .await
}

#[tokio::test]
async fn an_expired_token_is_renewed_in_silence_and_kept() {
    let served = serve();
    let folder = tempfile::tempdir().unwrap();
    let identity = stored(&folder, "renew");
    let mut client = Client::connect(way(&served.url), identity).await.unwrap();
    assert_eq!(me(&mut client).await.unwrap().email, "a@example.com");
    assert_eq!(me(&mut client).await.unwrap().email, "a@example.com");
    let seen = served.door.seen.lock().unwrap().clone();
    assert_eq!(seen, ["Bearer stale", "Bearer fresh", "Bearer fresh"]);
    let kept = Credentials::load(&folder.path().join("credentials.json")).unwrap();
    let login = &kept.servers[&served.url];
    assert_eq!(
        (login.access_token.as_str(), login.refresh_token.as_str()),
        ("fresh", "renew-2")
    );
}

#[tokio::test]
async fn a_login_that_cannot_be_renewed_says_to_log_in_again() {
    let served = serve();
    let folder = tempfile::tempdir().unwrap();
    let identity = stored(&folder, "old");
    let mut client = Client::connect(way(&served.url), identity).await.unwrap();
    let error = me(&mut client).await.unwrap_err();
    assert_eq!(Exit::of_error(&error), Exit::NotLoggedIn);
    let words = error.to_string();
    assert!(words.contains("trainyard login --coordinator"), "{words}");
    assert!(words.contains("has expired"), "{words}");
}

#[tokio::test]
async fn nobody_is_told_to_log_in() {
    let served = serve();
    let mut client = Client::anonymous(&served.url).await.unwrap();
    let error = me(&mut client).await.unwrap_err();
    assert_eq!(Exit::of_error(&error), Exit::NotLoggedIn);
    assert!(
        error
            .to_string()
            .starts_with("not logged in at http://127.0.0.1")
    );
}

#[tokio::test]
async fn a_login_makes_the_calls_that_follow_that_users() {
    let served = serve();
    let mut client = Client::anonymous(&served.url).await.unwrap();
    let error = client.login("a@example.com", "wrong").await.unwrap_err();
    assert_eq!(Exit::of_error(&error), Exit::NotLoggedIn);
    assert!(error.to_string().contains("refused the login"), "{error}");
    let login = client.login("a@example.com", "right").await.unwrap();
    assert_eq!(login.access_token, "fresh");
    assert_eq!(me(&mut client).await.unwrap().email, "a@example.com");
}

#[tokio::test]
async fn bad_fields_come_over_the_wire_each_on_its_line() {
    let served = serve();
    let mut client = Client::anonymous(&served.url).await.unwrap();
    let error = client.login("", "x").await.unwrap_err();
    assert!(
        error.to_string().ends_with("\n  email: is empty; give one"),
        "{error}"
    );
    assert_eq!(Exit::of_error(&error), Exit::Error);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_named_with_the_way_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::anonymous(&url).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains(&url) && words.contains("refused"), "{words}");
    assert!(words.contains("trainyard coordinator"), "{words}");
    assert_eq!(error.exit(), Exit::Unreachable);
}

#[tokio::test]
async fn a_coordinator_that_goes_away_between_calls_is_unreachable() {
    let mut served = serve();
    let mut client = Client::anonymous(&served.url).await.unwrap();
    client.login("a@example.com", "right").await.unwrap();
    served.end();
    let error = loop {
        // What was on the wire when the server ended may still be answered.
        if let Err(error) = me(&mut client).await {
            break error;
        }
    };
    assert_eq!(Exit::of_error(&error), Exit::Unreachable, "{error:?}");
}

fn way(url: &str) -> Connection {
    let transport = Transport::default();
    transport.connection(url, &Credentials::default()).unwrap()
}

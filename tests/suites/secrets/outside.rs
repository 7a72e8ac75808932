//! Services outside of the cluster, for which it holds secrets: each of them refuses, so that whatever is
//! said about failures is said.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    labeler::Labeler,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    Caller,
    stores::{Stores, azure, refused_bucket},
};
use crate::text;

/// By name.
pub(super) type Secrets = BTreeMap<&'static str, String>;

/// Every secret of the settings, drawn so that it is found wherever it stands.
const GIVEN: [(&str, &str); 6] = [
    ("the Labeler's secret", "labeler5ecret0123456789abcdef0123"),
    ("MLflow's token", "mlflow5ecret0123456789abcdef01234"),
    ("ClearML's access key", "clearmlKey0123456789abcdef01234567"),
    ("ClearML's secret key", "clearml5ecret0123456789abcdef0123"),
    ("a webhook's secret", "webhook5ecret0123456789abcdef0123"),
    ("a webhook's path", "webhookPath0123456789abcdef012345"),
];

/// Of a user `ada` at MLflow, and as the header of a request holds both.
pub(super) const PASSWORD: &str = "mlflowPass5ecret0123456789abcdef";
pub(super) const PASSWORD_IN_BASE64: &str = "YWRhOm1sZmxvd1Bhc3M1ZWNyZXQwMTIzNDU2Nzg5YWJjZGVm";

/// Datasets of the Labeler: one that can be read, one that cannot when it is trained on, and those of stores that
/// refuse.
pub(super) const PETS: &str = "8";
pub(super) const GONE: &str = "9";
const REFUSED: [&str; 3] = ["7", "10", "11"];

fn given(name: &str) -> &'static str {
    let found = GIVEN.iter().find(|(known, _)| *known == name);
    found.expect("it is one of them").1
}

/// The services.
pub(super) struct Outside {
    pub(super) stores: Stores,
    labeler: Labeler,
    refuser: String,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Outside {
    pub(super) async fn start() -> Self {
        let labeler = Labeler::start(&[("1", given("the Labeler's secret"))]).await;
        for (id, place) in [
            (REFUSED[0], "s3://pets/7"),
            (REFUSED[1], "az://pets/7"),
            (REFUSED[2], "gs://pets/7"),
        ] {
            labeler.dataset(id, "yolo", place, &["1"]);
        }
        labeler.dataset(PETS, "imagefolder", "s3://sets/pets", &["1"]);
        labeler.dataset(GONE, "imagefolder", "s3://sets/gone", &["1"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut serving = JoinSet::new();
        let asked = Arc::default();
        serving.spawn(refuse(listener, Arc::clone(&asked)));
        Self {
            stores: Stores::start().await,
            labeler,
            refuser: format!("http://{address}"),
            asked,
            _serving: serving,
        }
    }

    pub(super) fn setup(&self) -> CoordinatorSetup {
        let Self { refuser, .. } = self;
        let variables = [
            ("TRAINYARD_LOG", "trace"),
            ("TRAINYARD__DATASETS__PROVIDER", "labeler"),
            ("TRAINYARD__LABELER__URL", &self.labeler.url()),
            ("TRAINYARD__LABELER__SECRET", given("the Labeler's secret")),
            ("TRAINYARD__TRACKERS__MLFLOW__URL", refuser),
            (
                "TRAINYARD__TRACKERS__MLFLOW__TOKEN",
                given("MLflow's token"),
            ),
            ("TRAINYARD__TRACKERS__CLEARML__URL", refuser),
            (
                "TRAINYARD__TRACKERS__CLEARML__ACCESS_KEY",
                given("ClearML's access key"),
            ),
            (
                "TRAINYARD__TRACKERS__CLEARML__SECRET_KEY",
                given("ClearML's secret key"),
            ),
            ("TRAINYARD__OIDC__ISSUER", refuser),
            ("TRAINYARD__OIDC__AUDIENCE", "trainyard"),
        ];
        let set = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let hook = format!(
            "[[trackers.webhooks]]\nname = \"ops\"\nurl = \"{refuser}/{}\"\nsecret = \"{}\"\n",
            given("a webhook's path"),
            given("a webhook's secret"),
        );
        let mut variables = BTreeMap::from(variables.map(set));
        variables.extend(self.stores.variables(refuser));
        CoordinatorSetup {
            variables,
            settings: hook + &refused_bucket(refuser),
            ..CoordinatorSetup::default()
        }
    }

    /// Settings of a coordinator that shows MLflow a password, and keeps its artifacts where it is refused.
    pub(super) fn by_password(&self) -> BTreeMap<String, String> {
        let variables = [
            ("TRAINYARD__TRACKERS__MLFLOW__URL", self.refuser.as_str()),
            ("TRAINYARD__TRACKERS__MLFLOW__USERNAME", "ada"),
            ("TRAINYARD__TRACKERS__MLFLOW__PASSWORD", PASSWORD),
            ("TRAINYARD__STORAGE__ARTIFACTS", "az://artifacts/train"),
            ("TRAINYARD__STORAGE_OPTIONS__AZ", &azure(&self.refuser)),
        ];
        let set = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        variables.map(set).into()
    }

    /// Whether a request with these words came to one that refuses.
    pub(super) fn was_asked(&self, words: &str) -> bool {
        let asked = self.asked.lock().expect("nothing has panicked");
        asked.iter().any(|request| request.contains(words))
    }

    /// Each of them is asked, with its secret, and refuses.
    pub(super) async fn ask_all(&self, cluster: &Cluster, caller: &mut Caller) -> Secrets {
        let mut secrets: Secrets = GIVEN
            .iter()
            .map(|(name, secret)| (*name, (*secret).to_owned()))
            .collect();
        secrets.extend(self.stores.secrets());
        for dataset in REFUSED {
            let body = json!({"config": {
                "model_name": "yolo11n", "task_type": "detection", "framework": "ultralytics",
                "dataset_id": dataset,
            }});
            let refused = caller.try_call("/training/jobs", &body).await;
            assert!(
                refused.is_client_error() || refused.is_server_error(),
                "{refused}"
            );
        }
        for signed in ["AWS4-HMAC-SHA256 ", "SharedKey ", "Bearer ey"] {
            assert!(self.was_asked(signed), "no store was shown a {signed}");
        }
        assert!(self.labeler.asked("dataset") > 0, "the Labeler was asked");
        secrets.insert("a service token", self.labeler.shown());

        // {"alg":"RS256","kid":"k"}.{}
        let foreign = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.e30.foreign5ignature0123456789abcdef";
        let own = std::mem::replace(&mut caller.token, foreign.to_owned());
        assert_eq!(caller.try_call("/auth/logout", &Value::Null).await, 401);
        caller.token = own;
        secrets.insert("an issuer's token", foreign.to_owned());
        until("every tracker was refused", async || {
            let output = cluster.cli(&["trackers", "--json"]);
            let said: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
            let all = said.get("trackers").and_then(Value::as_array).cloned();
            let all = all.expect("a list");
            let failed = |one: &Value| {
                !one.get("last_error")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .is_empty()
            };
            (all.len() == 3 && all.iter().all(failed)).then_some(())
        })
        .await;
        secrets
    }
}

/// Answers whatever is asked with 403, but for the first file that is sent: that connection breaks. Keeps what was
/// asked.
async fn refuse(listener: TcpListener, asked: Arc<Mutex<Vec<String>>>) {
    let mut each = JoinSet::new();
    let broken = Arc::new(AtomicBool::new(false));
    while let Ok((stream, _)) = listener.accept().await {
        let (asked, broken) = (Arc::clone(&asked), Arc::clone(&broken));
        each.spawn(async move { answer(stream, &asked, &broken).await.ok() });
    }
}

async fn answer(
    mut stream: TcpStream,
    asked: &Mutex<Vec<String>>,
    broken: &AtomicBool,
) -> io::Result<()> {
    const ANSWER: &[u8] =
        b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
    let mut bytes = vec![0; 1 << 16];
    let size = stream.read(&mut bytes).await?;
    let request = text(bytes.get(..size).unwrap_or_default());
    let is_sent = request.starts_with("PUT ");
    asked.lock().expect("nothing has panicked").push(request);
    if size == 0 || (is_sent && !broken.swap(true, Ordering::Relaxed)) {
        return Ok(());
    }
    stream.write_all(ANSWER).await?;
    stream.shutdown().await?;
    // Else what was not read yet would break the answer.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

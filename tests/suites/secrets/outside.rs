//! Services outside of the cluster, for which it holds secrets: each of them refuses, so that whatever is
//! said about failures is said.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, CoordinatorSetup},
    labeler::Labeler,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::Caller;
use crate::text;

/// By name.
pub(super) type Secrets = BTreeMap<&'static str, String>;

/// Every secret of the settings, drawn so that it is found wherever it stands.
const GIVEN: [(&str, &str); 9] = [
    ("the Labeler's secret", "labeler5ecret0123456789abcdef0123"),
    ("MLflow's token", "mlflow5ecret0123456789abcdef01234"),
    ("ClearML's access key", "clearmlKey0123456789abcdef01234567"),
    ("ClearML's secret key", "clearml5ecret0123456789abcdef0123"),
    ("a webhook's secret", "webhook5ecret0123456789abcdef0123"),
    ("a webhook's path", "webhookPath0123456789abcdef012345"),
    ("a store's access key", "STOREKEY0123456789ABCDEF01"),
    ("a store's secret key", "store5ecret0123456789abcdef012345"),
    ("a store's session", "storeSession0123456789abcdef0123"),
];

/// Of a user `ada` at MLflow, and as the header of a request holds both.
pub(super) const PASSWORD: &str = "mlflowPass5ecret0123456789abcdef";
pub(super) const PASSWORD_IN_BASE64: &str = "YWRhOm1sZmxvd1Bhc3M1ZWNyZXQwMTIzNDU2Nzg5YWJjZGVm";

fn given(name: &str) -> &'static str {
    let found = GIVEN.iter().find(|(known, _)| *known == name);
    found.expect("it is one of them").1
}

/// The services.
pub(super) struct Outside {
    labeler: Labeler,
    refuser: String,
    _serving: JoinSet<()>,
}

impl Outside {
    pub(super) async fn start() -> Self {
        let labeler = Labeler::start(&[("1", given("the Labeler's secret"))]).await;
        labeler.dataset("7", "yolo", "s3://pets/7", &["1"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut serving = JoinSet::new();
        serving.spawn(refuse(listener));
        Self {
            labeler,
            refuser: format!("http://{address}"),
            _serving: serving,
        }
    }

    pub(super) fn setup(&self) -> CoordinatorSetup {
        let Self { refuser, .. } = self;
        let store = format!(
            "endpoint={refuser} region=eu access_key_id={} secret_access_key={} session_token={}",
            given("a store's access key"),
            given("a store's secret key"),
            given("a store's session"),
        );
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
            ("TRAINYARD__STORAGE_OPTIONS__S3", &store),
            ("TRAINYARD__OIDC__ISSUER", refuser),
            ("TRAINYARD__OIDC__AUDIENCE", "trainyard"),
        ];
        let set = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let hook = format!(
            "[[trackers.webhooks]]\nname = \"ops\"\nurl = \"{refuser}/{}\"\nsecret = \"{}\"\n",
            given("a webhook's path"),
            given("a webhook's secret"),
        );
        CoordinatorSetup {
            variables: variables.map(set).into(),
            settings: hook,
            ..CoordinatorSetup::default()
        }
    }

    /// Settings of a coordinator that shows MLflow a password.
    pub(super) fn by_password(&self) -> BTreeMap<String, String> {
        let variables = [
            ("TRAINYARD__TRACKERS__MLFLOW__URL", self.refuser.as_str()),
            ("TRAINYARD__TRACKERS__MLFLOW__USERNAME", "ada"),
            ("TRAINYARD__TRACKERS__MLFLOW__PASSWORD", PASSWORD),
        ];
        let set = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        variables.map(set).into()
    }

    /// Each of them is asked, with its secret, and refuses.
    pub(super) async fn ask_all(&self, cluster: &Cluster, caller: &mut Caller) -> Secrets {
        let mut secrets: Secrets = GIVEN
            .iter()
            .map(|(name, secret)| (*name, (*secret).to_owned()))
            .collect();
        let body = json!({"config": {
            "model_name": "yolo11n", "task_type": "detection", "framework": "ultralytics",
            "dataset_id": "7",
        }});
        let refused = caller.try_call("/training/jobs", &body).await;
        assert!(
            refused.is_client_error() || refused.is_server_error(),
            "{refused}"
        );
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

/// Answers whatever is asked with 403.
async fn refuse(listener: TcpListener) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut asked = vec![0; 1 << 16];
        if stream.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {
            // Whoever asked may be gone already.
            stream.write_all(ANSWER).await.ok();
            stream.shutdown().await.ok();
        }
    }
}

//! The stores of Azure and Google as emulators play them: Azurite (npm) and gcp-storage-emulator (PyPI).
//!
//! `.ci/run` installs them below `target/ci`; TRAINYARD_AZURITE and TRAINYARD_GCS_EMULATOR name other
//! programs. Azurite checks signatures. Google's emulator knows neither signatures nor lists nor tags of the
//! XML interface: the server in front of it here does, and hands everything else on.

use std::{net::TcpListener, process::Command, sync::Arc};

use aws_lc_rs::{
    digest,
    encoding::{AsDer as _, Pkcs8V1Der},
    hmac,
    rsa::KeySize,
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey},
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{needs::program, process::Process, wait::until};
use tokio::task::JoinSet;
use trainyard_coordinator::config::{Config, Secret};
use url::Url;

pub(crate) const SECRET: &str = "secret-key-of-the-platform";
/// Keys on a page of Google's lists here.
const PAGE: usize = 7;

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

async fn answers(url: &str) {
    let client = Client::new();
    until(&format!("{url} answers"), async || {
        client.get(url).send().await.ok().map(drop)
    })
    .await;
}

/// A store with the buckets `sets` and `artifacts`.
pub(crate) struct Emulator {
    pub(crate) scheme: &'static str,
    options: String,
    endpoint: String,
    _folder: TempDir,
    process: Process,
    _serving: JoinSet<()>,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Emulator {
    /// Azurite, where it is installed.
    pub(crate) async fn azure() -> Option<Self> {
        let program = program(
            "TRAINYARD_AZURITE",
            "azurite/node_modules/.bin/azurite-blob",
        )?;
        let (folder, port, key) = (
            tempfile::tempdir().unwrap(),
            free_port(),
            STANDARD.encode(SECRET),
        );
        let mut command = Command::new(program);
        command
            .args([
                "--inMemoryPersistence",
                "--disableTelemetry",
                "--skipApiVersionCheck",
                "--blobPort",
            ])
            .arg(port.to_string())
            .current_dir(folder.path())
            .env("AZURITE_ACCOUNTS", format!("trainyard:{key}"));
        let process = Process::start(&mut command, &folder.path().join("azurite.log"));
        let endpoint = format!("http://127.0.0.1:{port}/trainyard");
        answers(&endpoint).await;
        for container in ["sets", "artifacts"] {
            container_of(&endpoint, container).await;
        }
        let options = format!("account_name=trainyard access_key={key} endpoint={endpoint}");
        Some(Self {
            scheme: "az",
            options,
            endpoint,
            _folder: folder,
            process,
            _serving: JoinSet::new(),
        })
    }

    /// Google's emulator behind a server that checks what it does not, where it is installed.
    pub(crate) async fn google() -> Option<Self> {
        let program = program("TRAINYARD_GCS_EMULATOR", "env-gcs/bin/gcp-storage-emulator")?;
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new(program);
        command
            .args([
                "start",
                "--host",
                "127.0.0.1",
                "--in-memory",
                "--default-bucket",
                "sets",
                "--port",
            ])
            .arg(port.to_string())
            .current_dir(folder.path());
        let process = Process::start(&mut command, &folder.path().join("gcs.log"));
        let behind = format!("http://127.0.0.1:{port}");
        answers(&behind).await;
        let made = Client::new()
            .post(format!("{behind}/storage/v1/b"))
            .json(&json!({"name": "artifacts"}));
        made.send().await.unwrap().error_for_status().unwrap();
        let key = Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        let file = folder.path().join("service-account.json");
        std::fs::write(&file, account(&key)).unwrap();
        let front = Arc::new(Front {
            behind: behind.clone(),
            key,
            client: Client::new(),
        });
        let (endpoint, serving) = front.serve().await;
        let options = format!("base_url={endpoint} service_account={}", file.display());
        Some(Self {
            scheme: "gs",
            options,
            endpoint: behind,
            _folder: folder,
            process,
            _serving: serving,
        })
    }

    /// Settings by which a coordinator speaks to it, and keeps its artifacts there.
    pub(crate) fn settings(&self, config: &mut Config) {
        let options = Secret::new(self.options.clone());
        config.storage_options = [(self.scheme.to_owned(), options)].into();
        config.storage.artifacts = format!("{}://artifacts/train", self.scheme);
        config.storage.part_mib = 5;
    }

    /// Puts a file into the bucket `sets`.
    pub(crate) async fn fill(&self, key: &str, content: &str) {
        if self.scheme == "az" {
            use object_store::ObjectStoreExt as _;
            let store = object_store::azure::MicrosoftAzureBuilder::new()
                .with_account("trainyard")
                .with_access_key(STANDARD.encode(SECRET))
                .with_endpoint(self.endpoint.clone())
                .with_allow_http(true)
                .with_container_name("sets");
            let at = object_store::path::Path::parse(key).unwrap();
            let content = content.as_bytes().to_vec();
            store
                .build()
                .unwrap()
                .put(&at, content.into())
                .await
                .unwrap();
            return;
        }
        let mut url = Url::parse(&self.endpoint).unwrap();
        url.path_segments_mut()
            .unwrap()
            .push("sets")
            .extend(key.split('/'));
        let put = Client::new().put(url).body(content.to_owned());
        put.send().await.unwrap().error_for_status().unwrap();
    }
}

/// Makes a container, with a shared key over the request.
async fn container_of(endpoint: &str, name: &str) {
    let (date, version) = ("Wed, 01 Jan 2020 00:00:00 GMT", "2021-08-06");
    let nothing = "\n".repeat(12);
    let text = format!(
        "PUT{nothing}x-ms-date:{date}\nx-ms-version:{version}\n/trainyard/trainyard/{name}\nrestype:container"
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    let request = Client::new()
        .put(format!("{endpoint}/{name}?restype=container"))
        .header("x-ms-date", date)
        .header("x-ms-version", version)
        .header("content-length", 0)
        .header("authorization", format!("SharedKey trainyard:{signature}"));
    request.send().await.unwrap().error_for_status().unwrap();
}

/// The file of a service account.
fn account(key: &RsaKeyPair) -> String {
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let text = STANDARD.encode(der.as_ref());
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    );
    let account = json!({
        "type": "service_account", "private_key": pem, "private_key_id": "1",
        "client_email": "trainyard@project.iam.gserviceaccount.com",
    });
    account.to_string()
}

/// What Google's store does and its emulator does not.
struct Front {
    behind: String,
    key: Arc<RsaKeyPair>,
    client: Client,
}

impl Front {
    async fn serve(self: Arc<Self>) -> (String, JoinSet<()>) {
        let router = Router::new().fallback(move |request: Request| {
            let front = Arc::clone(&self);
            async move { front.answer(request).await }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (endpoint, serving)
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        if !self.is_signed(&parts.method, &parts.uri) && !self.has_token(&parts.headers) {
            return (StatusCode::FORBIDDEN, "neither a signature nor a token").into_response();
        }
        let url = Url::parse(&format!("{}{}", self.behind, parts.uri)).unwrap();
        if url.query_pairs().any(|(name, _)| name == "list-type") {
            return self.list(&url).await;
        }
        if let Some(source) = parts.headers.get("x-goog-copy-source") {
            return self.copy(source.to_str().unwrap(), &url).await;
        }
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        self.hand_on(parts.method, &url, body).await
    }

    /// Signed by the account's key (V4), over the method, the path and the rest of the query.
    fn is_signed(&self, method: &Method, uri: &Uri) -> bool {
        let query = uri.query().unwrap_or_default();
        let of = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(&format!("{name}=")))
        };
        let (Some(signature), Some(date), Some(who)) = (
            of("X-Goog-Signature"),
            of("X-Goog-Date"),
            of("X-Goog-Credential"),
        ) else {
            return false;
        };
        let mut rest: Vec<_> = query
            .split('&')
            .filter(|pair| !pair.starts_with("X-Goog-Signature="))
            .collect();
        rest.sort_unstable();
        let request = format!(
            "{method}\n{}\n{}\nhost:storage.googleapis.com\n\nhost\nUNSIGNED-PAYLOAD",
            uri.path(),
            rest.join("&")
        );
        let scope = who
            .split_once("%2F")
            .map_or("", |(_, scope)| scope)
            .replace("%2F", "/");
        let hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("GOOG4-RSA-SHA256\n{date}\n{scope}\n{hash}");
        self.verifies(text.as_bytes(), &unhex(signature))
    }

    /// A token that the account has signed for itself.
    fn has_token(&self, headers: &HeaderMap) -> bool {
        let header = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let token = header.and_then(|text| text.strip_prefix("Bearer "));
        let Some((text, signature)) = token.and_then(|token| token.rsplit_once('.')) else {
            return false;
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        self.verifies(text.as_bytes(), &signature)
    }

    fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let public = self.key.public_key().as_ref().to_vec();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
        public.verify(text, signature).is_ok()
    }

    /// A page of keys in XML, out of the list in JSON.
    async fn list(&self, url: &Url) -> Response {
        let of = |name: &str| {
            let found = url.query_pairs().find(|(key, _)| key == name);
            found.map_or_else(String::new, |(_, value)| value.into_owned())
        };
        let bucket = url.path().trim_matches('/');
        let all = format!("{}/storage/v1/b/{bucket}/o", self.behind);
        let asked = self.client.get(all).query(&[("prefix", of("prefix"))]);
        let told: Value = asked.send().await.unwrap().json().await.unwrap();
        let mut rows: Vec<(String, String)> = told["items"]
            .as_array()
            .unwrap_or(&Vec::new())
            .iter()
            .map(|item| {
                let text = |name: &str| item[name].as_str().unwrap().to_owned();
                (text("name"), text("size"))
            })
            .collect();
        rows.sort();
        rows.retain(|(key, _)| *key > of("continuation-token"));
        let more = rows.len() > PAGE;
        rows.truncate(PAGE);
        let next = rows.last().filter(|_| more);
        let next = next.map_or_else(String::new, |(key, _)| {
            format!("<NextContinuationToken>{key}</NextContinuationToken>")
        });
        let contents: String = rows.iter().map(|(key, size)| format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"{size}\"</ETag></Contents>"
        )).collect();
        let text =
            format!("<?xml version=\"1.0\"?><ListBucketResult>{contents}{next}</ListBucketResult>");
        ([(header::CONTENT_TYPE, "application/xml")], text).into_response()
    }

    /// Only its JSON interface copies, and removes.
    fn object(path: &str) -> String {
        let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap();
        let key = key.replace("%2F", "/").replace('/', "%2F");
        format!("b/{bucket}/o/{key}")
    }

    async fn copy(&self, source: &str, url: &Url) -> Response {
        let (from, to) = (Self::object(source), Self::object(url.path()));
        let copied = self
            .client
            .post(format!("{}/storage/v1/{from}/copyTo/{to}", self.behind));
        let status = copied.send().await.unwrap().status().as_u16();
        let text = "<?xml version=\"1.0\"?><CopyObjectResult></CopyObjectResult>";
        (StatusCode::from_u16(status).unwrap(), text).into_response()
    }

    async fn hand_on(&self, method: Method, url: &Url, body: Bytes) -> Response {
        let mut bare = url.clone();
        bare.set_query(None);
        let request = match method {
            Method::DELETE => {
                let object = Self::object(url.path());
                self.client
                    .delete(format!("{}/storage/v1/{object}", self.behind))
            }
            // It knows no HEAD; the body of this answer is not sent.
            Method::HEAD => self.client.get(bare),
            method => self.client.request(method, bare).body(body),
        };
        let answer = request.send().await.unwrap();
        let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
        let bytes = answer.bytes().await.unwrap();
        let headers = [
            (
                header::ETAG,
                format!("\"{}\"", blake3::hash(&bytes).to_hex()),
            ),
            (
                header::LAST_MODIFIED,
                "Thu, 01 Jan 2026 00:00:00 GMT".to_owned(),
            ),
        ];
        (status, headers, Body::from(bytes)).into_response()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs
        .filter_map(|pair| u8::from_str_radix(pair, 16).ok())
        .collect()
}

//! Object stores for which the cluster holds keys: one that works, and of each kind one that refuses. And a
//! trainer that signs its own calls of S3.

use std::fs;

use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;
use tempfile::TempDir;
use tests::{
    jobs::shell,
    s3::{self, Server},
};
use trainyard_proto::v1;

use super::{outside::Secrets, private::row};

/// What the stores that refuse are shown, drawn so that it is found wherever it stands.
const ACCESS_KEY: &str = "STOREKEY0123456789ABCDEF01";
const SECRET_KEY: &str = "store5ecret0123456789abcdef012345";
const SESSION: &str = "storeSession0123456789abcdef0123";
/// In base64, as Azure has them.
pub(super) const AZURE_KEY: &str = "YXp1cmUtc2VjcmV0LWtleS0wMTIzNDU2Nzg5YWJjZGVm";

/// The stores.
pub(super) struct Stores {
    server: Server,
    folder: TempDir,
    key: KeyPair,
}

impl Stores {
    /// The one that works holds a dataset at `s3://sets/pets`, and one of which a file will be gone at
    /// `s3://sets/gone`.
    pub(super) async fn start() -> Self {
        let server = Server::start().await;
        for (set, class) in [
            ("pets", "cat"),
            ("pets", "dog"),
            ("gone", "cat"),
            ("gone", "dog"),
        ] {
            let folder = server.bucket("sets").join(set).join(class);
            fs::create_dir_all(&folder).expect("a folder is made");
            for number in 0..3 {
                let file = folder.join(format!("{number}.png"));
                fs::write(file, format!("{set} {class} {number}")).expect("a file is written");
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
        let key = key.expect("a key is made");
        let account = json!({
            "type": "service_account", "private_key": key.serialize_pem(), "private_key_id": "1",
            "client_email": "trainyard@project.iam.gserviceaccount.com",
        });
        let file = folder.path().join("account.json");
        fs::write(file, account.to_string()).expect("a file is written");
        Self {
            server,
            folder,
            key,
        }
    }

    /// Variables of a coordinator that speaks to the one that works, and to `refuser` as the stores of Azure and
    /// Google.
    pub(super) fn variables(&self, refuser: &str) -> [(String, String); 3] {
        let account = self
            .folder
            .path()
            .join("account.json")
            .display()
            .to_string();
        [
            ("S3", self.server.options()),
            ("AZ", azure(refuser)),
            (
                "GS",
                format!("base_url={refuser} service_account={account}"),
            ),
        ]
        .map(|(name, options)| (format!("TRAINYARD__STORAGE_OPTIONS__{name}"), options))
    }

    /// Takes a file away from the dataset that was whole when its job was submitted.
    pub(super) fn lose(&self) {
        let file = self.server.bucket("sets").join("gone/dog/1.png");
        fs::remove_file(file).expect("it was there");
    }

    /// What must not be logged.
    pub(super) fn secrets(&self) -> Secrets {
        let own = row(&self.key.serialize_pem());
        [
            ("a store's access key", ACCESS_KEY),
            ("a store's secret key", SECRET_KEY),
            ("a store's session", SESSION),
            ("Azure's key", AZURE_KEY),
            ("Google's key", &own),
            ("the working store's access key", s3::KEY),
            ("the working store's secret key", s3::SECRET),
        ]
        .map(|(name, secret)| (name, secret.to_owned()))
        .into()
    }
}

/// Settings by which `refuser` has the bucket `s3://pets`.
pub(super) fn refused_bucket(refuser: &str) -> String {
    let keys = format!("access_key_id={ACCESS_KEY} secret_access_key={SECRET_KEY}");
    let options = format!("endpoint={refuser} region=eu {keys} session_token={SESSION}");
    format!("[storage_options]\n\"s3://pets\" = \"{options}\"\n")
}

/// Options of storage for a store of Azure.
pub(super) fn azure(endpoint: &str) -> String {
    format!("account_name=trainyard access_key={AZURE_KEY} endpoint={endpoint}")
}

/// A job on a dataset.
pub(super) fn on(dataset: &str, script: &str) -> v1::JobSpec {
    v1::JobSpec {
        dataset_id: dataset.to_owned(),
        split_strategy_json: json!({"method": "auto"}).to_string(),
        ..shell(script)
    }
}

/// One that shows its whole environment, and lists its dataset in the S3 that its agent offers: by a signature in
/// the header, and by one in the link.
pub(super) fn signing(dataset: &str) -> v1::JobSpec {
    let show = r"env; cat /proc/$PPID/cmdline | tr '\0' ' '";
    on(
        dataset,
        &format!("{show}\npython3 - <<'END'\n{SIGNED}END\n"),
    )
}

/// What boto3 does, by hand (Signature Version 4).
const SIGNED: &str = r#"
import datetime, hashlib, hmac, os
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

endpoint, access, secret = (os.environ["EXTERNAL_STORAGE_" + name] for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"))
bucket, prefix = os.environ["DATASET_S3_URI"][len("s3://"):].split("/", 1)
host = urlsplit(endpoint).netloc
now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
scope = f"{now[:8]}/us-east-1/s3/aws4_request"

def signature(query, headers, payload):
    lines = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    request = "\n".join(["GET", f"/{bucket}", query, lines, ";".join(sorted(headers)), payload])
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

def query(asked):
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(asked.items()))

asked = {"list-type": "2", "prefix": prefix}
nothing = hashlib.sha256(b"").hexdigest()
headers = {"host": host, "x-amz-content-sha256": nothing, "x-amz-date": now}
shown = f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={';'.join(sorted(headers))}, Signature="
shown += signature(query(asked), headers, nothing)
call = Request(f"{endpoint}/{bucket}?{query(asked)}", headers={**headers, "Authorization": shown})
print("by header", urlopen(call).status)
asked.update({"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{access}/{scope}", "X-Amz-Date": now,
              "X-Amz-Expires": "60", "X-Amz-SignedHeaders": "host"})
link = f"{endpoint}/{bucket}?{query(asked)}&X-Amz-Signature=" + signature(query(asked), {"host": host}, "UNSIGNED-PAYLOAD")
print("by link", urlopen(link).status)
"#;

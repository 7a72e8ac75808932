//! The HTTP contract as a foreign client sees it: pytest and requests (tests/python/conformance)
//! against a coordinator and an agent of real processes, with a Labeler that owns the datasets. Its
//! Python environment is built by the agent's own store from a lock and stays in cargo's folder for
//! tests.

use std::{fs, path::Path, process::Command};

use tests::{
    cluster::{Cluster, CoordinatorSetup, EMAIL, PASSWORD},
    labeler::Labeler,
};
use trainyard_agent::environment::EnvironmentStore;

use crate::{TRAINYARD, text};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SECRET: &str = "the secret of the conformance suite";

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_meets_the_whole_contract() {
    let suite = Path::new(ROOT).join("tests/python/conformance");
    let store = EnvironmentStore::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance"));
    let environment = store.prepare(&suite, &mut |_| {}).await;
    let python = environment.expect("its environment is built").python;
    let pictures = tempfile::tempdir().expect("a folder");
    let labeler = labeler(pictures.path()).await;
    let mut cluster = Cluster::start_with(TRAINYARD, setup(&labeler.url())).await;
    // One GPU, which the suite holds, so that a job that asks for one stays pending.
    let machine = ["--slots", "8", "--simulate-gpus", "1xA100-80GB"];
    cluster.agent("one", &machine).await;
    let lonely = Cluster::start_with(TRAINYARD, setup("http://127.0.0.1:1")).await;
    let mut command = Command::new(python);
    command
        .args(["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"])
        .arg(&suite)
        .current_dir(cluster.path(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BASE_URL", cluster.url())
        .env("LONELY_URL", lonely.url())
        .env("EMAIL", EMAIL)
        .env("PASSWORD", PASSWORD)
        .env("DATASET_ID", "7")
        .env("DATASET_OF_OTHERS", "8")
        .env("TRAINYARD_BIN", TRAINYARD)
        .env("XDG_CONFIG_HOME", cluster.path("home"));
    let ended = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ended.expect("it is waited for").expect("pytest starts");
    let said = text(&output.stdout);
    let complaint = text(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    // An empty suite would succeed as well.
    assert!(said.contains(" passed"), "{said}");
    assert_eq!(labeler.refused(), Vec::<String>::new());
}

/// Two classes in two parts that the development user may read, and a dataset that it may not.
pub(crate) async fn labeler(pictures: &Path) -> Labeler {
    for part in ["train", "val"] {
        for class in ["cats", "dogs"] {
            let folder = pictures.join(part).join(class);
            fs::create_dir_all(&folder).expect("a folder");
            for number in 0..3 {
                let file = folder.join(format!("{number}.png"));
                fs::write(file, format!("{part} {class} {number}")).expect("a file");
            }
        }
    }
    let labeler = Labeler::start(&[("conformance", SECRET)]).await;
    let place = pictures.to_string_lossy();
    labeler.dataset("7", "imagefolder", &place, &["1"]);
    labeler.dataset("8", "imagefolder", &place, &[]);
    labeler
}

/// A coordinator whose datasets are those of the Labeler at `url`.
pub(crate) fn setup(url: &str) -> CoordinatorSetup {
    let settings = [
        ("DATASETS__PROVIDER", "labeler"),
        ("LABELER__URL", url),
        ("HTTP__CORS_ORIGINS", "https://front.example"),
        ("LABELER__SECRET", SECRET),
        ("LABELER__KID", "conformance"),
    ];
    let variables = settings.map(|(name, value)| (format!("TRAINYARD__{name}"), value.to_owned()));
    CoordinatorSetup {
        variables: variables.into(),
        ..CoordinatorSetup::default()
    }
}

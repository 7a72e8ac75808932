//! The demo's dataset: real handwritten digits, written by the trainers' own `make_dataset.py` in
//! the environment that the agents will train in. Never trains. Called by `demo`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::process::Command;
use trainyard_agent::{
    embedded::{self, Extracted},
    environment::{Environment, EnvironmentStore},
};

use super::{cluster::Cluster, stage::Stage};
use crate::args::DemoFramework;

/// Brings the digits along.
const DIGITS: &str = "sklearn";

impl DemoFramework {
    /// The framework's name in a specification.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sklearn => "sklearn",
            Self::Ultralytics => "ultralytics",
            Self::Timm => "timm",
        }
    }
}

/// Builds what the agents need, where they look for it, and makes the dataset; its folder.
pub(super) async fn prepare(
    framework: DemoFramework,
    folder: &Path,
    stage: &Stage,
) -> anyhow::Result<PathBuf> {
    let data = Cluster::agent_folder(folder, 0);
    let extracted = embedded::extract(&data)?;
    let store = EnvironmentStore::new(data);
    let digits = async {
        let environment = build(&store, &extracted, DIGITS, stage).await?;
        make(framework, folder, &extracted, &environment, stage).await
    };
    if framework.name() == DIGITS {
        return digits.await;
    }
    let training = build(&store, &extracted, framework.name(), stage);
    let (dataset, _environment) = tokio::try_join!(digits, training)?;
    Ok(dataset)
}

fn trainer(extracted: &Extracted, framework: &str) -> anyhow::Result<PathBuf> {
    extracted
        .trainer(framework, None)
        .with_context(|| format!("the trainer {framework} is not part of this build"))
}

async fn build(
    store: &EnvironmentStore,
    extracted: &Extracted,
    framework: &str,
    stage: &Stage,
) -> anyhow::Result<Environment> {
    let step = stage.step(&format!("Python environment of {framework}"));
    let folder = trainer(extracted, framework)?;
    let built = store.prepare(&folder, &mut |line| step.tell(&line)).await?;
    step.done();
    Ok(built)
}

async fn make(
    framework: DemoFramework,
    folder: &Path,
    extracted: &Extracted,
    environment: &Environment,
    stage: &Stage,
) -> anyhow::Result<PathBuf> {
    let step = stage.step("dataset of handwritten digits");
    let out = folder.join("dataset");
    let kind = match framework {
        DemoFramework::Sklearn => ["imagefolder", "1000", "300", "16"],
        DemoFramework::Ultralytics => ["detection", "640", "60", "64"],
        DemoFramework::Timm => ["imagefolder", "600", "200", "32"],
    };
    let [kind, train, val, size] = kind;
    let made = Command::new(&environment.python)
        .arg(trainer(extracted, DIGITS)?.join("make_dataset.py"))
        .arg("--out")
        .arg(&out)
        .args([
            "--kind", kind, "--train", train, "--val", val, "--imgsz", size,
        ])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run make_dataset.py")?;
    if !made.status.success() {
        let words = String::from_utf8_lossy(&made.stderr);
        anyhow::bail!("make_dataset.py failed ({}):\n{words}", made.status);
    }
    step.done();
    Ok(out)
}

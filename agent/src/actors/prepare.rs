//! Everything before a task's process: dataset, environment, working folder, variables.
//!
//! Owns no state; can be dropped at any moment. Never starts the process. A task of the run actor.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use trainyard_core::task::{Failure, Fault};

use super::{
    gang::{self, Prepared},
    node::{COMMAND, Node},
    run::blocking,
    scribe::{Level, Scribe},
    torchrun,
    variables::{Place, variables},
};
use crate::{
    dataset::Wanted,
    environment::{Environment, EnvironmentError},
    exec::LaunchSpec,
    folder::{Order, TaskFolder},
};

/// Files of a trainer that make its environment and are of no use beside it.
const NOT_COPIED: [&str; 4] = [".venv", "__pycache__", "pyproject.toml", "uv.lock"];

/// A task being prepared.
#[derive(Debug)]
pub(super) struct Preparation {
    pub(super) node: Arc<Node>,
    pub(super) order: Arc<Order>,
    pub(super) scribe: Scribe,
}

impl Preparation {
    /// Does all of it; `tell` hears in short what is being done.
    pub(super) async fn run(
        self,
        tell: impl Fn(String) + Send + Sync,
    ) -> Result<Box<Prepared>, Failure> {
        let dataset = self.dataset(&tell).await?;
        let spec = &self.order.spec;
        let (argv, trainer) = if spec.framework == COMMAND {
            (spec.command.clone(), None)
        } else {
            let trainer = self.trainer()?;
            let python = self.environment(&trainer, &tell).await?;
            let python = python.display().to_string();
            let argv = [python.as_str(), "train.py", "--log-level", "INFO"];
            (argv.map(str::to_owned).to_vec(), Some(trainer))
        };
        let place = Place {
            dataset,
            checkpoint: self.checkpoint(&tell).await?,
            ..self.place()
        };
        lay_out(place.working_folder.clone(), trainer).await?;
        let env = self.environment_of(&place);
        let node = self.node.name.as_str();
        let torchrun = if gang::wants_torchrun(&self.order) {
            let at = (&env, place.working_folder.as_path());
            Some(torchrun::find(&argv, at, node).await?)
        } else {
            None
        };
        let port = self.port().await?;
        let spec = LaunchSpec {
            argv,
            cwd: place.working_folder,
            env,
            grace_ms: u64::try_from(spec.grace_period.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Box::new(Prepared {
            spec,
            torchrun,
            port,
        }))
    }

    /// The variables; the log says which of the job's own were not taken.
    fn environment_of(&self, place: &Place) -> BTreeMap<String, String> {
        let (env, refused) = variables(&self.order, place);
        for name in refused {
            let text =
                format!("variable {name} is set by the platform; the job's value is ignored");
            self.scribe.note(Level::Warning, text);
        }
        env
    }

    /// The port where the gang meets, on the node of its rank 0; the folder keeps it for the next life of the agent.
    async fn port(&self) -> Result<Option<u16>, Failure> {
        let task = self.order.task;
        if self.order.world_size < 2 || task.rank.0 > 0 {
            return Ok(None);
        }
        let node_fault = |error: String| Failure {
            error,
            fault: Fault::Node,
        };
        let lent = self.node.ports.lend(task);
        let port = lent.map_err(|error| node_fault(error.to_string()))?;
        let folder = TaskFolder::of(&self.node.tasks(), task);
        let kept = blocking(move || folder.note_port(port)).await;
        kept.map_err(|error| {
            node_fault(format!(
                "the port of the gang cannot be kept: {error}; see the data folder's permissions and free disk space"
            ))
        })?;
        Ok(Some(port))
    }

    /// The view of the snapshot's dataset; nothing but a look at the path where the job names one.
    async fn dataset(
        &self,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Result<Option<PathBuf>, Failure> {
        let Some(snapshot) = &self.order.snapshot else {
            self.without_snapshot()?;
            self.check_dataset().await?;
            return Ok(None);
        };
        let view = TaskFolder::of(&self.node.tasks(), self.order.task).view();
        let wanted = Wanted {
            order: &self.order,
            snapshot,
            view: view.clone(),
        };
        let shown = self.node.datasets.show(&wanted, tell).await;
        let text = shown.map_err(|error| error.failure(snapshot))?;
        self.scribe.note(Level::Info, text);
        Ok(Some(view))
    }

    /// A dataset by its id comes with a snapshot. Without one nobody knows what would be trained on.
    fn without_snapshot(&self) -> Result<(), Failure> {
        let named = self.order.spec.dataset_id.as_deref().unwrap_or_default();
        if named.is_empty() {
            return Ok(());
        }
        Err(Failure {
            error: format!(
                "the coordinator has sent no snapshot of dataset '{named}'; submit the job anew"
            ),
            fault: Fault::Shared,
        })
    }

    /// The checkpoint to begin with, fetched when it lies in the artifact store; one that is named as
    /// this node sees it is left to the trainer.
    async fn checkpoint(
        &self,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Result<Option<PathBuf>, Failure> {
        let Some(location) = &self.order.spec.resume_from else {
            return Ok(None);
        };
        tell(format!("fetching checkpoint {location}"));
        let folder = TaskFolder::of(&self.node.tasks(), self.order.task).beginning();
        let fetching = self.node.datasets.fetch_checkpoint(&self.order, &folder);
        let Some((path, text)) = fetching.await? else {
            return Ok(None);
        };
        self.scribe.note(Level::Info, text);
        Ok(Some(path))
    }

    async fn check_dataset(&self) -> Result<(), Failure> {
        let path = self.order.spec.dataset_path.as_deref().unwrap_or_default();
        if path.is_empty() || path.contains("://") {
            return Ok(());
        }
        let node = &self.node.name;
        match tokio::fs::metadata(path).await {
            Ok(_) => Ok(()),
            Err(error) if is_absent(&error) => Err(Failure {
                error: format!(
                    "dataset path '{path}' does not exist on node {node}; give a path that every node sees"
                ),
                fault: Fault::Job,
            }),
            Err(error) => Err(Failure {
                error: format!(
                    "dataset path '{path}' cannot be read on node {node}: {error}; see its permissions"
                ),
                fault: Fault::Job,
            }),
        }
    }

    fn trainer(&self) -> Result<PathBuf, Failure> {
        let framework = &self.order.spec.framework;
        let own = self.node.trainers_dir.as_deref();
        let found = self.node.extracted.trainer(framework, own);
        found.ok_or_else(|| Failure {
            error: format!(
                "framework '{framework}' has no trainer on node {}; it has {}",
                self.node.name,
                self.node.frameworks().join(", ")
            ),
            fault: Fault::Job,
        })
    }

    async fn environment(
        &self,
        trainer: &Path,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Result<PathBuf, Failure> {
        let framework = &self.order.spec.framework;
        tell(format!("preparing the environment of {framework}"));
        let begun = tokio::time::Instant::now();
        let mut building = false;
        let mut progress = |line: String| {
            if !building {
                building = true;
                let text =
                    format!("building the environment of {framework} (first use, takes a while)");
                tell(text.clone());
                self.scribe.note(Level::Info, text);
            }
            self.scribe.note(Level::Debug, line);
        };
        let prepared = self.node.environments.prepare(trainer, &mut progress).await;
        let Environment { python, reused, .. } = prepared.map_err(|error| refusal(&error))?;
        if !reused {
            let seconds = begun
                .elapsed()
                .max(Duration::from_millis(100))
                .as_secs_f64();
            let text = format!("environment ready in {seconds:.1} s");
            self.scribe.note(Level::Info, text);
        }
        Ok(python)
    }

    fn place(&self) -> Place {
        let (node, task) = (&self.node, self.order.task);
        let weights = node.data_dir.join("weights");
        Place {
            node: node.name.clone(),
            callback_url: node.callback_url(&self.order.secret),
            storage: node.callbacks,
            working_folder: node.working_folder(task),
            kept: TaskFolder::of(&node.tasks(), task).path().to_owned(),
            sdk: node.extracted.sdk_dir.clone(),
            weights: weights.is_dir().then_some(weights),
            path: node.path.clone(),
            dataset: None,
            checkpoint: None,
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A trainer that lacks its lock is whoever's who wrote it. What comes from an index of packages fails everywhere while
/// that is away.
fn refusal(error: &EnvironmentError) -> Failure {
    let fault = match error {
        EnvironmentError::LockMissing { .. } => Fault::Job,
        EnvironmentError::UvInstall { .. } | EnvironmentError::Build { .. } => Fault::Shared,
        EnvironmentError::File { .. }
        | EnvironmentError::PythonMissing
        | EnvironmentError::PythonBroken { .. }
        | EnvironmentError::VenvMissing { .. }
        | EnvironmentError::Run { .. } => Fault::Node,
    };
    Failure {
        error: error.to_string(),
        fault,
    }
}

/// The working folder, with a copy of the trainer in it: old trainers expect to run beside their own
/// files, and no two jobs may write into one folder.
async fn lay_out(folder: PathBuf, trainer: Option<PathBuf>) -> Result<(), Failure> {
    let shown = folder.display().to_string();
    let work = move || {
        for name in ["checkpoints", "tmp"] {
            fs::create_dir_all(folder.join(name))?;
        }
        trainer.map_or(Ok(()), |trainer| copy(&trainer, &folder))
    };
    let done = trainyard_runtime::blocking(work).await;
    let done = done.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|error| Failure {
        error: format!(
            "cannot lay out the working folder {shown}: {error}; see the data folder's permissions and free disk space"
        ),
        fault: Fault::Node,
    })
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if NOT_COPIED.iter().any(|not| name == *not) {
            continue;
        }
        let (path, target) = (entry.path(), to.join(&name));
        if path.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trainer_is_copied_without_what_makes_its_environment() {
        let data = tempfile::tempdir().unwrap();
        let trainer = data.path().join("trainer");
        fs::create_dir_all(trainer.join(".venv/bin")).unwrap();
        fs::create_dir_all(trainer.join("lib")).unwrap();
        for name in ["train.py", "lib/part.py", "pyproject.toml", "uv.lock"] {
            fs::write(trainer.join(name), name).unwrap();
        }
        let folder = data.path().join("jobs/1/attempt-1");
        lay_out(folder.clone(), Some(trainer.clone()))
            .await
            .unwrap();
        lay_out(folder.clone(), Some(trainer)).await.unwrap();
        assert_eq!(
            fs::read(folder.join("lib/part.py")).unwrap(),
            b"lib/part.py"
        );
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["checkpoints", "lib", "tmp", "train.py"]);
    }
}

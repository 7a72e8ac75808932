//! Python environments of trainers, built by uv, one for each set of locked dependencies, shared by
//! all jobs and kept in the data folder. Never runs a trainer and never removes a finished
//! environment. Called by the agent's job runner before a job starts.

mod child;
mod error;
mod gate;
#[cfg(test)]
mod tests;
mod tools;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub use error::EnvironmentError;
pub use tools::UV_VERSION;

use child::CleanEnvironment;
use gate::{Gates, Held};
use tools::Python;

use crate::disk::blocking;

/// A Python environment that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The interpreter to run the trainer with.
    pub python: PathBuf,
    /// Names the locked dependencies, the Python and the uv that it was built from.
    pub hash: String,
    /// Whether it was there already.
    pub reused: bool,
}

/// All environments of one data folder.
#[derive(Debug)]
pub struct EnvironmentStore {
    data_dir: PathBuf,
    variables: CleanEnvironment,
    gates: Gates,
}

/// What an environment is built from.
struct Inputs {
    pyproject: Vec<u8>,
    lock: Vec<u8>,
}

/// One environment being built.
struct Build<'b> {
    trainer_dir: &'b Path,
    home: &'b Path,
    python: &'b Python,
    held: &'b Held,
}

impl EnvironmentStore {
    /// The store of `data_dir`; nothing is touched yet. uv and python3 see, of this process's
    /// variables, HOME, PATH and those that lead to a package registry.
    pub fn new(data_dir: PathBuf) -> Self {
        Self::with_variables(data_dir, std::env::vars_os())
    }

    fn with_variables(
        data_dir: PathBuf,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Self {
        // Children run in another folder: a relative path would lead elsewhere.
        let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
        Self {
            variables: CleanEnvironment::of(variables, &data_dir),
            data_dir,
            gates: Gates::default(),
        }
    }

    /// The environment of the trainer in `trainer_dir`, built first where it is not there yet; what
    /// uv writes goes to `progress` line by line. A trainer without pyproject.toml gets the
    /// system's python3. Dropping the future ends uv; the next call builds anew.
    pub async fn prepare(
        &self,
        trainer_dir: &Path,
        progress: &mut (dyn FnMut(String) + Send),
    ) -> Result<Environment, EnvironmentError> {
        let inputs = read_inputs(trainer_dir).await?;
        let python = tools::find_python(&self.variables).await?;
        let hash = self.hash(inputs.as_ref(), &python);
        let Some(inputs) = inputs else {
            return Ok(Environment {
                python: python.path,
                hash,
                reused: true,
            });
        };
        let envs = self.data_dir.join("envs");
        let home = envs.join(&hash);
        let mut reused = is_complete(&home);
        if !reused {
            tokio::fs::create_dir_all(&envs)
                .await
                .map_err(EnvironmentError::file("create", &envs))?;
            let held = self.gates.enter(envs.join(format!("{hash}.lock"))).await?;
            // Whoever held the gate before may have built it.
            reused = is_complete(&home);
            if !reused {
                lay_out(&home, &inputs).await?;
                let build = Build {
                    trainer_dir,
                    home: &home,
                    python: &python,
                    held: &held,
                };
                self.sync(&build, progress).await?;
                write_marker(&marker(&home), &hash).await?;
            }
        }
        Ok(Environment {
            python: interpreter(&home),
            hash,
            reused,
        })
    }

    fn hash(&self, inputs: Option<&Inputs>, python: &Python) -> String {
        let (pyproject, lock): (&[u8], &[u8]) =
            inputs.map_or((&[], &[]), |inputs| (&inputs.pyproject, &inputs.lock));
        // The operator's own choice of Python goes before the one on PATH.
        let chosen = self.variables.get("UV_PYTHON").unwrap_or_default();
        let parts = [
            pyproject,
            lock,
            python.version.as_bytes(),
            chosen.as_encoded_bytes(),
            UV_VERSION.as_bytes(),
        ];
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().to_hex().to_string()
    }

    async fn sync(
        &self,
        build: &Build<'_>,
        progress: &mut (dyn FnMut(String) + Send),
    ) -> Result<(), EnvironmentError> {
        let variables = &self.variables;
        let uv = tools::find_uv(variables, &self.data_dir, &self.gates, progress).await?;
        let project = build.home.join("project");
        let mut command = variables.command(&uv);
        command
            .args(["sync", "--frozen", "--no-dev", "--no-install-project"])
            .args(["--compile-bytecode", "--no-progress", "--project"])
            .arg(&project)
            .current_dir(&project)
            .env("UV_PROJECT_ENVIRONMENT", build.home.join("venv"))
            .env("UV_PYTHON_DOWNLOADS", "never");
        build.held.share(&mut command)?;
        if variables.get("UV_PYTHON").is_none() {
            command.arg("--python").arg(&build.python.path);
        }
        let ended = child::run(command, progress).await?;
        if ended.status.success() {
            return Ok(());
        }
        Err(EnvironmentError::Build {
            trainer: build.trainer_dir.into(),
            path: build.home.into(),
            output: ended.output,
        })
    }
}

/// The trainer's dependencies; none where it has no pyproject.toml.
async fn read_inputs(trainer_dir: &Path) -> Result<Option<Inputs>, EnvironmentError> {
    let folder = tokio::fs::metadata(trainer_dir).await;
    folder.map_err(EnvironmentError::file("read", trainer_dir))?;
    let Some(pyproject) = read_if_there(&trainer_dir.join("pyproject.toml")).await? else {
        return Ok(None);
    };
    let path = trainer_dir.join("uv.lock");
    match read_if_there(&path).await? {
        Some(lock) => Ok(Some(Inputs { pyproject, lock })),
        None => Err(EnvironmentError::LockMissing { path }),
    }
}

async fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, EnvironmentError> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EnvironmentError::file("read", path)(error)),
    }
}

fn interpreter(home: &Path) -> PathBuf {
    home.join("venv/bin/python")
}

fn marker(home: &Path) -> PathBuf {
    home.join(".complete")
}

/// Built to the end, and the Python that it leads to is still there.
fn is_complete(home: &Path) -> bool {
    marker(home).is_file() && interpreter(home).is_file()
}

/// A fresh folder with the dependencies' two files; what a broken build left goes.
async fn lay_out(home: &Path, inputs: &Inputs) -> Result<(), EnvironmentError> {
    remove_folder(home).await?;
    let project = home.join("project");
    tokio::fs::create_dir_all(&project)
        .await
        .map_err(EnvironmentError::file("create", &project))?;
    let files = [
        ("pyproject.toml", &inputs.pyproject),
        ("uv.lock", &inputs.lock),
    ];
    for (name, bytes) in files {
        let path = project.join(name);
        tokio::fs::write(&path, bytes)
            .await
            .map_err(EnvironmentError::file("write", path))?;
    }
    Ok(())
}

/// Removes a folder; none is fine.
async fn remove_folder(path: &Path) -> Result<(), EnvironmentError> {
    // What an ended uv has left running may still add a file while its folder is emptied.
    let mut result = tokio::fs::remove_dir_all(path).await;
    for _ in 0..10 {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                result = tokio::fs::remove_dir_all(path).await;
            }
            _ => break,
        }
    }
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EnvironmentError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes a marker whole or not at all, and once all that it stands for is on disk: nobody looks behind it again.
async fn write_marker(path: &Path, text: &str) -> Result<(), EnvironmentError> {
    let (place, text) = (path.to_owned(), text.to_owned());
    let write = move || {
        let folder = File::open(place.parent().unwrap_or(&place))?;
        // Thousands of files, of which uv syncs none.
        rustix::fs::syncfs(&folder)?;
        let new = place.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &place)?;
        folder.sync_all()
    };
    blocking(write)
        .await
        .map_err(EnvironmentError::file("create", path))
}

//! What can go wrong while a Python environment is prepared, in words for the person who
//! submitted the job or runs the node. Never decides what is retried. Used by the whole of
//! `environment`; the agent's job runner shows the text.

use std::io;
use std::path::PathBuf;

/// Why an environment could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A file or folder could not be read, written, moved or locked.
    #[error("cannot {action} {}: {source}; check that it exists, its permissions and the free disk space", path.display())]
    File {
        /// What was tried: `read`, `create`, `lock`…
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The trainer names its dependencies but has no lock.
    #[error("{} is missing although pyproject.toml stands beside it; run `uv lock` in that folder and add the file", path.display())]
    LockMissing {
        /// Where the lock should be.
        path: PathBuf,
    },
    /// There is no `python3`.
    #[error("python3 is not on PATH; install python3 and python3-venv on this node")]
    PythonMissing,
    /// `python3` is there but does not run.
    #[error(
        "python3 does not run; install python3 and python3-venv on this node again. It said:\n{output}"
    )]
    PythonBroken {
        /// Its last lines.
        output: String,
    },
    /// `python3` has no working `venv` module.
    #[error("python3 cannot make {}: its venv module is missing; install python3-venv on this node, or put uv on PATH. It said:\n{output}", path.display())]
    VenvMissing {
        /// The environment that was to be made.
        path: PathBuf,
        /// Its last lines.
        output: String,
    },
    /// uv could not be installed into the data folder.
    #[error("cannot install uv {version} in {}; put uv on PATH, or check that this node reaches PyPI. It said:\n{output}", path.display())]
    UvInstall {
        /// The version asked for.
        version: &'static str,
        /// Where it was to stand.
        path: PathBuf,
        /// The last lines of what was run.
        output: String,
    },
    /// A program could not be started, or its end not be awaited.
    #[error("cannot run {}: {source}; check that it is there and executable", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// `uv sync` failed.
    #[error("uv could not build the environment of {} in {}; mend its pyproject.toml and uv.lock, or this node's way to PyPI, and try again. uv said:\n{output}", trainer.display(), path.display())]
    Build {
        /// The trainer whose dependencies they are.
        trainer: PathBuf,
        /// The environment that was to be built.
        path: PathBuf,
        /// uv's last lines.
        output: String,
    },
}

impl EnvironmentError {
    /// Turns the system's answer for `path` into an [`EnvironmentError::File`].
    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

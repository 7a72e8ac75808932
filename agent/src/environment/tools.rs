//! Finds python3 and uv, and installs uv into the data folder where PATH has none. Never builds a
//! job's environment. Called by `environment`.

use std::path::{Path, PathBuf};

use super::child::{self, CleanEnvironment, Ended};
use super::error::EnvironmentError;
use super::gate::{Gates, Held};

/// The uv that is installed where PATH has none.
pub const UV_VERSION: &str = "0.13.9";

/// The system's python3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Python {
    /// The interpreter itself, behind any wrapper on PATH.
    pub(super) path: PathBuf,
    /// All of `sys.version`.
    pub(super) version: String,
}

/// The first executable file called `name` on the children's PATH.
fn on_path(env: &CleanEnvironment, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::env::split_paths(env.get("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Asks the python3 on PATH who it is.
pub(super) async fn find_python(env: &CleanEnvironment) -> Result<Python, EnvironmentError> {
    let found = on_path(env, "python3").ok_or(EnvironmentError::PythonMissing)?;
    let mut command = env.command(&found);
    command.args([
        "-I",
        "-c",
        "import sys; print(sys.executable); print(sys.version.replace('\\n', ' '))",
    ]);
    let Ended { status, output } = child::run(command, &mut |_| {}).await?;
    let mut lines = output.lines();
    match (status.success(), lines.next(), lines.next()) {
        (true, Some(path), Some(version)) => Ok(Python {
            path: path.into(),
            version: version.to_owned(),
        }),
        _ => Err(EnvironmentError::PythonBroken { output }),
    }
}

/// The uv to use: PATH's if it runs, else the data folder's, installed first where it is not.
pub(super) async fn find_uv(
    env: &CleanEnvironment,
    data_dir: &Path,
    gates: &Gates,
    progress: &mut (dyn FnMut(String) + Send),
) -> Result<PathBuf, EnvironmentError> {
    if let Some(found) = on_path(env, "uv") {
        let mut command = env.command(&found);
        command.arg("--version");
        match child::run(command, &mut |_| {}).await {
            Ok(ended) if ended.status.success() => return Ok(found),
            other => tracing::warn!(uv = %found.display(), ?other, "the uv on PATH does not run"),
        }
    }
    let tools = data_dir.join("tools");
    let home = tools.join("uv");
    if is_installed(&home) {
        return Ok(home.join("bin/uv"));
    }
    tokio::fs::create_dir_all(&tools)
        .await
        .map_err(EnvironmentError::file("create", &tools))?;
    let held = gates.enter(tools.join("uv.lock")).await?;
    if !is_installed(&home) {
        install(env, &home, &held, progress).await?;
    }
    Ok(home.join("bin/uv"))
}

fn marker(home: &Path) -> PathBuf {
    home.join(".complete")
}

fn is_installed(home: &Path) -> bool {
    home.join("bin/uv").is_file()
        && std::fs::read_to_string(marker(home)).is_ok_and(|version| version == UV_VERSION)
}

/// Makes `home` anew; the marker is its last file.
async fn install(
    env: &CleanEnvironment,
    home: &Path,
    held: &Held,
    progress: &mut (dyn FnMut(String) + Send),
) -> Result<(), EnvironmentError> {
    let python = find_python(env).await?;
    super::remove_folder(home).await?;
    progress(format!("installing uv {UV_VERSION}"));
    let mut command = env.command(&python.path);
    command.args(["-I", "-m", "venv"]).arg(home);
    held.share(&mut command)?;
    let Ended { status, output } = child::run(command, progress).await?;
    if !status.success() {
        return Err(venv_failed(home, output));
    }
    let mut command = env.command(&home.join("bin/python"));
    command
        .args(["-I", "-m", "pip", "install", "--no-input"])
        .arg(format!("uv=={UV_VERSION}"));
    held.share(&mut command)?;
    let Ended { status, output } = child::run(command, progress).await?;
    if !status.success() {
        return Err(EnvironmentError::UvInstall {
            version: UV_VERSION,
            path: home.into(),
            output,
        });
    }
    super::write_marker(&marker(home), UV_VERSION).await
}

fn venv_failed(home: &Path, output: String) -> EnvironmentError {
    let path = home.into();
    if output.contains("ensurepip") || output.contains("No module named") {
        EnvironmentError::VenvMissing { path, output }
    } else {
        EnvironmentError::UvInstall {
            version: UV_VERSION,
            path,
            output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn with_python(script: &str) -> (tempfile::TempDir, CleanEnvironment) {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python3");
        std::fs::write(&python, script).unwrap();
        std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
        let path = ("PATH".into(), folder.path().into());
        let env = CleanEnvironment::of(std::iter::once(path), folder.path());
        (folder, env)
    }

    #[tokio::test]
    async fn a_missing_python_is_told_with_what_to_install() {
        let path = ("PATH".into(), "/nowhere".into());
        let env = CleanEnvironment::of(std::iter::once(path), Path::new("/"));
        let error = find_python(&env).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "python3 is not on PATH; install python3 and python3-venv on this node"
        );
    }

    #[tokio::test]
    async fn a_python_that_fails_is_told_in_its_own_words() {
        let (_folder, env) = with_python("#!/bin/sh\necho no libpython >&2; exit 127\n");
        let error = find_python(&env).await.unwrap_err().to_string();
        assert!(error.contains("no libpython"), "{error}");
    }

    #[tokio::test]
    async fn a_python_without_venv_is_told_with_what_to_install() {
        let script = "#!/bin/sh\nif [ \"$2\" = -c ]; then echo \"$0\"; echo 3.12; exit; fi\n\
                      echo 'ensurepip is not available' >&2; exit 1\n";
        let (folder, env) = with_python(script);
        let data = folder.path().join("data");
        let error = find_uv(&env, &data, &Gates::default(), &mut |_| {})
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("install python3-venv"), "{error}");
        assert!(error.contains("ensurepip is not available"), "{error}");
    }
}

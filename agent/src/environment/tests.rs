//! Tests of `environment` with a real uv and one tiny dependency. They pass at once where PyPI
//! cannot be reached, but in CI. Run by cargo only.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const PYPROJECT: &str = "[project]\nname = \"tiny\"\nversion = \"0.1.0\"\n\
    requires-python = \">=3.9\"\ndependencies = [\"idna\"]\n\n[tool.uv]\npackage = false\n";

struct Trial {
    _folder: TempDir,
    trainer: PathBuf,
    store: EnvironmentStore,
}

fn trial() -> Trial {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    std::fs::create_dir(&trainer).unwrap();
    let store = EnvironmentStore::new(folder.path().join("data"));
    Trial {
        _folder: folder,
        trainer,
        store,
    }
}

/// Says that a test does nothing, and why. Where `TRAINYARD_SKIP_NOTHING` is set, as in CI, it has failed.
fn skipped(why: &str) {
    let must = std::env::var_os("TRAINYARD_SKIP_NOTHING").is_some();
    assert!(!must, "SKIPPED: {why}");
    eprintln!("SKIPPED: {why}");
}

/// A trainer whose lock uv has made; none where there is no uv or no way to PyPI.
async fn locked() -> Option<Trial> {
    let trial = trial();
    std::fs::write(trial.trainer.join("pyproject.toml"), PYPROJECT).unwrap();
    let (store, trainer) = (&trial.store, &trial.trainer);
    let env = &store.variables;
    let uv = tools::find_uv(env, &store.data_dir, &store.gates, &mut |_| {}).await;
    let Ok(uv) = uv else {
        skipped(&format!("no uv, and none can be installed: {uv:?}"));
        return None;
    };
    let mut command = env.command(&uv);
    command
        .args(["lock", "--project"])
        .arg(trainer)
        .env("UV_HTTP_RETRIES", "0");
    let ended = child::run(command, &mut |_| {}).await.unwrap();
    if !ended.status.success() {
        skipped(&format!("uv cannot lock idna: {}", ended.output));
        return None;
    }
    Some(trial)
}

fn runs_idna(python: &Path) -> bool {
    std::process::Command::new(python)
        .args(["-I", "-c", "import idna"])
        .status()
        .unwrap()
        .success()
}

#[tokio::test]
async fn two_jobs_at_once_build_one_environment_and_a_third_reuses_it() {
    let Some(trial) = locked().await else { return };
    let mut lines = (Vec::new(), Vec::new());
    let mut first = |line| lines.0.push(line);
    let mut second = |line| lines.1.push(line);
    let (one, two) = tokio::join!(
        trial.store.prepare(&trial.trainer, &mut first),
        trial.store.prepare(&trial.trainer, &mut second),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((&one.hash, &one.python), (&two.hash, &two.python));
    assert_ne!(one.reused, two.reused);
    assert!(lines.0.is_empty() != lines.1.is_empty());
    assert!(
        lines
            .0
            .iter()
            .chain(&lines.1)
            .any(|line| line.contains("idna")),
        "{lines:?}"
    );
    assert!(runs_idna(&one.python));
    let third = trial.store.prepare(&trial.trainer, &mut |_| {}).await;
    assert!(third.unwrap().reused);
    let other = EnvironmentStore::new(trial.store.data_dir.clone());
    let fourth = other.prepare(&trial.trainer, &mut |_| {}).await;
    assert!(fourth.unwrap().reused);
}

#[tokio::test]
async fn two_processes_at_once_build_one_environment() {
    let Some(trial) = locked().await else { return };
    // Two stores share no mutex: only the file lock stands between them, as between processes.
    let other = EnvironmentStore::new(trial.store.data_dir.clone());
    let (mut first, mut second) = (|_| {}, |_| {});
    let (one, two) = tokio::join!(
        trial.store.prepare(&trial.trainer, &mut first),
        other.prepare(&trial.trainer, &mut second),
    );
    assert_ne!(one.unwrap().reused, two.unwrap().reused);
}

#[tokio::test]
async fn a_half_built_environment_is_rebuilt() {
    let Some(trial) = locked().await else { return };
    let prepare = async || trial.store.prepare(&trial.trainer, &mut |_| {}).await;
    let built = prepare().await.unwrap();
    let home = trial.store.data_dir.join("envs").join(&built.hash);
    std::fs::remove_file(marker(&home)).unwrap();
    std::fs::write(home.join("venv/half"), "").unwrap();
    let again = prepare().await.unwrap();
    assert!(!again.reused);
    assert_eq!(again.hash, built.hash);
    assert!(!home.join("venv/half").exists());
    assert!(runs_idna(&again.python));
}

#[tokio::test]
async fn a_prepare_that_is_given_up_is_built_anew_by_the_next() {
    let Some(trial) = locked().await else { return };
    let begun = tokio::sync::Notify::new();
    let mut progress = |_| begun.notify_one();
    let given_up = tokio::select! {
        biased;
        () = begun.notified() => true,
        done = trial.store.prepare(&trial.trainer, &mut progress) => done.is_err(),
    };
    let next = trial.store.prepare(&trial.trainer, &mut |_| {}).await;
    let next = next.unwrap();
    assert_eq!(next.reused, !given_up);
    assert!(runs_idna(&next.python));
}

#[tokio::test]
async fn a_different_lock_is_a_different_environment() {
    let Some(trial) = locked().await else { return };
    let prepare = async || trial.store.prepare(&trial.trainer, &mut |_| {}).await;
    let first = prepare().await.unwrap();
    let path = trial.trainer.join("uv.lock");
    let lock = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{lock}\n# changed\n")).unwrap();
    let second = prepare().await.unwrap();
    assert_ne!(first.hash, second.hash);
    assert!(!second.reused && first.python.is_file());
}

#[test]
fn a_prepare_may_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let trial = trial();
    let mut progress = |_| {};
    is_send(&trial.store.prepare(&trial.trainer, &mut progress));
}

#[tokio::test]
async fn a_broken_lock_shows_the_words_of_uv() {
    let Some(trial) = locked().await else { return };
    std::fs::write(trial.trainer.join("uv.lock"), "version = [").unwrap();
    let mut seen = Vec::new();
    let mut progress = |line| seen.push(line);
    let result = trial.store.prepare(&trial.trainer, &mut progress).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("uv.lock"), "{error}");
    assert!(error.contains("TOML parse error"), "{error}");
    let last = seen.last().unwrap();
    assert!(error.ends_with(last.as_str()), "{error}");
}

#[tokio::test]
async fn a_pyproject_without_a_lock_names_the_way_out() {
    let trial = trial();
    std::fs::write(trial.trainer.join("pyproject.toml"), PYPROJECT).unwrap();
    let result = trial.store.prepare(&trial.trainer, &mut |_| {}).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("uv.lock is missing"), "{error}");
    assert!(error.contains("run `uv lock`"), "{error}");
}

#[tokio::test]
async fn a_trainer_without_dependencies_gets_the_python_of_the_system() {
    let trial = trial();
    if tools::find_python(&trial.store.variables).await.is_err() {
        skipped("no python3");
        return;
    }
    let result = trial.store.prepare(&trial.trainer, &mut |_| {}).await;
    let environment = result.unwrap();
    assert!(environment.reused && environment.python.is_absolute());
    assert!(!trial.store.data_dir.exists());
}

#[tokio::test]
async fn a_missing_trainer_is_named() {
    let trial = trial();
    let missing = trial.trainer.join("nothing");
    let result = trial.store.prepare(&missing, &mut |_| {}).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn uv_is_installed_where_path_has_none() {
    let trial = trial();
    let Ok(python) = tools::find_python(&trial.store.variables).await else {
        skipped("no python3");
        return;
    };
    let tools_dir = trial.trainer.join("bin");
    std::fs::create_dir(&tools_dir).unwrap();
    std::os::unix::fs::symlink(&python.path, tools_dir.join("python3")).unwrap();
    let kept = std::env::vars_os().filter(|(name, _)| name != "PATH");
    let path = ("PATH".into(), tools_dir.into_os_string());
    let env = CleanEnvironment::of(kept.chain([path]), &trial.trainer);
    let (data, gates) = (&trial.store.data_dir, &trial.store.gates);
    let (mut first, mut second) = (|_| {}, |_| {});
    let (one, two) = tokio::join!(
        tools::find_uv(&env, data, gates, &mut first),
        tools::find_uv(&env, data, gates, &mut second),
    );
    if let Err(
        error @ (EnvironmentError::UvInstall { .. } | EnvironmentError::VenvMissing { .. }),
    ) = &one
    {
        skipped(&error.to_string());
        return;
    }
    assert_eq!(one.unwrap(), data.join("tools/uv/bin/uv"));
    assert_eq!(two.unwrap(), data.join("tools/uv/bin/uv"));
}

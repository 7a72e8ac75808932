//! Whether torchrun is there for a job that wants it: said before its gang is waited for.
//!
//! Owns the question and its answers in words. Never starts a trainer. Called by the preparation of a run.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;
use trainyard_core::task::{Failure, Fault};

use super::gang;

/// How long an interpreter may take to say whether it has torch.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says by its exit code whether there is such a module, without loading it, which takes seconds.
const HAS_TORCH: &str = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)";

/// What starts torchrun for `command` in the job's environment.
pub(super) async fn find(
    command: &[String],
    (env, cwd): (&BTreeMap<String, String>, &Path),
    node: &str,
) -> Result<Vec<String>, Failure> {
    let call = gang::call(command).torchrun;
    let path = env.get("PATH").map_or("", String::as_str);
    let wrong = |what: String| {
        let error = format!(
            "launcher torchrun: {what}; name a Python that has PyTorch as the first word of the job's command, or put its folder first in the job's variable PATH"
        );
        let fault = Fault::Job;
        Failure { error, fault }
    };
    let program = match call.as_slice() {
        [python, _, ..] => python,
        [program] if is_in(path, program) => return Ok(call),
        other => {
            let program = other.concat();
            let what = format!("there is no {program} in {path} on node {node}");
            return Err(wrong(what));
        }
    };
    let mut question = Command::new(program);
    question
        .env_clear()
        .envs(env)
        .current_dir(cwd)
        .args(["-c", HAS_TORCH])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, question.status()).await {
        Ok(Ok(status)) if status.success() => Ok(call),
        Ok(Ok(_)) => Err(wrong(format!("{program} on node {node} has no PyTorch"))),
        Ok(Err(error)) => Err(wrong(format!(
            "{program} on node {node} cannot be started: {error}"
        ))),
        Err(_late) => Err(Failure {
            error: format!(
                "launcher torchrun: {program} on node {node} did not say within {PATIENCE:?} whether it has PyTorch"
            ),
            fault: Fault::Node,
        }),
    }
}

/// Whether one of the folders of `path` has such a file.
fn is_in(path: &str, program: &str) -> bool {
    std::env::split_paths(path).any(|folder| folder.join(program).is_file())
}

//! The demo's processes: a coordinator and two agents of this same binary, each with a log and a
//! ready file in the demo's folder. Owns their life; never talks to them but by signals. Called by
//! `demo`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::client::Client;

/// The agents' names.
const AGENTS: [&str; 2] = ["alpha", "beta"];
/// How often a ready file is looked for, and how many times.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS: u32 = 1_500;
/// How long a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Lines of a log that are shown when something went wrong.
const TAIL: usize = 15;

/// What the coordinator writes once it serves.
#[derive(Deserialize)]
pub(super) struct Ready {
    /// Where it serves.
    pub(super) address: String,
    /// By which agents join.
    pub(super) join_token: String,
}

/// One process of the demo.
#[derive(Debug)]
struct Member {
    name: &'static str,
    child: Child,
}

/// All processes of the demo. Dropped early, it asks them to stop.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    keep: bool,
    members: Vec<Member>,
    jobs: Option<(Client, Vec<u64>)>,
}

impl Cluster {
    /// Nothing runs yet.
    pub(super) fn new(folder: &Path, keep: bool) -> Self {
        Self {
            folder: folder.to_path_buf(),
            keep,
            members: Vec::new(),
            jobs: None,
        }
    }

    /// Where everything lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The data folder of an agent.
    pub(super) fn agent_folder(folder: &Path, index: usize) -> PathBuf {
        folder.join(AGENTS.get(index).copied().unwrap_or("agent"))
    }

    /// Keeps what has to be stopped should the demo end early.
    pub(super) fn remember(&mut self, client: &Client, jobs: &[u64]) {
        self.jobs = Some((client.clone(), jobs.to_vec()));
    }

    /// The jobs, with a way to their coordinator.
    pub(super) fn recall(&mut self) -> Option<(Client, Vec<u64>)> {
        self.jobs.take()
    }

    /// Starts the coordinator on a free port and waits until it serves.
    pub(super) async fn start_coordinator(&mut self) -> anyhow::Result<Ready> {
        let data = self.folder.join("coordinator").display().to_string();
        let line = [
            "coordinator",
            "--dev",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            &data,
        ];
        self.spawn("coordinator", &line, None)?;
        let text = self.ready("coordinator").await?;
        serde_json::from_str(&text)
            .with_context(|| format!("the coordinator's ready file is not understood: {text}"))
    }

    /// Starts both agents and waits until they have joined.
    pub(super) async fn start_agents(&mut self, ready: &Ready) -> anyhow::Result<()> {
        self.share_environments()?;
        for (index, name) in AGENTS.into_iter().enumerate() {
            let data = Self::agent_folder(&self.folder, index);
            let data = data.display().to_string();
            let line = [
                "agent",
                "--name",
                name,
                "--slots",
                "1",
                "--data-dir",
                &data,
                "--coordinator",
                &ready.address,
            ];
            self.spawn(name, &line, Some(&ready.join_token))?;
        }
        for name in AGENTS {
            self.ready(name).await?;
        }
        Ok(())
    }

    /// One folder of environments for both, as nodes with a shared disk have it: built once.
    fn share_environments(&self) -> anyhow::Result<()> {
        let shared = Self::agent_folder(&self.folder, 0).join("envs");
        let second = Self::agent_folder(&self.folder, 1);
        for path in [&shared, &second] {
            fs::create_dir_all(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let link = second.join("envs");
        if link.exists() {
            return Ok(());
        }
        std::os::unix::fs::symlink(&shared, &link)
            .with_context(|| format!("cannot create {}", link.display()))
    }

    /// The join token goes by the environment: a command line can be read by everybody.
    fn spawn(
        &mut self,
        name: &'static str,
        line: &[&str],
        token: Option<&str>,
    ) -> anyhow::Result<()> {
        let ready_file = self.ready_file(name);
        if ready_file.exists() {
            fs::remove_file(&ready_file)?;
        }
        let log = File::create(self.log_file(name))
            .with_context(|| format!("cannot create the log of {name}"))?;
        let binary = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(binary);
        command
            .args(line)
            .arg("--ready-file")
            .arg(&ready_file)
            .env_remove("TRAINYARD_COORDINATOR")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo, which then stops them in order.
            .process_group(0);
        if let Some(token) = token {
            command.env("TRAINYARD_TOKEN", token);
        }
        if !self.keep {
            command.args(["--die-with-parent", &std::process::id().to_string()]);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.members.push(Member { name, child });
        Ok(())
    }

    fn ready_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.ready"))
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// Waits for a member's ready file.
    async fn ready(&mut self, name: &str) -> anyhow::Result<String> {
        let path = self.ready_file(name);
        for _ in 0..LOOKS {
            match fs::read_to_string(&path) {
                Ok(text) if !text.trim().is_empty() => return Ok(text),
                _ => {}
            }
            // An agent cannot get ready without its coordinator, so any end is one too many.
            for member in &mut self.members {
                if let Some(status) = member.child.try_wait()? {
                    anyhow::bail!("{} ended before {name} was ready ({status})", member.name);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::bail!("{name} was not ready after 30 s");
    }

    /// Stops agents first, the coordinator last; what does not stop is killed.
    pub(super) async fn stop(&mut self) {
        while let Some(mut member) = self.members.pop() {
            terminate(&member.child);
            let stopped = tokio::time::timeout(STOP_LIMIT, member.child.wait()).await;
            if stopped.is_err() {
                crate::output::note(&format!("{} does not stop; it is killed", member.name));
                // It may have ended in this very moment.
                drop(member.child.kill().await);
            }
        }
    }

    /// Lets everything run, and says how to talk to it and how to stop it.
    pub(super) fn leave(&mut self, folder: &Path) -> String {
        let address = fs::read_to_string(self.ready_file("coordinator"))
            .ok()
            .and_then(|text| serde_json::from_str::<Ready>(&text).ok())
            .map(|ready| ready.address)
            .unwrap_or_default();
        let pids: Vec<_> = self
            .members
            .drain(..)
            .rev()
            .filter_map(|member| member.child.id())
            .map(|pid| pid.to_string())
            .collect();
        format!(
            "left running, with the data in {}\n  export TRAINYARD_COORDINATOR={}\n  echo {} | trainyard login --email {} --password-stdin\n  trainyard jobs\nstop it with\n  kill {}\n",
            folder.display(),
            crate::client::address(&address).unwrap_or(address),
            super::USER.1,
            super::USER.0,
            pids.join(" "),
        )
    }

    /// The last lines of every log.
    pub(super) fn log_tails(&self) -> String {
        let mut text = String::new();
        for name in ["coordinator"].into_iter().chain(AGENTS) {
            let Ok(log) = fs::read_to_string(self.log_file(name)) else {
                continue;
            };
            text.push_str(&format!("--- {name}.log\n"));
            let lines: Vec<_> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &self.members {
            terminate(&member.child);
        }
    }
}

/// Asks a process to stop; one that has ended needs no asking.
fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::debug!(?pid, %error, "not there any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tails_of_logs_are_their_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(folder.path(), false);
        assert_eq!(cluster.log_tails(), "");
        let lines: Vec<_> = (1..=40).map(|number| format!("line {number}")).collect();
        fs::write(folder.path().join("alpha.log"), lines.join("\n")).unwrap();
        let tails = cluster.log_tails();
        assert!(tails.starts_with("--- alpha.log\nline 26\n"), "{tails}");
        assert!(tails.ends_with("line 40\n"), "{tails}");
    }

    #[test]
    fn both_agents_see_the_same_environments() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(folder.path(), false);
        cluster.share_environments().unwrap();
        cluster.share_environments().unwrap();
        fs::write(folder.path().join("alpha/envs/one"), "").unwrap();
        assert!(folder.path().join("beta/envs/one").exists());
    }
}

//! `trainyard demo`: a coordinator and two agents as processes of this machine, real jobs, and what
//! became of them.
//!
//! Owns the order of the show and its folder. Never schedules or trains by itself: it talks to its
//! coordinator like any client. Called by `main`.

mod arrived;
mod cluster;
mod dataset;
mod jobs;
mod stage;

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tempfile::TempDir;
use trainyard_proto::v1::Job;

use crate::{
    args::{DemoArgs, DemoFramework},
    client::Client,
    clock,
    commands::{cancel, get_job, submit},
    daemons::Signals,
    exit::Exit,
    output::{self, Screen, progress},
    text,
};
use cluster::Cluster;
use stage::Stage;

/// The development user that `--dev` makes.
const USER: (&str, &str) = ("admin@example.com", "admin123");

/// Shows it all; the exit is 0 when every job completed.
pub(crate) async fn run(args: DemoArgs, screen: Screen) -> anyhow::Result<Exit> {
    let mut signals = Signals::new().context("cannot listen to signals")?;
    let stage = Stage::new(screen);
    let mut folder = Folder::new(&args)?;
    let mut cluster = Cluster::new(folder.path(), args.keep);
    let played = tokio::select! {
        played = play(&args, &stage, &mut cluster) => played,
        () = signals.next() => {
            stage.say("stopping");
            Ok(Exit::Interrupted)
        }
    };
    finish(&args, &stage, &mut cluster, &mut folder, played).await
}

/// From nothing to the table of results.
async fn play(args: &DemoArgs, stage: &Stage, cluster: &mut Cluster) -> anyhow::Result<Exit> {
    let begun = clock::now();
    stage.say(&format!("data in {}", cluster.folder().display()));
    let ready = cluster.start_coordinator().await?;
    stage.say(&format!("coordinator at {}", ready.address));
    cluster.start_agents(&ready).await?;
    stage.say("agents alpha and beta, one slot each");
    let dataset = dataset::prepare(args.framework, cluster.folder(), stage).await?;
    let mut client = Client::anonymous(&ready.address).await?;
    client.login(USER.0, USER.1).await?;
    let mut submitted = Vec::new();
    for spec in jobs::specifications(args.framework, &dataset) {
        let name = spec.name.clone();
        let job = submit::submit(&mut client, spec, None).await?;
        stage.say(&format!("job {} submitted: {name}", job.job_id));
        submitted.push(job.job_id);
        cluster.remember(&client, &submitted);
    }
    let ended = stage.follow(&client, &submitted).await?;
    let took = text::span(clock::now().since(begun));
    stage.results(&ended, &ready.address, &took)?;
    let exit = worst(&ended);
    if exit == Exit::Ok {
        settings_arrived(args.framework, stage, cluster.folder(), &ended)?;
    }
    Ok(exit)
}

/// Where the framework writes down what it was given: that it is what was submitted.
fn settings_arrived(
    framework: DemoFramework,
    stage: &Stage,
    folder: &Path,
    jobs: &[Job],
) -> anyhow::Result<()> {
    let wanted = jobs::arguments(framework);
    if wanted.is_empty() {
        return Ok(());
    }
    for job in jobs {
        let node = progress::node(job).unwrap_or_default();
        arrived::check(job, &folder.join(node), &wanted)?;
        stage.say(&format!(
            "job {}: the {} settings that were looked up arrived at {}",
            job.job_id,
            wanted.len(),
            framework.name()
        ));
    }
    Ok(())
}

/// The exit of the first job that did not complete.
fn worst(jobs: &[Job]) -> Exit {
    let exits = jobs.iter().map(Exit::of_job);
    exits
        .into_iter()
        .find(|exit| *exit != Exit::Ok)
        .unwrap_or(Exit::Ok)
}

/// Stops what was started, or says how to talk to it; shows logs where something went wrong.
async fn finish(
    args: &DemoArgs,
    stage: &Stage,
    cluster: &mut Cluster,
    folder: &mut Folder,
    played: anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    if args.keep && matches!(played, Ok(Exit::Ok)) {
        folder.keep();
        stage.say(&cluster.leave(folder.path()));
        return played;
    }
    if let Some((mut client, ids)) = cluster.recall() {
        // Trainers outlive their agents: nothing may go on training for a demo that has ended.
        stop_jobs(&mut client, &ids).await;
    }
    cluster.stop().await;
    if has_failed(&played) {
        folder.keep();
        output::note(&cluster.log_tails());
        output::note(&format!("all of it stays in {}", folder.path().display()));
    } else if matches!(folder, Folder::Temporary(_)) {
        stage.say("stopped and removed; --keep leaves it running, --data-dir DIR keeps the data");
    }
    folder.remove().context("cannot remove the demo's folder")?;
    played
}

/// Whether somebody will want to see logs; a reader that has gone, as in `| head`, will not.
fn has_failed(played: &anyhow::Result<Exit>) -> bool {
    let exit = match played {
        Ok(exit) => *exit,
        Err(error) => Exit::of_error(error),
    };
    !matches!(exit, Exit::Ok | Exit::Interrupted)
}

/// Cancels what still runs and waits for a moment, so that no process is left behind.
async fn stop_jobs(client: &mut Client, ids: &[u64]) {
    const LOOKS: u32 = 50;
    for id in ids {
        // One that has ended, or a coordinator that has gone: there is nothing to stop.
        drop(cancel::cancel(client, *id, false).await);
    }
    for id in ids {
        for _ in 0..LOOKS {
            match get_job(client, *id).await {
                Ok(job) if !text::has_ended(job.state()) => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                Ok(_) | Err(_) => break,
            }
        }
    }
}

/// The folder of a demo: a temporary one goes with it unless it is worth keeping.
#[derive(Debug)]
enum Folder {
    /// The user's own.
    Given(PathBuf),
    /// Removed at the end.
    Temporary(Option<TempDir>),
    /// A temporary one that stays.
    Kept(PathBuf),
}

impl Folder {
    fn new(args: &DemoArgs) -> anyhow::Result<Self> {
        match &args.data_dir {
            Some(path) => {
                let path = std::path::absolute(path)?;
                std::fs::create_dir_all(&path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
                Ok(Self::Given(path))
            }
            None => {
                let folder = tempfile::Builder::new().prefix("trainyard-demo-").tempdir();
                let folder = folder.context("cannot create a temporary folder; set TMPDIR")?;
                Ok(Self::Temporary(Some(folder)))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Kept(path) => path,
            Self::Temporary(folder) => folder
                .as_ref()
                .map_or_else(|| Path::new("."), TempDir::path),
        }
    }

    fn keep(&mut self) {
        if let Self::Temporary(folder) = self
            && let Some(folder) = folder.take()
        {
            *self = Self::Kept(folder.keep());
        }
    }

    fn remove(&mut self) -> io::Result<()> {
        match self {
            Self::Temporary(folder) => folder.take().map_or(Ok(()), TempDir::close),
            Self::Given(_) | Self::Kept(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use trainyard_proto::v1::JobState;

    use super::*;

    fn args(data_dir: Option<PathBuf>) -> DemoArgs {
        DemoArgs {
            framework: DemoFramework::Sklearn,
            keep: false,
            data_dir,
        }
    }

    #[test]
    fn a_temporary_folder_goes_unless_it_is_kept_and_a_given_one_stays() {
        let mut gone = Folder::new(&args(None)).unwrap();
        let path = gone.path().to_path_buf();
        gone.remove().unwrap();
        assert!(!path.exists());
        let mut kept = Folder::new(&args(None)).unwrap();
        kept.keep();
        kept.remove().unwrap();
        assert!(kept.path().exists());
        std::fs::remove_dir(kept.path()).unwrap();
        let own = tempfile::tempdir().unwrap();
        let mut given = Folder::new(&args(Some(own.path().join("new")))).unwrap();
        given.remove().unwrap();
        assert!(own.path().join("new").exists());
    }

    #[test]
    fn one_bad_job_decides_the_exit() {
        let job = |state: JobState| Job {
            state: state.into(),
            ..Job::default()
        };
        assert_eq!(worst(&[job(JobState::Completed)]), Exit::Ok);
        let jobs = [job(JobState::Completed), job(JobState::Failed)];
        assert_eq!(worst(&jobs), Exit::JobFailed);
    }
}

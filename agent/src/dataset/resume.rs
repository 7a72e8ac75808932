//! The checkpoint that a task begins with, from the artifact store into the task's folder.
//!
//! Owns asking the coordinator for the way, fetching it again where a transfer breaks, and the words
//! when there is no such file. A path that only this node knows is left alone: whether it is one, the
//! coordinator says. Called by the preparation of a run; may be dropped at any moment.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{Code, Status};
use trainyard_core::task::{Failure, Fault};
use trainyard_proto::v1::{SignDownloadRequest, SignDownloadResponse};

use super::{
    Datasets,
    download::{Content, Target, Trouble},
    retry::{Retry, may_pass},
    size_text,
};
use crate::folder::Order;

/// How long a coordinator or a store that gives nothing is borne.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the coordinator may think about a way.
const SIGN: Duration = Duration::from_secs(20);
/// How often a fresh way may be refused, or lead to another size than was told.
const MOST_REFUSALS: u32 = 3;
/// How often a transfer may break in the middle.
const MOST_TRIES: u32 = 40;

impl Datasets {
    /// Fetches what the order's `resume_from` names; none when it names nothing of the artifact store.
    /// Answers with the file and one sentence for the task's log.
    ///
    /// # Errors
    /// In the words that the job's owner reads.
    pub async fn fetch_checkpoint(
        &self,
        order: &Order,
        folder: &Path,
    ) -> Result<Option<(PathBuf, String)>, Failure> {
        let location = order.spec.resume_from.as_deref().unwrap_or_default();
        let mut retry = Retry::new(PATIENCE);
        let Some(way) = self.beginning(order, &mut retry).await? else {
            return Ok(None);
        };
        let Some(name) = Path::new(location).file_name() else {
            return Err(users(format!("checkpoint '{location}' has no file name")));
        };
        let path = folder.join(name);
        let mut target = create(&path).await.map_err(|error| disk(&error))?;
        let size = self.fill(order, &mut target, (way, &mut retry)).await?;
        let text = format!(
            "checkpoint {location} ({}) is at {}",
            size_text(size),
            path.display()
        );
        Ok(Some((path, text)))
    }

    /// Writes all of it; the answer is its size.
    async fn fill(
        &self,
        order: &Order,
        target: &mut Target,
        (mut way, retry): (SignDownloadResponse, &mut Retry),
    ) -> Result<u64, Failure> {
        let location = order.spec.resume_from.as_deref().unwrap_or_default();
        let (mut refusals, mut tries) = (0, 0);
        loop {
            // From its beginning each time: the file may have been replaced meanwhile.
            target.restart().await.map_err(|error| disk(&error))?;
            let content = Content {
                size: way.size_bytes,
                digest: None,
            };
            let Err(trouble) = target.fill(self, content, &way.url).await else {
                return Ok(way.size_bytes);
            };
            tries += 1;
            let why = match trouble {
                Trouble::Disk(error) => return Err(disk(&error)),
                Trouble::Full(error) => {
                    return Err(Failure {
                        fault: Fault::Node,
                        ..shared(location, &error.to_string())
                    });
                }
                Trouble::Passing(why) => why,
                Trouble::Differs(how) => {
                    refusals += 1;
                    format!("it {how}")
                }
                Trouble::Refused(status, words) => {
                    refusals += 1;
                    let words = words.map(|words| format!(" ({words})"));
                    format!("the store answers {status}{}", words.unwrap_or_default())
                }
            };
            if target.written > 0 {
                retry.progress();
            }
            if refusals >= MOST_REFUSALS || tries >= MOST_TRIES || !retry.again().await {
                return Err(shared(location, &why));
            }
            let fresh = self.beginning(order, retry).await?;
            way = fresh.ok_or_else(|| shared(location, &why))?;
        }
    }

    /// The way to what the task begins with; none when the location is none of the store.
    async fn beginning(
        &self,
        order: &Order,
        retry: &mut Retry,
    ) -> Result<Option<SignDownloadResponse>, Failure> {
        let location = order.spec.resume_from.as_deref().unwrap_or_default();
        loop {
            let status = match self.sign_download(order).await {
                Ok(way) => return Ok(Some(way).filter(|way| !way.url.is_empty())),
                Err(status) => status,
            };
            if status.code() == Code::NotFound {
                return Err(users(status.message().to_owned()));
            }
            if !may_pass(&status) || !retry.again().await {
                return Err(shared(location, status.message()));
            }
        }
    }

    async fn sign_download(&self, order: &Order) -> Result<SignDownloadResponse, Status> {
        let request = SignDownloadRequest {
            task: Some(order.task.into()),
            secret: order.secret.expose().to_owned(),
        };
        let asking = async { self.calls().await?.sign_download(request).await };
        let late = |_| Status::deadline_exceeded(format!("no answer within {SIGN:?}"));
        let answer = tokio::time::timeout(SIGN, asking).await;
        Ok(answer.map_err(late)??.into_inner())
    }
}

/// An empty file in place of what an earlier try has left.
async fn create(path: &Path) -> io::Result<Target> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Target::create(path)
}

fn users(error: String) -> Failure {
    Failure {
        error,
        fault: Fault::Job,
    }
}

fn shared(location: &str, why: &str) -> Failure {
    Failure {
        error: format!("checkpoint '{location}' cannot be fetched: {why}"),
        fault: Fault::Shared,
    }
}

fn disk(error: &io::Error) -> Failure {
    Failure {
        error: format!(
            "the checkpoint to begin with cannot be written: {error}; see the data folder's free disk space and permissions"
        ),
        fault: Fault::Node,
    }
}

//! Checkpoints on their way to the coordinator's store, while their trainer works and once it has ended.
//!
//! Owns finding the best and the last one and bringing them there, again where it fails. Never fails
//! a job: what could not be stored stays on this node. Called by the run's courier and by its end.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{Code, Status};
use trainyard_core::record::{Checkpoint, Progress};
use trainyard_proto::v1::{PublishUploadRequest, SignUploadRequest, SignUploadResponse};

use super::{
    Datasets,
    put::{Refusal, Span, limit, put},
    retry::{self, Retry},
    size_text,
    still::{self, Mark},
};
use crate::{clock, folder::Order};

/// Names, without their ends, of the checkpoints that are stored.
const STEMS: [&str; 2] = ["best", "last"];

/// How long a store that takes nothing is borne, for all checkpoints together: the end of a job waits
/// for it.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often one checkpoint is tried at most.
const MOST_TRIES: u32 = 40;
/// How often a fresh way may be refused.
const MOST_WAYS: u32 = 3;
/// How long the coordinator may think about a way.
pub(super) const SIGN: Duration = Duration::from_secs(20);
/// How often a call that takes long may get no answer in time.
const MOST_LATE: u32 = 3;

/// What became of the checkpoints.
#[derive(Debug, Default)]
pub struct Stored {
    /// Tells the coordinator where they are; `None` when there are none.
    pub report: Option<Progress>,
    /// For the task's log: whether it went well, and the words.
    pub notes: Vec<(bool, String)>,
}

/// What of a task's checkpoints is in the store already.
#[derive(Debug, Default)]
pub struct Sent(BTreeMap<&'static str, (Mark, Checkpoint)>);

/// Which of them are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When<'a> {
    /// The trainer may write to them at any moment: only those that it leaves alone, copied into this folder first.
    Working(&'a Path),
    /// Nobody writes any more: all of them.
    Ended,
}

impl Datasets {
    /// Stores `best.*` and `last.*` of `folder`, unless they are in the store as they are.
    pub async fn store_checkpoints(
        &self,
        order: &Order,
        folder: &Path,
        (when, sent): (When<'_>, &mut Sent),
    ) -> Stored {
        let mut stored = Stored::default();
        if !self.options.upload_checkpoints {
            return stored;
        }
        let mut report = nothing(order);
        let mut retry = Retry::new(PATIENCE);
        let mut found = find(folder).await;
        for stem in STEMS {
            let place = match stem {
                "best" => &mut report.best_checkpoint,
                _ => &mut report.checkpoint,
            };
            let Some((mark, path)) = found.remove(stem) else {
                continue;
            };
            if let Some((known, checkpoint)) = sent.0.get(stem)
                && *known == mark
            {
                // What the trainer says at its end names the file here: it is told again where it is.
                *place = Some(checkpoint.clone()).filter(|_| when == When::Ended);
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kept = match when {
                When::Ended => {
                    self.store(order, (&path, &name), mark.size, &mut retry)
                        .await
                }
                When::Working(copies) => match still::copy(&path, &mark, copies).await {
                    Ok(Some(copy)) => {
                        self.store(order, (&copy, &name), mark.size, &mut retry)
                            .await
                    }
                    // It is being written: there is a next time.
                    Ok(None) => continue,
                    Err(error) => Err(format!("it cannot be copied: {error}")),
                },
            };
            match kept {
                Ok(location) => {
                    let size = size_text(mark.size);
                    let text = format!("checkpoint {name} ({size}) stored as {location}");
                    stored.notes.push((true, text));
                    let checkpoint = Checkpoint {
                        path: location,
                        size_bytes: Some(mark.size),
                    };
                    *place = Some(checkpoint.clone());
                    sent.0.insert(stem, (mark, checkpoint));
                }
                Err(why) => {
                    let path = path.display();
                    let text =
                        format!("checkpoint {name} could not be stored and stays at {path}: {why}");
                    stored.notes.push((false, text));
                }
            }
        }
        stored.report = Some(report).filter(Progress::only_checkpoints);
        stored
    }

    async fn store(
        &self,
        order: &Order,
        (path, name): (&Path, &str),
        size: u64,
        retry: &mut Retry,
    ) -> Result<String, String> {
        let (mut tries, mut ways) = (0, 0);
        loop {
            tries += 1;
            let why = match self.try_to_store(order, (path, name, size), retry).await {
                Ok(location) => {
                    retry.progress();
                    return Ok(location);
                }
                Err(Refusal::Final(why)) => return Err(why),
                Err(Refusal::Way(why)) => {
                    ways += 1;
                    if ways >= MOST_WAYS {
                        return Err(why);
                    }
                    why
                }
                Err(Refusal::Passing(why)) => why,
            };
            if tries >= MOST_TRIES || !retry.again().await {
                return Err(why);
            }
        }
    }

    async fn try_to_store(
        &self,
        order: &Order,
        (path, name, size): (&Path, &str, u64),
        retry: &mut Retry,
    ) -> Result<String, Refusal> {
        // What a try before this one has under way at the store must not come in place of it, nor it in place of that.
        let upload = rand::random::<u64>().max(1);
        let signed = self.sign(order, name.to_owned(), (size, upload)).await;
        let signed = signed.map_err(|status| refusal(&status))?;
        if let Some(parts) = &signed.parts {
            self.store_parts(order, path, parts, retry).await?;
            self.publish(order, name, (size, upload)).await?;
            return Ok(signed.location);
        }
        let url = self.coordinator.join(&signed.url);
        let url = url.map_err(|error| Refusal::Final(format!("its way is no URL: {error}")))?;
        let span = Span {
            path,
            from: 0,
            size,
        };
        put(&self.http, url, span, retry.moved()).await?;
        self.publish(order, name, (size, upload)).await?;
        Ok(signed.location)
    }

    async fn sign(
        &self,
        order: &Order,
        filename: String,
        (size_bytes, upload): (u64, u64),
    ) -> Result<SignUploadResponse, Status> {
        let request = SignUploadRequest {
            task: Some(order.task.into()),
            secret: order.secret.expose().to_owned(),
            filename,
            size_bytes,
            upload,
        };
        let asking = async { self.calls().await?.sign_upload(request).await };
        Ok(in_time(SIGN, asking).await?.into_inner())
    }

    /// The bytes are there: from now on they are the checkpoint. A bucket copies them. They are not sent
    /// again for it, unless they are not there.
    async fn publish(
        &self,
        order: &Order,
        filename: &str,
        (size, upload): (u64, u64),
    ) -> Result<(), Refusal> {
        let publish = async || {
            let request = PublishUploadRequest {
                task: Some(order.task.into()),
                secret: order.secret.expose().to_owned(),
                filename: filename.to_owned(),
                upload,
            };
            let answer = self.calls().await?.publish_upload(request).await;
            answer.map(drop)
        };
        insist(limit(size), publish).await
    }
}

/// Asks the coordinator for what takes `limit` at most, again where that may help. What was sent and is not
/// there asks for a fresh way.
pub(super) async fn insist<A>(limit: Duration, ask: impl Fn() -> A) -> Result<(), Refusal>
where
    A: Future<Output = Result<(), Status>>,
{
    let (mut retry, mut late) = (Retry::new(PATIENCE), 0);
    loop {
        let Err(status) = in_time(limit, ask()).await else {
            return Ok(());
        };
        let why = status.message().to_owned();
        if status.code() == Code::NotFound {
            return Err(Refusal::Way(why));
        }
        if !retry::may_pass(&status) {
            return Err(Refusal::Final(why));
        }
        if status.code() == Code::DeadlineExceeded {
            late += 1;
            // It was not refused; the wait was long enough.
            retry.progress();
        }
        if late >= MOST_LATE || !retry.again().await {
            return Err(Refusal::Final(why));
        }
    }
}

/// The answer, unless there is none within `limit`.
pub(super) async fn in_time<T>(
    limit: Duration,
    asking: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("no answer within {limit:?}"));
    let answer = tokio::time::timeout(limit, asking).await;
    answer.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

fn refusal(status: &Status) -> Refusal {
    let why = status.message().to_owned();
    if retry::may_pass(status) {
        Refusal::Passing(why)
    } else {
        Refusal::Final(why)
    }
}

fn nothing(order: &Order) -> Progress {
    Progress {
        at: clock::now(),
        epoch: 0,
        total_epochs: order.spec.epochs,
        step: None,
        values: BTreeMap::new(),
        has_metrics: false,
        checkpoint: None,
        best_checkpoint: None,
    }
}

/// The newest file of each stem.
async fn find(folder: &Path) -> BTreeMap<&'static str, (Mark, PathBuf)> {
    let folder = folder.to_owned();
    let look = move || -> io::Result<BTreeMap<&'static str, (Mark, PathBuf)>> {
        let mut newest = BTreeMap::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let named = |stem: &&&str| path.file_stem().is_some_and(|name| name == **stem);
            let Some(stem) = STEMS.iter().find(named) else {
                continue;
            };
            let about = path.symlink_metadata()?;
            if about.is_file() {
                let one = (Mark::of(&about)?, path);
                let newer = newest.get(stem).is_none_or(|so_far| one > *so_far);
                if newer {
                    newest.insert(*stem, one);
                }
            }
        }
        Ok(newest)
    };
    let looked = trainyard_runtime::blocking(look).await;
    looked.ok().and_then(Result::ok).unwrap_or_default()
}

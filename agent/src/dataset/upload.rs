//! Checkpoints on their way to the coordinator's store, while their trainer works and once it has ended.
//!
//! Owns bringing the best and the last one there, again where it fails. Never fails a job: what could not be stored stays
//! on this node. Which they are: `named`. Called by the run's courier and by its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use trainyard_core::record::{Checkpoint, Progress};
use trainyard_proto::v1::{PublishUploadRequest, SignUploadRequest, SignUploadResponse};

use super::{
    Datasets,
    named::{STEMS, find, upload_name},
    put::{Refusal, Span, limit, put},
    retry::{self, Retry},
    size_text,
    still::{self, Mark},
    told::Told,
};
use crate::{clock, folder::Order, spool::Spool};

/// How long a store that takes nothing is borne, for all checkpoints together: the end of a job waits
/// for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
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
pub struct Sent {
    stored: BTreeMap<&'static str, (Mark, Checkpoint)>,
    /// Those that were written all the time when they were looked at last.
    restless: BTreeSet<&'static str>,
}

/// Which of them are looked at.
#[derive(Clone, Copy, Debug)]
pub enum When<'a> {
    /// The trainer may write to them at any moment: only those of which there is a whole copy, taken into this folder.
    Working(&'a Path),
    /// Nobody writes any more: all of them.
    Ended,
}

/// Whose checkpoints are stored.
#[derive(Clone, Copy, Debug)]
pub struct Trip<'a> {
    /// The task.
    pub order: &'a Order,
    /// What it tells.
    pub spool: &'a Spool,
    /// What its trainer has said of its checkpoints.
    pub told: &'a Told,
    /// Cancelled when they are not to be stored any more.
    pub given_up: &'a CancellationToken,
}

/// What is said of a checkpoint whose trip was given up.
const GIVEN_UP: &str =
    "the job was stopped, and storing it took longer than checkpoints.after_stop_seconds";

impl Trip<'_> {
    /// The outcome, unless the trip is given up before there is one.
    pub(super) async fn unless_given_up<T>(
        &self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let done = self.given_up.run_until_cancelled(work).await;
        done.unwrap_or_else(|| Err(Refusal::Final(GIVEN_UP.to_owned())))
    }

    /// Waits until the trainer has told what it may keep, and the coordinator has all that was told by then: an attempt that
    /// goes on from a checkpoint must not miss the epochs before it, if this node is lost for good.
    async fn told(&self) -> Result<(), Refusal> {
        self.told.owing().is_settled().await;
        let last = self.spool.state().last_seq;
        match tokio::time::timeout(PATIENCE, self.spool.delivered(last)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Refusal::Final(error.to_string())),
            Err(_) => Err(Refusal::Final(format!(
                "what the job had told before it was not delivered within {PATIENCE:?}"
            ))),
        }
    }
}

impl Datasets {
    /// Stores `best.*` and `last.*` of `folder`, or what the trainer has called so below it, under these names, unless they
    /// are in the store as they are.
    pub async fn store_checkpoints(
        &self,
        trip: Trip<'_>,
        folder: &Path,
        (when, sent): (When<'_>, &mut Sent),
    ) -> Stored {
        let mut stored = Stored::default();
        if !self.options.upload_checkpoints {
            return stored;
        }
        let mut report = nothing(trip.order);
        let mut retry = Retry::new(self.options.checkpoints_patience);
        let mut found = find(folder, trip.told).await;
        for stem in STEMS {
            let place = match stem {
                "best" => &mut report.best_checkpoint,
                _ => &mut report.checkpoint,
            };
            let Some((mut mark, path)) = found.remove(stem) else {
                continue;
            };
            if let Some((known, checkpoint)) = sent.stored.get(stem)
                && *known == mark
            {
                // What the trainer says at its end names the file here: it is told again where it is.
                *place = Some(checkpoint.clone()).filter(|_| matches!(when, When::Ended));
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut restless = sent.restless.contains(stem);
            let kept_as = upload_name(stem, &path);
            let bringing = self.bring(
                trip,
                (&path, &kept_as, &mut mark),
                (when, &mut restless),
                &mut retry,
            );
            let kept = bringing.await;
            if restless {
                sent.restless.insert(stem);
            }
            let Some(kept) = kept else { continue };
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
                    sent.stored.insert(stem, (mark, checkpoint));
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

    /// Whether `folder` has a checkpoint that is not in the store as it is.
    pub async fn lacks(&self, folder: &Path, told: &Told, sent: &Sent) -> bool {
        let found = find(folder, told).await;
        let is_there = |(stem, (mark, _)): (&&str, &(Mark, PathBuf))| {
            let stored = sent.stored.get(stem);
            stored.is_some_and(|(known, _)| known == mark)
        };
        !found.iter().all(is_there)
    }

    /// Brings one there, and notes what of it; none where it is being written: there is a next time.
    async fn bring(
        &self,
        trip: Trip<'_>,
        (path, name, mark): (&Path, &str, &mut Mark),
        (when, restless): (When<'_>, &mut bool),
        retry: &mut Retry,
    ) -> Option<Result<String, String>> {
        let When::Working(copies) = when else {
            return Some(self.store(trip, (path, name), mark.size, retry).await);
        };
        let copying = still::copy(path, copies, (trip.told, *restless));
        // Its trainer has ended meanwhile: the last walk takes it as it is.
        let copied = trip.given_up.run_until_cancelled(copying).await?;
        match copied {
            Ok(Some(copy)) => {
                mark.clone_from(&copy.mark);
                let from = (&*copy.path, name);
                Some(self.store(trip, from, mark.size, retry).await)
            }
            Ok(None) => {
                *restless = true;
                None
            }
            Err(error) => Some(Err(format!("it cannot be copied: {error}"))),
        }
    }

    async fn store(
        &self,
        trip: Trip<'_>,
        (path, name): (&Path, &str),
        size: u64,
        retry: &mut Retry,
    ) -> Result<String, String> {
        let (mut tries, mut ways) = (0, 0);
        loop {
            tries += 1;
            // A large one, and there is one of it at a time.
            let trying = Box::pin(self.try_to_store(trip, (path, name, size), retry));
            let why = match trying.await {
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
            let again = async { Ok(tries < MOST_TRIES && retry.again().await) };
            match trip.unless_given_up(again).await {
                Ok(true) => {}
                Ok(false) => return Err(why),
                Err(given_up) => return Err(given_up.into_words()),
            }
        }
    }

    async fn try_to_store(
        &self,
        trip: Trip<'_>,
        (path, name, size): (&Path, &str, u64),
        retry: &mut Retry,
    ) -> Result<String, Refusal> {
        // What a try before this one has under way at the store must not come in place of it, nor it in place of that.
        let upload = rand::random::<u64>().max(1);
        let signing = async {
            let signed = self.sign(trip.order, name.to_owned(), (size, upload)).await;
            signed.map_err(|status| refusal(&status))
        };
        let signed = trip.unless_given_up(signing).await?;
        let publishing = Box::pin(async {
            trip.told().await?;
            self.publish(trip.order, name, (size, upload)).await
        });
        if let Some(parts) = &signed.parts {
            self.store_parts(trip, path, parts, retry).await?;
            trip.unless_given_up(publishing).await?;
            return Ok(signed.location);
        }
        let url = self.coordinator.join(&signed.url);
        let url = url.map_err(|error| Refusal::Final(format!("its way is no URL: {error}")))?;
        let span = Span {
            path,
            from: 0,
            size,
        };
        let putting = put(&self.http, url, span, retry.moved());
        trip.unless_given_up(putting).await?;
        trip.unless_given_up(publishing).await?;
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

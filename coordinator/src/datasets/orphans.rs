//! What nobody knows in the artifact store: files of snapshots whose row was never committed, files that
//! were never whole, and uploads of attempts that are over; and kept digests of places that nobody names.
//!
//! Owns how old such must be. Looks at the start and now and then. Never touches a dataset or a
//! published checkpoint. Started by `boot`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use trainyard_core::{snapshot::Snapshot, time::Timestamp};

use super::{
    DatasetRow, Datasets,
    checkpoints::{UPLOADS, attempt_of},
    manifest::SNAPSHOTS,
};
use crate::{api::ApiError, clock, storage::Entry};

/// What is younger may belong to a submit or an upload that is under way.
const AGE: Duration = Duration::from_secs(86_400);
/// How often it is looked.
const EVERY: Duration = Duration::from_secs(6 * 3_600);

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Collected {
    snapshots: u64,
    files: u64,
    drafts: u64,
    uploads: u64,
    digests: u64,
}

impl Datasets {
    /// Looks for what nobody knows, until this is closed.
    pub fn tend(&self) {
        let (datasets, stop) = (self.clone(), self.inner.stop.clone());
        self.inner.tasks.spawn(async move {
            let tending = async {
                datasets.forget_drafts().await;
                loop {
                    datasets.look().await;
                    tokio::time::sleep(EVERY).await;
                }
            };
            stop.run_until_cancelled(tending).await
        });
    }

    /// At a start: what a coordinator that was killed was just receiving may be as large as a disk has room for, and comes
    /// again from its sender.
    async fn forget_drafts(&self) {
        match self
            .inner
            .storage
            .artifacts()
            .remove_drafts(clock::now())
            .await
        {
            Ok(0) => {}
            Ok(drafts) => tracing::info!(drafts, "removed files that were never whole"),
            Err(error) => tracing::warn!(%error, "files that were never whole stay for now"),
        }
    }

    async fn look(&self) {
        let before = Timestamp(clock::now().0.saturating_sub(micros(AGE)));
        match self.collect(before).await {
            Ok(gone) if gone == Collected::default() => {}
            Ok(gone) => tracing::info!(
                snapshots = gone.snapshots,
                files = gone.files,
                drafts = gone.drafts,
                uploads = gone.uploads,
                digests = gone.digests,
                "removed what nobody knew"
            ),
            Err(error) => {
                tracing::warn!(error = %error.message, "the artifact store could not be tidied up; it is tried again later");
            }
        }
    }

    async fn collect(&self, before: Timestamp) -> Result<Collected, ApiError> {
        let artifacts = self.inner.storage.artifacts();
        let listed = artifacts.list(SNAPSHOTS, usize::MAX).await?;
        // Asked after the listing: what has a row by now had its files before.
        let known = self.snapshots(None).await?;
        let orphans = orphans(listed, &known, before);
        let mut gone = Collected {
            drafts: artifacts.remove_drafts(before).await?,
            uploads: self.collect_uploads(before).await?,
            digests: self.collect_digests(&known, before).await?,
            ..Collected::default()
        };
        for files in orphans.into_values() {
            for file in &files {
                artifacts.remove(file).await?;
                gone.files += 1;
            }
            gone.snapshots += 1;
        }
        artifacts.remove_empty(SNAPSHOTS, before).await?;
        Ok(gone)
    }

    /// Removes digests that were taken of places where neither a dataset nor a snapshot lies.
    async fn collect_digests(
        &self,
        known: &[Snapshot],
        before: Timestamp,
    ) -> Result<u64, ApiError> {
        let (store, digests) = (self.inner.store.clone(), self.inner.digests.clone());
        let mut places: BTreeSet<String> = known
            .iter()
            .map(|snapshot| snapshot.storage_path.clone())
            .collect();
        let work = move || {
            let rows = store.documents::<DatasetRow>("")?;
            places.extend(rows.into_iter().map(|row| row.storage_path));
            Ok(digests.tidy(&places, before))
        };
        let done = trainyard_runtime::blocking(work).await;
        done.ok().ok_or_else(crate::api::stopping)?
    }

    /// Removes what attempts that are over have sent and nobody has published.
    async fn collect_uploads(&self, before: Timestamp) -> Result<u64, ApiError> {
        let artifacts = self.inner.storage.artifacts();
        let mut gone = 0;
        for entry in artifacts.list(UPLOADS, usize::MAX).await? {
            if entry.written_at.is_none_or(|at| at >= before) {
                continue;
            }
            let wanted = match attempt_of(&entry.path) {
                Some((job, attempt)) => self.is_live(job, attempt)?,
                None => false,
            };
            if !wanted {
                artifacts.remove(&entry.path).await?;
                gone += 1;
            }
        }
        artifacts.remove_empty(UPLOADS, before).await?;
        Ok(gone)
    }
}

/// The files of snapshots without a row, all of which are older.
fn orphans(
    listed: Vec<Entry>,
    known: &[Snapshot],
    before: Timestamp,
) -> BTreeMap<String, Vec<String>> {
    let known: BTreeSet<&str> = known.iter().map(|snapshot| snapshot.id.as_str()).collect();
    let (mut old, mut young) = (BTreeMap::<String, Vec<String>>::new(), BTreeSet::new());
    for entry in listed {
        let id = entry.path.split('/').nth(1).unwrap_or_default().to_owned();
        if known.contains(id.as_str()) || entry.path.split('/').count() != 3 {
            continue;
        }
        if entry.written_at.is_none_or(|at| at >= before) {
            young.insert(id);
        } else {
            old.entry(id).or_default().push(entry.path);
        }
    }
    old.retain(|id, _| !young.contains(id));
    old
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

//! The spool with which a run begins.
//!
//! Owns what follows where nobody has taken the words of its trainer until then. Called by the run actor alone.

use std::path::PathBuf;

use trainyard_core::ids::TaskKey;

use crate::{
    board::Board,
    dataset::Owing,
    spool::{Spool, SpoolError},
};

/// The one that is open already, if this run was started again and the spool is sound; else it is opened with so much room
/// in bytes. `owing` is that of a task which was here before.
///
/// # Errors
/// When it cannot be opened.
pub(super) async fn open(
    (board, task): (&Board, TaskKey),
    (path, room): (PathBuf, u64),
    owing: Option<&Owing>,
) -> Result<Spool, SpoolError> {
    if let Some(open) = board.spool_of(task)
        && open.append(Vec::new()).await.is_ok()
    {
        return Ok(open);
    }
    let spool = Spool::open(path, room).await?;
    if let Some(owing) = owing {
        // Until now its trainer was told to wait, perhaps for much longer than its checkpoints wait for what it kept.
        owing.begin();
    }
    board.spool(task, spool.clone());
    Ok(spool)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use trainyard_core::{
        ids::{AttemptNo, JobId, Rank},
        task::{Phase, Report},
    };

    use super::*;

    #[tokio::test]
    async fn a_checkpoint_waits_for_what_was_kept_while_the_spool_could_not_be_opened_for_however_long()
     {
        let task = TaskKey {
            job: JobId(1),
            attempt: AttemptNo(1),
            rank: Rank(0),
        };
        let (board, owing) = (Board::default(), Owing::default());
        board.report(Report {
            task,
            phase: Phase::Preparing,
            detail: String::new(),
            kept_from: 0,
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let run = async |owing| open((&board, task), (path.clone(), u64::MAX), owing).await;
        let is_settled = || owing.is_settled().now_or_never().is_some();
        // What begins here has told nobody anything.
        run(None).await.unwrap().close().await.unwrap();
        assert!(is_settled());

        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(run(Some(&owing)).await.is_err());
        assert!(is_settled(), "no checkpoint goes anywhere without a run");
        std::fs::remove_dir(&path).unwrap();
        run(Some(&owing)).await.unwrap();
        assert!(!is_settled());

        // Another run that has the same spool: its trainer was heard all the time.
        owing.end();
        run(Some(&owing)).await.unwrap();
        assert!(is_settled());
    }
}

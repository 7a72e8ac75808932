//! A backup of the store while it is written on, handed to the caller piece by piece.
//!
//! Owns who may have one, and that there is room for it. The copy lies in the data folder without a name
//! while it is handed out, so that none stays behind when the caller goes; one that was being made when the process was
//! killed is removed at the next start. Called by the gRPC door and at the start.

use std::{fs, io, path::Path};

use futures::Stream;
use tokio::io::AsyncReadExt as _;
use trainyard_core::{access::Permission, resources::format_bytes};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target, service::stopping};
use crate::store::{
    Store,
    care::{Copied, CopyError, FILE},
};

/// Bytes of one piece.
const PIECE: usize = 1 << 20;

/// How the name of a copy begins, before 16 digits.
const BEGIN: &str = "backup-";
/// And how it ends.
const END: &str = ".redb";

/// A part of the backup, in order.
#[derive(Debug)]
pub enum Piece {
    /// What follows.
    Begin {
        /// Of the file.
        bytes: u64,
        /// Of all tables.
        rows: u64,
    },
    /// The next bytes.
    Data(Vec<u8>),
    /// All of it was told.
    End {
        /// blake3 of all bytes, in hex.
        digest: String,
    },
}

impl Service {
    /// A copy of the store as it is now. It holds every secret of the coordinator.
    ///
    /// # Errors
    /// When the caller may not administer users, another backup is under way, or there is no room.
    pub async fn back_up(
        &self,
        caller: Caller,
    ) -> Result<impl Stream<Item = Result<Piece, ApiError>> + Send + use<>, ApiError> {
        self.require(&caller, Permission::AdministerUsers, Target::Cluster)?;
        let turn = self.store().copy_turn().try_acquire_owned();
        let turn = turn.ok().ok_or_else(|| {
            let words = "another backup is under way; try again when it has ended";
            ApiError::new(Kind::Exhausted, words)
        })?;
        let store = self.store().clone();
        let made = trainyard_runtime::blocking(move || make(&store)).await;
        let (file, copied) = made.ok().ok_or_else(stopping)??;
        tracing::info!(by = %caller.user.email, bytes = copied.bytes, "the store is backed up");
        let (service, mut file) = (self.clone(), tokio::fs::File::from_std(file));
        Ok(async_stream::try_stream! {
            let _turn = turn;
            yield Piece::Begin { bytes: copied.bytes, rows: copied.rows };
            let mut digest = blake3::Hasher::new();
            loop {
                service.still(&caller)?;
                let mut bytes = Vec::with_capacity(PIECE);
                let read = (&mut file).take(PIECE as u64).read_to_end(&mut bytes).await;
                if read.map_err(unreadable)? == 0 {
                    break;
                }
                digest.update(&bytes);
                yield Piece::Data(bytes);
            }
            yield Piece::End { digest: digest.finalize().to_hex().to_string() };
        })
    }
}

/// The copy, opened and without a name.
fn make(store: &Store) -> Result<(fs::File, Copied), ApiError> {
    let folder = store.folder();
    has_room(folder, &folder.join(FILE))?;
    let path = folder.join(format!("{BEGIN}{:016x}{END}", rand::random::<u64>()));
    let copied = store.copy(&path).map_err(|error| {
        tracing::error!(%error, "the store could not be backed up");
        match error {
            CopyError::Target { .. } => ApiError::new(Kind::Exhausted, error.to_string()),
            CopyError::Rows { .. } => ApiError::new(Kind::Internal, error.to_string()),
        }
    })?;
    if copied.damaged > 0 {
        tracing::error!(rows = copied.damaged, some = %copied.named.join(", "), "rows of the store are damaged, and so they are in this backup; keep an older one, and look with `trainyard store check`");
    }
    let opened = fs::File::open(&path);
    fs::remove_file(&path).map_err(unreadable)?;
    Ok((opened.map_err(unreadable)?, copied))
}

/// Removes copies that were being made when a coordinator was killed: each is as large as the store, and has its secrets.
/// Only whoever has the store open may call this. Blocks.
pub(crate) fn remove_left_over(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_copy) {
            continue;
        }
        let path = entry.path();
        match fs::remove_file(&path) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), "a backup was being made when the coordinator ended; what there is of it is removed");
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "what is left of a backup cannot be removed; it holds the store's secrets, remove it");
            }
        }
    }
    Ok(())
}

/// Whether a file's name is that of a copy made here, or of its draft. What a user has named otherwise is the user's.
fn is_copy(name: &str) -> bool {
    let digits = |text: &str, count| {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        text.len() == count && text.as_bytes().iter().all(is_digit)
    };
    let parts = name
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.split_once(END));
    parts.is_some_and(|(number, rest)| {
        let draft = rest
            .strip_prefix('.')
            .and_then(|rest| rest.strip_suffix(".part"));
        digits(number, 16) && (rest.is_empty() || draft.is_some_and(|draft| digits(draft, 8)))
    })
}

/// A copy is at most as large as the store, and jobs go on being written meanwhile.
fn has_room(folder: &Path, store: &Path) -> Result<(), ApiError> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| unreadable(error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = fs::metadata(store).map_err(unreadable)?.len();
    if free > needed.saturating_mul(5) / 4 {
        return Ok(());
    }
    let words = format!(
        "a backup needs up to {} beside the store and {} is free there; free some space, or stop the coordinator and copy its file",
        format_bytes(needed),
        format_bytes(free)
    );
    Err(ApiError::new(Kind::Exhausted, words))
}

fn unreadable(error: io::Error) -> ApiError {
    ApiError::new(
        Kind::Internal,
        format!("the backup cannot be read: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_backup_goes_and_what_a_user_has_put_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let left = [
            "backup-00112233445566aa.redb",
            "backup-00112233445566aa.redb.0badcafe.part",
        ];
        let others = [
            FILE,
            "backup-2026-11-26.redb",
            "backup-00112233445566aa.redb.gz",
            "backup-00112233445566aa.redb.mine.part",
            "saved.redb.0badcafe.part",
        ];
        for name in left.iter().chain(&others) {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_left_over(folder.path()).unwrap();
        assert!(!left.iter().any(|name| folder.path().join(name).exists()));
        assert!(others.iter().all(|name| folder.path().join(name).exists()));
    }
}

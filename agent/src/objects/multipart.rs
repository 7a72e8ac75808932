//! Large uploads in parts: each part is a file until all are put together.
//!
//! Owns where parts lie, `.upload-<id>/<number>.<digest>` beside the checkpoints, so that they outlive the agent, and
//! that a part is there whole or not at all. A part that was sent twice is two files, of which the end names one.
//! Whoever asks is checked by the door. Blocks.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Stays in an upload's folder when it has ended: whoever did not hear of it asks again.
const DONE: &str = "done";

/// A fresh upload's id.
pub(super) fn begin(folder: &Path) -> io::Result<String> {
    let id = format!("{:032x}", rand::random::<u128>());
    fs::create_dir_all(folder.join(name(&id)))?;
    Ok(id)
}

/// Where a part is drafted; none when there is no such upload.
pub(super) fn draft(folder: &Path, id: &str, number: i32) -> Option<PathBuf> {
    let parts = parts(folder, id)?;
    let draft = format!("draft-{:016x}", rand::random::<u64>());
    (1..=10_000).contains(&number).then(|| parts.join(draft))
}

/// Where a part goes when it is whole.
pub(super) fn part(draft: &Path, number: i32, digest: &str) -> PathBuf {
    draft.with_file_name(format!("{number}.{digest}"))
}

/// Puts the named parts together into `draft`. A part that is not there, or not as it is named, is `NotFound`.
pub(super) fn join(
    folder: &Path,
    id: &str,
    named: &[(i32, String)],
    draft: &Path,
) -> io::Result<()> {
    let parts = parts(folder, id).ok_or(io::ErrorKind::NotFound)?;
    let mut whole = File::create(draft)?;
    for (number, digest) in named {
        let is_digest = digest.chars().all(|digit| digit.is_ascii_hexdigit());
        let part = parts.join(format!("{number}.{digest}"));
        let mut part = match is_digest {
            true => File::open(part)?,
            false => return Err(io::ErrorKind::NotFound.into()),
        };
        io::copy(&mut part, &mut whole)?;
    }
    whole.sync_all()
}

/// Whether the upload has ended well.
pub(super) fn is_done(folder: &Path, id: &str) -> bool {
    parts(folder, id).is_some_and(|parts| parts.join(DONE).exists())
}

/// Removes the parts of an upload whose object is in its place.
pub(super) fn finish(folder: &Path, id: &str) -> io::Result<()> {
    let Some(parts) = parts(folder, id) else {
        return Ok(());
    };
    File::create(parts.join(DONE))?;
    for entry in fs::read_dir(&parts)? {
        let entry = entry?;
        if entry.file_name() != DONE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Forgets an upload; false when there is none.
pub(super) fn abort(folder: &Path, id: &str) -> io::Result<bool> {
    match parts(folder, id) {
        Some(parts) => fs::remove_dir_all(parts).map(|()| true),
        None => Ok(false),
    }
}

fn parts(folder: &Path, id: &str) -> Option<PathBuf> {
    let is_id = id.len() == 32 && id.chars().all(|digit| digit.is_ascii_hexdigit());
    let parts = is_id.then(|| folder.join(name(id)))?;
    parts.is_dir().then_some(parts)
}

fn name(id: &str) -> String {
    format!(".upload-{id}")
}

//! Large uploads in parts: each part is a file until all are put together.
//!
//! Owns where parts lie, `.upload-<id>/<number>` beside the checkpoints, so that they outlive the agent. Whoever
//! asks is checked by the door. Blocks.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A fresh upload's id.
pub(super) fn begin(folder: &Path) -> io::Result<String> {
    let id = format!("{:032x}", rand::random::<u128>());
    fs::create_dir_all(folder.join(name(&id)))?;
    Ok(id)
}

/// Where a part of an upload goes; none when there is no such upload.
pub(super) fn part(folder: &Path, id: &str, number: i32) -> Option<PathBuf> {
    let parts = parts(folder, id)?;
    (1..=10_000)
        .contains(&number)
        .then(|| parts.join(number.to_string()))
}

/// Puts the named parts together into `draft`.
pub(super) fn join(folder: &Path, id: &str, numbers: &[i32], draft: &Path) -> io::Result<u64> {
    let mut whole = File::create(draft)?;
    let mut size = 0;
    for number in numbers {
        let path = part(folder, id, *number).ok_or(io::ErrorKind::NotFound)?;
        size += io::copy(&mut File::open(path)?, &mut whole)?;
    }
    whole.sync_all()?;
    Ok(size)
}

/// Forgets an upload; false when there is none.
pub(super) fn end(folder: &Path, id: &str) -> io::Result<bool> {
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

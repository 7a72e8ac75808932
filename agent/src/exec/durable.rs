//! Small files that are there whole or not at all, also after a power cut.
//!
//! Owns writing JSON by temporary file, fsync, rename and fsync of the folder. It never creates
//! folders and never retries. The launcher, the watcher and the shim call it.

use serde::{Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use trainyard_runtime::lasting;

/// The room that is reserved: a block of most file systems, and more than any record needs.
const RESERVED: usize = 4096;

/// Replaces `path` by `value` as JSON, durably.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write(path, value, 0o666)
}

/// As above, but not for a power cut: after one it may be there empty, or not at all. For what only this boot of the
/// machine reads.
pub(crate) fn write_json_for_now<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let temporary = draft(path);
    lasting(&temporary, &bytes, |bytes| {
        create(&temporary, 0o666)?.write_all(bytes)
    })?;
    lasting(path, &[], |_| std::fs::rename(&temporary, path))
}

/// As [`write_json`], for its owner's eyes only.
pub(crate) fn write_private_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write(path, value, 0o600)
}

/// Takes the room on the disk that [`write_reserved_json`] needs for `path`. Not synced: the room counts as taken as soon
/// as it is written to, and after a power cut nobody is left who would use it.
pub(crate) fn reserve(path: &Path) -> io::Result<()> {
    let temporary = draft(path);
    lasting(&temporary, &[b' '; RESERVED], |blank| {
        create(&temporary, 0o666)?.write_all(blank)
    })
}

/// As [`write_json`], over the room that was [`reserve`]d, so that it succeeds also on a disk that is full. Where a file
/// system writes nothing in place, and where nothing was reserved, it needs room as any other.
pub(crate) fn write_reserved_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    // Spaces behind JSON say nothing.
    bytes.resize(bytes.len().max(RESERVED), b' ');
    let temporary = draft(path);
    lasting(&temporary, &bytes, |bytes| {
        let file = writing().truncate(false).mode(0o666).open(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        file.sync_all()
    })?;
    give_name(path, &temporary)
}

fn write<T: Serialize>(path: &Path, value: &T, mode: u32) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let temporary = draft(path);
    lasting(&temporary, &bytes, |bytes| {
        let mut file = create(&temporary, mode)?;
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    give_name(path, &temporary)
}

fn give_name(path: &Path, temporary: &Path) -> io::Result<()> {
    lasting(path, &[], |_| {
        std::fs::rename(temporary, path)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    })
}

/// The file that stands in the draft's place already is written over: a file that is made anew costs more (see
/// [`crate::spares`]). Only one process at a time writes what bears a name.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    writing().truncate(true).mode(mode).open(path)
}

fn writing() -> OpenOptions {
    let mut options = File::options();
    options.write(true).create(true);
    options.custom_flags(nix::libc::O_NOFOLLOW);
    options
}

/// Where what is to be `path` is written.
pub(crate) fn draft(path: &Path) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Reads `path` as JSON; `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error of [`read_json`] says that the file is no JSON at all, which no further try can change. One of another
/// shape is none of these: another version of this program may have written it.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use serde_json::error::Category;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.is_some_and(|error: &serde_json::Error| match error.classify() {
        Category::Syntax | Category::Eof => true,
        Category::Data | Category::Io => false,
    })
}

/// Removes `path`; that it is not there is no error.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_file_of_the_working_folder() {
        let name = format!("durable-{}.json", std::process::id());
        let path = Path::new(&name);
        write_json(path, &7).unwrap();
        assert_eq!(read_json::<u32>(path).unwrap(), Some(7));
        remove_if_there(path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_json_is_damaged_and_one_of_another_shape_or_out_of_reach_is_not() {
        type Order = std::collections::BTreeMap<String, u32>;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let damaged = |text: &str| {
            std::fs::write(&path, text).unwrap();
            is_damage(&read_json::<Order>(&path).unwrap_err())
        };
        assert!(damaged("") && damaged("{\"a\":") && damaged("\0\0\0"));
        assert!(!damaged("\"7\"") && !damaged("{\"a\":\"of later\"}"));
        assert!(!is_damage(&read_json::<Order>(folder.path()).unwrap_err()));
    }

    #[test]
    fn what_room_was_reserved_for_is_written_over_it_and_read_whole() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exit.json");
        reserve(&path).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), None, "it is no record");
        let inode = std::fs::metadata(draft(&path)).unwrap().ino();
        write_reserved_json(&path, &7).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(7));
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        // Nothing was reserved for the second, which is longer than what would have been.
        let long = "x".repeat(2 * RESERVED);
        write_reserved_json(&path, &long).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(long));
    }
}

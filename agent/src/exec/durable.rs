//! Small files that are there whole or not at all, also after a power cut.
//!
//! Owns writing JSON by temporary file, fsync, rename and fsync of the folder. It never creates
//! folders and never retries. The launcher, the watcher and the shim call it.

use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use trainyard_runtime::lasting;

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

fn write<T: Serialize>(path: &Path, value: &T, mode: u32) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let temporary = draft(path);
    lasting(&temporary, &bytes, |bytes| {
        let mut file = create(&temporary, mode)?;
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    lasting(path, &[], |_| {
        std::fs::rename(&temporary, path)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    })
}

/// The file that stands in the draft's place already is written over: a file that is made anew costs more (see
/// [`crate::spares`]). Only one process at a time writes what bears a name.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode);
    options.custom_flags(nix::libc::O_NOFOLLOW).open(path)
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
}

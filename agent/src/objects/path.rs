//! From an object's key to a file below a folder, and to nowhere else.
//!
//! Owns which keys are refused. Files are opened by `openat2` beneath their folder and through no link, whatever
//! has been put there meanwhile.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};

/// The key as a relative path; none when it would lead elsewhere or name no file.
pub(super) fn relative(key: &str) -> Option<PathBuf> {
    let sound = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\\'])
    };
    let is_sound = key.len() <= 1_024 && key.split('/').all(sound);
    is_sound.then(|| PathBuf::from(key))
}

/// Opens a file of `folder` to read.
pub(super) fn read(folder: &Path, relative: &Path) -> io::Result<File> {
    let folder = open(folder)?;
    let opened = openat2(
        &folder,
        relative,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    let file = File::from(opened);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

/// The folder that is to hold `relative`, made where it is missing, without following a link.
pub(super) fn folder_of(folder: &Path, relative: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let mut handle = open(folder)?;
    let parent = relative.parent().unwrap_or_else(|| Path::new(""));
    for part in parent.components() {
        let part = Path::new(part.as_os_str());
        match mkdirat(&handle, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        handle = File::from(openat2(
            &handle,
            part,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?);
    }
    Ok(folder.join(parent))
}

fn open(folder: &Path) -> io::Result<File> {
    // The folder itself is the trainer's, and must be no link either.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat2(CWD, folder, flags, Mode::empty(), ResolveFlags::empty())?;
    Ok(File::from(opened))
}

//! Which files of a trainer's folder are its checkpoints, and what they are called in the store.
//!
//! Owns finding the best and the last one: the newer of that which has the name and that which the trainer has called so, if
//! it lies below the same folder. Called by `upload`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{still::Mark, told::Told};

/// Names, without their ends, of the checkpoints that are stored.
pub(super) const STEMS: [&str; 2] = ["best", "last"];

/// The longest ending that is taken for what kind of file it is.
const ENDING: usize = 12;

/// The name in the store of the file that is the best or the last one, whatever its own is: there is one of each. What
/// stands behind a dot and counts epochs or steps is no ending.
pub(super) fn upload_name(stem: &str, path: &Path) -> String {
    let kind = |end: &&str| {
        let letter = end.starts_with(|first: char| first.is_ascii_alphabetic());
        letter && end.len() <= ENDING && end.chars().all(|one| one.is_ascii_alphanumeric())
    };
    let own = path.extension().and_then(|end| end.to_str());
    own.filter(kind)
        .map_or_else(|| stem.to_owned(), |end| format!("{stem}.{end}"))
}

pub(super) type Newest = BTreeMap<&'static str, (Mark, PathBuf)>;

/// The newest file of each stem.
pub(super) async fn find(folder: &Path, told: &Told) -> Newest {
    let (folder, told) = (folder.to_owned(), told.clone());
    let look = move || -> io::Result<Newest> {
        let mut newest = named_so(&folder)?;
        let told = told.places()?;
        for stem in STEMS {
            let called = told.get(stem).and_then(|path| called_so(&folder, path));
            let Some(one) = called else { continue };
            let newer = newest.get(stem).is_none_or(|(mark, _)| one.0 > *mark);
            if newer {
                newest.insert(stem, one);
            }
        }
        Ok(newest)
    };
    let looked = trainyard_runtime::blocking(look).await;
    looked.ok().and_then(Result::ok).unwrap_or_default()
}

/// Directly in the folder, by their names.
fn named_so(folder: &Path) -> io::Result<Newest> {
    let mut newest = Newest::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(stem) = stem_of(&path) else {
            continue;
        };
        let about = path.symlink_metadata()?;
        if about.is_file() {
            let one = (Mark::of(&about)?, path);
            let newer = newest.get(stem).is_none_or(|so_far| one > *so_far);
            if newer {
                newest.insert(stem, one);
            }
        }
    }
    Ok(newest)
}

/// The stem by which a file is stored under its own name.
fn stem_of(path: &Path) -> Option<&'static str> {
    let named = |stem: &&&str| path.file_stem().is_some_and(|name| name == **stem);
    STEMS.iter().find(named).copied()
}

/// What a trainer names is stored only if it lies below its folder, wherever links lead; it may be gone by now.
fn called_so(folder: &Path, path: &Path) -> Option<(Mark, PathBuf)> {
    let (folder, path) = (folder.canonicalize().ok()?, path.canonicalize().ok()?);
    let about = path.symlink_metadata().ok()?;
    // One that is stored under its own name is not stored twice, such as a last one that is also called the best.
    let own = path.parent() == Some(&folder) && stem_of(&path).is_some();
    let stays = path.starts_with(&folder) && about.is_file() && !own;
    let mark = Mark::of(&about).ok()?;
    stays.then_some((mark, path))
}

//! A plan carried out on the disk: folders, links into the cache, and files written anew.
//!
//! Never follows a name out of the view: all of its folders are made here. Blocks on the disk. Called
//! by `show`; removed with the folder that it lies in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use trainyard_core::dataset::{Plan, check_path};

use super::{Cache, Digest};

/// Lays the plan out at `root`, in place of what is there. `given_up` ends it early.
pub(super) fn lay_out(
    root: &Path,
    plan: &Plan,
    sources: &BTreeMap<String, Digest>,
    cache: &Cache,
    given_up: &AtomicBool,
) -> io::Result<()> {
    remove_tree(root)?;
    fs::create_dir(root)?;
    let mut view = View {
        root,
        folders: BTreeSet::new(),
    };
    for folder in &plan.folders {
        view.folder(folder)?;
    }
    for (from, to) in &plan.links {
        if given_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let digest = sources
            .get(from)
            .ok_or_else(|| named(from, "is not in the list"))?;
        let path = view.place(to)?;
        cache
            .link(digest, &path)
            .map_err(|error| named(to, error))?;
    }
    for (to, bytes) in &plan.files {
        let path = view.place(to)?;
        fs::write(&path, bytes).map_err(|error| named(to, error))?;
        fs::set_permissions(&path, Permissions::from_mode(0o444))?;
    }
    view.close()
}

fn named(path: &str, why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("'{path}': {why}"))
}

struct View<'a> {
    root: &'a Path,
    folders: BTreeSet<PathBuf>,
}

impl View<'_> {
    /// Where a file goes; its folder is there.
    fn place(&mut self, to: &str) -> io::Result<PathBuf> {
        check_path(to).map_err(io::Error::other)?;
        if let Some((folder, _)) = to.rsplit_once('/') {
            self.folder(folder)?;
        }
        Ok(self.root.join(to))
    }

    /// One folder after the other, so that a root that has gone is not made again.
    fn folder(&mut self, folder: &str) -> io::Result<()> {
        check_path(folder).map_err(io::Error::other)?;
        let mut path = self.root.to_owned();
        for name in folder.split('/') {
            path.push(name);
            if !self.folders.contains(&path) {
                fs::create_dir(&path).map_err(|error| named(folder, error))?;
                self.folders.insert(path.clone());
            }
        }
        Ok(())
    }

    /// Nobody adds to it or takes from it.
    fn close(self) -> io::Result<()> {
        let closed = || Permissions::from_mode(0o555);
        for folder in self.folders.iter().rev() {
            fs::set_permissions(folder, closed())?;
        }
        fs::set_permissions(self.root, closed())
    }
}

/// Removes a folder with all in it, also where its folders are closed. Nothing there is fine.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        done => done,
    }
}

fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Links are removed, and not followed.
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(to: &str) -> Plan {
        Plan {
            files: vec![(to.to_owned(), b"x".to_vec())],
            ..Plan::default()
        }
    }

    fn lay(root: &Path, plan: &Plan) -> io::Result<()> {
        let folder = root.with_file_name("cache");
        let cache = Cache::open(folder, (1 << 20, 0))?;
        lay_out(
            root,
            plan,
            &BTreeMap::new(),
            &cache,
            &AtomicBool::new(false),
        )
    }

    #[test]
    fn a_name_that_leads_out_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("view");
        for to in ["../x", "a/../../x", "/tmp/trainyard-x"] {
            let error = lay(&root, &plan(to)).unwrap_err().to_string();
            assert!(error.contains("is refused"), "{error}");
        }
        assert!(!folder.path().join("x").exists());
    }

    #[test]
    fn a_view_is_read_only_and_goes_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("view");
        lay(&root, &plan("a/b/c")).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            [mode(""), mode("a/b"), mode("a/b/c")],
            [0o555, 0o555, 0o444]
        );
        lay(&root, &plan("d")).unwrap();
        assert!(root.join("d").exists() && !root.join("a").exists());
        open_up(&root).unwrap();
        remove_tree(&root).unwrap();
        remove_tree(&root).unwrap();
    }
}

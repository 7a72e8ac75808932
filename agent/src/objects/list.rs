//! Listing a folder as objects: sorted by key, in pages, with common prefixes.
//!
//! Owns the order and the pages; S3 sorts by the bytes of keys. Walks the disk once a call. Called by the door.

use std::{fs, io, path::Path, time::SystemTime};

/// Keys of one page at most.
pub(super) const PAGE: usize = 1_000;

/// A file as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Of the whole bucket.
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    /// Only keys and prefixes behind this one.
    pub(super) after: String,
    pub(super) most: usize,
}

/// One page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<Found>,
    pub(super) prefixes: Vec<String>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// All files of `folder` below `prefix/`, sorted. Links and names that are no text are passed over, and names
/// that begin with a dot, which are our own.
pub(super) fn walk(folder: &Path, prefix: &str) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), prefix.to_owned())];
    while let Some((folder, prefix)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let key = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push((entry.path(), format!("{key}/")));
            } else if kind.is_file() {
                let about = entry.metadata()?;
                found.push(Found {
                    key,
                    size: about.len(),
                    modified: about.modified()?,
                });
            }
        }
    }
    found.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(found)
}

/// A page of what was found.
pub(super) fn page(found: &[Found], asked: &Asked) -> Page {
    let mut page = Page::default();
    let mut last = asked.after.clone();
    let from = found.partition_point(|object| object.key <= asked.after);
    for object in found.get(from..).unwrap_or_default() {
        let Some(rest) = object.key.strip_prefix(asked.prefix.as_str()) else {
            continue;
        };
        let cut = asked.delimiter.as_deref().and_then(|delimiter| {
            let at = rest.find(delimiter)?;
            rest.get(..at + delimiter.len())
        });
        let common = cut.map(|cut| format!("{}{cut}", asked.prefix));
        // One that was told already, on this page or the one before.
        if common.as_ref().is_some_and(|common| {
            page.prefixes.last() == Some(common) || asked.after.starts_with(common.as_str())
        }) {
            continue;
        }
        if page.objects.len() + page.prefixes.len() >= asked.most {
            page.next = Some(last);
            return page;
        }
        match common {
            Some(common) => {
                last.clone_from(&common);
                page.prefixes.push(common);
            }
            None => {
                last.clone_from(&object.key);
                page.objects.push(object.clone());
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(keys: &[&str]) -> Vec<Found> {
        let one = |key: &&str| Found {
            key: (*key).to_owned(),
            size: 1,
            modified: SystemTime::UNIX_EPOCH,
        };
        keys.iter().map(one).collect()
    }

    fn asked(prefix: &str, delimiter: Option<&str>, most: usize) -> Asked {
        Asked {
            prefix: prefix.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            after: String::new(),
            most,
        }
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.objects
            .iter()
            .map(|object| object.key.as_str())
            .collect()
    }

    #[test]
    fn pages_follow_each_other_without_a_gap_or_a_repetition() {
        let all = found(&["a/1", "a/2", "b/1", "c"]);
        let mut seen = Vec::new();
        let mut next = asked("", None, 3);
        loop {
            let page = page(&all, &next);
            seen.extend(page.objects.iter().map(|object| object.key.clone()));
            let Some(after) = page.next else { break };
            next.after = after;
        }
        assert_eq!(seen, ["a/1", "a/2", "b/1", "c"]);
    }

    #[test]
    fn keys_behind_a_delimiter_are_told_once_as_their_prefix() {
        let all = found(&["d/a/1", "d/a/2", "d/b/1", "d/c", "e"]);
        let whole = page(&all, &asked("d/", Some("/"), 9));
        assert_eq!(whole.prefixes, ["d/a/", "d/b/"]);
        assert_eq!(keys(&whole), ["d/c"]);
        let mut next = asked("d/", Some("/"), 1);
        let mut told = Vec::new();
        loop {
            let page = page(&all, &next);
            told.extend(page.prefixes.clone());
            told.extend(page.objects.iter().map(|object| object.key.clone()));
            let Some(after) = page.next else { break };
            next.after = after;
        }
        assert_eq!(told, ["d/a/", "d/b/", "d/c"]);
    }

    #[test]
    fn a_folder_is_walked_in_the_order_of_keys_without_links() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("b")).unwrap();
        for name in ["b/2", "b.txt", "a", ".ours"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let found = walk(folder.path(), "p/").unwrap();
        let keys: Vec<_> = found.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, ["p/a", "p/b.txt", "p/b/2"]);
        assert_eq!(walk(&folder.path().join("none"), "").unwrap(), []);
    }
}

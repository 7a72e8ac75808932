//! Folders as storage: what is listed, and every way out of them that is closed.

use std::{fs, os::unix::fs::symlink};

use super::*;

fn folder() -> (tempfile::TempDir, Folder) {
    let outer = tempfile::tempdir().unwrap();
    fs::create_dir_all(outer.path().join("set/images")).unwrap();
    fs::write(outer.path().join("secret"), "s").unwrap();
    fs::write(outer.path().join("set/a.txt"), "a").unwrap();
    fs::write(outer.path().join("set/images/b.png"), "bb").unwrap();
    let folder = Folder::open(&outer.path().join("set").canonicalize().unwrap()).unwrap();
    (outer, folder)
}

fn names(folder: &Folder) -> Vec<String> {
    let mut found: Vec<_> = folder
        .list("", 100)
        .unwrap()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    found.sort();
    found
}

#[test]
fn every_file_is_listed_with_its_size_and_more_than_the_bound_is_refused() {
    let (outer, folder) = folder();
    symlink("a.txt", outer.path().join("set/link.txt")).unwrap();
    assert_eq!(names(&folder), ["a.txt", "images/b.png", "link.txt"]);
    let listed = folder.list("images", 100).unwrap();
    assert_eq!(
        (listed[0].path.as_str(), listed[0].size),
        ("images/b.png", 2)
    );
    assert!(folder.list("nothing", 100).unwrap().is_empty());
    let error = folder.list("", 2).unwrap_err();
    assert!(matches!(error, StorageError::TooLarge(_)), "{error}");
}

#[test]
fn no_path_and_no_link_leads_out() {
    let (outer, folder) = folder();
    let secret = outer.path().join("secret");
    for path in [
        "../secret",
        "images/../../secret",
        "/etc/passwd",
        secret.to_str().unwrap(),
    ] {
        let error = folder.read(path).unwrap_err();
        assert!(
            error.to_string().contains("leads out of its folder"),
            "{path}: {error}"
        );
    }
    for (name, target) in [
        ("l1", "../secret"),
        ("l2", secret.to_str().unwrap()),
        ("l3", "images/../../secret"),
    ] {
        let at = outer.path().join("set").join(name);
        symlink(target, &at).unwrap();
        for error in [folder.read(name).map(drop), folder.list("", 100).map(drop)] {
            let told = error.unwrap_err().to_string();
            assert!(told.contains(&format!("'{name}' leads out")), "{told}");
        }
        fs::remove_file(at).unwrap();
    }
    symlink("..", outer.path().join("set/up")).unwrap();
    assert!(folder.read("up/secret").is_err());
    assert!(folder.list("up", 100).is_err());
}

#[test]
fn links_to_folders_or_nothing_and_pipes_are_refused_by_name() {
    let (outer, folder) = folder();
    let set = outer.path().join("set");
    for (target, words) in [
        ("images", "links to folders are not followed"),
        ("gone", "to nothing"),
    ] {
        symlink(target, set.join("l")).unwrap();
        let told = folder.list("", 100).unwrap_err().to_string();
        assert!(told.contains("'l'") && told.contains(words), "{told}");
        fs::remove_file(set.join("l")).unwrap();
    }
    rustix::fs::mknodat(CWD, set.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let told = folder.list("", 100).unwrap_err().to_string();
    assert!(
        told.contains("'pipe' is neither a file nor a folder"),
        "{told}"
    );
}

#[test]
fn a_file_that_changed_since_it_was_listed_is_named() {
    let (outer, folder) = folder();
    let listed = folder.list("images", 100).unwrap();
    assert_eq!(
        folder.digest(&listed[0]).unwrap(),
        *blake3::hash(b"bb").as_bytes()
    );
    fs::write(outer.path().join("set/images/b.png"), "cc").unwrap();
    fs::File::open(outer.path().join("set/images/b.png"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    let error = folder.digest(&listed[0]).unwrap_err();
    assert_eq!(error, StorageError::Changed("images/b.png".into()));
}

#[test]
fn a_write_is_whole_or_nothing_and_stays_inside() {
    let (outer, folder) = folder();
    folder.write("x/y/z.json", b"{}").unwrap();
    folder.write("x/y/z.json", b"[]").unwrap();
    folder.write("top", b"1").unwrap();
    let set = outer.path().join("set");
    assert_eq!(fs::read(set.join("x/y/z.json")).unwrap(), b"[]");
    drop(folder.draft().unwrap());
    assert_eq!(fs::read_dir(set.join(DRAFTS)).unwrap().count(), 0);
    symlink(outer.path(), set.join("out")).unwrap();
    for path in ["../x", "out/x", "a//b", "", "/x", "x/../../y"] {
        assert!(folder.write(path, b"").is_err(), "{path}");
    }
    assert_eq!(fs::read_dir(set.join(DRAFTS)).unwrap().count(), 0);
    assert!(!outer.path().join("x").exists());
    folder.remove("x/y/z.json").unwrap();
    folder.remove("x/y/z.json").unwrap();
    assert!(!set.join("x/y/z.json").exists());
}

#[test]
fn a_wide_and_deep_tree_is_found_whole_and_in_order_by_many_threads() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().canonicalize().unwrap();
    let mut expected = Vec::new();
    for shelf in 0..40 {
        let name = format!("{shelf:02}/deep/er");
        fs::create_dir_all(root.join(&name)).unwrap();
        for file in 0..40 {
            expected.push(format!("{name}/{file}"));
        }
    }
    // More than one thread looks at in one go.
    fs::create_dir_all(root.join("wide")).unwrap();
    expected.extend((0..2_000).map(|file| format!("wide/{file}")));
    expected.sort();
    for path in &expected {
        fs::write(root.join(path), path).unwrap();
    }
    let folder = Folder::open(&root).unwrap();
    for _ in 0..5 {
        let found = folder.list("", expected.len()).unwrap();
        let found: Vec<_> = found.into_iter().map(|entry| entry.path).collect();
        assert!(found == expected);
        let error = folder.list("", expected.len() - 1).unwrap_err();
        assert!(matches!(error, StorageError::TooLarge(_)), "{error}");
    }
}

#[test]
fn of_all_that_is_wrong_the_first_by_its_path_is_told_however_the_threads_run() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().canonicalize().unwrap();
    for shelf in 0..60 {
        let at = root.join(format!("{shelf:02}/below"));
        fs::create_dir_all(&at).unwrap();
        for file in 0..20 {
            fs::write(at.join(format!("{file}")), "x").unwrap();
        }
        if shelf >= 7 {
            symlink("gone", at.join("a-link")).unwrap();
        }
    }
    symlink("/etc", root.join("07/below/0-first")).unwrap();
    let folder = Folder::open(&root).unwrap();
    for _ in 0..20 {
        let told = folder.list("", 10_000).unwrap_err().to_string();
        assert!(told.contains("'07/below/0-first'"), "{told}");
    }
}

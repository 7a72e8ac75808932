//! The page of reliability names tests as proofs: each of them is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where tests stand.
const FOLDERS: [&str; 6] = ["agent", "cli", "coordinator", "core", "replay", "tests"];

fn files_below(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = ["rs", "py"]
            .map(Some)
            .contains(&path.extension().and_then(|end| end.to_str()));
        if path.is_dir() {
            files_below(&path, all);
        } else if ours {
            all.push(path);
        }
    }
}

/// What is called a function anywhere.
fn functions(root: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        files_below(&root.join(folder), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a source file");
        let lines = text.lines().map(|line| {
            let line = line.trim_start();
            let open = ["pub ", "pub(crate) ", "pub(super) "].iter();
            let bare = open.filter_map(|word| line.strip_prefix(word)).next();
            bare.unwrap_or(line)
        });
        let named = lines.filter_map(|line| {
            let after = ["fn ", "async fn ", "def "]
                .iter()
                .find_map(|word| line.strip_prefix(word))?;
            after.split(['(', '<']).next()
        });
        names.extend(named.map(str::to_owned));
    }
    names
}

#[test]
fn every_test_and_file_that_the_page_of_reliability_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let page = fs::read_to_string(root.join("docs/reliability.md")).expect("the page");
    let known = functions(root);
    let word = |c: char| !(c.is_ascii_alphanumeric() || "_./-".contains(c));
    let (mut tests, mut missing) = (0, Vec::new());
    for text in page.split(word).map(|text| text.trim_matches('.')) {
        let names_test = text.matches('_').count() >= 4
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let names_file = text.contains('/') && text.ends_with(".rs");
        tests += usize::from(names_test);
        if names_test && !known.contains(text) || names_file && !root.join(text).exists() {
            missing.push(text);
        }
    }
    assert!(tests > 80, "only {tests} names were found in the page");
    assert_eq!(missing, Vec::<&str>::new());
}

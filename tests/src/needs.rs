//! Servers that come from a package registry: where they are installed, and what a test does without them.
//!
//! Owns the one word that a test was skipped. Never installs anything: `.ci/run` does, below `target/ci`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// A program below `target/ci`, or the one that `variable` names. Without it the test is [`skipped`].
///
/// # Panics
/// As [`skipped`] does.
#[must_use]
pub fn program(variable: &str, usual: &str) -> Option<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ci");
    let named = std::env::var_os(variable).map(PathBuf::from);
    let found = named.unwrap_or_else(|| Path::new(folder).join(usual));
    if found.exists() {
        return Some(found);
    }
    skipped(&format!(
        "there is no {}; .ci/run installs it, and {variable} names another",
        found.display()
    ));
    None
}

/// Says on standard error, past the capture of its output, that this test does nothing, and why.
///
/// # Panics
/// Where `TRAINYARD_SKIP_NOTHING` is set, as in CI: then a test that is skipped has failed.
pub fn skipped(why: &str) {
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    let words = format!("SKIPPED: {test}: {why}");
    let must = std::env::var_os("TRAINYARD_SKIP_NOTHING").is_some();
    assert!(!must, "{words}");
    say(&words);
}

/// As [`skipped`], for what nothing that could be installed would change: a machine whose kernel or owner does not allow it.
pub fn impossible(why: &str) {
    say(&format!("SKIPPED: {why}"));
}

fn say(words: &str) {
    let line = format!("\n*** {words} ***\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
}

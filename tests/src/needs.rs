//! What a test needs that may not be there: servers of a package registry and where they are installed, and the word
//! that a test is skipped without them.
//!
//! Never installs anything: `.ci/run` does, below `target/ci`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// A program below `target/ci`, or the one that `variable` names. Without it the test says on standard
/// error that it is skipped, past the capture of its output.
///
/// # Panics
/// Where `TRAINYARD_SKIP_NOTHING` is set, as in CI: then a test that is skipped has failed.
#[must_use]
pub fn program(variable: &str, usual: &str) -> Option<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ci");
    let named = std::env::var_os(variable).map(PathBuf::from);
    let found = named.unwrap_or_else(|| Path::new(folder).join(usual));
    if found.exists() {
        return Some(found);
    }
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    skipped(&format!(
        "{test}: there is no {}; .ci/run installs it, and {variable} names another",
        found.display()
    ));
    None
}

/// Says on standard error that something is skipped and why, past the capture of a test's output.
///
/// # Panics
/// Where `TRAINYARD_SKIP_NOTHING` is set, as in CI: then what is skipped has failed.
pub fn skipped(why: &str) {
    let must = std::env::var_os("TRAINYARD_SKIP_NOTHING").is_some();
    assert!(!must, "SKIPPED: {why}");
    let line = format!("\n*** SKIPPED: {why} ***\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
}

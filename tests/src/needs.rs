//! Servers that come from a package registry: where they are installed, and what a test does without them.
//!
//! Owns the one word that a test was skipped. Never installs anything: `.ci/run` does, below `target/ci`.

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
    let words = format!(
        "SKIPPED: {test}: there is no {}; .ci/run installs it, and {variable} names another",
        found.display()
    );
    let must = std::env::var_os("TRAINYARD_SKIP_NOTHING").is_some();
    assert!(!must, "{words}");
    let line = format!("\n*** {words} ***\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
    None
}

//! The suites that look at the project from outside, in one test binary: real processes, real
//! sockets, real files. Compiled as a test of the `trainyard` package, which gives them its binary.

mod api_fuzz;
mod away;
mod buckets;
mod cancel;
#[cfg(test)]
mod clearml;
mod conformance;
mod crashes;
#[cfg(test)]
mod curves;
mod datasets;
mod ddp;
mod demo;
mod drain;
mod failures;
#[cfg(test)]
mod formats;
mod gangs;
mod people;
mod proofs;
mod python;
mod refusals;
mod replay;
mod resume;
mod retries;
mod room;
mod secrets;
mod snapshots;
mod store;
mod submit;
#[cfg(test)]
mod trackers;
mod trainers;
mod transport;
mod upgrade;

/// The binary under test.
const TRAINYARD: &str = env!("CARGO_BIN_EXE_trainyard");

/// Text that a program wrote.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

//! What the suites share: a cluster of real processes on loopback, and waiting for conditions.
//!
//! Owns starting, killing and looking at processes of the `trainyard` binary. Never part of a
//! product. Called by the suites and by the load generator.

pub mod clearml;
pub mod cluster;
pub mod disk;
pub mod jobs;
pub mod labeler;
pub mod mlflow;
pub mod needs;
pub mod pictures;
pub mod process;
pub mod s3;
pub mod wait;

//! Replays traces of GPU clusters against the scheduling policy, and prints what came of it.
//!
//! Owns the virtual clock, the anchors and the figures. Decides nothing about placement: `trainyard-core` does, with the
//! code that schedules. Reads no clock. Called by `trainyard replay`.

pub mod anchors;
pub mod engine;
pub mod metrics;
pub mod real;
pub mod run;
pub mod svg;
pub mod table;
pub mod trace;

//! What Trainyard decides, as plain data and pure functions.
//!
//! Owns the words of the domain (ids, resources, job specifications), the job machine, the lease of
//! a node, the verdict on an ended task and the placement of queued jobs. Never reads a clock, a
//! file or a socket and never draws a random number: time and identity come in as arguments, and
//! changes and effects go out as values. Called by the actors of coordinator and agent.

pub mod access;
pub mod account;
#[cfg(test)]
mod cases;
pub mod dataset;
pub mod decision;
pub mod device;
pub mod failure;
pub mod ids;
pub mod invariants;
pub mod job;
pub mod join;
pub mod label;
pub mod node;
pub mod past;
pub mod record;
pub mod resources;
pub mod retention;
pub mod retry;
pub mod sched;
pub mod secret;
pub mod service;
pub mod snapshot;
pub mod spec;
pub mod task;
pub mod thin;
pub mod time;
pub mod usage;

//! The machine side of Trainyard: what happens on one node.
//!
//! Owns trainer processes, Python environments, the durable outbox, the endpoint that trainers
//! report to, the hardware inventory and the files that ship inside the binary. Decides nothing
//! about jobs: `trainyard-core` does. Called by the `trainyard` binary.

pub mod actors;
mod address;
pub mod board;
pub mod boot;
pub mod callbacks;
pub mod clock;
pub mod config;
pub mod dataset;
pub mod devices;
mod disk;
pub mod embedded;
pub mod environment;
pub mod exec;
pub mod folder;
pub mod inventory;
pub mod link;
pub mod objects;
#[cfg(test)]
mod persisted;
pub mod ports;
pub mod slots;
pub mod spares;
pub mod spool;

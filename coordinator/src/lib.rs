//! The coordinator's effects: its settings and its store.
//!
//! Owns what touches the disk on the server side. Never decides about a job: that is the core's.
//! Called by the binary.

pub mod config;
pub mod store;

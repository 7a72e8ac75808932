//! The server side of Trainyard: what carries the core's decisions out.
//!
//! Owns the store, the configuration, tokens, the actors and the API. Decides nothing about jobs:
//! `trainyard-core` does. Called by the `trainyard` binary.

pub mod actors;
pub mod api;
pub mod auth;
pub mod boot;
pub mod broken;
pub mod clock;
pub mod config;
pub mod datasets;
mod identity;
mod keeping;
pub mod listen;
pub mod storage;
pub mod store;
pub mod telemetry;
pub mod trackers;

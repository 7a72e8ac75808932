//! trainyard-coordinator

pub mod config;
pub mod store;

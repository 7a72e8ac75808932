//! trainyard-agent

pub mod exec;

//! trainyard-agent
pub mod embedded;
pub mod environment;
pub mod inventory;

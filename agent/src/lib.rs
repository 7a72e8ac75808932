//! trainyard-agent
pub mod callbacks;
pub mod embedded;
pub mod environment;
pub mod inventory;
pub mod spool;

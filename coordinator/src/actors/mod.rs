//! The coordinator's actors: who owns what while it runs.
//!
//! ```text
//! Root          starts those below from the store; ends the process if one of the first three fails
//! ├ Scheduler   owns the ledger and the queue; runs core's solve
//! ├ Jobs        supervisor; accepts submissions; routes to
//! │  └ Job      one per active job; drives core's job machine; passivated when the job only waits
//! ├ Nodes       supervisor; leases and drains; routes to
//! │  └ Session  one per connected agent
//! └ Trackers    supervisor of what tells MLflow, ClearML and webhooks; see `crate::trackers`
//! ```
//!
//! Calls go down this tree and time out; results come up as casts. Everything that a caller or a
//! node is told leaves on the store's thread after the commit. Actors wait for the disk only where the
//! next message must find what was stored: `Nodes` at a registration or a drain, `Jobs` at a
//! submission with a key, a job when it is let go or hears a trainer's report again.

mod ask;
pub mod job;
pub mod jobs;
pub mod nodes;
pub mod offers;
pub mod root;
pub mod scheduler;
pub mod session;

#[cfg(test)]
mod tests;

pub use ask::{AskError, ask};

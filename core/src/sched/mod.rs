//! Placement: which queued job starts where, now.
//!
//! `Ledger` holds what nodes offer and who holds what; `solve` is a pure function of ledger and
//! queue. Called by the scheduler actor, which carries placements out.

mod gates;
mod ledger;
pub mod policy;
mod queue;
mod solve;

pub use gates::{Gate, Gates, Opened, Standing};
pub use ledger::{Allocation, Ledger, LedgerError, NodeEntry};
pub use queue::Queue;
pub use solve::{Placement, QueuedJob, Unfit, largest_node_misfit, reason, solve};

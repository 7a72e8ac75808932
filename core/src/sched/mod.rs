//! Placement: which queued job starts where, who makes room, who waits and why.
//!
//! `policy` decides, in counts; `Planner` gives it names and GPUs, with the `Ledger` of who holds what. Pure. Called by
//! the scheduler actor, which carries decisions out, and `policy` by `trainyard replay`.

mod gates;
mod ledger;
mod planner;
pub mod policy;
mod queue;
mod waiting;
mod wish;

pub use gates::{Gate, Gates, Opened, Standing};
pub use ledger::{Allocation, Ledger, LedgerError, NodeEntry};
pub use planner::{
    Change, Decisions, Explanation, Held, KeptNodes, Leaving, Planner, Short, least_gpus, payer,
};
pub use queue::Queue;
pub use waiting::{Placement, QueuedJob, Unfit, largest_node_misfit, reason};
pub use wish::Wish;

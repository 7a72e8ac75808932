//! The policy: who starts where, who makes room, who waits and why.
//!
//! Pure: it is told the time and what happened, and answers with a plan; the same story gives the same plans. It counts
//! on nodes by dense number, and whoever calls turns counts into GPUs. Called by `trainyard replay`, and for the
//! coordinator by `sched::Planner`.

#![expect(
    clippy::indexing_slicing,
    reason = "tables by dense number, which panic with words for a number that is not theirs"
)]

pub mod ask;
mod beside;
mod charging;
mod check;
mod clearing;
pub mod cluster;
pub mod config;
pub mod dense;
mod exchange;
pub mod explain;
mod forecast;
mod future;
pub mod gittins;
pub mod history;
pub mod job;
mod keep;
pub mod lanes;
mod nodes;
mod pass;
pub mod period;
pub mod place;
pub mod plan;
mod preempt;
pub mod projects;
mod reserve;
mod rooms;
mod scheduler;

pub use config::{Config, ProjectRule, RankBy, Reserve, Rule, Seconds};
pub use explain::Place;
pub use forecast::Expected;
pub use future::{Outage, Outages};
pub use history::{ClassIx, History};
pub use job::Submission;
pub use nodes::Holding;
pub use period::Period;
pub use plan::{Because, Plan, Preempt, Reservation, Start};
pub use scheduler::Scheduler;

#[cfg(test)]
mod tests;

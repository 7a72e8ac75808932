//! Trackers: what jobs do, told to MLflow, ClearML and webhooks. Optional, and never fatal.
//!
//! ```text
//! supervisor   child of Root; starts one actor for each configured tracker, and again after a fault
//! └ actor      owns the cursor; backs off while its tracker is away
//!    ├ walk      over the jobs that changed, and those left behind
//!    ├ parked    jobs that are not taken for now; the others go on
//!    ├ feed      runs and their points: what is still to be sent of a job (MLflow, ClearML)
//!    │  ├ refusals   finds the one thing of a batch that is refused, so that only it is lost
//!    │  ├ names    two names of ours are never one there
//!    │  ├ iterations how points are counted where there are no epochs
//!    │  ├ mlflow   its calls         ┐
//!    │  └ clearml  its calls         ├ what a job looks like there is in `runs`, pure
//!    └ hooks     changes into a durable outbox, and out of it; which changes is in `events`, pure
//! waits        how long something is left alone after it was not taken
//! http         the one client: time-outs, what a refusal means
//! rows         cursors and outbox as they are stored
//! status       what is shown of each
//! ```
//!
//! Nothing of a job ever waits for a tracker: all is read from the store, where each change of a job
//! has a number. Every call may be repeated; what was sent is noted after it was taken, so a crash in
//! between sends it again. See docs/adr/0012-trackers.md.

mod actor;
mod clearml;
mod events;
mod feed;
mod hooks;
mod http;
mod iterations;
mod mlflow;
mod names;
mod parked;
mod refusals;
mod rows;
mod runs;
mod status;
mod supervisor;
mod waits;
mod walk;

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
pub(crate) use status::for_tests as status_for_tests;
pub use status::{Board, Kind, State, Status, has_all};
pub use supervisor::{Trackers, TrackersArgs, TrackersMsg};

//! The agent's actors: who owns what while it runs.
//!
//! ```text
//! Root     starts the two below; starts a failed link again, ends the agent when Runs has failed
//! ├ Link   the session with the coordinator (crate::link)
//! └ Runs   supervisor: finds tasks by their folders, starts and forgets them
//!    └ Run one per task that has not ended: prepare, launch, watch, drain
//! ```
//!
//! Runs and Link share a `Board`: the newest report and the spool of each task. Link casts what the
//! coordinator wants to Runs; nobody calls anybody.

mod courier;
mod damaged;
mod follow;
mod gang;
mod give_up;
pub mod node;
mod prepare;
mod release;
mod room;
pub mod root;
pub mod run;
pub mod runs;
mod scribe;
mod torchrun;
mod variables;
mod words;

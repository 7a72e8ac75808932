//! The process side of a task: how a trainer is started, watched, stopped and found again.
//!
//! Owns the shim (a small process that outlives the agent and is the trainer's parent), the files
//! in a task's folder, and the identity of processes. It never decides what runs, where, or
//! whether it is tried again. The agent calls [`launch`], [`watch`] and [`output`]; the hidden
//! subcommand `trainyard shim` calls [`shim::main`], and is also the process that shims are forked from.
//!
//! What is guaranteed: the trainer's main process never outlives its shim (parent death signal);
//! nothing that the trainer started outlives the end of its main process as long as the shim lives
//! (the shim is the reaper of all its descendants). A shim killed by SIGKILL cannot clean up:
//! [`watch::wait_exit`] then kills what is left in the trainer's control group and session, and what carries its mark
//! (see [`remains`]). Where no control group can be made, a process that had left the session and dropped its
//! environment is out of reach then.

mod cgroup;
mod clock;
mod descend;
pub(crate) mod durable;
pub(crate) mod files;
pub mod ident;
pub mod launch;
mod lines;
pub(crate) mod lock;
pub mod output;
mod procfs;
mod pump;
pub mod remains;
pub mod shim;
pub mod shims;
mod spawn;
pub mod trainers;
pub(crate) mod unix;
pub mod watch;
mod zygote;

pub use files::{ExitRecord, LaunchSpec, ProcRecord};
pub use ident::ProcIdent;

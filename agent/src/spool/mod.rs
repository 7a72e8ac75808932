//! The durable outbox of one task: everything the task tells, numbered from 1 without gaps, kept on
//! disk until the coordinator has acknowledged it. Never talks to the network and never judges a
//! record. Called by the callback endpoint, the reader of the trainer's output and the sender.
//!
//! A record is shown to the sender only when it is on disk: otherwise a power cut could give one
//! number to two different records. Records that were sent and not acknowledged are sent again.
//!
//! What waits has a bound: beyond half of it reports of metrics are thinned by the rule of `core::thin`, and beyond all of
//! it callbacks are left out, which the job's log says; the reader of the trainer's output leaves lines where they are.
//! What was delivered has one too: whenever there are 16 MiB of it its room goes back to the disk, while the task runs on.
//! A start opens the spools of its tasks one after the other, and reads of each only what is behind its last mark: what was
//! not delivered, and a MiB or so.

mod error;
mod file;
mod frame;
mod front;
mod left;
mod mark;
mod thinner;

pub use error::SpoolError;
pub use file::{Appended, Part, TaskSpool};
pub use frame::Spooled;
pub use front::{Spool, SpoolState};

#[cfg(test)]
mod again;
#[cfg(test)]
mod marks;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

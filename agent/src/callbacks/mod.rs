//! The HTTP endpoint on 127.0.0.1 where trainers report: it reads a report, puts it into the task's
//! spool, and answers when it is on disk. Never talks to the coordinator and never decides what a
//! report means for the job. Called by the agent's root, which binds it, and by whoever starts tasks.

mod answers;
mod listen;
mod registry;
mod routes;
mod unsent;

pub use listen::{BindError, CallbackServer, bind, callback_url};
pub use registry::{Clock, Registry, TaskEndpoint};
pub use routes::{BODY_LIMIT, router};
pub use unsent::{Unsent, take_unsent};

#[cfg(test)]
mod owed;
#[cfg(test)]
mod tests;

//! Names of things: each its own type, so that a node is never taken for a job.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// A job, for all time. Numbers only grow.
    JobId(u64),
    ""
);
number!(
    /// One placement and run of a job, from 1: the fence against late reports.
    AttemptNo(u32),
    "#"
);
number!(
    /// The place of a task in its gang, from 0 to world size - 1.
    Rank(u32),
    "rank "
);
number!(
    /// One connection of an agent. Frames of an older session are refused.
    SessionNo(u64),
    "session "
);

/// A node, by the name under which its agent registered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of an attempt on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    /// The job that the task belongs to.
    pub job: JobId,
    /// Its attempt.
    pub attempt: AttemptNo,
    /// Its place in the gang.
    pub rank: Rank,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "job {} attempt {} {}",
            self.job, self.attempt.0, self.rank
        )
    }
}

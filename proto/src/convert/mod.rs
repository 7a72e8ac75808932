//! Wire to core and back: parse, don't validate. Generated types go no further than the edges.
//!
//! A message that lacks a part, or holds a number that its type cannot, is a [`WireError`] that
//! names the field. Whether a well-formed job makes sense is `core`'s to say.

mod job;
mod placing;
mod record;
mod snapshot;
mod task;

pub use job::read as job_spec;

use std::time::Duration;

use thiserror::Error;
use trainyard_core::{
    node::NodeState,
    resources::{Capacity, Gpu},
    service::{AtDeadline, Closure, Scope, Window},
    time::Timestamp,
};

use crate::v1;

/// A message that does not say what it must.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A part is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An enumeration holds a number that nobody has defined.
    #[error("{0} holds an unknown value")]
    Unknown(&'static str),
    /// A text is not JSON.
    #[error("{field} is not JSON: {message}")]
    Json {
        /// Which.
        field: &'static str,
        /// The parser's words.
        message: String,
    },
    /// A number is out of range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

impl WireError {
    /// Which part of the message.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Missing(field) | Self::Unknown(field) | Self::Range(field) => field,
            Self::Json { field, .. } => field,
        }
    }
}

/// Core time to wire time.
#[must_use]
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.0.div_euclid(1_000_000),
        nanos: i32::try_from(at.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

/// Wire time to core time; nothing smaller than a microsecond is kept.
#[must_use]
pub fn time(at: &prost_types::Timestamp) -> Timestamp {
    let micros = at.seconds.saturating_mul(1_000_000);
    Timestamp(micros.saturating_add(i64::from(at.nanos) / 1_000))
}

/// Core span to wire span.
#[must_use]
pub fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// Wire span to core span.
///
/// # Errors
/// When it is negative.
pub fn span(field: &'static str, wire: &prost_types::Duration) -> Result<Duration, WireError> {
    let range = |_| WireError::Range(field);
    let seconds = u64::try_from(wire.seconds).map_err(range)?;
    let nanos = u32::try_from(wire.nanos).map_err(range)?;
    if nanos >= 1_000_000_000 {
        return Err(WireError::Range(field));
    }
    Ok(Duration::new(seconds, nanos))
}

/// An empty text on the wire means that nothing was given.
fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<Capacity> for v1::Capacity {
    fn from(core: Capacity) -> Self {
        Self {
            cpus: core.cpus,
            memory_bytes: core.memory_bytes,
            gpus: core.gpus.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::Capacity> for Capacity {
    fn from(wire: v1::Capacity) -> Self {
        Self {
            cpus: wire.cpus,
            memory_bytes: wire.memory_bytes,
            gpus: wire.gpus.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Gpu> for v1::Gpu {
    fn from(core: Gpu) -> Self {
        Self {
            uuid: core.uuid,
            model: core.model,
            memory_bytes: core.memory_bytes,
        }
    }
}

impl From<v1::Gpu> for Gpu {
    fn from(wire: v1::Gpu) -> Self {
        Self {
            uuid: wire.uuid,
            model: wire.model,
            memory_bytes: wire.memory_bytes,
        }
    }
}

impl From<AtDeadline> for v1::AtDeadline {
    fn from(core: AtDeadline) -> Self {
        match core {
            AtDeadline::Preempt => Self::Preempt,
            AtDeadline::Wait => Self::Wait,
        }
    }
}

/// Nothing where nothing is said.
impl From<v1::AtDeadline> for Option<AtDeadline> {
    fn from(wire: v1::AtDeadline) -> Self {
        match wire {
            v1::AtDeadline::Unspecified => None,
            v1::AtDeadline::Preempt => Some(AtDeadline::Preempt),
            v1::AtDeadline::Wait => Some(AtDeadline::Wait),
        }
    }
}

impl From<Window> for v1::MaintenanceWindow {
    fn from(core: Window) -> Self {
        let mut wire = Self {
            id: core.id,
            from: Some(timestamp(core.from)),
            until: Some(timestamp(core.until)),
            why: core.why,
            made_by: core.made_by,
            made_at: Some(timestamp(core.made_at)),
            ..Self::default()
        };
        match core.scope {
            Scope::All => wire.all_nodes = true,
            Scope::Nodes(nodes) => wire.nodes = nodes.into_iter().map(|node| node.0).collect(),
            Scope::Labels(labels) => wire.labels = labels.into_iter().collect(),
        }
        wire
    }
}

impl From<Closure> for v1::NodeMaintenance {
    fn from(core: Closure) -> Self {
        Self {
            id: core.id,
            from: Some(timestamp(core.from)),
            until: Some(timestamp(core.until)),
            why: core.why,
            closed_until: Some(timestamp(core.closed_until)),
            others: core.others,
        }
    }
}

impl From<NodeState> for v1::NodeState {
    fn from(core: NodeState) -> Self {
        match core {
            NodeState::Ready => Self::Ready,
            NodeState::Suspect => Self::Suspect,
            NodeState::Lost => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests;

//! The doors of the coordinator: gRPC and REST on one port, one service behind both.
//!
//! A door parses, calls [`service::Service`] and renders what comes back. Nothing here decides about
//! jobs; only the service speaks to actors and store. Called by `boot`.

pub mod access;
mod agents;
mod array;
mod backup;
mod datasets;
mod error;
mod events;
mod explain;
mod figures;
mod follow;
pub mod grpc;
mod history;
mod live;
mod maintenance;
mod models;
mod nodes;
mod orders;
pub mod peer;
mod project_room;
pub mod projects;
mod reader;
mod reads;
mod reasons;
mod refusals;
mod reports;
pub mod rest;
mod results;
mod service;
mod streams;
mod submit;
mod trackers;
mod usage;
pub mod users;

pub use agents::{AgentPolicy, NewJoinToken};
pub(crate) use backup::remove_left_over;
pub use error::ApiError;
pub use events::{EventsAsked, EventsPage};
pub use explain::{Explained, Holder, ShortNode};
pub use history::Past;
pub use maintenance::{AskedWindow, PlannedWindow};
pub use nodes::{NewDrain, Node, ShownDuty};
pub use reads::{Page, Points};
pub use service::{Jobs, JobsPage, Limits, Service, ServiceArgs};
pub use usage::{UsageAsked, UsageReport, UsageRow};
pub use users::{Caller, UserSettings};

use service::LONGEST_WAIT;
pub(crate) use service::stopping;

//! Connections: certificates, whom a client trusts, and where plain text is allowed.
//!
//! Owns reading and making certificates, and the one way by which agent and command line reach a
//! coordinator. Never accepts a connection and knows no message. Called by coordinator, agent, command
//! line and tests.

pub mod client;
mod error;
pub mod pem;
pub mod pki;
mod place;
mod words;

pub use client::{BoxedWire, ClientTls, Connection, Dial, Dialling, Plain, Wire};
pub use error::TlsError;
pub use place::{Place, PlaceError, is_loopback};
pub use words::{explain, reason};

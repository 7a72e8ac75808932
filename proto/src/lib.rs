//! The wire: messages and services of `trainyard.v1`, compiled from `proto/trainyard/v1` with protox.
//!
//! Owns the conversion between wire and core types, the bodies of the HTTP contract and the table of
//! statuses; never decides anything. Called by the API and session edges of the coordinator, by the link of the agent and
//! by clients.

pub mod convert;
pub mod http;
pub mod status;

/// The generated messages, clients and servers of protobuf package `trainyard.v1`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("trainyard.v1");
}

/// The encoded `FileDescriptorSet` of all services, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

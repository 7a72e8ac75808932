//! The coordinator as its clients see it: a whole one in this process, spoken to over real sockets.
//!
//! `world` starts and stops it, `agent` speaks the agent's side by hand; the rest are stories.

#[cfg(test)]
mod access;
#[cfg(test)]
mod agent;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod callbacks;
#[cfg(test)]
mod datasets;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files;
#[cfg(test)]
mod grpc;
#[cfg(test)]
#[path = "../../../tests/src/labeler.rs"]
#[expect(
    unreachable_pub,
    reason = "it is a module of another crate's library as well"
)]
mod labeler_server;
#[cfg(test)]
mod labels;
#[cfg(test)]
mod life;
#[cfg(test)]
mod live;
#[cfg(test)]
mod models;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod submit;
#[cfg(test)]
mod world;

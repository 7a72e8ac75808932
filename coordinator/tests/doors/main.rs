//! The coordinator as its clients see it: a whole one in this process, spoken to over real sockets.
//!
//! `world` starts and stops it, `agent` speaks the agent's side by hand; the rest are stories.

#[cfg(test)]
mod access;
#[cfg(test)]
mod again;
#[cfg(test)]
mod agent;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod callbacks;
#[cfg(test)]
mod clearml;
#[cfg(test)]
mod clouds;
#[cfg(test)]
mod datasets;
#[cfg(test)]
mod emulators;
#[cfg(test)]
mod ended;
#[cfg(test)]
mod events;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files;
#[cfg(test)]
mod gangs;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod kept;
#[cfg(test)]
mod labels;
#[cfg(test)]
mod life;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod listening;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod live;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod mlflow;
#[cfg(test)]
mod models;
#[cfg(test)]
mod newer;
#[cfg(test)]
mod node_labels;
#[cfg(test)]
mod odd_answers;
#[cfg(test)]
mod oidc;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod places;
#[cfg(test)]
mod queued;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod room;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod service;
#[cfg(test)]
mod submit;
#[cfg(test)]
mod trackers;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod world;
#[cfg(test)]
mod wrong;

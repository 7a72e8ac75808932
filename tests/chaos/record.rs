//! What was done to the cluster and what was seen, to tell at the end what may have become of each job.
//!
//! Owns no judgement. Written by the world and the clients, read by the check.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::{
    processes::Run,
    silence::{By, Micros, Silences},
};

/// A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// The job of each wish; of an array the first.
    pub(crate) ids: BTreeMap<usize, u64>,
    /// Wishes that were refused, since they were to follow a job that had not succeeded.
    pub(crate) refused: BTreeSet<usize>,
    /// Jobs for which a cancel was sent.
    pub(crate) cancelled: BTreeSet<u64>,
    /// Attempts whose trainer was killed.
    pub(crate) killed: BTreeSet<Run>,
    /// Attempts whose shim was killed.
    pub(crate) shimless: BTreeSet<Run>,
    /// Attempts that were on a node while its disk was full.
    pub(crate) cramped: BTreeSet<Run>,
    /// When hosts could not be heard.
    pub(crate) silences: Silences,
    /// Nodes that were out of service, each with the reason.
    pub(crate) drains: Vec<(String, String)>,
    /// What may not be.
    pub(crate) findings: Vec<String>,
    /// How often each kind of thing happened.
    pub(crate) counts: BTreeMap<String, u32>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            inner: Arc::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what happens, with the time.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("{:8.3} {text}\n", self.began.elapsed().as_secs_f64());
        // Nobody listens any more: that is no reason to end.
        io::stdout().write_all(line.as_bytes()).ok();
    }

    /// From now on that host cannot be heard.
    pub(crate) fn silenced(&self, host: usize, by: By) {
        self.lock().silences.begins(host, by, now());
    }

    /// From now on it can, as far as this is concerned.
    pub(crate) fn heard(&self, host: usize, by: By) {
        self.lock().silences.ends(host, by, now());
    }

    /// Something that may not be. The run goes on: more may be learnt from it.
    pub(crate) fn finding(&self, text: String) {
        self.say(&format!("FOUND: {text}"));
        self.lock().findings.push(text);
    }

    pub(crate) fn count(&self, what: &str) {
        *self.lock().counts.entry(what.to_owned()).or_default() += 1;
    }
}

/// As the coordinator's clock shows it, which is this machine's.
#[expect(
    clippy::disallowed_methods,
    reason = "what happens here is compared with what a coordinator in another process says of it"
)]
pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
    })
}

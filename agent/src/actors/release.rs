//! The GPUs of an ended task are waited for until nothing of it is left on them; and those that stay held are kept from
//! further jobs until they are free.
//!
//! Decides nothing: core does. A run awaits [`free`] before it reports its end, so that nobody is placed there earlier;
//! Runs keeps [`watch`] going.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use trainyard_core::device::Verdict;

use super::{node::Node, run::blocking, scribe::Level};
use crate::{board::Blocked, exec::ProcIdent};

/// How often GPUs are looked at that a task has just left.
const SOON: Duration = Duration::from_millis(200);
/// How often those are looked at that are blocked.
const LATE: Duration = Duration::from_secs(2);

/// Waits until the GPUs of the task in `folder` are free, or blocks them; words for its log.
pub(super) async fn free(node: &Arc<Node>, gpus: &[String], folder: &Path) -> Vec<(Level, String)> {
    if gpus.is_empty() {
        return Vec::new();
    }
    let began = Instant::now();
    loop {
        let (on, uuids, folder) = (Arc::clone(node), gpus.to_vec(), folder.to_owned());
        let look = move || Ok((on.trainers.remains(&folder)?, on.gpus.used(&uuids)));
        let verdict = match blocking(look).await {
            Ok((remains, used)) => {
                let pids: Vec<i32> = remains.into_iter().collect();
                let verdict = node.gpus.rule.judge(began.elapsed(), &pids, &used);
                (verdict, pids)
            }
            Err(error) => {
                tracing::warn!(%error, "what a task has left behind cannot be looked at");
                return Vec::new();
            }
        };
        match verdict {
            (Verdict::Free, _) => return Vec::new(),
            (Verdict::Wait, _) => tokio::time::sleep(SOON).await,
            (Verdict::Blocked(held), pids) => return block(node, held, &pids),
        }
    }
}

fn block(node: &Node, held: BTreeMap<String, String>, pids: &[i32]) -> Vec<(Level, String)> {
    // One that has just gone is waited for no longer.
    let processes: Vec<_> = pids
        .iter()
        .filter_map(|pid| ProcIdent::of(*pid).ok())
        .collect();
    let mut words = Vec::new();
    for (uuid, reason) in held {
        tracing::error!(gpu = uuid, reason, "a GPU gets no more jobs");
        words.push((
            Level::Warning,
            format!("GPU {uuid} gets no more jobs: {reason}"),
        ));
        let processes = processes.clone();
        node.board.block(uuid, Blocked { reason, processes });
    }
    words
}

/// Looks at what no task holds: first at all of it but `held`, then at what is blocked. Goes on until it is dropped.
#[expect(
    clippy::infinite_loop,
    reason = "it is dropped with the actor that runs it"
)]
pub(super) async fn watch(node: Arc<Node>, held: BTreeSet<String>) {
    if node.gpus.rule.patience.is_zero() || node.gpus.uuids.is_empty() {
        return;
    }
    let mut suspects: Vec<String> = node.gpus.uuids.clone();
    suspects.retain(|uuid| !held.contains(uuid));
    loop {
        let on = Arc::clone(&node);
        let blocked = node.board.blocked();
        let looked = blocking(move || look(&on, &suspects, blocked)).await;
        match looked {
            Ok(changes) => {
                for (uuid, blocked) in changes {
                    match blocked {
                        Some(blocked) => node.board.block(uuid, blocked),
                        None => {
                            tracing::info!(gpu = uuid, "a GPU is free again and gets jobs");
                            node.board.unblock(&uuid);
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "blocked GPUs cannot be looked at"),
        }
        tokio::time::sleep(LATE).await;
        suspects = Vec::new();
    }
}

type Changes = Vec<(String, Option<Blocked>)>;

/// What is to be blocked of `suspects`, and what of `blocked` is not any more or for another reason.
fn look(
    node: &Node,
    suspects: &[String],
    blocked: BTreeMap<String, Blocked>,
) -> io::Result<Changes> {
    let mut changes = Changes::new();
    for (uuid, used) in node.gpus.used(suspects) {
        if let Some(reason) = node.gpus.rule.held(&[], &used) {
            tracing::error!(gpu = uuid, reason, "a GPU gets no jobs");
            let processes = Vec::new();
            changes.push((uuid, Some(Blocked { reason, processes })));
        }
    }
    for (uuid, before) in blocked {
        let mut left = Vec::new();
        for process in &before.processes {
            if crate::exec::ident::adopt(process)?.is_some() {
                left.push(process.clone());
            }
        }
        let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
        let used = node.gpus.devices.used(&uuid);
        let now = node.gpus.rule.held(&pids, &used).map(|reason| Blocked {
            reason,
            processes: left,
        });
        if now.as_ref() != Some(&before) {
            changes.push((uuid, now));
        }
    }
    Ok(changes)
}

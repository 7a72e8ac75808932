//! The GPUs of an ended task are waited for until nothing of it is left on them; and those that stay held are kept from
//! further jobs until they are free.
//!
//! Decides nothing: core does. A run awaits [`free`] before it reports its end, so that nobody is placed there earlier;
//! Runs awaits [`look_first`] and keeps [`watch`] going.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
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

/// How long the first look may take, in which a driver hangs.
const FIRST: Duration = Duration::from_secs(10);

/// Waits until the GPUs of the task in `folder` are free, or blocks them; words for its log.
pub(super) async fn free(node: &Arc<Node>, gpus: &[String], folder: &Path) -> Vec<(Level, String)> {
    if gpus.is_empty() {
        return Vec::new();
    }
    let began = Instant::now();
    loop {
        let (on, uuids, place) = (Arc::clone(node), gpus.to_vec(), folder.to_owned());
        let look = move || Ok((on.trainers.remains(&place)?, on.gpus.used(&uuids)));
        let (verdict, left) = match blocking(look).await {
            Ok((remains, used)) => {
                let pids: Vec<i32> = remains.into_iter().collect();
                let verdict = node.gpus.rule.judge(began.elapsed(), &pids, &used);
                (verdict, Left::Seen(pids))
            }
            // As with a driver that does not answer: whoever cannot be seen may hold them.
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "what a task has left behind cannot be looked at");
                let why = || Err(error.to_string());
                let used = gpus.iter().map(|uuid| (uuid.clone(), why())).collect();
                let verdict = node.gpus.rule.judge(began.elapsed(), &[], &used);
                (verdict, Left::Unseen(folder.to_owned(), unseen(&error)))
            }
        };
        match verdict {
            Verdict::Free => return Vec::new(),
            Verdict::Wait => tokio::time::sleep(SOON).await,
            Verdict::Blocked(held) => return block(node, held, left),
        }
    }
}

/// What a task has left behind on this machine.
enum Left {
    /// These processes, at the last look.
    Seen(Vec<i32>),
    /// It cannot be told of the task in this folder, for this reason.
    Unseen(PathBuf, String),
}

fn unseen(error: &io::Error) -> String {
    format!(
        "the processes that its last task has left behind cannot be looked at: {error}; mend that, or start the machine anew"
    )
}

fn block(node: &Node, held: BTreeMap<String, String>, left: Left) -> Vec<(Level, String)> {
    let (processes, folder, said) = match left {
        // One that has just gone is waited for no longer.
        Left::Seen(pids) => (known(pids), None, None),
        Left::Unseen(folder, why) => (Vec::new(), Some(folder), Some(why)),
    };
    let mut words = Vec::new();
    for (uuid, reason) in held {
        let reason = said.clone().unwrap_or(reason);
        tracing::error!(gpu = uuid, reason, "a GPU gets no more jobs");
        words.push((
            Level::Warning,
            format!("GPU {uuid} gets no more jobs: {reason}"),
        ));
        let blocked = Blocked {
            reason,
            processes: processes.clone(),
            unseen: folder.clone(),
        };
        node.board.block(uuid, blocked);
    }
    words
}

fn known(pids: impl IntoIterator<Item = i32>) -> Vec<ProcIdent> {
    let known = pids.into_iter().map(ProcIdent::of);
    known.filter_map(Result::ok).collect()
}

/// Looks at all that no task holds, before the coordinator is spoken to: the first hello says what is blocked. What could
/// not be looked at in time is left for [`watch`].
pub(super) async fn look_first(node: &Arc<Node>, held: &BTreeSet<String>) -> Vec<String> {
    if node.gpus.rule.patience.is_zero() {
        return Vec::new();
    }
    let mut suspects = node.gpus.uuids.clone();
    suspects.retain(|uuid| !held.contains(uuid));
    if suspects.is_empty() {
        return suspects;
    }
    match tokio::time::timeout(FIRST, review(node, suspects.clone())).await {
        Ok(true) => Vec::new(),
        Ok(false) | Err(_) => suspects,
    }
}

/// Looks at `suspects` and at what is blocked, again and again. Goes on until it is dropped.
#[expect(
    clippy::infinite_loop,
    reason = "it is dropped with the actor that runs it"
)]
pub(super) async fn watch(node: Arc<Node>, mut suspects: Vec<String>) {
    if node.gpus.rule.patience.is_zero() || node.gpus.uuids.is_empty() {
        return;
    }
    loop {
        tokio::time::sleep(LATE).await;
        // What a task was given meanwhile is that one's.
        let given = node.slots.gpus();
        suspects.retain(|uuid| !given.contains(uuid));
        if review(&node, suspects.clone()).await {
            suspects.clear();
        }
    }
}

/// One look; whether it could be done.
async fn review(node: &Arc<Node>, suspects: Vec<String>) -> bool {
    let on = Arc::clone(node);
    let blocked = node.board.blocked();
    let changes = match blocking(move || look(&on, &suspects, blocked)).await {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!(%error, "blocked GPUs cannot be looked at");
            return false;
        }
    };
    for (uuid, blocked) in changes {
        match blocked {
            Some(blocked) => node.board.block(uuid, blocked),
            None => {
                tracing::info!(gpu = uuid, "a GPU is free again and gets jobs");
                node.board.unblock(&uuid);
            }
        }
    }
    true
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
            let blocked = Blocked {
                reason,
                processes: Vec::new(),
                unseen: None,
            };
            changes.push((uuid, Some(blocked)));
        }
    }
    for (uuid, before) in blocked {
        // Once they can be seen again they are waited for like all others; till then it stays as it is.
        let seen = before.unseen.as_ref().map(|f| node.trainers.remains(f));
        let known = match seen {
            None => before.processes.clone(),
            Some(Ok(pids)) => known(pids),
            Some(Err(_)) => continue,
        };
        let mut left = Vec::new();
        for process in known {
            if crate::exec::ident::adopt(&process)?.is_some() {
                left.push(process);
            }
        }
        let pids: Vec<i32> = left.iter().map(|process| process.pid).collect();
        let used = node.gpus.devices.used(&uuid);
        let now = node.gpus.rule.held(&pids, &used).map(|reason| Blocked {
            reason,
            processes: left,
            unseen: None,
        });
        if now.as_ref() != Some(&before) {
            changes.push((uuid, now));
        }
    }
    Ok(changes)
}

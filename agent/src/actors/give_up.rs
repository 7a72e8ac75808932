//! The end of a task whose run fails again and again: its trainer is stopped and the node takes the
//! blame. Never uses what may be the cause, such as the spool's file, more than it must. A task of
//! Runs.

use std::{io, sync::Arc, time::Duration};

use trainyard_core::{
    failure::TaskEnd,
    ids::TaskKey,
    task::{Ended, Phase, Report},
    time::Timestamp,
};

use super::{node::Node, release, run::blocking};
use crate::{
    clock,
    exec::{
        remains,
        watch::{request_stop, wait_exit},
    },
    folder::{Order, TaskFolder},
};

/// How soon it is tried again to end a process.
const AGAIN: Duration = Duration::from_secs(5);

/// Ends the task with `why` as the reason; the order is not there when that is what cannot be read.
pub(super) async fn give_up(
    node: Arc<Node>,
    (task, order): (TaskKey, Option<Arc<Order>>),
    why: String,
) {
    let folder = TaskFolder::of(&node.tasks(), task);
    if let Some(order) = &order {
        node.registry.unregister(order.secret.expose());
    }
    // Its place is given back by the report below: not before its process is gone.
    let started = loop {
        match end_process(&folder, order.as_deref()).await {
            Ok(started) => break started,
            Err(error) => {
                tracing::error!(%task, %error, "a task that is given up cannot be ended yet; tried again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let gpus = order.map(|order| order.gpu_uuids.clone());
    for (_, words) in release::free(&node, &gpus.unwrap_or_default(), folder.path()).await {
        tracing::warn!(%task, words, "a task that is given up");
    }
    node.ports.give_back(task);
    node.slots.give_back(task);
    let spool = node.board.spool_of(task);
    let end = TaskEnd {
        error: Some(format!(
            "the agent of node {} failed repeatedly with this task: {why}",
            node.name
        )),
        infrastructure: true,
        node_fault: true,
        last_seq: spool.map_or(0, |spool| spool.state().last_seq),
        ..TaskEnd::default()
    };
    let ended = Ended {
        started,
        at: clock::now(),
        end,
    };
    let kept = ended.clone();
    if let Err(error) = blocking(move || folder.note_end(&kept)).await {
        tracing::error!(%task, %error, "the end of a task cannot be kept; it is only reported");
    }
    node.board.report(Report {
        task,
        phase: Phase::Ended(Box::new(ended)),
        detail: String::new(),
        kept_from: 0,
    });
}

/// Stops the trainer, if there is one; since when it ran.
async fn end_process(folder: &TaskFolder, order: Option<&Order>) -> io::Result<Option<Timestamp>> {
    let look = {
        let folder = folder.clone();
        move || {
            let found = folder.processes();
            // Without a shim it need not be known who it was: what it left is found by its mark.
            match found {
                Err(error) if !folder.has_shim()? => Ok(Err(error)),
                found => Ok(Ok(found?)),
            }
        }
    };
    let (processes, since) = match blocking(look).await? {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(error) => {
            tracing::warn!(%error, "a task that is given up");
            // What could not be read is no news.
            remains::fence(folder.path()).await.ok();
            return Ok(None);
        }
    };
    let (path, shim) = (folder.path().to_owned(), processes.shim.clone());
    let grace = order.map_or(Duration::ZERO, |order| order.spec.grace_period);
    blocking(move || request_stop(&path, &shim, grace).map_err(io::Error::other)).await?;
    if let Err(error) = wait_exit(folder.path(), &processes.shim).await {
        tracing::warn!(%error, "a task that is given up");
    }
    Ok(Some(since))
}

//! What becomes of a task whose order is damaged: its processes are ended and its folder is put aside, before the
//! coordinator is told which tasks are here. It will take the task for lost, and begin another attempt.
//!
//! Never removes anything. Called by Runs as it starts.

use std::sync::Arc;

use super::{node::Node, run::blocking};
use crate::{exec::remains, folder::Found};

/// Ends and puts aside the task of a folder; false where its processes may live, so that it goes on being told of.
pub(super) async fn put_aside(node: &Arc<Node>, found: &Found) -> bool {
    let (task, folder) = (found.task, found.folder.clone());
    let why = found.order.as_ref().err().map(ToString::to_string);
    let why = why.unwrap_or_default();
    match remains::fence(folder.path()).await {
        Ok((killed, stuck)) if stuck.is_empty() => {
            tracing::error!(%task, why, killed, "a task's order (task.json) is damaged, which is the disk's work: it is ended here");
        }
        Ok((_, stuck)) => {
            tracing::error!(%task, why, ?stuck, "a task's order (task.json) is damaged, and processes of it do not end; look at them");
            return false;
        }
        Err(error) => {
            tracing::error!(%task, why, %error, "a task's order (task.json) is damaged, and its processes cannot be looked at");
            return false;
        }
    }
    let place = node.data_dir.join("damaged");
    match blocking(move || folder.put_aside(&place)).await {
        Ok(aside) => {
            tracing::error!(%task, folder = %aside.display(), "what is left of it was put aside; see what the disk's log says, and remove it");
            true
        }
        Err(error) => {
            tracing::error!(%task, %error, "the folder of a damaged task cannot be put aside");
            false
        }
    }
}

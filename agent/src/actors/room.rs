//! Whether there is room on the disk of the node's data folder: without it a node takes no work and says so, and is back by
//! itself when there is.
//!
//! Decides nothing: core does. Runs keeps [`watch`] going; a run asks before it makes a task's folder.

use std::{sync::Arc, time::Duration};

use trainyard_core::node::Disk;

use super::{node::Node, run::blocking};
use crate::disk;

/// How often the disk is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// Looks after which the words about a full disk are renewed.
const RENEW: u32 = 15;

/// Looks once, before the coordinator is spoken to.
pub(super) async fn look(node: &Arc<Node>) {
    let was = node.board.condition();
    let now = lacks(node, !was.is_empty()).await.unwrap_or_default();
    if was != now {
        tell(node, now);
    }
}

/// Looks again and again. Goes on until it is dropped.
#[expect(
    clippy::infinite_loop,
    reason = "it is dropped with the actor that runs it"
)]
pub(super) async fn watch(node: Arc<Node>) {
    let mut looks = 0_u32;
    loop {
        tokio::time::sleep(EVERY).await;
        looks = looks.wrapping_add(1);
        let was = node.board.condition();
        let now = lacks(&node, !was.is_empty()).await.unwrap_or_default();
        let turned = was.is_empty() != now.is_empty();
        // How much is free changes with each look; that is told at times.
        if turned || (was != now && looks.is_multiple_of(RENEW)) {
            tell(&node, now);
        }
    }
}

/// Why no work can be taken at this moment.
pub(super) async fn lacks(node: &Arc<Node>, was_full: bool) -> Option<String> {
    let folder = node.data_dir.clone();
    // The disk of a simulation is none of this machine's.
    if trainyard_runtime::is_simulated() {
        let free = trainyard_runtime::room(&folder)?;
        let total = u64::MAX;
        return node.room.lacks(Disk { free, total }, was_full);
    }
    match blocking(move || disk::seen(&folder)).await {
        Ok(disk) => node.room.lacks(disk, was_full),
        Err(error) => {
            tracing::warn!(%error, "the room on this node's disk cannot be seen");
            None
        }
    }
}

fn tell(node: &Node, words: String) {
    if words.is_empty() {
        tracing::info!("there is room on this node's disk again; it takes jobs");
    } else {
        tracing::error!(condition = words, "this node takes no jobs");
    }
    node.board.set_condition(words);
}

//! A machine of a run with its agent: what it has, and what is left of it when it loses power.
//!
//! Owns nothing of what happens when. Called by the world.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use trainyard_core::resources::{Capacity, Gpu};

use crate::{
    files::Files,
    hosts::Post,
    plan::{Has, Plan},
    trace::Trace,
    yard::Yard,
};

/// A machine with its agent.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) post: Post,
    /// It has power.
    pub(crate) on: bool,
    /// By how many seconds its clock is ahead of the coordinator's.
    pub(crate) ahead: i64,
    pub(crate) ended: watch::Receiver<Option<String>>,
}

/// The number of the machine of this name.
pub(crate) fn number(name: &str) -> Result<usize> {
    let number = name.strip_prefix("node-").and_then(|n| n.parse().ok());
    number.context("a node that there is not")
}

/// What a machine of this number has.
pub(crate) fn capacity(node: usize, has: Has) -> Capacity {
    let gpu = |number| Gpu {
        uuid: format!("GPU-{node}-{number}"),
        model: "Simulated H100".to_owned(),
        memory_bytes: 80 << 30,
    };
    Capacity {
        cpus: has.cpus,
        memory_bytes: has.memory_gib << 30,
        gpus: (0..has.gpus).map(gpu).collect(),
    }
}

/// The beginning of a record that was being written stands at the end of each spool.
pub(crate) fn tear(data_dir: &Path, length: usize) {
    let folders = fs::read_dir(data_dir.join("tasks"))
        .into_iter()
        .flatten()
        .flatten();
    let spools = folders.map(|folder| folder.path().join("spool"));
    let mut spools: Vec<PathBuf> = spools.filter(|path| path.exists()).collect();
    spools.sort();
    for spool in spools {
        let file = File::options().append(true).open(spool);
        drop(file.and_then(|mut file| file.write_all(&vec![7; length])));
    }
}

impl Node {
    pub(crate) fn new(
        (number, has): (usize, Capacity),
        plan: &Plan,
        (seed, folder, trace): (u64, &Path, &Trace),
    ) -> Self {
        let name = format!("node-{number}");
        let (ended, has_ended) = watch::channel(None);
        let data_dir = folder.join(&name);
        let honest = plan.cluster.honest;
        let seed = seed ^ 0xD15C ^ ((number as u64) << 48);
        let files = Files::new(data_dir.clone(), seed, honest);
        let capacity = Arc::new(Mutex::new(has));
        let launch = (plan.cluster.launch, honest);
        let machine = (files.clone(), Arc::clone(&capacity));
        let post = Post {
            yard: Yard::new(&name, (machine, launch), trace.clone()),
            files,
            data_dir,
            capacity,
            name: name.clone(),
            ended,
        };
        Self {
            name,
            post,
            on: true,
            ahead: plan.cluster.ahead.get(number).copied().unwrap_or(0),
            ended: has_ended,
        }
    }

    /// No process is left, and of the files what was waited for.
    pub(crate) fn power_off(&mut self) {
        self.on = false;
        self.post.yard.reboot();
        self.post.files.cut();
    }
}

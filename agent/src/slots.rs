//! What the trainers of this node take of it: none starts with more than there is, also where the node has come back with
//! less than was given away before.
//!
//! Owns who has how much. Never looks at the hardware: the boot has. A run takes its share before its launch, the end of
//! its task gives it back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use trainyard_core::{
    ids::TaskKey,
    resources::{Capacity, format_bytes},
};

use crate::folder::Order;

/// What a node has, and who has which part of it.
#[derive(Debug)]
pub struct Slots {
    has: Capacity,
    taken: Mutex<BTreeMap<TaskKey, Share>>,
}

/// Of one task.
#[derive(Debug)]
struct Share {
    cpus: u32,
    memory: u64,
    gpus: Vec<String>,
}

impl Slots {
    /// Nobody has anything yet.
    #[must_use]
    pub fn new(has: Capacity) -> Self {
        Self {
            has,
            taken: Mutex::default(),
        }
    }

    /// The share of a task whose trainer runs, however little there is.
    pub fn keep(&self, order: &Order) {
        self.taken().insert(order.task, share(order));
    }

    /// The share of a task that is to start.
    ///
    /// # Errors
    /// What there is too little of.
    pub fn take(&self, order: &Order) -> Result<(), String> {
        let has = |uuid: &&String| !self.has.gpus.iter().any(|gpu| gpu.uuid == **uuid);
        if let Some(missing) = order.gpu_uuids.iter().find(has) {
            return Err(format!("GPU {missing} is not on this node any more"));
        }
        let mut taken = self.taken();
        let others = taken.iter().filter(|(task, _)| **task != order.task);
        let mut all = share(order);
        for (_, other) in others {
            all.cpus = all.cpus.saturating_add(other.cpus);
            all.memory = all.memory.saturating_add(other.memory);
        }
        if all.cpus > self.has.cpus {
            return Err(format!(
                "{} CPU slots would be taken, and this node has {} now",
                all.cpus, self.has.cpus
            ));
        }
        if all.memory > self.has.memory_bytes {
            return Err(format!(
                "{} of memory would be taken, and this node has {} now",
                format_bytes(all.memory),
                format_bytes(self.has.memory_bytes)
            ));
        }
        taken.insert(order.task, share(order));
        Ok(())
    }

    /// A task has ended.
    pub fn give_back(&self, task: TaskKey) {
        self.taken().remove(&task);
    }

    /// The GPUs of those who have a share.
    pub fn gpus(&self) -> BTreeSet<String> {
        let taken = self.taken();
        let gpus = taken.values().flat_map(|share| share.gpus.iter().cloned());
        gpus.collect()
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Share>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn share(order: &Order) -> Share {
    let wants = &order.spec.resources;
    Share {
        cpus: wants.cpus,
        memory: wants.memory_bytes,
        gpus: order.gpu_uuids.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_config::Secret;
    use trainyard_core::{
        ids::{AttemptNo, JobId, Rank},
        resources::Gpu,
        spec::JobSpec,
    };

    fn order(job: u64, (cpus, gibibytes): (u32, u64), gpus: &[&str]) -> Order {
        let mut spec = JobSpec::default();
        (spec.resources.cpus, spec.resources.memory_bytes) = (cpus, gibibytes << 30);
        Order {
            task: TaskKey {
                job: JobId(job),
                attempt: AttemptNo(1),
                rank: Rank(0),
            },
            spec,
            gpu_uuids: gpus.iter().map(|&gpu| gpu.to_owned()).collect(),
            world_size: 1,
            secret: Secret::default(),
            snapshot: None,
        }
    }

    #[test]
    fn a_node_that_came_back_with_less_starts_nothing_that_it_cannot_hold() {
        let gpu = Gpu {
            uuid: "GPU-0".into(),
            model: "H100".into(),
            memory_bytes: 1,
        };
        let slots = Slots::new(Capacity {
            cpus: 4,
            memory_bytes: 8 << 30,
            gpus: vec![gpu],
        });
        let gone = slots.take(&order(1, (1, 0), &["GPU-0", "GPU-1"]));
        assert_eq!(gone.unwrap_err(), "GPU GPU-1 is not on this node any more");
        slots.keep(&order(2, (3, 1), &["GPU-1"]));
        let cpus = slots.take(&order(3, (2, 0), &[])).unwrap_err();
        assert_eq!(cpus, "5 CPU slots would be taken, and this node has 4 now");
        let memory = slots.take(&order(3, (1, 8), &[])).unwrap_err();
        assert_eq!(
            memory,
            "9 GiB of memory would be taken, and this node has 8 GiB now"
        );
        let fits = order(4, (1, 7), &["GPU-0"]);
        assert_eq!(slots.take(&fits), Ok(()));
        let both = ["GPU-0".to_owned(), "GPU-1".to_owned()];
        assert_eq!(slots.gpus(), both.into());
        assert_eq!(slots.take(&fits), Ok(()), "its own share is its own");
        slots.give_back(TaskKey {
            job: JobId(2),
            ..fits.task
        });
        assert_eq!(slots.take(&order(5, (3, 1), &[])), Ok(()));
    }
}

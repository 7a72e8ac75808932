//! What the trainers of this node take of it: none starts with more than there is, also where the node has come back with
//! less than was given away before.
//!
//! Owns who has how much. Never looks at the hardware: the boot has. A run takes its share before its launch, the end of
//! its task gives it back: what another task has is waited for, which may be one that the coordinator has given up and the
//! node has not ended yet.

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
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    shares: BTreeMap<TaskKey, Share>,
    /// Who is about to give its share back.
    leaving: BTreeSet<TaskKey>,
}

/// Of one task.
#[derive(Clone, Debug)]
struct Share {
    cpus: u32,
    memory: u64,
    gpus: Vec<String>,
}

/// Why a task has no share, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The node has less than it was believed to have.
    Less(String),
    /// Another task still has it.
    Held(String),
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
        self.taken().shares.insert(order.task, share(order));
    }

    /// The share of a task that is to start.
    ///
    /// # Errors
    /// What there is too little of.
    pub fn take(&self, order: &Order) -> Result<(), Lack> {
        let gone = |uuid: &&String| !self.has.gpus.iter().any(|gpu| gpu.uuid == **uuid);
        if let Some(missing) = order.gpu_uuids.iter().find(gone) {
            let words = format!("GPU {missing} is not on this node any more");
            return Err(Lack::Less(words));
        }
        let mut taken = self.taken();
        let wants = share(order);
        if let Some(words) = taken.holds_gpu(order.task, &wants) {
            return Err(Lack::Held(words));
        }
        if let Some(words) = self.lacks(&taken.with(order.task, &wants, true)) {
            let later = self.lacks(&taken.with(order.task, &wants, false));
            return Err(match later {
                Some(_) => Lack::Less(words),
                None => Lack::Held(format!(
                    "{words}; a task that is being stopped still has some"
                )),
            });
        }
        taken.shares.insert(order.task, wants);
        taken.leaving.remove(&order.task);
        Ok(())
    }

    /// What there is too little of for `all`.
    fn lacks(&self, all: &Share) -> Option<String> {
        if all.cpus > self.has.cpus {
            return Some(format!(
                "{} CPU slots would be taken, and this node has {} now",
                all.cpus, self.has.cpus
            ));
        }
        (all.memory > self.has.memory_bytes).then(|| {
            format!(
                "{} of memory would be taken, and this node has {} now",
                format_bytes(all.memory),
                format_bytes(self.has.memory_bytes)
            )
        })
    }

    /// A task is being stopped, or its trainer has gone: whoever needs its share may wait for it.
    pub fn leaves(&self, task: TaskKey) {
        self.taken().leaving.insert(task);
    }

    /// A task has ended.
    pub fn give_back(&self, task: TaskKey) {
        let mut taken = self.taken();
        taken.shares.remove(&task);
        taken.leaving.remove(&task);
    }

    /// The GPUs of those who have a share.
    pub fn gpus(&self) -> BTreeSet<String> {
        let taken = self.taken();
        let gpus = taken.shares.values();
        gpus.flat_map(|share| share.gpus.iter().cloned()).collect()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Who else has a GPU of these, whatever becomes of it: no two trainers share one.
    fn holds_gpu(&self, task: TaskKey, wants: &Share) -> Option<String> {
        let mut others = self.shares.iter().filter(|(other, _)| **other != task);
        others.find_map(|(other, share)| {
            let gpu = share.gpus.iter().find(|gpu| wants.gpus.contains(gpu))?;
            Some(format!("{other} still has GPU {gpu}"))
        })
    }

    /// What would be taken by these and all others; `leaving`: by those that are about to go, too.
    fn with(&self, task: TaskKey, wants: &Share, leaving: bool) -> Share {
        let mut all = wants.clone();
        for (other, share) in &self.shares {
            if *other != task && (leaving || !self.leaving.contains(other)) {
                all.cpus = all.cpus.saturating_add(share.cpus);
                all.memory = all.memory.saturating_add(share.memory);
            }
        }
        all
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

    fn less(words: &str) -> Result<(), Lack> {
        Err(Lack::Less(words.to_owned()))
    }

    fn held(words: &str) -> Result<(), Lack> {
        Err(Lack::Held(words.to_owned()))
    }

    fn slots(cpus: u32, gibibytes: u64) -> Slots {
        let gpu = Gpu {
            uuid: "GPU-0".into(),
            model: "H100".into(),
            memory_bytes: 1,
        };
        Slots::new(Capacity {
            cpus,
            memory_bytes: gibibytes << 30,
            gpus: vec![gpu],
        })
    }

    #[test]
    fn a_gpu_that_another_task_has_is_held_until_it_is_given_back_and_so_is_what_a_stopped_one_has()
    {
        let slots = slots(4, 8);
        let (old, new) = (order(1, (3, 6), &["GPU-0"]), order(2, (2, 4), &["GPU-0"]));
        assert_eq!(slots.take(&old), Ok(()));
        let gpu = "job 1 attempt 1 rank 0 still has GPU GPU-0";
        assert_eq!(slots.take(&new), held(gpu));
        let cpus = "5 CPU slots would be taken, and this node has 4 now";
        let other = order(3, (2, 0), &[]);
        assert_eq!(slots.take(&other), less(cpus), "nobody goes");
        slots.leaves(old.task);
        let stopped = "; a task that is being stopped still has some";
        assert_eq!(slots.take(&other), held(&format!("{cpus}{stopped}")));
        let memory = "9 GiB of memory would be taken, and this node has 8 GiB now";
        let large = order(3, (1, 3), &[]);
        assert_eq!(slots.take(&large), held(&format!("{memory}{stopped}")));
        let too_large = slots.take(&order(3, (5, 0), &[]));
        assert!(matches!(too_large, Err(Lack::Less(_))), "{too_large:?}");
        assert_eq!(slots.take(&new), held(gpu));
        slots.give_back(old.task);
        assert_eq!(slots.take(&new), Ok(()));
        // Whether the one before it was leaving is forgotten with it.
        assert_eq!(
            slots.take(&old),
            held("job 2 attempt 1 rank 0 still has GPU GPU-0")
        );
    }

    #[test]
    fn a_node_that_came_back_with_less_starts_nothing_that_it_cannot_hold() {
        let slots = slots(4, 8);
        let gone = slots.take(&order(1, (1, 0), &["GPU-0", "GPU-1"]));
        assert_eq!(gone, less("GPU GPU-1 is not on this node any more"));
        slots.keep(&order(2, (3, 1), &["GPU-1"]));
        let cpus = slots.take(&order(3, (2, 0), &[]));
        assert_eq!(
            cpus,
            less("5 CPU slots would be taken, and this node has 4 now")
        );
        let memory = slots.take(&order(3, (1, 8), &[]));
        assert_eq!(
            memory,
            less("9 GiB of memory would be taken, and this node has 8 GiB now")
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

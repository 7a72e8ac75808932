//! What change of its request would start a job now.
//!
//! Pure. The least change of one field is looked for in each; where none does, all that can be asked for less of is, and
//! as much of it is given back as still starts. Part of the planner, called by `explain`.

use std::{collections::BTreeSet, time::Duration};

use super::{Planner, names::whole, upkeep::Outlook};
use crate::sched::{QueuedJob, policy::Seconds};

/// A change of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The field's path in the job's specification.
    pub field: &'static str,
    /// What it asks for.
    pub from: String,
    /// What would do.
    pub to: String,
}

impl Planner {
    /// Changes of one field each that would start a job now, or if there are none those that would together.
    pub(super) fn advice(
        &self,
        outlook: &Outlook<'_>,
        queued: &QueuedJob,
    ) -> (Vec<Change>, Vec<Change>) {
        let changes = self.changes(outlook, queued);
        let together = match changes.is_empty() {
            true => self.together(outlook, queued),
            false => Vec::new(),
        };
        (changes, together)
    }

    /// Of each field the smallest change that would do.
    fn changes(&self, outlook: &Outlook<'_>, queued: &QueuedJob) -> Vec<Change> {
        let starts = |changed: &QueuedJob| self.starts(outlook, changed);
        let less = self.counts(queued).into_iter();
        let less = less.filter_map(|count| Some(count.smallest(queued, starts)?.1));
        let wishes = wishes(queued).into_iter().filter(|wish| {
            let mut changed = queued.clone();
            (wish.drop)(&mut changed);
            starts(&changed)
        });
        less.chain(wishes.map(Wish::dropped))
            .chain(self.shorter(outlook, queued).map(|(_, change)| change))
            .collect()
    }

    /// As few changes as are found by asking for the least there is, and giving back what it wishes and then of each count
    /// what still starts; nothing where not even the least would.
    fn together(&self, outlook: &Outlook<'_>, queued: &QueuedJob) -> Vec<Change> {
        let starts = |changed: &QueuedJob| self.starts(outlook, changed);
        let (wishes, counts) = (wishes(queued), self.counts(queued));
        let mut asks = queued.clone();
        for wish in &wishes {
            (wish.drop)(&mut asks);
        }
        for count in &counts {
            if let Some(least) = count.tries.at(1) {
                (count.put)(&mut asks, least);
            }
        }
        let mut changes = Vec::new();
        if !starts(&asks) {
            let Some((seconds, change)) = self.shorter(outlook, &asks) else {
                return changes;
            };
            asks.limit = Some(Duration::from_secs(seconds));
            changes.push(change);
        }
        for wish in wishes {
            let mut with = asks.clone();
            (wish.restore)(&mut with, queued);
            match starts(&with) {
                true => asks = with,
                false => changes.push(wish.dropped()),
            }
        }
        for count in counts.iter().filter(|count| count.tries.at(1).is_some()) {
            let mut with = asks.clone();
            (count.put)(&mut with, count.from);
            if starts(&with) {
                asks = with;
            } else if let Some((most, change)) = count.smallest(&asks, starts) {
                (count.put)(&mut asks, most);
                changes.push(change);
            }
        }
        changes
    }

    /// Whether a new job that asks for this would start at once, were this one cancelled: what else is known of this one
    /// is not known of that.
    pub(super) fn starts(&self, outlook: &Outlook<'_>, changed: &QueuedJob) -> bool {
        let anew = QueuedJob {
            avoid: BTreeSet::new(),
            ..changed.clone()
        };
        let ask = self.ask_given(&anew, self.closes_at(outlook, &anew));
        let now = self.seconds(outlook.now);
        let ends = anew
            .limit
            .map_or(Seconds::MAX, |limit| now.saturating_add(whole(limit)));
        let place = self.policy.would_start_anew(anew.job.0, &ask, ends);
        // The policy counts what is still being left as free.
        place.is_some_and(|pieces| self.is_free(&anew, &pieces))
    }

    /// What is counted, and of which less can be asked for.
    fn counts(&self, queued: &QueuedJob) -> Vec<Count> {
        let request = &queued.request;
        let total = queued.placement.gpus_total.unwrap_or_default();
        let number = |field, from: u32, put| Count {
            field,
            from: from.into(),
            tries: Tries::Below(from.into()),
            put,
        };
        vec![
            number("resources.gpus", request.gpus, |queued, gpus| {
                queued.request.gpus = small(gpus);
            }),
            number("resources.cpus", request.cpus, |queued, cpus| {
                queued.request.cpus = small(cpus);
            }),
            number("nodes", queued.nodes, |queued, nodes| {
                queued.nodes = small(nodes);
            }),
            number("placement.gpus_total", total, |queued, gpus| {
                queued.placement.gpus_total = Some(small(gpus));
            }),
            Count {
                field: "resources.memory_bytes",
                from: request.memory_bytes,
                tries: Tries::Of(self.free_memory(queued)),
                put: |queued, bytes| queued.request.memory_bytes = bytes,
            },
        ]
    }

    /// What is free of memory on open nodes, and is less than what is asked for: the least first.
    fn free_memory(&self, queued: &QueuedJob) -> Vec<u64> {
        let asked = queued.request.memory_bytes;
        let open = self.ledger.nodes().filter(|(_, entry)| entry.open);
        // The ledger knows who is leaving still, the policy for whom they do.
        let free = open.map(|(name, entry)| {
            let counted = self.ixs.get(name).map(|ix| self.policy.free_memory(*ix));
            let free = entry.free().memory_bytes;
            free.min(counted.unwrap_or_default())
        });
        let less: BTreeSet<u64> = free.filter(|free| (1..asked).contains(free)).collect();
        less.into_iter().collect()
    }
}

/// Something that is counted, and how a job asks for another count of it.
struct Count {
    field: &'static str,
    from: u64,
    tries: Tries,
    put: fn(&mut QueuedJob, u64),
}

/// What may be asked for instead.
enum Tries {
    /// Any number from 1 to less than this.
    Below(u64),
    /// These, the least first.
    Of(Vec<u64>),
}

impl Tries {
    fn many(&self) -> u64 {
        match self {
            Self::Below(from) => from.saturating_sub(1),
            Self::Of(values) => u64::try_from(values.len()).unwrap_or(u64::MAX),
        }
    }

    /// The one of this place, from 1.
    fn at(&self, place: u64) -> Option<u64> {
        match self {
            Self::Below(from) => Some(place).filter(|place| place < from),
            Self::Of(values) => {
                let index = usize::try_from(place.checked_sub(1)?).ok()?;
                values.get(index).copied()
            }
        }
    }
}

impl Count {
    /// The largest count with which it starts: by halves, since fewer are never harder to find.
    fn smallest(
        &self,
        queued: &QueuedJob,
        starts: impl Fn(&QueuedJob) -> bool,
    ) -> Option<(u64, Change)> {
        let with = |place| {
            let count = self.tries.at(place)?;
            let mut changed = queued.clone();
            (self.put)(&mut changed, count);
            starts(&changed).then_some(count)
        };
        let (mut good, mut bad) = (1, self.tries.many() + 1);
        let mut found = with(good)?;
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match with(middle) {
                Some(count) => (good, found) = (middle, count),
                None => bad = middle,
            }
        }
        let change = Change {
            field: self.field,
            from: self.from.to_string(),
            to: found.to_string(),
        };
        Some((found, change))
    }
}

/// Of a count that was one of as few.
fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Something that a job wishes of nodes, beside how much.
struct Wish {
    field: &'static str,
    from: String,
    drop: fn(&mut QueuedJob),
    /// Wishes it again, as the other does.
    restore: fn(&mut QueuedJob, &QueuedJob),
}

impl Wish {
    fn dropped(self) -> Change {
        Change {
            field: self.field,
            from: self.from,
            to: "any".to_owned(),
        }
    }
}

/// Wishes that can be dropped.
fn wishes(queued: &QueuedJob) -> Vec<Wish> {
    gpu_wishes(queued)
        .into_iter()
        .chain(node_wishes(queued))
        .collect()
}

fn gpu_wishes(queued: &QueuedJob) -> Vec<Wish> {
    let request = &queued.request;
    let (least, most) = (request.gpu_memory_bytes, request.gpu_memory_max_bytes);
    let model = Some(request.gpu_model.clone()).filter(|model| !model.is_empty());
    let model = model.map(|from| Wish {
        field: "resources.gpu_model",
        from,
        drop: |asks| asks.request.gpu_model.clear(),
        restore: |asks, all| asks.request.gpu_model.clone_from(&all.request.gpu_model),
    });
    let least = (least > 0).then(|| Wish {
        field: "resources.gpu_memory_bytes",
        from: least.to_string(),
        drop: |asks| asks.request.gpu_memory_bytes = 0,
        restore: |asks, all| asks.request.gpu_memory_bytes = all.request.gpu_memory_bytes,
    });
    let most = (most > 0).then(|| Wish {
        field: "resources.gpu_memory_max_bytes",
        from: most.to_string(),
        drop: |asks| asks.request.gpu_memory_max_bytes = 0,
        restore: |asks, all| asks.request.gpu_memory_max_bytes = all.request.gpu_memory_max_bytes,
    });
    [model, least, most].into_iter().flatten().collect()
}

fn node_wishes(queued: &QueuedJob) -> Vec<Wish> {
    let placement = &queued.placement;
    let labels = texts(&placement.labels).map(|from| Wish {
        field: "placement.labels",
        from,
        drop: |asks| asks.placement.labels.clear(),
        restore: |asks, all| asks.placement.labels.clone_from(&all.placement.labels),
    });
    let anti_labels = texts(&placement.anti_labels).map(|from| Wish {
        field: "placement.anti_labels",
        from,
        drop: |asks| asks.placement.anti_labels.clear(),
        restore: |asks, all| {
            let unwanted = &all.placement.anti_labels;
            asks.placement.anti_labels.clone_from(unwanted);
        },
    });
    let fabric = placement.fabric.clone().map(|from| Wish {
        field: "placement.fabric",
        from,
        drop: |asks| asks.placement.fabric = None,
        restore: |asks, all| asks.placement.fabric.clone_from(&all.placement.fabric),
    });
    let exclusive = placement.exclusive.then(|| Wish {
        field: "placement.exclusive",
        from: "true".to_owned(),
        drop: |asks| asks.placement.exclusive = false,
        restore: |asks, all| asks.placement.exclusive = all.placement.exclusive,
    });
    let all = [labels, anti_labels, fabric, exclusive];
    all.into_iter().flatten().collect()
}

fn texts(labels: &BTreeSet<String>) -> Option<String> {
    let texts: Vec<&str> = labels.iter().map(String::as_str).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

//! What it costs to have so much free on a node, and who would have to go from there. Looks only; `preempt` decides.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    cluster::{JobIx, NodeIx},
    dense::Bits,
    job::Job,
    lanes::Rank,
    preempt::{Claimant, Standing, Standings},
    projects::{Part, ProjectIx},
    scheduler::Scheduler,
};

/// What moving a job costs, as a part of what pushing it out would: it goes on at once, but pays for a restart.
const MOVING: f64 = 0.1;

/// What it costs that some go. Compared field by field: a higher priority is not given up for any gain among lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// The highest priority of those who go.
    priority: Option<u32>,
    /// Not all of them have borrowed what they hold.
    own: bool,
    /// GPU-seconds of work of which no checkpoint is known.
    lost: Rank,
    /// Completions per second.
    rate: Rank,
}

impl Cost {
    const NOTHING: Self = Self {
        priority: None,
        own: false,
        lost: Rank(0.0),
        rate: Rank(0.0),
    };

    /// Of one who goes, or only moves.
    pub(super) fn of(standing: &Standing, moves: bool) -> Self {
        let part = if moves { MOVING } else { 1.0 };
        Self {
            priority: Some(standing.priority),
            own: !standing.borrows,
            lost: Rank(standing.at_stake),
            rate: Rank(standing.rate * part),
        }
    }

    fn and(self, more: Self) -> Self {
        Self {
            priority: self.priority.max(more.priority),
            own: self.own || more.own,
            lost: Rank(self.lost.0 + more.lost.0),
            rate: Rank(self.rate.0 + more.rate.0),
        }
    }

    pub(super) fn for_each(self, gpus: u32) -> Self {
        let each = |sum: Rank| Rank(sum.0 / f64::from(gpus.max(1)));
        Self {
            lost: each(self.lost),
            rate: each(self.rate),
            ..self
        }
    }
}

/// One who could go from a node.
struct Leaver {
    job: JobIx,
    standing: Standing,
    /// What it holds there.
    here: Amount,
    moves: bool,
}

impl Leaver {
    fn cost(&self) -> Cost {
        Cost::of(&self.standing, self.moves)
    }

    /// The cheapest by GPU first.
    fn turn(&self) -> (Cost, JobIx) {
        (self.cost().for_each(self.here.gpus), self.job)
    }
}

/// GPUs that projects give back by those who are pushed out.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(BTreeMap<ProjectIx, u32>);

impl Given {
    fn note(&mut self, one: &Standing) {
        let given = self.0.entry(one.project).or_default();
        *given = given.saturating_add(one.gpus);
    }

    fn by(&self, project: ProjectIx) -> u32 {
        self.0.get(&project).copied().unwrap_or(0)
    }
}

/// Who has to go, and how each stood when it was chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// Pushed out.
    pub(super) out: BTreeMap<JobIx, Standing>,
    /// Moved.
    pub(super) moved: BTreeMap<JobIx, Standing>,
    given: Given,
}

/// For whom room is looked for, who could go, and who goes already.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    claimant: &'a Claimant,
    standings: &'a Standings,
    room: &'a Room,
}

impl<'a> Look<'a> {
    pub(super) fn of((claimant, standings): (&'a Claimant, &'a Standings), room: &'a Room) -> Self {
        Self {
            claimant,
            standings,
            room,
        }
    }
}

impl Room {
    /// One more who is pushed out.
    pub(super) fn push_out(&mut self, job: JobIx, standing: Standing) {
        self.given.note(&standing);
        self.out.insert(job, standing);
    }

    /// Whether nobody goes.
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty() && self.moved.is_empty()
    }

    /// What a project has less when they have gone.
    pub(super) fn part_of(&self, project: ProjectIx) -> Part {
        let out = self.out.values().filter(|one| one.project == project);
        out.fold(Part::default(), |sum, one| sum.with(one.gpus))
    }

    /// Whether a job goes or moves.
    pub(super) fn has(&self, job: JobIx) -> bool {
        self.out.contains_key(&job) || self.moved.contains_key(&job)
    }

    /// All who go or move.
    pub(super) fn all(&self) -> Vec<JobIx> {
        let mut all: Vec<JobIx> = self.out.keys().chain(self.moved.keys()).copied().collect();
        all.sort_unstable();
        all
    }

    /// The same with one who stays.
    pub(super) fn but(&self, job: JobIx) -> Self {
        let mut less = self.clone();
        less.out.remove(&job);
        less.moved.remove(&job);
        less
    }

    /// What it costs.
    pub(super) fn price(&self) -> Cost {
        let all = self.out.keys().chain(self.moved.keys());
        all.fold(Cost::NOTHING, |sum, job| sum.and(self.price_of(*job)))
    }

    /// What one of those costs who go or move.
    pub(super) fn price_of(&self, job: JobIx) -> Cost {
        let out = self.out.get(&job).map(|of| Cost::of(of, false));
        let moved = || self.moved.get(&job).map(|of| Cost::of(of, true));
        out.or_else(moved).unwrap_or(Cost::NOTHING)
    }
}

impl Scheduler {
    /// What it costs to have `gpus` free on each node where that can be; all of a node for one who wants it alone. Those who
    /// go already cost nothing more.
    pub(super) fn costs(&self, look: Look<'_>, nodes: &Bits, gpus: u32) -> Vec<Clearing> {
        let nodes = nodes.iter::<NodeIx>();
        nodes
            .filter_map(|node| self.clearing(look, node, gpus))
            .collect()
    }

    fn clearing(&self, look: Look<'_>, ix: NodeIx, gpus: u32) -> Option<Clearing> {
        let node = &self.cluster.nodes[ix];
        let shape = &self.lanes.shapes[self.job(look.claimant.job).shape];
        let (ask, accepted) = (&shape.ask, shape.accepted(node.group));
        let of_slot = |slot: u8| accepted.get(usize::from(slot)) == Some(&true);
        let slots = || (0u8..).zip(&node.slots).filter(|(slot, _)| of_slot(*slot));
        let needs = Amount {
            gpus,
            cpus: ask.cpus,
            bytes: ask.memory_bytes,
        };
        let free = Amount {
            gpus: slots().map(|(_, slot)| slot.free()).sum(),
            cpus: node.cpus(),
            bytes: node.memory_bytes(),
        };
        let gone = node.holders.iter().filter(|job| look.room.has(**job));
        let mut clearing = Clearing {
            node: ix,
            cost: Cost::NOTHING,
            free: gone.fold(free, |free, job| {
                free.with(&self.held_at(ix, *job, accepted))
            }),
            out: Vec::new(),
            moved: Vec::new(),
        };
        let total: u32 = slots().map(|(_, slot)| slot.total).sum();
        if ask.exclusive {
            return (total >= gpus)
                .then(|| self.emptied(look, clearing))
                .flatten();
        }
        if clearing.free.holds(&needs) {
            return Some(clearing);
        }
        if total < gpus {
            return None;
        }
        let chosen = self.choose(look, &mut clearing, &needs)?;
        // The next one may bring so much that an earlier one is not needed any more.
        for one in chosen.iter().rev() {
            let free = clearing.free.less(&one.here);
            if free.holds(&needs) {
                clearing.free = free;
            } else {
                clearing.without(one);
            }
        }
        Some(clearing)
    }

    /// One after another goes until there is enough. A project gives back no more than it has borrowed: whoever goes
    /// beyond that goes by rank, and in its turn.
    fn choose(
        &self,
        look: Look<'_>,
        clearing: &mut Clearing,
        needs: &Amount,
    ) -> Option<Vec<Leaver>> {
        let mut line = self.who_could_leave(look, clearing.node);
        let dearest_first = |one: &Leaver| Reverse(one.turn());
        line.sort_by_key(dearest_first);
        let mut given = look.room.given.clone();
        let mut chosen: Vec<Leaver> = Vec::new();
        while !clearing.free.holds(needs) {
            let one = line.pop()?;
            let standing = self.as_of(&one.standing, &given);
            if !one.here.helps(&clearing.free, needs) {
                continue;
            }
            if !one.moves && standing.borrows != one.standing.borrows {
                if self.may_push(&look.claimant.standing, &standing) {
                    line.push(Leaver { standing, ..one });
                    line.sort_by_key(dearest_first);
                }
                continue;
            }
            if !one.moves {
                given.note(&one.standing);
            }
            clearing.free = clearing.free.with(&one.here);
            chosen.push(one);
        }
        Some(chosen)
    }

    /// How one stands when its project has given back so much already.
    fn as_of(&self, one: &Standing, given: &Given) -> Standing {
        let borrowed = self.projects.borrowed(one.project);
        Standing {
            borrows: one.gpus > 0 && borrowed > given.by(one.project),
            ..*one
        }
    }

    /// Whether a project that has had to give something back for this has borrowed no more: then its others stand better.
    pub(super) fn gives_no_more(&self, chosen: &Clearing, room: &Room) -> bool {
        chosen.out.iter().any(|(_, one)| {
            one.borrows && room.given.by(one.project) >= self.projects.borrowed(one.project)
        })
    }

    /// All who hold something on the node, whatever that is; nothing if one of them stays.
    fn emptied(&self, look: Look<'_>, mut clearing: Clearing) -> Option<Clearing> {
        let mut leave = self.who_could_leave(look, clearing.node);
        let holders = self.cluster.holders(clearing.node).iter();
        if leave.len() < holders.filter(|job| !look.room.has(**job)).count() {
            return None;
        }
        leave.sort_by_key(Leaver::turn);
        let mut given = look.room.given.clone();
        for mut one in leave {
            if !one.moves {
                one.standing = self.as_of(&one.standing, &given);
                given.note(&one.standing);
                if !self.may_push(&look.claimant.standing, &one.standing) {
                    return None;
                }
            }
            clearing.without(&one);
        }
        Some(clearing)
    }

    /// Who of those on a node could go or move, beside those who go already.
    fn who_could_leave(&self, look: Look<'_>, ix: NodeIx) -> Vec<Leaver> {
        let node = &self.cluster.nodes[ix];
        let shape = &self.lanes.shapes[self.job(look.claimant.job).shape];
        let accepted = shape.accepted(node.group);
        let total: u32 = node.slots.iter().map(|slot| slot.total).sum();
        let mut leave: Vec<Leaver> = Vec::new();
        for holder in &node.holders {
            let standing = look.standings.get(*holder).and_then(Option::as_ref);
            let Some(standing) = standing.filter(|_| !look.room.has(*holder)) else {
                continue;
            };
            let standing = self.as_of(standing, &look.room.given);
            let moves = !self.may_push(&look.claimant.standing, &standing);
            if !moves || self.small(self.job(*holder), ix, total) {
                leave.push(Leaver {
                    job: *holder,
                    standing,
                    here: self.held_at(ix, *holder, accepted),
                    moves,
                });
            }
        }
        leave
    }

    /// What a job holds on a node, of its GPUs those that will do.
    fn held_at(&self, ix: NodeIx, job: JobIx, accepted: &[bool]) -> Amount {
        let pieces = self.job(job).pieces.iter();
        let here = pieces.filter(|piece| piece.node == ix);
        let amounts = here.map(|piece| {
            let does = accepted.get(usize::from(piece.slot)) == Some(&true);
            Amount {
                gpus: if does { piece.gpus } else { 0 },
                cpus: piece.cpus,
                bytes: piece.memory_bytes,
            }
        });
        amounts.fold(Amount::default(), |sum, amount| sum.with(&amount))
    }

    /// Whether all of a job lies on the node and is less than the whole of it: moving whole nodes about wins nothing. Nor is
    /// one moved that would begin anew.
    fn small(&self, job: &Job, ix: NodeIx, total: u32) -> bool {
        let held: u32 = job.pieces.iter().map(|piece| piece.gpus).sum();
        let cpus: u32 = job.pieces.iter().map(|piece| piece.cpus).sum();
        let all_here = job.pieces.iter().all(|piece| piece.node == ix);
        let offered = self.cluster.nodes[ix].offer.cpus;
        let less = if total > 0 {
            held < total
        } else {
            cpus < offered
        };
        all_here && job.saved && !job.partial && less && !self.lanes.shapes[job.shape].ask.exclusive
    }

    /// So many GPUs in all, on nodes of whatever size, from where they cost least: of each node all that it could give.
    pub(super) fn gathered(
        &self,
        who: (&Claimant, &Standings),
        own: &Room,
        (nodes, gpus): (&Bits, u32),
    ) -> Option<Room> {
        let shape = &self.lanes.shapes[self.job(who.0.job).shape];
        let mut room = own.clone();
        let gives = nodes.iter::<NodeIx>().filter_map(|node| {
            let accepted = shape.accepted(self.cluster.nodes[node].group);
            let slots = self.cluster.nodes[node].slots.iter().zip(accepted);
            let total: u32 = slots
                .filter(|(_, yes)| **yes)
                .map(|(slot, _)| slot.total)
                .sum();
            (1..=total.min(gpus)).rev().find_map(|gpus| {
                let clearing = self.clearing(Look::of(who, &room), node, gpus)?;
                Some((clearing.cost.for_each(gpus), gpus, clearing))
            })
        });
        let mut gives: Vec<(Cost, u32, Clearing)> = gives.collect();
        gives.sort_by_key(|(cost, gpus, clearing)| (*cost, Reverse(*gpus), clearing.node));
        let mut left = gpus;
        for (_, given, clearing) in gives {
            let rest = given.min(left);
            let fewer = self.clearing(Look::of(who, &room), clearing.node, rest);
            fewer.unwrap_or(clearing).add(&mut room);
            left -= rest;
            if left == 0 {
                return Some(room);
            }
        }
        None
    }
}

/// What a node has left, or somebody holds or needs there.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    gpus: u32,
    cpus: u32,
    bytes: u64,
}

impl Amount {
    fn with(self, more: &Self) -> Self {
        Self {
            gpus: self.gpus.saturating_add(more.gpus),
            cpus: self.cpus.saturating_add(more.cpus),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    fn less(self, fewer: &Self) -> Self {
        Self {
            gpus: self.gpus.saturating_sub(fewer.gpus),
            cpus: self.cpus.saturating_sub(fewer.cpus),
            bytes: self.bytes.saturating_sub(fewer.bytes),
        }
    }

    fn holds(&self, needs: &Self) -> bool {
        self.gpus >= needs.gpus && self.cpus >= needs.cpus && self.bytes >= needs.bytes
    }

    /// Whether to have this too brings `free` nearer to what is needed.
    fn helps(&self, free: &Self, needs: &Self) -> bool {
        self.gpus > 0 && free.gpus < needs.gpus
            || self.cpus > 0 && free.cpus < needs.cpus
            || self.bytes > 0 && free.bytes < needs.bytes
    }
}

/// What has to happen on a node.
#[derive(Clone, Debug)]
pub(super) struct Clearing {
    pub(super) node: NodeIx,
    cost: Cost,
    free: Amount,
    out: Vec<(JobIx, Standing)>,
    moved: Vec<(JobIx, Standing)>,
}

impl Clearing {
    /// The cheapest first; of those the fullest, the first.
    pub(super) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let key = |of: &Self| (of.cost, of.free.gpus, of.node);
        key(self).cmp(&key(other))
    }

    fn without(&mut self, one: &Leaver) {
        self.cost = self.cost.and(one.cost());
        let list = if one.moves {
            &mut self.moved
        } else {
            &mut self.out
        };
        list.push((one.job, one.standing));
    }

    /// Those who are pushed out.
    pub(super) fn out(&self) -> impl Iterator<Item = JobIx> {
        self.out.iter().map(|(job, _)| *job)
    }

    pub(super) fn add(&self, room: &mut Room) {
        for (_, standing) in &self.out {
            room.given.note(standing);
        }
        room.out.extend(self.out.iter().copied());
        room.moved.extend(self.moved.iter().copied());
    }
}

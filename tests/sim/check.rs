//! The invariants of the design, checked while a simulation runs.
//!
//! Owns what was seen before, to tell what has changed that may not. Never changes the world. Called by the world after
//! each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use trainyard_coordinator::store::Store;
use trainyard_core::{
    ids::JobId,
    job::{Job, JobState},
    resources::Capacity,
};

use crate::{
    closed::Closed,
    ends, gates,
    node::{capacity, number},
    plan::{Has, Plan, Wish},
    records::Records,
    silence::Silences,
    strays::Strays,
    told::Accepted,
    trace::Trace,
    turns::Turns,
    yard::Yard,
};

/// How often trainers are looked at that are to be gone.
const LOOK: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Debug)]
pub(crate) struct Checker {
    commits: Option<u64>,
    /// What is stored, as of the newest commit.
    jobs: Vec<Job>,
    /// Trainers that have begun, on all machines.
    begun: Option<i64>,
    turns: Turns,
    strays: Strays,
    looked: Duration,
    /// Jobs that were given a place once.
    began: BTreeSet<u64>,
    closed: Closed,
    records: Records,
}

/// How often something happened that not every run has.
pub(crate) type Seen = BTreeMap<&'static str, usize>;

impl Checker {
    pub(crate) fn new(trace: Trace) -> Self {
        Self {
            commits: None,
            jobs: Vec::new(),
            begun: None,
            turns: Turns::new(trace),
            strays: Strays::default(),
            looked: Duration::ZERO,
            began: BTreeSet::new(),
            closed: Closed::default(),
            records: Records::default(),
        }
    }

    /// The coordinator is another one.
    pub(crate) fn forget_commits(&mut self) {
        self.commits = None;
        self.records.forget();
    }

    /// INV-01 where it counts: no GPU of a machine has two trainers. The fence: no attempt has two trainers.
    pub(crate) fn machines(&self, yards: &[Yard]) -> Result<()> {
        let mut runs = BTreeSet::new();
        for yard in yards {
            let mut held = BTreeSet::new();
            yard.look(|processes| {
                for process in processes {
                    let (job, attempt) = process.of;
                    for gpu in &process.gpus {
                        ensure!(
                            held.insert(gpu.clone()),
                            "INV-01: GPU {gpu} has two trainers"
                        );
                    }
                    ensure!(
                        runs.insert((process.of, process.rank.0)),
                        "a rank of attempt {job}/{attempt} has two trainers"
                    );
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What is stored, and what runs by it; nothing can be wrong anew where nothing was committed and nothing has begun.
    pub(crate) fn store(
        &mut self,
        store: &Store,
        (plan, silences): (&Plan, &Silences),
        (accepted, yards): (&Accepted, &[Yard]),
    ) -> Result<()> {
        let begun = yards.iter().map(Yard::begun).sum();
        let has_begun = self.begun.replace(begun) != Some(begun);
        if self.commits.replace(store.commits()) != Some(store.commits()) {
            let before = std::mem::replace(&mut self.jobs, jobs(store)?);
            self.committed(store, (plan, silences), (accepted, &before))?;
        } else if !has_begun {
            return Ok(());
        }
        if plan.cluster.honest {
            yards.iter().try_for_each(|yard| fits(&self.jobs, yard))?;
        }
        whole(&self.jobs, yards)
    }

    fn committed(
        &mut self,
        store: &Store,
        (plan, silences): (&Plan, &Silences),
        (accepted, before): (&Accepted, &[Job]),
    ) -> Result<()> {
        let jobs = std::mem::take(&mut self.jobs);
        for (_, id) in accepted.all(&plan.wishes) {
            let there = jobs.iter().any(|job| job.id.0 == id);
            ensure!(there, "INV-03: job {id} was accepted and is not there");
        }
        self.held(&jobs, plan)?;
        gates::arrays(&jobs)?;
        if !plan.acts.is_empty() {
            self.closed.look(store, &jobs)?;
        }
        for job in &jobs {
            if !job.attempts.is_empty() && self.began.insert(job.id.0) {
                gates::has_opened(job, &jobs, (accepted, plan))?;
            }
            let before = before.iter().find(|before| before.id == job.id);
            if may_have_said(before, job) {
                self.records.look(store, job)?;
            }
            let turn = (before, job);
            self.turns.look(turn, accepted, (plan, silences))?;
        }
        self.jobs = jobs;
        Ok(())
    }

    /// Once a second: whoever is to be gone goes.
    pub(crate) fn strays(
        &mut self,
        now: Duration,
        (plan, silences): (&Plan, &Silences),
        yards: &[Yard],
    ) -> Result<()> {
        if now < self.looked + LOOK {
            return Ok(());
        }
        self.looked = now;
        let jobs = (now, self.jobs.as_slice());
        self.strays.look(jobs, (plan, silences), yards)
    }

    /// INV-01 and INV-02: what is given away.
    fn held(&self, jobs: &[Job], plan: &Plan) -> Result<()> {
        let mut gpus = BTreeMap::new();
        let mut taken: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
        let held = jobs.iter().flat_map(|job| {
            let held = job.allocations().into_iter();
            held.map(move |allocation| (job, allocation))
        });
        for (job, allocation) in held {
            for gpu in &allocation.gpus {
                let other = gpus.insert(gpu, job.id);
                ensure!(
                    other.is_none(),
                    "INV-01: GPU {gpu} is of {other:?} and of {}",
                    job.id
                );
            }
            let taken = taken.entry(allocation.node.0.as_str()).or_default();
            taken.0 += allocation.cpus;
            taken.1 += allocation.memory_bytes;
            let has = has(plan, &allocation.node.0)?;
            let mut foreign = allocation.gpus.iter();
            let foreign = foreign.find(|gpu| has.gpus.iter().all(|own| own.uuid != **gpu));
            ensure!(
                foreign.is_none(),
                "INV-02: {foreign:?} is given to job {}, and is none of {}",
                job.id,
                allocation.node.0
            );
        }
        for (name, (cpus, memory)) in taken {
            let has = has(plan, name)?;
            ensure!(
                cpus <= has.cpus && memory <= has.memory_bytes,
                "INV-02: {cpus} CPUs and {memory} bytes of {name} are given away, it has {has:?}"
            );
        }
        Ok(())
    }

    /// Whether nothing is left to happen: no user wants anything more, every job has ended, and no trainer is left.
    pub(crate) fn is_over(&self, (wishes, accepted): (&[Wish], &Accepted), yards: &[Yard]) -> bool {
        if accepted.answered() != wishes.len() || accepted.content() != wishes.len() {
            return false;
        }
        let job = |id: u64| self.jobs.iter().find(|job| job.id.0 == id);
        let ended = |(_, id): &(usize, u64)| job(*id).is_some_and(|job| job.state.is_terminal());
        let quiet = yards
            .iter()
            .all(|yard| yard.look(|all| all.next().is_none()));
        quiet && accepted.all(wishes).iter().all(ended)
    }

    /// INV-06, INV-09, and that each job ended as it should.
    pub(crate) fn end(
        &mut self,
        store: &Store,
        plan: &Plan,
        (accepted, yards): (&Accepted, &[Yard]),
    ) -> Result<Seen> {
        let all = accepted.all(&plan.wishes);
        let (jobs, stored) = (all.iter().map(|(_, id)| id), store.highest_job()?);
        ensure!(
            jobs.collect::<BTreeSet<_>>().len() == all.len() && stored.0 == all.len() as u64,
            "INV-03: a wish was accepted twice, or never: {all:?} of {stored} jobs"
        );
        let began = yards.iter().flat_map(Yard::beginnings).collect();
        let mut seen = Seen::new();
        for (number, id) in all {
            let wish = plan.wishes.get(number).context("no such wish")?;
            let job = store.job(JobId(id))?;
            let job = job.context("INV-03: a job is gone")?;
            ensure!(
                job.state.is_terminal(),
                "INV-09: job {id} is {}",
                job.state.name()
            );
            ensure!(
                self.turns.tried_since(&job) || gates::was_hopeless(&job),
                "job {id} was to run again, and was not tried"
            );
            let calm = self.turns.calm(&job);
            ends::outcome(&job, wish, (plan, accepted), (yards, calm))?;
            self.records.look(store, &job)?;
            gates::end(&job, wish, (accepted, store))?;
            ends::said(store, (&job, wish), plan, &began)?;
            count(&mut seen, &job);
        }
        let (strays, longest) = self.strays.seen();
        seen.insert("trainers were to be gone", strays);
        seen.insert(
            "seconds that these lived on at most, over all runs",
            usize::try_from(longest.as_secs())?,
        );
        seen.insert("tasks were lost with their nodes", self.turns.lost());
        Ok(seen)
    }
}

/// Whether there may be new points or lines of a job since the commit before.
fn may_have_said(before: Option<&Job>, job: &Job) -> bool {
    job.state.holds_resources() || before.map(|before| before.state) != Some(job.state)
}

/// What a machine has at most.
fn has(plan: &Plan, name: &str) -> Result<Capacity> {
    let number = number(name)?;
    let has = plan.cluster.nodes.get(number);
    let has = has.context("a node that there is not")?;
    Ok(capacity(number, Has::all_of(*has)))
}

/// What this job shows of what plans 5 and 6 are for.
fn count(seen: &mut Seen, job: &Job) {
    let preempted = job
        .attempts
        .iter()
        .filter(|one| one.makes_room_for.is_some() && one.tried_again);
    let preempted = preempted.count();
    let left = job.attempts.iter();
    let left = left.filter(|one| one.vacates.is_some() && one.tried_again);
    let left = left.count();
    let spec = &job.spec;
    let waits = !spec.after.is_empty() || !spec.after_any.is_empty();
    let waited = waits && !job.attempts.is_empty();
    let completed = job.state == JobState::Completed;
    for (what, times) in [
        ("attempts made room", preempted),
        (
            "jobs made room and completed",
            usize::from(preempted > 0 && completed),
        ),
        ("attempts left nodes out of service", left),
        (
            "jobs left nodes out of service and completed",
            usize::from(left > 0 && completed),
        ),
        ("jobs ran after others", usize::from(waited)),
        (
            "jobs could never start",
            usize::from(gates::was_hopeless(job)),
        ),
        (
            "jobs of arrays completed",
            usize::from(spec.array.is_some() && completed),
        ),
    ] {
        if times > 0 {
            *seen.entry(what).or_default() += times;
        }
    }
}

fn jobs(store: &Store) -> Result<Vec<Job>> {
    let mut all = Vec::new();
    for id in 1..=store.highest_job()?.0 {
        all.extend(store.job(JobId(id))?);
    }
    Ok(all)
}

/// INV-02 where it counts: what runs on a machine is no more than it has, also when it came back with less.
fn fits(jobs: &[Job], yard: &Yard) -> Result<()> {
    let (node, has) = (yard.name(), yard.has());
    let (mut cpus, mut memory) = (0, 0);
    yard.look(|processes| {
        for process in processes {
            let (id, number) = process.of;
            for gpu in &process.gpus {
                ensure!(
                    has.gpus.iter().any(|has| has.uuid == *gpu),
                    "INV-02: attempt {id}/{number} runs with GPU {gpu}, which {node} has no more"
                );
            }
            let job = jobs.iter().find(|job| job.id.0 == id);
            let wants = job.map(|job| job.spec.resources.clone());
            let wants = wants.unwrap_or_default();
            cpus += wants.cpus;
            memory += wants.memory_bytes;
        }
        ensure!(
            cpus <= has.cpus && memory <= has.memory_bytes,
            "INV-02: {cpus} CPUs and {memory} bytes are in use on {node}, which has {has:?}"
        );
        Ok(())
    })
}

/// INV-05: a trainer has all that its rank was given, on the node where that is, and nothing else; no rank of a gang runs
/// before all of them were ready. Persist, then act: what runs is in the store.
fn whole(jobs: &[Job], yards: &[Yard]) -> Result<()> {
    for yard in yards {
        let node = yard.name();
        yard.look(|processes| {
            for process in processes {
                let (id, number) = process.of;
                let job = jobs.iter().find(|job| job.id.0 == id);
                let attempts = job.map(|job| job.attempts.as_slice()).unwrap_or_default();
                let attempt = attempts.iter().find(|one| one.number.0 == number);
                let attempt = attempt
                    .with_context(|| format!("attempt {id}/{number} runs and is not stored"))?;
                let mut parts = attempt.parts().map(|(_, part)| &part.allocation);
                let part = parts.find(|given| given.node.0 == node);
                let given = part.with_context(|| {
                    format!("attempt {id}/{number} runs on {node}, where it is not")
                })?;
                ensure!(
                    !attempt.is_gang() || attempt.let_go_at.is_some(),
                    "INV-05: a rank of {id}/{number} runs on {node} before its gang was whole"
                );
                let gpus: BTreeSet<_> = process.gpus.iter().collect();
                ensure!(
                    given.gpus.iter().collect::<BTreeSet<_>>() == gpus,
                    "INV-05: attempt {id}/{number} has {gpus:?} on {node}, and was given {given:?}"
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

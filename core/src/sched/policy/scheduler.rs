//! The policy's state, and what happens to it.
//!
//! Owns nodes, jobs, lanes, projects and history. Told of events by its caller, who tells the time too; `pass` decides.
//! The same story gives the same plans. Called by `trainyard replay`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ask::Ask,
    cluster::{Cluster, JobIx},
    config::{Config, RankBy, Rule, Seconds},
    dense::Table,
    forecast::Forecasts,
    future::Outage,
    history::{History, as_float, attained},
    job::{Job, State, Submission},
    lanes::{LaneIx, Lanes, Rank, Turn},
    place::Shape,
    preempt::Standings,
    projects::{ProjectIx, Projects},
    reserve::Kept,
};

/// The scheduler.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    pub(super) config: Config,
    pub(super) cluster: Cluster,
    pub(super) jobs: Table<JobIx, Option<Job>>,
    vacant: Vec<JobIx>,
    numbers: BTreeMap<u64, JobIx>,
    pub(super) lanes: Lanes,
    pub(super) projects: Projects,
    /// What is known of jobs that have ended.
    pub history: History,
    pub(super) running: BTreeSet<JobIx>,
    /// Promised nodes, and nobody is left on them.
    pub(super) ready: BTreeSet<JobIx>,
    /// Who waits for this job to go.
    pub(super) awaited: BTreeMap<JobIx, Vec<JobIx>>,
    /// When jobs turn from not yet to waiting, and when they have waited too long.
    pub(super) due: BTreeSet<(Seconds, JobIx)>,
    /// When the rank of those who wait changes by waiting.
    pub(super) aging: BTreeSet<(Seconds, JobIx)>,
    pub(super) forecasts: Forecasts,
    /// When nodes are out of service, as far as that is known.
    pub(super) closures: Vec<Outage>,
    /// What the last pass kept, and for whom.
    pub(super) kept: Kept,
    /// Empty between passes.
    pub(super) standings: Standings,
    /// When room was made last, and when that was tried for all.
    pub(super) last_round: Option<Seconds>,
    pub(super) last_try: Option<Seconds>,
}

impl Scheduler {
    /// With no nodes and no jobs.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// A job is submitted. Told twice, it is taken once.
    pub fn submit(&mut self, now: Seconds, asked: &Submission) {
        if self.numbers.contains_key(&asked.job) {
            return;
        }
        let ix = self.note(now, asked);
        let project = self.job(ix).project;
        self.forecasts.newest = Some(ix);
        self.projects.queue(project, true);
        match asked.not_before.filter(|then| *then > now) {
            Some(then) => {
                self.due.insert((then, ix));
            }
            None => self.enqueue(now, ix),
        }
    }

    /// A job that is known from now on, in no state yet.
    pub(super) fn note(&mut self, now: Seconds, asked: &Submission) -> JobIx {
        let project = self.projects.number(&asked.project, &self.config);
        let gpus = asked.ask.gang.gpus();
        let class = self
            .history
            .class(&asked.user, &asked.project, &asked.name, gpus);
        self.history.join(class);
        let (shape, lane) = self.lanes.join(&self.cluster, &asked.ask, project);
        let job = Job {
            id: asked.job,
            shape,
            lane,
            gpus,
            priority: asked.priority,
            project,
            class,
            preemptible: asked.preemptible,
            limit: asked.limit,
            submitted: asked
                .not_before
                .map_or(now, |then| then.max(now))
                .min(asked.since.unwrap_or(Seconds::MAX)),
            state: State::Later,
            since: now,
            prepares: false,
            done: asked.done,
            saved: asked.saved,
            runs: u32::from(asked.done > 0),
            in_vain: asked.in_vain,
            starts_in: 0,
            pieces: Vec::new(),
            awaits: Vec::new(),
            partial: false,
            charged: None,
            going: None,
            unused: 0,
            next_step: 0,
        };
        let ix = match self.vacant.pop() {
            Some(ix) => {
                self.jobs[ix] = Some(job);
                ix
            }
            None => self.jobs.push(Some(job)),
        };
        self.numbers.insert(asked.job, ix);
        ix
    }

    /// A job has ended, of itself or because somebody ended it.
    pub fn finished(&mut self, now: Seconds, number: u64) {
        let Some(ix) = self.numbers.get(&number).copied() else {
            return;
        };
        let job = self.job(ix);
        let (ran, class) = (job.ran(now, self.config.restart_cost), job.class);
        let was_started = job.runs > 0;
        // While the class is somebody's.
        if was_started {
            self.history.ended(class, ran);
        }
        self.withdraw(now, number);
    }

    /// A job has ended after running for so long, whatever was believed of it.
    pub fn ended(&mut self, now: Seconds, number: u64, ran: Seconds) {
        if let Some(class) = self.number(number).map(|ix| self.job(ix).class) {
            self.history.ended(class, ran);
        }
        self.withdraw(now, number);
    }

    /// A job is to be known no more, and nothing is learnt from it: it failed by nobody's fault, or asks for something
    /// else from now on.
    pub fn withdraw(&mut self, now: Seconds, number: u64) {
        let Some(ix) = self.numbers.get(&number).copied() else {
            return;
        };
        self.leave(now, ix);
        let (lane, class) = (self.job(ix).lane, self.job(ix).class);
        self.lanes.part(lane);
        self.history.part(class);
        self.numbers.remove(&number);
        self.jobs[ix] = None;
        self.vacant.push(ix);
    }

    /// A job that was told to go has gone, and has saved all that it had done.
    pub fn released(&mut self, now: Seconds, number: u64) {
        let Some(job) = self.number(number).map(|ix| self.job(ix)) else {
            return;
        };
        let ran = job.ran(now, self.config.restart_cost);
        let in_vain = match ran > job.done {
            true => 0,
            false => job.in_vain.saturating_add(1),
        };
        self.released_with(now, number, ran, in_vain);
    }

    /// The same of one that has saved so much of what it had done, and has gone so often in a row since it saved anything.
    pub fn released_with(&mut self, now: Seconds, number: u64, done: Seconds, in_vain: u32) {
        let Some(ix) = self.numbers.get(&number).copied() else {
            return;
        };
        if self.job(ix).state != State::Leaving {
            return;
        }
        let job = self.job_mut(ix);
        job.in_vain = in_vain;
        job.done = done;
        job.since = now;
        // Whoever moves has its place already.
        job.state = State::Promised;
        let moves = !job.pieces.is_empty();
        let project = job.project;
        self.gone(ix);
        if moves {
            self.counts_as_used(now, ix, false);
            self.settle(ix);
        } else {
            self.charge(now, ix, false);
            self.projects.queue(project, true);
            self.enqueue(now, ix);
        }
    }

    /// Takes a job out of wherever it stands.
    fn leave(&mut self, now: Seconds, ix: JobIx) {
        let job = self.job(ix);
        let (state, lane, project) = (job.state.clone(), job.lane, job.project);
        match state {
            State::Later => {
                self.due.remove(&(self.job(ix).submitted, ix));
            }
            State::Waiting(turn) => self.dequeue(ix, lane, &turn),
            State::Promised | State::Running | State::Leaving => {}
        }
        if matches!(state, State::Later | State::Waiting(_)) {
            self.projects.queue(project, false);
        }
        self.give_back(now, ix);
        self.forecasts.settle(now, ix, false);
        self.running.remove(&ix);
        self.ready.remove(&ix);
        self.gone(ix);
    }

    /// What it holds, or is promised, is free.
    pub(super) fn give_back(&mut self, now: Seconds, ix: JobIx) {
        self.charge(now, ix, false);
        self.free(ix);
    }

    /// The same, though its project is charged still.
    pub(super) fn free(&mut self, ix: JobIx) {
        let held = std::mem::take(&mut self.job_mut(ix).pieces);
        if !held.is_empty() {
            self.cluster.give(ix, &held);
            self.lanes.reopen();
        }
    }

    /// Nobody has to wait for this job to go any more.
    fn gone(&mut self, ix: JobIx) {
        for other in self.awaited.remove(&ix).unwrap_or_default() {
            if let Some(Some(job)) = self.jobs.get_mut(other) {
                job.awaits.retain(|job| *job != ix);
                self.settle(other);
            }
        }
    }

    /// A promise that nothing stands in the way of any more.
    pub(super) fn settle(&mut self, ix: JobIx) {
        let job = self.job(ix);
        if job.state == State::Promised && job.awaits.is_empty() && !job.pieces.is_empty() {
            self.ready.insert(ix);
        }
    }

    /// Puts a job into its lane, where its rank says.
    pub(super) fn enqueue(&mut self, now: Seconds, ix: JobIx) {
        let job = self.job(ix);
        let waited = job.waited(now, self.config.restart_cost);
        let turn = Turn {
            guarded: std::cmp::Reverse(self.guards() && waited >= self.config.guard),
            priority: std::cmp::Reverse(job.priority),
            rank: Rank(self.rank(now, job)),
            submitted: job.submitted,
            number: job.id,
            job: ix,
            lasts: self.lasts_at_most(job),
        };
        let lane = job.lane;
        let next_step = self.next_step(job, waited);
        if self.guards() && !turn.guarded.0 {
            self.aging.insert((next_step, ix));
        }
        let job = self.job_mut(ix);
        job.next_step = next_step;
        job.state = State::Waiting(turn);
        job.since = now;
        self.lanes.insert(lane, turn);
    }

    /// Takes a job out of its lane.
    pub(super) fn dequeue(&mut self, ix: JobIx, lane: LaneIx, turn: &Turn) {
        self.lanes.remove(lane, turn);
        let then = self.job(ix).next_step;
        self.aging.remove(&(then, ix));
    }

    /// When the rank of a waiting job changes next by waiting alone.
    fn next_step(&self, job: &Job, waited: Seconds) -> Seconds {
        let step = (self.config.patience / 4).max(1);
        let next = (waited / step + 1) * step;
        let next = if self.config.patience > 0 {
            next.min(self.config.guard)
        } else {
            self.config.guard
        };
        job.submitted + job.done + next
    }

    /// Those whose time has come: to wait, or to rank better for it.
    pub(super) fn wake_due(&mut self, now: Seconds) {
        while let Some((then, ix)) = self.due.first().copied().filter(|(then, _)| *then <= now) {
            self.due.remove(&(then, ix));
            self.enqueue(now, ix);
        }
        while let Some((then, ix)) = self.aging.first().copied().filter(|(then, _)| *then <= now) {
            self.aging.remove(&(then, ix));
            let job = self.job(ix);
            if let State::Waiting(turn) = job.state {
                self.lanes.remove(job.lane, &turn);
                self.enqueue(now, ix);
            }
        }
    }

    pub(super) fn guards(&self) -> bool {
        self.config.rule == Rule::Gittins
    }

    /// Whether the rule preempts at all.
    pub(super) fn preempts(&self) -> bool {
        match self.config.rule {
            Rule::Gittins | Rule::Throughput => self.config.preempt,
            Rule::Fifo | Rule::Easy => false,
        }
    }

    /// Lower goes first.
    pub(super) fn rank(&self, now: Seconds, job: &Job) -> f64 {
        match self.config.rule {
            Rule::Fifo | Rule::Easy => 0.0,
            Rule::Throughput => {
                let ran = job.ran(now, self.config.restart_cost);
                throughput(&self.history, job, ran)
            }
            Rule::Gittins => {
                let ran = job.ran(now, self.config.restart_cost);
                let steps = self.steps(job.waited(now, self.config.restart_cost));
                let gpus = self.least(job);
                match self.config.rank {
                    RankBy::Gittins => {
                        self.history.rank(job.class, gpus, ran, job.preemptible) * steps
                    }
                    RankBy::Attained => attained(gpus, ran) * steps,
                    RankBy::Arrival => 1.0,
                }
            }
        }
    }

    /// By what the rank of a project's jobs is multiplied; by nothing where nothing ranks.
    pub(super) fn factor(&self, project: ProjectIx) -> f64 {
        match (self.config.rule, self.config.rank) {
            (Rule::Gittins, RankBy::Arrival) => 1.0,
            (Rule::Gittins, RankBy::Gittins | RankBy::Attained)
            | (Rule::Fifo | Rule::Easy | Rule::Throughput, _) => self.projects.factor(project),
        }
    }

    /// GPUs that a job holds at least: all of its nodes if it wants them alone.
    pub(super) fn least(&self, job: &Job) -> u32 {
        self.lanes.shapes[job.shape].least()
    }

    /// What waiting does to a rank, in steps.
    pub(super) fn steps(&self, waited: Seconds) -> f64 {
        if self.config.patience <= 0 {
            return 1.0;
        }
        let step = self.config.patience / 4;
        let steps = i32::try_from(waited / step.max(1)).unwrap_or(i32::MAX);
        0.5f64.powf(f64::from(steps) / 4.0)
    }

    pub(super) fn number(&self, number: u64) -> Option<JobIx> {
        self.numbers.get(&number).copied()
    }

    pub(super) fn job(&self, ix: JobIx) -> &Job {
        self.jobs[ix].as_ref().expect("a job that is known")
    }

    pub(super) fn job_mut(&mut self, ix: JobIx) -> &mut Job {
        self.jobs[ix].as_mut().expect("a job that is known")
    }

    /// When it has something to decide though nothing happens.
    #[must_use]
    pub fn wake(&self, now: Seconds) -> Option<Seconds> {
        let due = self.due.first().map(|(then, _)| *then);
        let waits = self.preempts() && self.lanes.waiting > 0;
        let next = |last: Option<Seconds>| {
            let next = last.map(|last| last + self.config.round);
            next.filter(|next| *next > now)
                .unwrap_or(now + self.config.round)
        };
        let round = waits.then(|| next(self.last_round).min(next(self.last_try)));
        let renewal = self.projects.renewal(now);
        due.into_iter().chain(round).chain(renewal).min()
    }

    /// By so much the time that it is told is ahead of the calendar's, by which GPU-hours are renewed.
    pub fn is_ahead_by(&mut self, seconds: Seconds) {
        self.projects.ahead = seconds;
    }

    /// What a project had used, in GPU-seconds, of the span in which its GPU-hours are counted, before its jobs were known.
    pub fn has_used(&mut self, now: Seconds, project: &str, gpu_seconds: f64) {
        let ix = self.projects.number(project, &self.config);
        self.projects.has_used(ix, gpu_seconds, now);
    }

    /// What a project had used by a moment before its jobs were known, in GPU-seconds of which half are forgotten in every
    /// half-life.
    pub fn had_used_lately(&mut self, span: (Seconds, Seconds), project: &str, gpu_seconds: f64) {
        let ix = self.projects.number(project, &self.config);
        let half_life = self.config.half_life;
        self.projects
            .had_used_lately(ix, gpu_seconds, span, half_life);
    }

    /// Whether the project's limits allow one more job to wait.
    #[must_use]
    pub fn may_submit(&self, project: &str) -> bool {
        self.projects.may_submit(project)
    }

    /// Whether the open nodes could hold it if nobody else were there.
    #[must_use]
    pub fn could_ever(&self, ask: &Ask) -> bool {
        let empty = self.cluster.emptied();
        Shape::new(&empty, ask.clone()).find(&empty).is_some()
    }

    /// Jobs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lanes.waiting
    }
}

/// Whoever is expected to run longest goes first, so that none of them is left over at the end; but first all run by turns,
/// because most are short and nobody knows which, and those that are not should all be far by then.
fn throughput(history: &History, job: &Job, ran: Seconds) -> f64 {
    if ran < TRIAL {
        return as_float(ran / TURN + 1);
    }
    let [_, left, _] = history.left(job.class, ran).unwrap_or([1.0; 3]);
    1.0e9 / left.max(1.0)
}

/// In a batch whoever has run for the fewest turns goes first.
pub(super) const TURN: Seconds = 7_200;
/// So long a job runs before it is believed to be a long one.
pub(super) const TRIAL: Seconds = 9 * TURN;

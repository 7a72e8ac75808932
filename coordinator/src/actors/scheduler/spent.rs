//! What projects have used before the coordinator was started, of their GPU-hours and lately: from the rows of jobs, never
//! from a counter.
//!
//! GPU-hours are known before anybody gets a place; every job that may matter is read, once, and only where they are
//! counted. Fair shares weigh from the first round on, a minute later: what was used lately is read once the start is over,
//! and holds up nobody. Part of the scheduler's start.

use std::{collections::BTreeMap, time::Duration};

use ractor::ActorStatus;
use trainyard_core::{
    ids::JobId,
    sched::{Planner, policy},
    time::Timestamp,
    usage::{By, Lately, Usage, Window},
};

use super::{SchedulerMsg, SchedulerRef, State};
use crate::store::{ReadError, Store};

/// Rows that are read in one transaction.
const AT_ONCE: usize = 1_000;
const SECOND: i64 = 1_000_000;

/// Tells the planner of each project whose GPU-hours are counted.
pub(super) fn tell(
    planner: &mut Planner,
    store: &Store,
    (config, now): (&policy::Config, Timestamp),
) -> Result<(), ReadError> {
    for (project, gpu_seconds) in spent(store, config, now)? {
        planner.has_used(now, project, gpu_seconds);
    }
    Ok(())
}

/// When what was used lately is looked at: until then the start of jobs and nodes has the machine for itself.
const BEHIND_THE_START: Duration = Duration::from_secs(10);

/// Has the scheduler look at what was used until now, a little later.
pub(super) fn look_back_soon(myself: &SchedulerRef, (config, now): (&policy::Config, Timestamp)) {
    let half_life = u32::try_from(config.half_life).unwrap_or(u32::MAX);
    let nothing = Lately::new(now, half_life);
    myself.send_after(BEHIND_THE_START, move || SchedulerMsg::LookBack(nothing));
}

impl State {
    /// Reads what was used lately where that holds up nobody.
    pub(super) fn look_back(&self, myself: &SchedulerRef, nothing: Lately) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let myself = myself.clone();
        let look = move || {
            let stops = || myself.get_status() >= ActorStatus::Draining;
            match lately(&store, nothing, stops) {
                Ok(found) => {
                    myself.cast(SchedulerMsg::UsedLately(found)).ok();
                }
                Err(error) => {
                    tracing::error!(%error, "what projects have used lately cannot be read: their shares are counted from now on");
                }
            }
        };
        drop(trainyard_runtime::blocking(look));
    }
}

fn lately(store: &Store, mut found: Lately, stops: impl Fn() -> bool) -> Result<Lately, ReadError> {
    let wants = found.clone();
    let mut after = Some(JobId(0));
    while let Some(from) = after.filter(|_| !stops()) {
        let wants = |ended| wants.may_have(ended);
        after = store.sweep_placed((from, AT_ONCE), wants, |job| found.add(&job))?;
    }
    Ok(found)
}

fn spent(
    store: &Store,
    config: &policy::Config,
    now: Timestamp,
) -> Result<BTreeMap<i64, f64>, ReadError> {
    let mut found = BTreeMap::new();
    let mut spans: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (name, rule) in &config.projects {
        let project = name
            .parse::<i64>()
            .ok()
            .filter(|_| rule.gpu_hours.is_some());
        let (begun, _) = rule.gpu_hours_per.around(now.0.div_euclid(SECOND));
        if let Some(project) = project {
            spans.entry(begun).or_default().push(project);
        }
    }
    for (begun, projects) in spans {
        let window = Window {
            from: Timestamp(begun.saturating_mul(SECOND)),
            to: now,
        };
        let mut usage = Usage::new(window, By::Project, now);
        let mut after = Some(JobId(0));
        while let Some(from) = after {
            let wants = |ended| window.may_have(ended);
            after = store.sweep_placed((from, AT_ONCE), wants, |job| usage.add(&job, None))?;
        }
        let rows = usage.rows().into_iter();
        let rows = rows.filter_map(|row| Some((row.project?, row.gpu_hours * 3_600.0)));
        found.extend(rows.filter(|(project, _)| projects.contains(project)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use trainyard_core::{
        failure::TaskEnd,
        ids::{NodeName, Rank},
        job::{Event, Job},
        resources::{Capacity, Gpu, ResourceRequest},
        sched::{
            Allocation, QueuedJob,
            policy::{Period, ProjectRule},
        },
        spec::JobSpec,
    };

    use ractor::Actor as _;

    use super::*;
    use crate::actors::scheduler::{Scheduler, SchedulerArgs};
    use crate::store::{Change, StoreOptions, for_tests::damage_job};

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    const DAY: Duration = Duration::from_secs(86_400);

    /// It held two GPUs from then until then.
    fn ran(id: u64, project: i64, (from, to): (&str, &str)) -> Change {
        ran_then(id, project, (at(from), at(to)))
    }

    fn ran_then(id: u64, project: i64, (from, to): (Timestamp, Timestamp)) -> Change {
        let spec = JobSpec {
            project_id: Some(project),
            ..JobSpec::default()
        };
        let job = Job::accepted(JobId(id), spec, "ada".into(), from);
        let job = job.step(from, Event::Prepared).unwrap().job;
        let allocation = Allocation {
            node: NodeName("n1".into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: vec!["a".into(), "b".into()],
            address: String::new(),
        };
        let placed = Event::Placed {
            queued_at: from,
            allocations: vec![allocation],
            secret: "s".to_owned().into(),
        };
        let job = job.step(from, placed).unwrap().job;
        let task = job.task(job.attempt().unwrap().number, Rank(0));
        let end = TaskEnd {
            exit_code: Some(0),
            ..TaskEnd::default()
        };
        let job = job.step(to, Event::Ended(task, end)).unwrap().job;
        Change::PutJob(Box::new(job))
    }

    fn gpu() -> Gpu {
        Gpu {
            uuid: "a".into(),
            model: "H100".into(),
            memory_bytes: 80 << 30,
        }
    }

    #[tokio::test]
    async fn a_project_that_has_used_its_gpu_hours_up_waits_after_a_restart_until_they_are_renewed()
    {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(folder.path().join("trainyard.redb"));
        let store = Store::open(options, Box::new(|error| panic!("{error}"))).unwrap();
        // Twice an hour of October, once six of November; and another project.
        let rows = vec![
            ran(1, 7, ("2026-10-30T22:00:00Z", "2026-11-01T06:00:00Z")),
            ran(2, 8, ("2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z")),
            ran(3, 7, ("2026-10-02T00:00:00Z", "2026-10-03T00:00:00Z")),
        ];
        store.commit_and_wait(rows).await.unwrap();
        let mut config = policy::Config::default();
        let own = ProjectRule {
            gpu_hours: Some(12.0),
            gpu_hours_per: Period::Month,
            borrow: false,
            ..ProjectRule::default()
        };
        config.projects.insert("7".into(), own);
        let now = at("2026-11-26T12:00:00Z");
        let known = spent(&store, &config, now).unwrap();
        assert_eq!(known, BTreeMap::from([(7, 12.0 * 3_600.0)]));

        // One that cannot be read is left out; a coordinator that does not start would be worse.
        damage_job(&store, JobId(2));
        let mut planner = Planner::new(config.clone());
        tell(&mut planner, &store, (&config, now)).unwrap();
        let capacity = Capacity {
            cpus: 4,
            memory_bytes: 8 << 30,
            gpus: vec![gpu()],
        };
        planner.set_node(now, &NodeName("n1".into()), capacity, true);
        let request = ResourceRequest {
            gpus: 1,
            ..ResourceRequest::default()
        };
        let waits = QueuedJob {
            project: Some(7),
            ..QueuedJob::plain(JobId(9), request, now)
        };
        planner.queued(now, waits);
        assert_eq!(planner.solve(now).placements, []);
        let words = planner.reason(now, JobId(9)).unwrap();
        assert!(
            words.contains("of its 12 GPU-hours of this month"),
            "{words}"
        );
        assert!(
            words.contains("again on 2026-12-01 at 00:00 UTC"),
            "{words}"
        );
        let renewed = at("2026-12-01T00:00:00Z");
        assert!(planner.wake(now).unwrap() <= renewed);
        assert_eq!(planner.solve(renewed).placements.len(), 1);
    }

    #[tokio::test]
    async fn who_used_more_than_its_share_lately_ranks_behind_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(folder.path().join("trainyard.redb"));
        let store = Store::open(options, Box::new(|error| panic!("{error}"))).unwrap();
        let waits = JobSpec {
            project_id: Some(7),
            ..JobSpec::default()
        };
        let now = at("2026-11-26T12:00:00Z");
        let waits = Job::accepted(JobId(4), waits, "ada".into(), now);
        let rows = vec![
            ran(1, 7, ("2026-11-25T12:00:00Z", "2026-11-26T12:00:00Z")),
            ran(2, 8, ("2026-11-26T10:00:00Z", "2026-11-26T11:00:00Z")),
            ran(3, 9, ("2026-10-02T00:00:00Z", "2026-10-03T00:00:00Z")),
            Change::PutJob(Box::new(waits)),
        ];
        store.commit_and_wait(rows).await.unwrap();
        let config = policy::Config::default();
        let half_life = u32::try_from(config.half_life).unwrap();
        let found = lately(&store, Lately::new(now, half_life), || false).unwrap();
        let of = |project: &str| found.sums().get(project).copied();
        // Two GPUs for a day, half of which is left of its first moment: 1 / (2 ln 2) of it.
        let day = 2.0 * 86_400.0 / 2.0 / std::f64::consts::LN_2;
        assert!(
            of("7").is_some_and(|used| (used - day).abs() < 1.0),
            "{found:?}"
        );
        assert!(of("8").is_some_and(|used| (6_850.0..6_950.0).contains(&used)));
        assert_eq!(of("9"), None, "that is long forgotten");
        let mut planner = Planner::new(config);
        planner.had_used_lately(now, &found);
        for (id, project) in [(11, 7), (12, 8)] {
            let waits = QueuedJob {
                project: Some(project),
                ..QueuedJob::plain(JobId(id), ResourceRequest::default(), now)
            };
            planner.queued(now, waits);
        }
        // Shares are weighed with the first round.
        let now = now.plus(Duration::from_secs(61));
        planner.solve(now);
        let factor = |job| {
            planner
                .explain(now, JobId(job))
                .unwrap()
                .place
                .unwrap()
                .factor
        };
        assert!(
            factor(11) > 1.1 && factor(12) < 0.9,
            "{} {}",
            factor(11),
            factor(12)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_is_started_looks_back_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(folder.path().join("trainyard.redb"));
        let store = Store::open(options, Box::new(|error| panic!("{error}"))).unwrap();
        let now = crate::clock::now();
        let (from, to) = (now.minus(DAY), now.minus(DAY / 2));
        let rows = vec![ran_then(1, 7, (from, to))];
        store.commit_and_wait(rows).await.unwrap();
        let policy = policy::Config {
            round: 0,
            ..policy::Config::default()
        };
        let args = SchedulerArgs {
            policy,
            store,
            has_looked: std::sync::Arc::default(),
        };
        let (scheduler, _) = Scheduler::spawn(None, Scheduler, args).await.unwrap();
        let waits = |id, project| {
            let queued = QueuedJob {
                project: Some(project),
                ..QueuedJob::plain(JobId(id), ResourceRequest::default(), now)
            };
            SchedulerMsg::Waiting(vec![queued])
        };
        scheduler.cast(waits(11, 7)).unwrap();
        ::tests::wait::until("its project is beyond its share", async || {
            // Whatever is told has all looked at again.
            scheduler.cast(waits(12, 8)).unwrap();
            let question = |reply| SchedulerMsg::Explain(JobId(11), reply);
            let why = crate::actors::ask(&scheduler, question).await.unwrap();
            why.filter(|why| why.place.as_ref().is_some_and(|place| place.factor > 1.1))
        })
        .await;
        scheduler.stop(None);
    }
}

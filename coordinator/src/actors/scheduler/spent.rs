//! What projects have used of their GPU-hours before the coordinator was started: from the rows of jobs, never from a counter.
//!
//! Reads every job that may matter, once, and only where GPU-hours are counted. Part of the scheduler's start.

use std::collections::BTreeMap;

use trainyard_core::{
    ids::JobId,
    sched::{Planner, policy},
    time::Timestamp,
    usage::{By, Usage, Window},
};

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
            after = store.sweep_jobs((from, AT_ONCE), wants, |job| usage.add(&job, None))?;
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

    use super::*;
    use crate::store::{Change, StoreOptions, for_tests::damage_job};

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    /// It held two GPUs from then until then.
    fn ran(id: u64, project: i64, (from, to): (&str, &str)) -> Change {
        let spec = JobSpec {
            project_id: Some(project),
            ..JobSpec::default()
        };
        let job = Job::accepted(JobId(id), spec, "ada".into(), at(from));
        let job = job.step(at(from), Event::Prepared).unwrap().job;
        let allocation = Allocation {
            node: NodeName("n1".into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: vec!["a".into(), "b".into()],
            address: String::new(),
        };
        let placed = Event::Placed {
            queued_at: at(from),
            allocations: vec![allocation],
            secret: "s".to_owned().into(),
        };
        let job = job.step(at(from), placed).unwrap().job;
        let task = job.task(job.attempt().unwrap().number, Rank(0));
        let end = TaskEnd {
            exit_code: Some(0),
            ..TaskEnd::default()
        };
        let job = job.step(at(to), Event::Ended(task, end)).unwrap().job;
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
}

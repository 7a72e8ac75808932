//! The coordinator's own figures, in the text format of Prometheus.
//!
//! Owns the counters of calls and submissions, and how they are written down; what the store and the
//! actors know is read when it is asked for. A recorder of its own, not the process's: several
//! coordinators may live in one process. Called by the service and the REST door.

use std::{fmt, sync::Arc, time::Duration};

use metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

const REQUESTS: &str = "trainyard_http_requests_total";
const SECONDS: &str = "trainyard_http_request_duration_seconds";
const SUBMITS: &str = "trainyard_submits_total";
const COMMITS: &str = "trainyard_store_commits_total";
const POINTS: &str = "trainyard_store_points_total";
const LINES: &str = "trainyard_store_log_lines_total";
const JOBS: &str = "trainyard_open_jobs";
const NODES: &str = "trainyard_nodes";
const BROKEN: &str = "trainyard_invariants_broken_total";

/// Upper ends of the classes of durations, in seconds.
const BUCKETS: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

const SOURCE: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// The figures. A clone is cheap and counts into the same.
#[derive(Clone)]
pub struct Telemetry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// What is read when the figures are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Now {
    /// Open jobs by state.
    pub(crate) jobs: Vec<(&'static str, u64)>,
    /// Nodes by state.
    pub(crate) nodes: Vec<(&'static str, u64)>,
    /// Commits since the start.
    pub(crate) commits: u64,
    /// Points ever stored.
    pub(crate) points: u64,
    /// Lines ever stored.
    pub(crate) lines: u64,
    /// How often each invariant was broken since the start.
    pub(crate) broken: Vec<(&'static str, u64)>,
}

impl Telemetry {
    /// Figures that all stand at zero.
    ///
    /// # Errors
    /// When the classes of durations are none: a bug.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)?
            .build_recorder();
        let counter = |name: &'static str, words: &'static str| {
            recorder.describe_counter(name.into(), None, words.into());
        };
        counter(
            REQUESTS,
            "Answered HTTP requests by route, method and status",
        );
        counter(SUBMITS, "Jobs that were accepted");
        counter(COMMITS, "Commits of the store since the start");
        counter(POINTS, "Points of metrics that were ever stored");
        counter(LINES, "Lines of logs that were ever stored");
        counter(
            BROKEN,
            "How often an invariant of the design was broken: a bug, to be reported",
        );
        recorder.describe_gauge(
            JOBS.into(),
            None,
            "Jobs that have not ended, by state".into(),
        );
        recorder.describe_gauge(
            NODES.into(),
            None,
            "Nodes that ever registered, by state".into(),
        );
        let words = "How long HTTP requests took until their answer began";
        recorder.describe_histogram(SECONDS.into(), Some(Unit::Seconds), words.into());
        Ok(Self {
            handle: recorder.handle(),
            recorder: Arc::new(recorder),
        })
    }

    /// Counts an answer. `route` is a pattern such as `/training/jobs/{id}`, never a path, and `method`
    /// one of few words: each is kept for good, and callers could make up any number.
    pub(crate) fn answered(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let route = Label::new("route", route.to_owned());
        let method = Label::new("method", method);
        let status = Label::new("status", status.to_string());
        let labels = vec![route.clone(), method, status];
        self.count(Key::from_parts(REQUESTS, labels), 1);
        let key = Key::from_parts(SECONDS, vec![route]);
        self.recorder
            .register_histogram(&key, &SOURCE)
            .record(took.as_secs_f64());
    }

    /// Counts a job that was accepted.
    pub(crate) fn submitted(&self) {
        self.count(Key::from_name(SUBMITS), 1);
    }

    /// Adds to a counter of another part, such as `trainyard_tracker_sent_total`.
    pub fn add(&self, name: &'static str, labels: Vec<Label>, count: u64) {
        self.count(Key::from_parts(name, labels), count);
    }

    /// Sets a figure of another part, such as `trainyard_tracker_lag_points`.
    pub fn set(&self, name: &'static str, labels: Vec<Label>, value: f64) {
        let key = Key::from_parts(name, labels);
        self.recorder.register_gauge(&key, &SOURCE).set(value);
    }

    /// Everything as text.
    pub(crate) fn text(&self, now: &Now) -> String {
        for (name, total) in [
            (COMMITS, now.commits),
            (POINTS, now.points),
            (LINES, now.lines),
        ] {
            let counter = self
                .recorder
                .register_counter(&Key::from_name(name), &SOURCE);
            counter.absolute(total);
        }
        for (invariant, times) in &now.broken {
            let key = Key::from_parts(BROKEN, vec![Label::new("invariant", *invariant)]);
            self.recorder
                .register_counter(&key, &SOURCE)
                .absolute(*times);
        }
        // So that it is there before the first submission.
        self.count(Key::from_name(SUBMITS), 0);
        for (name, figures) in [(JOBS, &now.jobs), (NODES, &now.nodes)] {
            for (state, number) in figures {
                let labels = vec![Label::new("state", *state)];
                // Far below 2^53.
                self.set(
                    name,
                    labels,
                    f64::from(u32::try_from(*number).unwrap_or(u32::MAX)),
                );
            }
        }
        self.handle.run_upkeep();
        ordered(&self.handle.render())
    }

    fn count(&self, key: Key, by: u64) {
        self.recorder.register_counter(&key, &SOURCE).increment(by);
    }
}

/// The families by name and their rows by labels, so that two looks at the same figures are the same
/// text; the rows of one histogram stay together and in their order.
fn ordered(text: &str) -> String {
    let mut families: Vec<&str> = text.split("\n\n").map(str::trim).collect();
    families.retain(|family| !family.is_empty());
    families.sort_unstable();
    let mut sorted = String::with_capacity(text.len());
    for family in families {
        let (head, mut rows): (Vec<_>, Vec<_>) =
            family.lines().partition(|line| line.starts_with('#'));
        rows.sort_by_key(|row| labels(row));
        for line in head.into_iter().chain(rows) {
            sorted.push_str(line);
            sorted.push('\n');
        }
        sorted.push('\n');
    }
    sorted
}

/// The labels of a row, without the upper end of a histogram's class.
fn labels(row: &str) -> &str {
    let inside = row.split_once('{').map_or("", |(_, after)| after);
    let inside = inside.split("le=\"").next().unwrap_or_default();
    let end = inside.rfind('}').unwrap_or(inside.len());
    inside.get(..end).unwrap_or_default().trim_end_matches(',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_counted_by_route_and_read_back_as_text() {
        let telemetry = Telemetry::new().unwrap();
        let took = Duration::from_millis(3);
        for status in [200, 200, 404] {
            telemetry.answered("/jobs/{id}", "GET", status, took);
        }
        telemetry.submitted();
        let text = telemetry.text(&Now {
            jobs: vec![("running", 2)],
            points: 7,
            broken: vec![("INV-04", 0), ("INV-05", 1)],
            ..Now::default()
        });
        for line in [
            "trainyard_http_requests_total{route=\"/jobs/{id}\",method=\"GET\",status=\"200\"} 2",
            "trainyard_http_requests_total{route=\"/jobs/{id}\",method=\"GET\",status=\"404\"} 1",
            "trainyard_http_request_duration_seconds_bucket{route=\"/jobs/{id}\",le=\"0.005\"} 3",
            "trainyard_submits_total 1",
            "trainyard_open_jobs{state=\"running\"} 2",
            "trainyard_store_points_total 7",
            "trainyard_invariants_broken_total{invariant=\"INV-04\"} 0",
            "trainyard_invariants_broken_total{invariant=\"INV-05\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_same_figures_are_the_same_text() {
        let told = |turn: usize| {
            let telemetry = Telemetry::new().unwrap();
            let mut routes: Vec<String> = (0..20).map(|n| format!("/r{n}")).collect();
            routes.rotate_left(turn);
            for route in &routes {
                telemetry.answered(route, "GET", 200, Duration::from_millis(3));
            }
            telemetry.submitted();
            telemetry.text(&Now::default())
        };
        let first = told(0);
        for turn in 1..10 {
            assert_eq!(told(turn), first);
        }
        let of_one: Vec<&str> = first
            .lines()
            .filter(|line| line.contains("duration_seconds") && line.contains("\"/r7\""))
            .collect();
        assert_eq!(of_one.len(), BUCKETS.len() + 3, "{of_one:?}");
        assert!(of_one[0].contains("le=\"0.001\""), "{of_one:?}");
        let classes = &of_one[..BUCKETS.len() + 1];
        assert!(
            classes.last().unwrap().contains("le=\"+Inf\""),
            "{of_one:?}"
        );
    }
}

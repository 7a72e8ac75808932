//! What the demo shows: steps, jobs side by side, results. Never decides anything. Called by `demo`.

use std::time::Duration;

use futures::future::try_join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use trainyard_core::{resources::format_bytes, time::Timestamp};
use trainyard_proto::v1::Job;

use crate::{
    client::{self, Client},
    clock,
    commands::watch,
    output::{
        self, OutputError, Screen, json, progress,
        table::{Lean, Table},
    },
    text,
};

/// Metrics of the table, in order, where a job has them.
const METRICS: [&str; 4] = ["loss", "accuracy", "mAP50", "mAP50-95"];

/// Where the demo shows itself.
#[derive(Debug)]
pub(super) struct Stage {
    screen: Screen,
    bars: MultiProgress,
}

/// Something that takes a while.
#[derive(Debug)]
pub(super) struct Step<'s> {
    stage: &'s Stage,
    name: String,
    begun: Timestamp,
    spinner: Option<ProgressBar>,
}

impl Stage {
    /// The stage on this screen.
    pub(super) fn new(screen: Screen) -> Self {
        let target = if screen.terminal && !screen.json {
            ProgressDrawTarget::stdout()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            screen,
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// A line for people; with `--json` stdout belongs to the document.
    pub(super) fn say(&self, words: &str) {
        if self.screen.json {
            output::note(words);
            return;
        }
        // A reader that has gone is found out by the results; until then the show goes on.
        drop(self.bars.suspend(|| output::line(words)));
    }

    /// Begins something that takes a while.
    pub(super) fn step(&self, name: &str) -> Step<'_> {
        let spinner = (self.screen.terminal && !self.screen.json).then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix}  {wide_msg}");
            let spinner = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
                .with_prefix(name.to_owned());
            let spinner = self.bars.add(spinner);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Step {
            stage: self,
            name: name.to_owned(),
            begun: clock::now(),
            spinner,
        }
    }

    /// Shows all jobs on their way; the jobs as they ended.
    pub(super) async fn follow(&self, client: &Client, ids: &[u64]) -> anyhow::Result<Vec<Job>> {
        try_join_all(ids.iter().map(|id| self.follow_one(client.clone(), *id))).await
    }

    async fn follow_one(&self, mut client: Client, id: u64) -> anyhow::Result<Job> {
        if self.screen.json {
            return watch::to_end(&mut client, id, |_| Ok(())).await;
        }
        let mut way = if self.screen.terminal {
            progress::Way::among(&self.bars)
        } else {
            progress::Way::new(false)
        };
        let job = watch::to_end(&mut client, id, |job| Ok(way.show(job)?)).await?;
        way.tell_end(&job)?;
        Ok(job)
    }

    /// The table of results, the checkpoints and the addresses.
    pub(super) fn results(
        &self,
        jobs: &[Job],
        address: &str,
        took: &str,
    ) -> Result<(), OutputError> {
        let url = client::address(address).unwrap_or_else(|_| address.to_owned());
        let host = url.trim_start_matches("http://");
        self.screen.show(
            || {
                json!({
                    "rest": format!("{url}/api/v1"),
                    "grpc": host,
                    "jobs": jobs.iter().map(json::job).collect::<Vec<_>>(),
                })
            },
            || {
                format!(
                    "\n{}\n{}\n{}\n\nREST  {url}/api/v1\ngRPC  {host}\nall of it in {took}",
                    table(&self.screen, jobs),
                    remark(jobs),
                    checkpoints(jobs),
                )
            },
        )
    }
}

impl Step<'_> {
    /// What is being done at present.
    pub(super) fn tell(&self, words: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(words.to_owned());
        }
    }

    /// Says that it is done, and how long it took.
    pub(super) fn done(self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        let took = text::span(clock::now().since(self.begun));
        self.stage.say(&format!("{} ready in {took}", self.name));
    }
}

fn table(screen: &Screen, jobs: &[Job]) -> String {
    let has = |name: &&str| jobs.iter().any(|job| value(job, name).is_some());
    let metrics: Vec<_> = METRICS.into_iter().filter(has).collect();
    let headings: Vec<_> = metrics.iter().map(|name| heading(name)).collect();
    let mut columns = vec![
        ("JOB", Lean::Right),
        ("NAME", Lean::Left),
        ("STATE", Lean::Left),
        ("NODE", Lean::Left),
        ("EPOCHS", Lean::Right),
    ];
    columns.extend(headings.iter().map(|name| (name.as_str(), Lean::Right)));
    columns.push(("TIME", Lean::Right));
    let mut table = Table::new(screen, &columns);
    for job in jobs {
        let epochs = job.progress.as_ref().map_or(0, |now| now.epoch);
        let took = text::between(job.started_at.as_ref(), job.ended_at.as_ref());
        let mut row = vec![
            job.job_id.to_string(),
            job.spec.clone().unwrap_or_default().name,
            text::state(job.state()).to_owned(),
            progress::node(job).unwrap_or("-").to_owned(),
            epochs.to_string(),
        ];
        row.extend(
            metrics
                .iter()
                .map(|name| value(job, name).map_or_else(|| "-".to_owned(), text::number)),
        );
        row.push(took.map_or_else(|| "-".to_owned(), text::span));
        table.row(&row);
    }
    table.render()
}

/// A detector that finds nothing yet looks broken to who does not know why.
fn remark(jobs: &[Job]) -> &'static str {
    let finds_nothing = |job: &Job| value(job, "mAP50").is_some_and(|map| map < 0.01);
    if jobs.iter().any(finds_nothing) {
        "\nmAP near 0 can happen after two epochs where no pretrained weights could be downloaded (see\n`trainyard logs`); the loss falls all the same.\n"
    } else {
        ""
    }
}

/// mAP is written so, everything else in capitals like the other columns.
fn heading(name: &str) -> String {
    if name.starts_with("mAP") {
        name.to_owned()
    } else {
        name.to_uppercase()
    }
}

/// A final metric; the loss of the last epoch where the trainer gives none at the end.
fn value(job: &Job, name: &str) -> Option<f64> {
    let last = job.progress.as_ref().filter(|_| name == "loss");
    let last = last.and_then(|progress| progress.loss);
    job.final_metrics.get(name).copied().or(last)
}

fn checkpoints(jobs: &[Job]) -> String {
    let mut lines = vec!["checkpoints".to_owned()];
    for job in jobs {
        for (name, checkpoint) in [
            ("best", &job.best_checkpoint),
            ("last", &job.last_checkpoint),
        ] {
            if let Some(checkpoint) = checkpoint {
                let size = checkpoint.size_bytes.map(format_bytes).unwrap_or_default();
                let (id, path) = (job.job_id, &checkpoint.path);
                lines.push(format!("  job {id}  {name}  {size:>9}  {path}"));
            }
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use trainyard_proto::v1::{Attempt, Checkpoint, JobSpec, JobState, Progress};

    use super::*;

    fn job(id: u64, metrics: &[(&str, f64)]) -> Job {
        Job {
            job_id: id,
            spec: Some(JobSpec {
                name: "digits".into(),
                ..JobSpec::default()
            }),
            state: JobState::Completed.into(),
            attempts: vec![Attempt {
                node: "alpha".into(),
                ..Attempt::default()
            }],
            progress: Some(Progress {
                epoch: 10,
                total_epochs: 10,
                loss: Some(0.125),
                ..Progress::default()
            }),
            final_metrics: metrics.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
            best_checkpoint: Some(Checkpoint {
                path: "/d/best.pt".into(),
                size_bytes: Some(2048),
            }),
            ..Job::default()
        }
    }

    #[test]
    fn the_table_has_the_metrics_that_the_jobs_have() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let text = table(&screen, &[job(1, &[("accuracy", 0.95)])]);
        for word in ["ACCURACY", "0.9500", "LOSS", "0.1250", "alpha", "completed"] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
        assert!(!text.contains("mAP50"), "{text}");
        let text = table(&screen, &[job(1, &[("mAP50", 0.5), ("mAP50-95", 0.25)])]);
        assert!(
            text.contains("mAP50-95") && text.contains("0.2500"),
            "{text}"
        );
    }

    #[test]
    fn a_detector_that_finds_nothing_yet_is_explained() {
        assert!(remark(&[job(1, &[("mAP50", 0.0)])]).contains("pretrained weights"));
        assert_eq!(remark(&[job(1, &[("mAP50", 0.4)]), job(2, &[])]), "");
    }

    #[test]
    fn checkpoints_have_their_sizes() {
        let text = checkpoints(&[job(3, &[])]);
        assert_eq!(text, "checkpoints\n  job 3  best      2 KiB  /d/best.pt");
    }
}

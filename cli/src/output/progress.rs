//! How far a job is, in a line and as a bar. Never talks to the coordinator. Called by `watch`,
//! `submit --wait` and the demo.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use trainyard_core::spec::JobSpec;
use trainyard_proto::v1;

use super::{OutputError, line};
use crate::text;

/// The name of a job's primary metric.
pub(crate) fn primary_metric(job: &v1::Job) -> Option<String> {
    let spec = JobSpec::try_from(job.spec.clone()?).ok()?;
    Some(spec.primary().0)
}

/// The node of the newest attempt.
pub(crate) fn node(job: &v1::Job) -> Option<&str> {
    let attempt = job.attempts.last()?;
    Some(attempt.node.as_str()).filter(|node| !node.is_empty())
}

/// How long the rest takes if it goes on as so far.
pub(crate) fn eta(job: &v1::Job) -> Option<Duration> {
    let progress = job
        .progress
        .as_ref()
        .filter(|progress| progress.epoch > 0)?;
    let started = job.attempts.last()?.started_at.as_ref()?;
    let took = text::between(Some(started), progress.reported_at.as_ref())?;
    let left = progress.total_epochs.saturating_sub(progress.epoch);
    Some(took / progress.epoch * left)
}

/// Loss, metric and what is left of a job that runs: `loss 0.1234  accuracy 0.9100  eta 12s`.
pub(crate) fn figures(job: &v1::Job) -> String {
    let Some(progress) = &job.progress else {
        return String::new();
    };
    let mut parts = Vec::new();
    if let Some(loss) = progress.loss {
        parts.push(format!("loss {}", text::number(loss)));
    }
    let primary = primary_metric(job).filter(|name| name != "loss");
    if let (Some(name), Some(value)) = (primary, progress.primary_metric) {
        parts.push(format!("{name} {}", text::number(value)));
    }
    if let Some(left) = eta(job).filter(|left| !left.is_zero()) {
        parts.push(format!("eta {}", text::span(left)));
    }
    parts.join("  ")
}

/// Where a job stands, in one line that changes only when something has happened.
pub(crate) fn describe(job: &v1::Job) -> String {
    let state = job.state();
    if text::has_ended(state) {
        return ending(job);
    }
    let mut words = text::state(state).to_owned();
    if let Some(node) = node(job).filter(|_| is_placed(state)) {
        words.push_str(&format!(" on {node}"));
    }
    if let Some(progress) = job.progress.as_ref().filter(|_| is_placed(state))
        && progress.epoch > 0
    {
        words.push_str(&format!(
            "  epoch {}/{}  {}",
            progress.epoch,
            progress.total_epochs,
            figures(job)
        ));
    } else if !job.reason.is_empty() {
        words.push_str(&format!(": {}", job.reason));
    }
    words
}

fn is_placed(state: v1::JobState) -> bool {
    match state {
        v1::JobState::Starting | v1::JobState::Running | v1::JobState::Finishing => true,
        v1::JobState::Unspecified
        | v1::JobState::Pending
        | v1::JobState::Queued
        | v1::JobState::Completed
        | v1::JobState::Failed
        | v1::JobState::Cancelled => false,
    }
}

/// How a job ended, in one line: `failed (user) after 12s: exit code 3`.
pub(crate) fn ending(job: &v1::Job) -> String {
    let mut words = text::state(job.state()).to_owned();
    let outcome = job.outcome.clone().unwrap_or_default();
    if let Some(class) = text::class(outcome.failure_class())
        && class != words
    {
        words.push_str(&format!(" ({class})"));
    }
    let took = text::between(job.started_at.as_ref(), job.ended_at.as_ref());
    if let Some(took) = took {
        words.push_str(&format!(" after {}", text::span(took)));
    }
    if !outcome.message.is_empty() {
        words.push_str(&format!(": {}", outcome.message));
    }
    words
}

/// The whole report of an end: the line, and the last output of a job that did not complete.
pub(crate) fn report(job: &v1::Job) -> String {
    let mut lines = vec![format!("job {} {}", job.job_id, ending(job))];
    let outcome = job.outcome.as_ref();
    if job.state() == v1::JobState::Failed {
        let last = outcome.map(|outcome| outcome.last_lines.as_slice());
        lines.extend(last.unwrap_or_default().iter().map(|l| format!("  | {l}")));
    }
    for (name, checkpoint) in [
        ("best", &job.best_checkpoint),
        ("last", &job.last_checkpoint),
    ] {
        if let Some(checkpoint) = checkpoint {
            lines.push(format!(
                "{name} checkpoint {}",
                checkpoint_words(checkpoint)
            ));
        }
    }
    lines.join("\n")
}

/// A checkpoint with its size.
pub(crate) fn checkpoint_words(checkpoint: &v1::Checkpoint) -> String {
    let size = checkpoint
        .size_bytes
        .map(trainyard_core::resources::format_bytes);
    match size {
        Some(size) => format!("{} ({size})", checkpoint.path),
        None => checkpoint.path.clone(),
    }
}

/// A style of bar for jobs: state, bar over epochs, figures.
pub(crate) fn bar_style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{prefix} [{bar:16}] {pos}/{len}  {wide_msg}");
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Moves a bar to where the job stands.
pub(crate) fn move_bar(bar: &ProgressBar, job: &v1::Job) {
    let epochs = job.spec.as_ref().map_or(1, |spec| spec.epochs);
    let (epoch, total) = job
        .progress
        .as_ref()
        .map_or((0, epochs), |now| (now.epoch, now.total_epochs.max(1)));
    bar.set_length(total.into());
    bar.set_position(epoch.into());
    let state = job.state();
    let words = match (text::has_ended(state), epoch) {
        (true, _) => ending(job),
        (false, 1..) => format!("{}  {}", text::state(state), figures(job)),
        (false, 0) => describe(job),
    };
    bar.set_message(words);
}

/// Shows one job's way: as a bar on a terminal, else a line for each change.
#[derive(Debug)]
pub(crate) struct Way {
    bar: Option<ProgressBar>,
    last: String,
}

impl Way {
    /// A bar, or lines.
    pub(crate) fn new(terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let target = indicatif::ProgressDrawTarget::stdout();
            ProgressBar::with_draw_target(Some(1), target).with_style(bar_style())
        });
        Self {
            bar,
            last: String::new(),
        }
    }

    /// A bar among others.
    pub(crate) fn among(bars: &indicatif::MultiProgress) -> Self {
        let bar = ProgressBar::new(1).with_style(bar_style());
        Self {
            bar: Some(bars.add(bar)),
            last: String::new(),
        }
    }

    /// Lines that also tell the end, for several jobs at once.
    pub(crate) fn tell_end(&self, job: &v1::Job) -> Result<(), OutputError> {
        match &self.bar {
            Some(bar) => bar.abandon(),
            None => line(&format!("job {} {}", job.job_id, ending(job)))?,
        }
        Ok(())
    }

    /// Shows where the job stands now.
    pub(crate) fn show(&mut self, job: &v1::Job) -> Result<(), OutputError> {
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("job {}", job.job_id));
            move_bar(bar, job);
            return Ok(());
        }
        let words = describe(job);
        // The report says how it ended.
        if words == self.last || text::has_ended(job.state()) {
            return Ok(());
        }
        line(&format!("job {} {words}", job.job_id))?;
        self.last = words;
        Ok(())
    }

    /// Leaves the terminal as a reader expects it.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn running() -> v1::Job {
        v1::Job {
            job_id: 7,
            spec: Some(v1::JobSpec {
                framework: "sklearn".into(),
                task_type: "classification".into(),
                epochs: 10,
                ..v1::JobSpec::default()
            }),
            state: v1::JobState::Running.into(),
            attempts: vec![v1::Attempt {
                number: 1,
                node: "alpha".into(),
                started_at: at(100),
                ..v1::Attempt::default()
            }],
            progress: Some(v1::Progress {
                epoch: 4,
                total_epochs: 10,
                loss: Some(0.25),
                primary_metric: Some(0.91),
                reported_at: at(108),
            }),
            ..v1::Job::default()
        }
    }

    #[test]
    fn a_running_job_shows_epoch_loss_metric_and_what_is_left() {
        assert_eq!(
            describe(&running()),
            "running on alpha  epoch 4/10  loss 0.2500  accuracy 0.9100  eta 12s"
        );
    }

    #[test]
    fn a_waiting_job_says_why() {
        let mut job = running();
        job.state = v1::JobState::Queued.into();
        job.reason = "cpus: asks for 1, has 0".into();
        assert_eq!(describe(&job), "queued: cpus: asks for 1, has 0");
    }

    #[test]
    fn a_failed_job_reports_class_time_reason_and_last_lines() {
        let mut job = running();
        job.state = v1::JobState::Failed.into();
        (job.started_at, job.ended_at) = (at(100), at(172));
        job.outcome = Some(v1::Outcome {
            exit_code: Some(3),
            failure_class: v1::FailureClass::User.into(),
            message: "exit code 3".into(),
            last_lines: vec!["Traceback".into(), "boom".into()],
            ..v1::Outcome::default()
        });
        assert_eq!(
            report(&job),
            "job 7 failed (user) after 1m12s: exit code 3\n  | Traceback\n  | boom"
        );
        assert_eq!(describe(&job), ending(&job));
    }

    #[test]
    fn a_completed_job_reports_its_checkpoints_with_sizes() {
        let mut job = running();
        job.state = v1::JobState::Completed.into();
        job.best_checkpoint = Some(v1::Checkpoint {
            path: "/c/best.pt".into(),
            size_bytes: Some(3 << 20),
        });
        assert_eq!(
            report(&job),
            "job 7 completed\nbest checkpoint /c/best.pt (3 MiB)"
        );
    }

    #[test]
    fn nothing_is_guessed_before_the_first_epoch() {
        let mut job = running();
        job.progress.as_mut().unwrap().epoch = 0;
        assert_eq!(eta(&job), None);
    }

    #[test]
    fn the_bar_stands_where_the_job_does() {
        let bar = ProgressBar::hidden();
        move_bar(&bar, &running());
        assert_eq!((bar.position(), bar.length()), (4, Some(10)));
        assert_eq!(
            bar.message(),
            "running  loss 0.2500  accuracy 0.9100  eta 12s"
        );
    }
}

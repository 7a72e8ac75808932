//! Which changes of a job a webhook has not been told, made out of the job's own history.
//!
//! Pure: the same job and the same notes give the same changes with the same ids, so that nothing is
//! lost while the coordinator or the receiver is away. Never sends. Used by the webhooks.

use serde_json::{Value, json};
use trainyard_core::{
    failure::{FailureClass, Outcome},
    ids::AttemptNo,
    job::{Attempt, Job, JobState},
    time::Timestamp,
};

use super::rows::ToldRow;
use crate::store::StoredPoint;

/// A change of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// One of the events of the settings.
    pub(super) kind: &'static str,
    /// The same whenever it is made.
    pub(super) id: String,
    /// JSON.
    pub(super) body: Value,
}

/// What a change is about.
struct Fact<'a> {
    kind: &'static str,
    /// What tells it from others of its kind and attempt.
    mark: Option<String>,
    at: Timestamp,
    attempt: Option<&'a Attempt>,
    more: Value,
}

/// The points of a job behind those that are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Page {
    /// Those that name a checkpoint, in order.
    pub(super) points: Vec<StoredPoint>,
    /// There may be more: the attempt and id of the last point that was looked at.
    pub(super) more: Option<(AttemptNo, u64)>,
}

/// The changes that are not told yet, in order, up to the end of the page, and what is told then.
pub(super) fn untold(
    instance: &str,
    job: &Job,
    told: &ToldRow,
    page: &Page,
) -> (Vec<Event>, ToldRow) {
    let mut next = told.clone();
    let mut facts = Vec::new();
    if !told.submitted {
        next.submitted = true;
        facts.push(fact("submitted", job.created_at, None));
    }
    let reached = |attempt: &&Attempt| page.more.is_none_or(|(last, _)| attempt.number <= last);
    for attempt in job.attempts.iter().filter(reached) {
        of_attempt(job, attempt, page, &mut next, &mut facts);
    }
    if page.more.is_none()
        && job.state == JobState::Cancelled
        && next.cancelled_at != Some(job.state_since)
    {
        next.cancelled_at = Some(job.state_since);
        if !ended_by_attempt(job) {
            let mut waiting = fact("cancelled", job.state_since, None);
            waiting.mark = Some(job.state_since.0.to_string());
            waiting.more = outcome(job.outcome.as_ref());
            facts.push(waiting);
        }
    }
    let looked_at = page.more.map(|(_, id)| id);
    let last = looked_at.or_else(|| page.points.last().map(|point| point.id));
    next.last_point = next.last_point.max(last.unwrap_or(0));
    let events = facts.into_iter().map(|fact| event(instance, job, fact));
    (events.collect(), next)
}

fn of_attempt<'a>(
    job: &Job,
    attempt: &'a Attempt,
    page: &Page,
    next: &mut ToldRow,
    facts: &mut Vec<Fact<'a>>,
) {
    if let Some(at) = attempt.started_at()
        && next.started < attempt.number
    {
        next.started = attempt.number;
        facts.push(fact("started", at, Some(attempt)));
    }
    let own = |point: &&StoredPoint| point.attempt == attempt.number;
    for point in page.points.iter().filter(own) {
        let report = &point.progress;
        let mut checkpoint = fact("checkpoint", report.at, Some(attempt));
        checkpoint.mark = Some(point.id.to_string());
        checkpoint.more = json!({
            "epoch": report.epoch,
            "checkpoint": report.checkpoint.as_ref().map(|found| &found.path),
            "best_checkpoint": report.best_checkpoint.as_ref().map(|found| &found.path),
        });
        facts.push(checkpoint);
    }
    let is_newest = job
        .attempt()
        .is_some_and(|newest| newest.number == attempt.number);
    let is_live = is_newest && job.state.holds_resources();
    let goes_on = page.more.is_some_and(|(last, _)| last == attempt.number);
    if is_live || goes_on || next.ended >= attempt.number {
        return;
    }
    next.ended = attempt.number;
    let judged = attempt.outcome();
    let kind = match judged.as_ref().map(|judged| judged.class) {
        Some(None) => "completed",
        Some(Some(FailureClass::Cancelled)) => "cancelled",
        // That an attempt failed is no end of its job while there is another one.
        Some(Some(_)) | None if attempt.tried_again => "retried",
        Some(Some(_)) | None => "failed",
    };
    let mut end = fact(
        kind,
        attempt.ended_at().unwrap_or(job.state_since),
        Some(attempt),
    );
    end.more = outcome(judged.as_ref());
    facts.push(end);
}

/// That the job ended so is the end of its newest attempt, and no cancel while it waited.
fn ended_by_attempt(job: &Job) -> bool {
    let judged = job.attempt().and_then(Attempt::outcome);
    judged.is_some() && judged == job.outcome
}

fn fact<'a>(kind: &'static str, at: Timestamp, attempt: Option<&'a Attempt>) -> Fact<'a> {
    Fact {
        kind,
        mark: None,
        at,
        attempt,
        more: json!({}),
    }
}

fn outcome(outcome: Option<&Outcome>) -> Value {
    let Some(outcome) = outcome else {
        return json!({});
    };
    json!({
        "failure_class": outcome.class.map(FailureClass::name),
        "message": outcome.message,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
    })
}

fn event(instance: &str, job: &Job, fact: Fact<'_>) -> Event {
    let attempt = fact.attempt.map(|attempt| attempt.number.0);
    let instance: String = instance.chars().take(16).collect();
    let mut id = format!(
        "{instance}-{}-{}-{}",
        job.id,
        attempt.unwrap_or(0),
        fact.kind
    );
    if let Some(mark) = fact.mark {
        id.push('-');
        id.push_str(&mark);
    }
    let spec = &job.spec;
    let body = json!({
        "id": id,
        "event": fact.kind,
        "at": format!("{}Z", fact.at.to_naive_iso()),
        "job": {
            "id": job.id,
            "name": spec.name,
            "framework": spec.framework,
            "model_name": spec.model_name,
            "task_type": spec.task_type,
            "project_id": spec.project_id,
            "submitted_by": job.submitted_by,
            "attempt": attempt,
            "node": fact.attempt.map(|attempt| &attempt.lead.allocation.node),
        },
        "detail": fact.more,
    });
    Event {
        kind: fact.kind,
        id,
        body,
    }
}

#[cfg(test)]
mod tests {
    use trainyard_core::{
        failure::TaskEnd,
        job::Event as Happened,
        record::{Checkpoint, Progress},
        spec::JobSpec,
    };

    use super::{
        super::runs::tests::{ended, running},
        *,
    };

    const T: Timestamp = Timestamp(9_000_000);

    fn kinds(events: &[Event]) -> Vec<&'static str> {
        events.iter().map(|event| event.kind).collect()
    }

    fn checkpoint(id: u64) -> StoredPoint {
        StoredPoint {
            id,
            attempt: AttemptNo(1),
            rank: trainyard_core::ids::Rank(0),
            progress: Progress {
                at: T,
                epoch: 2,
                total_epochs: 2,
                step: None,
                values: [("loss".to_owned(), 0.5)].into(),
                has_metrics: true,
                checkpoint: Some(Checkpoint {
                    path: "/c/last.pt".into(),
                    size_bytes: None,
                }),
                best_checkpoint: None,
            },
        }
    }

    fn page(points: Vec<StoredPoint>) -> Page {
        Page { points, more: None }
    }

    fn failed() -> Job {
        let end = TaskEnd {
            exit_code: Some(3),
            ..TaskEnd::default()
        };
        ended(&running(JobSpec::default()), end)
    }

    #[test]
    fn a_whole_life_that_nobody_was_told_of_is_told_in_order_and_once() {
        let job = failed();
        let (events, told) = untold("i", &job, &ToldRow::default(), &page(vec![checkpoint(4)]));
        assert_eq!(
            kinds(&events),
            ["submitted", "started", "checkpoint", "failed"]
        );
        let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
        let expected = [
            "i-7-0-submitted",
            "i-7-1-started",
            "i-7-1-checkpoint-4",
            "i-7-1-failed",
        ];
        assert_eq!(ids, expected);
        assert_eq!(events[3].body["detail"]["exit_code"], 3);
        assert_eq!(events[2].body["detail"]["checkpoint"], "/c/last.pt");
        assert!(
            !format!("{events:?}").contains("hush"),
            "no secret of an attempt"
        );
        let (again, same) = untold("i", &job, &told, &Page::default());
        assert_eq!((again, same), (vec![], told));
    }

    #[test]
    fn an_attempt_that_is_tried_again_is_no_failure_of_the_job() {
        let lost = Happened::NodeLost(
            AttemptNo(1),
            trainyard_core::ids::NodeName("n1".into()),
            "node n1 was silent".into(),
        );
        let job = running(JobSpec::default()).step(T, lost).unwrap().job;
        let (events, told) = untold("i", &job, &ToldRow::default(), &Page::default());
        assert_eq!(kinds(&events), ["submitted", "started", "retried"]);
        assert_eq!(events[2].id, "i-7-1-retried");
        assert_eq!(events[2].body["detail"]["failure_class"], "lost");
        let cancelled = job.step(T, Happened::CancelRequested).unwrap().job;
        let (events, _) = untold("i", &cancelled, &told, &Page::default());
        assert_eq!(kinds(&events), ["cancelled"]);
    }

    #[test]
    fn the_end_of_an_attempt_comes_behind_the_checkpoints_of_its_last_page() {
        let job = failed().step(T, Happened::RestartRequested).unwrap().job;
        let job = job.step(T, Happened::CancelRequested).unwrap().job;
        let first = Page {
            points: vec![checkpoint(4)],
            more: Some((AttemptNo(1), 9)),
        };
        let (events, told) = untold("i", &job, &ToldRow::default(), &first);
        assert_eq!(kinds(&events), ["submitted", "started", "checkpoint"]);
        assert_eq!(told.last_point, 9, "what names none is not read again");
        let (events, told) = untold("i", &job, &told, &page(vec![checkpoint(12)]));
        assert_eq!(kinds(&events), ["checkpoint", "failed", "cancelled"]);
        assert_eq!(told.last_point, 12);
    }

    #[test]
    fn what_was_told_before_is_not_told_again_when_the_job_goes_on() {
        let live = running(JobSpec::default());
        let (events, told) = untold("i", &live, &ToldRow::default(), &Page::default());
        assert_eq!(kinds(&events), ["submitted", "started"]);
        let end = TaskEnd {
            exit_code: Some(0),
            ..TaskEnd::default()
        };
        let (events, _) = untold("i", &ended(&live, end), &told, &Page::default());
        assert_eq!(kinds(&events), ["completed"]);
    }

    #[test]
    fn a_cancel_while_the_job_waits_is_told_for_each_time() {
        let accepted = failed();
        let mut told = ToldRow::default();
        (_, told) = untold("i", &accepted, &told, &Page::default());
        let mut ids = Vec::new();
        let mut job = accepted;
        for at in [T, T.plus(std::time::Duration::from_secs(1))] {
            job = job.step(at, Happened::RestartRequested).unwrap().job;
            job = job.step(at, Happened::CancelRequested).unwrap().job;
            let (events, next) = untold("i", &job, &told, &Page::default());
            assert_eq!(kinds(&events), ["cancelled"]);
            ids.push(events[0].id.clone());
            told = next;
        }
        assert_ne!(ids[0], ids[1]);
        assert_eq!(untold("i", &job, &told, &Page::default()).0, []);
    }

    #[test]
    fn a_job_that_was_stopped_while_it_ran_is_told_as_cancelled_once() {
        let end = TaskEnd {
            stop_cause: Some(trainyard_core::failure::StopCause::Cancelled),
            ..TaskEnd::default()
        };
        let job = ended(&running(JobSpec::default()), end);
        let (events, _) = untold("i", &job, &ToldRow::default(), &Page::default());
        assert_eq!(kinds(&events), ["submitted", "started", "cancelled"]);
    }
}

//! What steps of a job decide, as it is noted.

use super::*;
use crate::{
    failure::{StopCause, TaskEnd},
    ids::Rank,
    job::Event,
    sched::Allocation,
    spec::JobSpec,
};

const T: Timestamp = Timestamp(1_000);

fn queued() -> Job {
    let mut spec = JobSpec::default();
    spec.retry.limit = 1;
    let job = Job::accepted(JobId(7), spec, "ada".into(), T);
    job.step(T, Event::Prepared).unwrap().job
}

/// What the steps decide, and the job behind them.
fn told(mut job: Job, events: Vec<Event>) -> (Vec<Decision>, Job) {
    let mut found = Vec::new();
    for event in events {
        let after = job.step(T, event).unwrap().job;
        found.extend(Decision::between(&job, &after, Some("its turn"), T));
        job = after;
    }
    (found, job)
}

fn placed(nodes: &[&str]) -> Event {
    let on = |node: &&str| Allocation {
        node: NodeName((*node).into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    };
    Event::Placed {
        queued_at: T,
        allocations: nodes.iter().map(on).collect(),
        secret: "s".to_owned().into(),
    }
}

fn ended(job: &Job, rank: u32, change: impl Fn(&mut TaskEnd)) -> Event {
    let mut end = TaskEnd::default();
    change(&mut end);
    let number = job.attempt().map_or(AttemptNo(1), |attempt| attempt.number);
    Event::Ended(job.task(number, Rank(rank)), end)
}

fn kinds(found: &[Decision]) -> Vec<Kind> {
    found.iter().map(|one| one.kind).collect()
}

#[test]
fn a_place_is_noted_with_its_nodes_and_why_and_an_end_with_its_words() {
    let job = queued();
    let task = job.task(AttemptNo(1), Rank(0));
    let events = vec![
        placed(&["n1"]),
        Event::Started(task, T),
        ended(&job, 0, |end| end.exit_code = Some(3)),
    ];
    let (found, _) = told(job, events);
    assert_eq!(kinds(&found), [Kind::Placed, Kind::Failed]);
    let [placed, failed] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(placed.words, "its turn");
    assert_eq!(placed.nodes, [NodeName("n1".into())]);
    assert_eq!(
        (placed.job, placed.attempt),
        (Some(JobId(7)), Some(AttemptNo(1)))
    );
    assert!(failed.words.contains("exit code 3"), "{failed:?}");
    assert_eq!(failed.attempt, Some(AttemptNo(1)));
}

#[test]
fn acceptance_is_told_by_the_row_and_a_cancel_of_who_waits_is_one_note() {
    let accepted = Job::accepted(JobId(7), JobSpec::default(), "ada".into(), T);
    let (found, job) = told(accepted, vec![Event::Prepared]);
    assert_eq!(found, []);
    let (found, job) = told(job, vec![Event::CancelRequested]);
    assert_eq!(kinds(&found), [Kind::Cancelled]);
    assert_eq!(found[0].attempt, None);
    let (found, _) = told(job, vec![Event::RestartRequested]);
    assert_eq!(kinds(&found), [Kind::RunAgain]);
    let (found, _) = told(queued(), vec![Event::Hopeless("job 5 has failed".into())]);
    assert_eq!(found[0].words, "job 5 has failed");
}

#[test]
fn who_makes_room_is_noted_with_for_whom_when_told_and_when_gone() {
    let (_, job) = told(queued(), vec![placed(&["n1"])]);
    let room = Event::MakeRoom(AttemptNo(1), JobId(9));
    let end = ended(&job, 0, |end| end.stop_cause = Some(StopCause::Preempted));
    let (found, job) = told(job, vec![room, end]);
    assert_eq!(kinds(&found), [Kind::MakesRoom, Kind::Preempted]);
    assert!(
        found.iter().all(|one| one.for_job == Some(JobId(9))),
        "{found:?}"
    );
    assert_eq!(job.state, JobState::Queued);
}

#[test]
fn who_leaves_a_node_that_goes_out_of_service_is_noted_once() {
    let (_, job) = told(queued(), vec![placed(&["n1"])]);
    let leave = || Event::Vacate(AttemptNo(1), "n1 is drained: new disk".into());
    let (found, job) = told(job, vec![leave()]);
    assert!(job.step(T, leave()).is_err(), "it was told");
    assert_eq!(kinds(&found), [Kind::Vacates]);
    assert_eq!(found[0].words, "n1 is drained: new disk");
}

#[test]
fn another_try_and_the_end_of_a_gang_are_noted() {
    let (_, job) = told(queued(), vec![placed(&["n1", "n2"])]);
    let broken = |end: &mut TaskEnd| {
        end.error = Some("the disk is full".into());
        end.infrastructure = true;
    };
    let first = ended(&job, 1, broken);
    let second = ended(&job, 0, |end| end.stop_cause = Some(StopCause::PeerFailed));
    let (found, _) = told(job, vec![first, second]);
    assert_eq!(kinds(&found), [Kind::GangEnded, Kind::Retried]);
    assert!(
        found[1].words.starts_with("is tried again (1 of 1)"),
        "{found:?}"
    );
}

#[test]
fn reasons_that_differ_in_numbers_and_nodes_alone_are_one() {
    for (one, other, same) in [
        (
            "waits for cpus: asks for 4, has 1 free on node n1",
            "waits for cpus: asks for 4, has 2 free on node n2",
            true,
        ),
        ("waits for job 5", "waits for job 6", true),
        (
            "waits for cpus: asks for 4",
            "waits for gpus: asks for 4",
            false,
        ),
        (
            "has a place on n1 as soon as job 5 has saved its work and gone",
            "has a place on n2 as soon as job 6 has saved its work and gone",
            true,
        ),
        (
            "waits for the maintenance of node gpu-a until 16:00 UTC (new fan) to be over: its limit reaches into it",
            "waits for the maintenance of node gpu-b until 17:00 UTC (new disk) to be over: its limit reaches into it",
            true,
        ),
    ] {
        assert_eq!(Decision::is_same_wait(one, other), same, "{one} / {other}");
    }
}

#[test]
fn names_are_what_rows_hold_and_a_kind_of_a_newer_program_is_read() {
    for (name, kind) in Kind::ALL {
        let written = serde_json::to_string(&kind).unwrap();
        assert_eq!(written, format!("\"{name}\""));
        assert_eq!(kind.name(), name);
    }
    let newer: Kind = serde_json::from_str("\"teleported\"").unwrap();
    assert_eq!((newer, newer.name()), (Kind::Unknown, "unknown"));
}

#[test]
fn long_words_are_cut_between_letters() {
    let long = Decision::of_job(T, Kind::Failed, JobId(1), "ä".repeat(2_000));
    assert_eq!(long.words.chars().count(), 501);
}

#[test]
fn jobs_that_somebody_may_not_know_of_have_no_number_in_what_is_told() {
    let hides = |job: JobId| job.0 >= 5;
    let words = "waits for job 4 to succeed and for job 12 to end; job x, job ";
    let told = "waits for job 4 to succeed and for another job to end; job x, job ";
    assert_eq!(unnamed(words, hides), told);
    let note = Decision::of_job(T, Kind::MakesRoom, JobId(1), "job 9 needs its place");
    let note = Decision {
        for_job: Some(JobId(9)),
        ..note
    };
    assert_eq!(note.clone().without(|_| false), note);
    let told = note.without(hides);
    assert_eq!(
        (told.for_job, told.words.as_str()),
        (None, "another job needs its place")
    );
    // What a trainer says is the job's own.
    let failed = Decision::of_job(T, Kind::Failed, JobId(1), "job 9 of 12 failed");
    assert_eq!(failed.clone().without(hides), failed);
}

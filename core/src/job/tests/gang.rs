//! Gangs: all tasks start or none does, one that fails ends the others, and who is to blame.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const RANKS: u32 = 3;

fn node(rank: u32) -> NodeName {
    NodeName(format!("n{rank}"))
}

fn r(rank: u32) -> TaskKey {
    accepted().task(A1, Rank(rank))
}

fn placed_gang() -> Event {
    let on = |rank| Allocation {
        node: node(rank),
        ..allocation()
    };
    Event::Placed {
        queued_at: T,
        allocations: (0..RANKS).map(on).collect(),
        secret: "s".to_owned().into(),
    }
}

fn starting() -> Job {
    after(vec![Event::Prepared, placed_gang()]).job
}

fn waits(rank: u32) -> Event {
    let port = (rank == 0).then_some(29_500);
    Event::Waiting(r(rank), port)
}

fn running_gang() -> Job {
    let mut job = starting();
    let ready = (0..RANKS).map(waits);
    for event in ready.chain((0..RANKS).map(|rank| Event::Started(r(rank), T))) {
        job = job.step(T, event).unwrap().job;
    }
    assert_eq!(job.state, JobState::Running);
    job
}

fn end_of(rank: u32, end: TaskEnd) -> Event {
    Event::Ended(r(rank), end)
}

fn code(code: i32) -> TaskEnd {
    TaskEnd {
        exit_code: Some(code),
        ..TaskEnd::default()
    }
}

fn stopped(cause: StopCause) -> TaskEnd {
    TaskEnd {
        signal: Some(15),
        stop_cause: Some(cause),
        ..TaskEnd::default()
    }
}

fn stops(effects: &[Effect]) -> Vec<(u32, StopCause)> {
    let stop = |effect: &Effect| {
        if let Effect::Stop(_, task, cause) = effect {
            return Some((task.rank.0, *cause));
        }
        None
    };
    effects.iter().filter_map(stop).collect()
}

#[test]
fn a_gang_is_told_to_start_when_its_last_rank_is_ready_and_runs_when_its_last_trainer_does() {
    let mut job = starting();
    for rank in [2, 0] {
        let step = job.step(T, waits(rank)).unwrap();
        assert_eq!(step.effects, []);
        job = step.job;
    }
    assert_eq!(job.reason, "2 of 3 ranks are ready; waits for rank 1 on n1");
    let step = job.step(T, waits(1)).unwrap();
    let all = (0..RANKS).map(|rank| Effect::Launch(node(rank), r(rank)));
    assert_eq!(step.effects, all.collect::<Vec<_>>());
    assert_eq!(step.job.attempt().unwrap().port, Some(29_500));
    // One whose agent was restarted meanwhile is ready again: it alone is told again.
    let again = step.job.step(T, waits(2)).unwrap();
    assert_eq!(again.effects, [Effect::Launch(node(2), r(2))]);
    let mut job = again.job;
    for rank in [1, 2] {
        job = job.step(T, Event::Started(r(rank), T)).unwrap().job;
        assert_eq!(job.state, JobState::Starting);
    }
    let job = job.step(T, Event::Started(r(0), T)).unwrap().job;
    assert_eq!((job.state, job.reason.as_str()), (JobState::Running, ""));
}

#[test]
fn a_rank_that_fails_ends_the_others_and_is_the_reason_of_the_jobs_end() {
    let step = running_gang().step(T, end_of(1, code(3))).unwrap();
    assert_eq!(step.job.state, JobState::Running);
    assert_eq!(
        stops(&step.effects),
        [(0, StopCause::PeerFailed), (2, StopCause::PeerFailed)]
    );
    assert_eq!(
        step.job.reason,
        "rank 1 on n1: exit code 3; the other ranks are stopped"
    );
    // It is over, and others may have its place, whatever is known of its records.
    assert_eq!(step.job.allocations().len(), 2);
    let mut read = step.job.clone();
    read.attempts[0].others[0].end.as_mut().unwrap().last_seq = 9;
    assert_eq!(read.allocations().len(), 2);
    assert!(step.effects.contains(&Effect::Forget(node(1), r(1))));
    let mut job = step.job;
    for rank in [0, 2] {
        let end = end_of(rank, stopped(StopCause::PeerFailed));
        job = job.step(T, end).unwrap().job;
    }
    assert_eq!(job.state, JobState::Failed);
    let outcome = job.outcome.unwrap();
    assert_eq!(outcome.class, Some(FailureClass::User));
    assert_eq!(outcome.message, "rank 1 on n1: exit code 3");
}

#[test]
fn a_gang_with_a_dead_node_is_tried_again_elsewhere_though_its_other_ranks_failed_of_themselves_first()
 {
    let mut job = running_gang().step(T, end_of(0, code(1))).unwrap().job;
    job = job.step(T, end_of(2, code(1))).unwrap().job;
    // Nothing is known of rank 1 until its lease is over.
    assert_eq!(job.state, JobState::Running);
    let lost = Event::NodeLost(A1, node(1), "node n1 was silent".into());
    let step = job.step(T, lost).unwrap();
    assert_eq!(step.job.state, JobState::Queued);
    assert_eq!(
        step.job.reason,
        "is tried again (1 of 3): rank 1 on n1: node n1 was silent"
    );
    assert_eq!(step.job.failed_on, [node(1)].into());
    assert!(step.job.allocations().is_empty());
}

#[test]
fn of_a_gang_that_was_let_go_one_whose_start_was_never_heard_of_may_be_why_the_others_failed() {
    let of = |ready: u32, lets_go: bool| {
        let mut job = starting();
        let ready = (0..ready).map(waits);
        let starts = [0, 2].map(|rank| Event::Started(r(rank), T));
        for event in ready.chain(starts.into_iter().filter(|_| lets_go)) {
            job = job.step(T, event).unwrap().job;
        }
        for rank in [0, 2] {
            job = job.step(T, end_of(rank, code(1))).unwrap().job;
        }
        let lost = Event::NodeLost(A1, node(1), "node n1 was silent".into());
        job.step(T, lost).unwrap().job.state
    };
    assert_eq!(of(RANKS, true), JobState::Queued, "it is tried again");
    // Where nobody was let go nobody ran.
    assert_eq!(of(1, false), JobState::Failed);
}

#[test]
fn a_gang_whose_node_is_lost_stops_the_others_and_goes_on_elsewhere_from_its_checkpoint() {
    let kept = Checkpoint {
        path: "s3://b/last.pt".into(),
        size_bytes: None,
    };
    let said = told(Told {
        kept: Some(kept),
        ..Told::default()
    });
    let job = running_gang().step(T, said).unwrap().job;
    let lost = Event::NodeLost(A1, node(2), "node n2 was silent".into());
    let step = job.step(T, lost).unwrap();
    assert_eq!(stops(&step.effects).len(), 2);
    let mut job = step.job;
    for rank in [0, 1] {
        let end = end_of(rank, stopped(StopCause::PeerFailed));
        job = job.step(T, end).unwrap().job;
    }
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(job.failed_on, [node(2)].into());
    assert_eq!(job.spec.resume_from.as_deref(), Some("s3://b/last.pt"));
}

const PATIENCE: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Timestamp {
    T.plus(Duration::from_secs(seconds))
}

/// Ranks 0 and 1 are ready, rank 2 has said something half a minute later.
fn two_are_ready() -> Job {
    let mut job = starting();
    for rank in [0, 1] {
        job = job.step(at(1), waits(rank)).unwrap().job;
    }
    let says = Event::Preparing(r(2), "fetches the dataset".into());
    let job = job.step(at(30), says).unwrap().job;
    assert_eq!(
        job.reason,
        "2 of 3 ranks are ready; rank 2 on n2: fetches the dataset"
    );
    job
}

#[test]
fn a_rank_is_late_when_nothing_is_heard_of_it_or_nothing_new_for_much_longer() {
    let job = two_are_ready();
    let attempt = job.attempt().unwrap();
    // It says the same again and again, as one does that fetches a large file.
    let mut heard = Heard::from(T);
    heard.note(A1, Rank(2), at(200));
    assert!(attempt.late(at(259), PATIENCE, &heard).is_empty());
    assert_eq!(attempt.next_late(PATIENCE, &heard), Some(at(260)));
    assert_eq!(attempt.late(at(260), PATIENCE, &heard), [Rank(2)]);
    heard.note(A1, Rank(2), at(749));
    assert!(attempt.late(at(749), PATIENCE, &heard).is_empty());
    assert_eq!(attempt.late(at(750), PATIENCE, &heard), [Rank(2)]);
    // Nobody was there to listen: silence begins anew.
    let later = Heard::from(at(9_000));
    assert!(attempt.late(at(9_059), PATIENCE, &later).is_empty());
    assert_eq!(attempt.late(at(9_060), PATIENCE, &later), [Rank(2)]);
}

#[test]
fn ranks_that_are_not_ready_in_time_give_their_places_back_and_are_avoided() {
    let job = two_are_ready();
    let late = vec![Rank(2)];
    let step = job.step(at(90), Event::Late(A1, late)).unwrap();
    assert_eq!(stops(&step.effects).len(), 3, "the late one as well");
    let mut job = step.job;
    for rank in 0..RANKS {
        assert!(!job.allocations().is_empty(), "until all have said so");
        let end = TaskEnd {
            stop_cause: Some(StopCause::PeerFailed),
            ..TaskEnd::default()
        };
        job = job.step(at(91), end_of(rank, end)).unwrap().job;
    }
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(job.failed_on, [node(2)].into());
    let words = "is tried again (1 of 3): rank 2 on n2: was not ready in time";
    assert!(job.reason.starts_with(words), "{}", job.reason);
}

#[test]
fn a_gang_that_is_cancelled_is_cancelled_whatever_its_ranks_make_of_the_signal() {
    let step = running_gang().step(T, Event::CancelRequested).unwrap();
    assert_eq!(stops(&step.effects).len(), 3);
    // Its peer went away before the signal reached it.
    let mut job = step.job.step(T, end_of(1, code(1))).unwrap().job;
    for rank in [0, 2] {
        let end = end_of(rank, stopped(StopCause::Cancelled));
        job = job.step(T, end).unwrap().job;
    }
    assert_eq!(job.state, JobState::Cancelled);
}

#[test]
fn only_rank_0_says_how_the_training_goes() {
    let progress = |epoch| Progress {
        at: T,
        epoch,
        total_epochs: 9,
        step: None,
        values: [].into(),
        has_metrics: true,
        checkpoint: None,
        best_checkpoint: None,
    };
    let said = |rank, epoch| {
        let told = Told {
            seq: 1,
            progress: Some(progress(epoch)),
            ..Told::default()
        };
        Event::Stored(r(rank), Box::new(told))
    };
    let job = running_gang().step(T, said(0, 4)).unwrap().job;
    let job = job.step(T, said(1, 7)).unwrap().job;
    assert_eq!(job.progress.as_ref().map(|said| said.epoch), Some(4));
    let stored = job.attempt().unwrap().parts();
    let stored: Vec<_> = stored.map(|(_, part)| part.stored_seq).collect();
    assert_eq!(stored, [1, 1, 0]);
}

#[test]
fn the_row_of_a_job_on_one_node_reads_as_it_always_did() {
    let job = after(vec![Event::Prepared, placed(), exit(0, 4)]).job;
    let row = serde_json::to_value(job.attempt().unwrap()).unwrap();
    assert_eq!(row["allocation"]["node"], "n1");
    assert_eq!(
        (&row["stored_seq"], &row["end"]["last_seq"]),
        (&0.into(), &4.into())
    );
    let of_gangs = [
        "over",
        "others",
        "waits",
        "heard_at",
        "let_go_at",
        "blame",
        "port",
        "detail",
    ];
    assert!(of_gangs.iter().all(|key| row.get(key).is_none()), "{row}");
    let gang = running_gang();
    let row = serde_json::to_string(&gang).unwrap();
    assert_eq!(serde_json::from_str::<Job>(&row).unwrap(), gang);
}

fn any_event() -> impl Strategy<Value = Event> {
    let rank = 0..RANKS;
    let end = prop_oneof![
        Just(code(0)),
        Just(code(1)),
        Just(stopped(StopCause::PeerFailed)),
        (0u64..3).prop_map(|last_seq| TaskEnd {
            last_seq,
            ..code(0)
        }),
    ];
    prop_oneof![
        3 => rank.clone().prop_map(waits),
        3 => rank.clone().prop_map(|rank| Event::Started(r(rank), T)),
        1 => rank.clone().prop_map(|rank| Event::Preparing(r(rank), "builds".into())),
        1 => (rank.clone(), end).prop_map(|(rank, end)| end_of(rank, end)),
        1 => (rank.clone(), 0u64..3).prop_map(|(rank, seq)| {
            let told = Told { seq, ..Told::default() };
            Event::Stored(r(rank), Box::new(told))
        }),
        1 => rank.clone().prop_map(|rank| Event::AttemptLost(r(rank), "gone".into())),
        1 => rank.clone().prop_map(|rank| Event::NodeLost(A1, node(rank), "silent".into())),
        1 => rank.prop_map(|rank| Event::Late(A1, vec![Rank(rank)])),
        1 => Just(Event::CancelRequested),
    ]
}

proptest! {
    #[test]
    fn a_gang_starts_whole_or_not_at_all_and_ends_whole_whatever_comes(
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut job = starting();
        let mut ready = std::collections::BTreeSet::new();
        for event in events {
            let said = if let Event::Waiting(task, _) = &event {
                Some(task.rank)
            } else {
                None
            };
            let Ok(step) = job.step(T, event) else { continue };
            ready.extend(said);
            let live = step.job.attempts[0].clone();
            let launched = step.effects.iter().any(|effect| matches!(effect, Effect::Launch(..)));
            prop_assert!(!launched || ready.len() == 3, "INV-05");
            if step.job.state == JobState::Running {
                prop_assert!(live.started_at().is_some(), "INV-05");
            }
            let failed = (0..RANKS).filter_map(|rank| live.outcome_of(Rank(rank)));
            let failed = failed.filter(|outcome| outcome.class.is_some()).count() > 0;
            if failed && !live.has_ended() {
                prop_assert!(live.blame.is_some(), "whoever is left is stopped");
            }
            let over = live.parts().all(|(_, part)| part.is_over());
            prop_assert_eq!(over, !step.job.state.holds_resources());
            let held = step.job.allocations().len();
            prop_assert!(job.allocations().len() <= held || step.effects.contains(&Effect::Release));
            prop_assert_eq!(step.job.outcome.is_some(), step.job.state.is_terminal());
            job = step.job;
        }
    }
}

#[test]
fn a_gang_that_makes_room_goes_whole_unless_it_was_through() {
    let going = running_gang()
        .step(T, Event::MakeRoom(A1, JobId(9)))
        .unwrap();
    assert_eq!(going.effects.len(), 3, "all ranks are told");
    let told = |code| TaskEnd {
        exit_code: code,
        stop_cause: Some(StopCause::Preempted),
        ..TaskEnd::default()
    };
    // Rank 1 fails because rank 2 has gone, before it is told itself.
    let mut job = going.job.clone();
    for event in [
        end_of(2, told(None)),
        end_of(1, code(1)),
        end_of(0, told(None)),
    ] {
        job = job.step(T, event).unwrap().job;
    }
    assert_eq!((job.state, job.tried.again), (JobState::Queued, 0));
    let word = Told {
        completion: Some(crate::record::Completion {
            succeeded: true,
            ..Default::default()
        }),
        ..Told::default()
    };
    let mut job = going
        .job
        .step(T, Event::Stored(r(0), Box::new(word)))
        .unwrap()
        .job;
    for rank in 0..RANKS {
        job = job.step(T, end_of(rank, told(Some(0)))).unwrap().job;
    }
    assert_eq!(job.state, JobState::Completed);
}

#[test]
fn a_gang_leaves_whole_when_one_of_its_nodes_is_drained() {
    let why = "node n1 is drained: new fan".to_owned();
    let going = running_gang().step(T, Event::Vacate(A1, why)).unwrap();
    assert_eq!(going.effects.len(), 3, "all ranks are told");
    let mut job = going.job;
    for rank in [2, 0, 1] {
        let told = TaskEnd {
            signal: Some(15),
            stop_cause: Some(StopCause::Preempted),
            ..TaskEnd::default()
        };
        job = job.step(T, end_of(rank, told)).unwrap().job;
    }
    assert_eq!((job.state, job.tried.again), (JobState::Queued, 0));
    assert!(job.failed_on.is_empty(), "it is nobody's fault");
}

//! A rank whose node has no trace of it: what the job says of itself proves nothing, what that node has said does.

use std::time::Duration;

use trainyard_core::{
    ids::{AttemptNo, NodeName, SessionNo},
    job::Event,
};

use super::{
    retries::{runs, say, until},
    *,
};

/// A gang of two on two nodes, and the task of `n2`, which runs; that of `n1` does not yet.
async fn half_started(
    world: &World,
) -> (JobId, [(SessionRef, Frames); 2], [Option<v1::TaskKey>; 2]) {
    let reached = |address: &str| v1::Hello {
        address: address.to_owned(),
        ..v1::Hello::default()
    };
    let mut nodes = [
        node_as(world, "n1", reached("10.0.0.1")).await,
        node_as(world, "n2", reached("10.0.0.2")).await,
    ];
    let mut submission = submission(RetryPolicy::default());
    submission.spec.nodes = 2;
    let question = |reply| JobsMsg::Submit(Box::new(submission), reply);
    let job = ask(&world.tree.jobs, question).await.unwrap().id;
    let tasks = [
        start_of(&mut nodes[0].1).await.task,
        start_of(&mut nodes[1].1).await.task,
    ];
    say(&nodes[1].0, runs(tasks[1]));
    let started = |job: &Job| {
        let live = job.live();
        live.is_some_and(|live| live.parts().any(|(_, part)| part.started_at.is_some()))
    };
    until(world, job, started).await;
    (job, nodes, tasks)
}

/// As n2 says in that session; its first is the second of all.
fn no_trace(world: &World, job: JobId, session: u64) {
    let session = SessionNo(session);
    let message = JobMsg::NoTrace(AttemptNo(1), NodeName("n2".into()), session);
    world.tree.jobs.cast(JobsMsg::Route(job, message)).unwrap();
}

#[tokio::test]
async fn a_rank_of_which_its_node_lost_every_trace_is_lost_though_the_gang_began_to_run_since() {
    let world = world(Lease::default()).await;
    let (job, nodes, tasks) = half_started(&world).await;
    // n2 registers anew without it, and before the job hears of that its last rank starts.
    say(&nodes[0].0, runs(tasks[0]));
    until(&world, job, |job| job.state == JobState::Running).await;
    no_trace(&world, job, 3);
    let ends = |job: &Job| job.live().is_some_and(|live| live.blame.is_some());
    let lost = until(&world, job, ends).await;
    assert!(lost.reason.contains("n2"), "{}", lost.reason);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_rank_that_its_node_has_told_of_in_that_very_session_is_not_lost_while_its_gang_starts() {
    let world = world(Lease::default()).await;
    let (job, nodes, tasks) = half_started(&world).await;
    no_trace(&world, job, 2);
    say(&nodes[0].0, runs(tasks[0]));
    let runs = |job: &Job| job.state != JobState::Starting;
    let on = until(&world, job, runs).await;
    assert_eq!(on.state, JobState::Running, "{}", on.reason);
    assert!(on.live().is_some_and(|live| live.blame.is_none()));
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn what_a_node_has_told_in_a_session_is_known_also_when_the_actor_of_its_job_has_failed_since()
 {
    let world = world(Lease::default()).await;
    let (job, nodes, tasks) = half_started(&world).await;
    let fails = JobsMsg::Route(job, JobMsg::Fail);
    world.tree.jobs.cast(fails).unwrap();
    let mut changes = world.store.changes(job);
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let goes_on = async {
        // Mail for the one that has failed is lost.
        while world.store.job(job).unwrap().unwrap().state == JobState::Starting {
            no_trace(&world, job, 2);
            say(&nodes[0].0, runs(tasks[0]));
            tokio::select! {
                _ = changes.changed() => {}
                _ = tick.tick() => {}
            }
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, goes_on).await.expect("in time");
    no_trace(&world, job, 2);
    let question = |reply| JobsMsg::Route(job, JobMsg::Event(Event::CancelRequested, Some(reply)));
    let asked = ask(&world.tree.jobs, question).await.unwrap().unwrap();
    let live = asked.live().expect("its trainers are to stop first");
    assert!(live.blame.is_none(), "{}", asked.reason);
    assert!(live.parts().all(|(_, part)| part.end.is_none()));
    world.root.stop_and_wait(None, None).await.unwrap();
}

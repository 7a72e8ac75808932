//! Tasks that run though nobody wants them any more, and that show it when their node is open already.

use std::time::Duration;

use trainyard_core::{
    ids::{AttemptNo, NodeName, SessionNo},
    retry::RetryPolicy,
};

use super::{
    ahead::{held, waiting},
    retries::{Beats, at_once, exits, info, running, runs, say, starts, until},
    *,
};
use crate::{
    actors::scheduler::{NodeUp, SchedulerMsg},
    clock::ahead,
};

/// How many strays the scheduler sees on n1; whatever was told before has been taken in by then.
async fn strays(world: &World) -> usize {
    // What Nodes and the scheduler say of what they are told goes through them once more.
    for _ in 0..3 {
        info(world, "n1").await;
        ask(&world.tree.scheduler, SchedulerMsg::View)
            .await
            .unwrap();
    }
    let view = ask(&world.tree.scheduler, SchedulerMsg::View).await;
    let view = view.unwrap();
    let n1 = view.iter().find(|node| node.name.0 == "n1");
    n1.unwrap().strays
}

/// Until the scheduler sees so many.
async fn until_strays(world: &World, count: usize) {
    let seen = async { while strays(world).await != count {} };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, seen).await.expect("in time");
}

fn lists(session: &SessionRef, tasks: Vec<v1::TaskReport>) {
    let beat = v1::Heartbeat {
        tasks,
        ..v1::Heartbeat::default()
    };
    let frame = connect_request::Frame::Heartbeat(beat);
    session.cast(SessionMsg::Incoming(Box::new(frame))).unwrap();
}

/// The task that is the next to be told to stop; nothing may be started before.
pub(super) async fn stopped(frames: &mut Frames) -> Option<v1::TaskKey> {
    let stop = async {
        loop {
            let frame = *frames.recv().await.unwrap();
            assert!(!matches!(frame, Frame::Start(_)), "too early: {frame:?}");
            if let Frame::Stop(stop) = frame {
                return stop.task;
            }
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, stop).await.expect("in time")
}

async fn started(frames: &mut Frames) -> v1::StartTask {
    let limit = Duration::from_secs(30);
    let start = tokio::time::timeout(limit, start_of(frames)).await;
    start.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_back_before_its_loss_is_on_disk_gets_no_work_until_what_it_runs_has_ended()
{
    let world = world(Lease::default()).await;
    let (job, session, mut frames, task) = running(&world, at_once()).await;
    let n1 = NodeName("n1".into());
    let hold = held(&world.store).await;
    let lost = SchedulerMsg::NodeLost(n1.clone(), "it was silent".to_owned());
    world.tree.scheduler.cast(lost).unwrap();
    waiting(&world.store, 1).await;
    // The job has given the attempt up, which waits for the disk; meanwhile the node registers.
    let known = (job, AttemptNo(1));
    let up = NodeUp {
        name: n1,
        capacity: info(&world, "n1").await.row.capacity,
        open: true,
        session: SessionNo(1),
        knows: [known].into(),
        runs: [known].into(),
    };
    let up = SchedulerMsg::NodeUp(Box::new(up));
    world.tree.scheduler.cast(up).unwrap();
    assert_eq!(strays(&world).await, 0, "it is wanted still");
    drop(hold);
    until(&world, job, |job| job.state == JobState::Queued).await;
    until_strays(&world, 1).await;
    assert!(starts(&mut frames).is_empty(), "its GPUs are not free");
    say(&session, runs(task));
    assert_eq!(stopped(&mut frames).await, task);
    say(&session, exits(task));
    let next = started(&mut frames).await;
    assert_eq!(next.task.unwrap().attempt, 2);
    assert_eq!(strays(&world).await, 0);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_stray_that_shows_itself_late_keeps_its_node_until_the_agent_lists_it_no_more() {
    let world = world(Lease::default()).await;
    let (session, mut frames) = node(&world, "n1").await;
    let task = Some(v1::TaskKey {
        job_id: 7,
        attempt: 1,
        rank: 0,
    });
    say(&session, runs(task));
    assert_eq!(stopped(&mut frames).await, task);
    assert_eq!(strays(&world).await, 1);
    submit(&world, RetryPolicy::default()).await;
    lists(&session, vec![runs(task)]);
    assert_eq!(stopped(&mut frames).await, task, "it is told again");
    assert_eq!(strays(&world).await, 1);
    assert!(starts(&mut frames).is_empty());
    lists(&session, Vec::new());
    let start = started(&mut frames).await;
    assert_eq!(start.task.unwrap().job_id, 8, "number 7 was given before");
    assert_eq!(strays(&world).await, 0);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_node_that_comes_back_without_its_task_loses_it_though_the_clock_was_set_back_meanwhile()
{
    ahead::pass(Duration::from_secs(7_200));
    let world = world(Lease::default()).await;
    let (job, _first, _frames, task) = running(&world, at_once()).await;
    ahead::back(Duration::from_secs(3_600));
    let (again, mut frames) = node(&world, "n1").await;
    let _alive = Beats::of(&again);
    let next = started(&mut frames).await;
    let (first, next) = (task.unwrap(), next.task.unwrap());
    assert_eq!((next.job_id, next.attempt), (first.job_id, 2));
    let stored = world.store.job(job).unwrap().unwrap();
    let lost = stored.attempts.first().unwrap().outcome().unwrap();
    assert!(lost.message.contains("without a trace"), "{}", lost.message);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn no_job_gets_a_number_that_an_agent_still_has_something_of_also_after_the_next_start() {
    let world = world(Lease::default()).await;
    let key = |job_id| {
        let (attempt, rank) = (1, 0);
        Some(v1::TaskKey {
            job_id,
            attempt,
            rank,
        })
    };
    // As after a restore from a backup: the store knows less than the agents.
    let far = runs(key(5_000_000));
    let (_session, mut frames) = node_with(&world, "n1", vec![runs(key(41)), far]).await;
    stopped(&mut frames).await;
    stopped(&mut frames).await;
    let job = submit(&world, RetryPolicy::default()).await;
    assert_eq!(job, JobId(42));
    world.root.stop_and_wait(None, None).await.unwrap();
    assert_eq!(world.store.last_job().unwrap(), JobId(42));
}

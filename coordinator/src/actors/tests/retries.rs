//! Jobs that are tried again by themselves: after launches that fail, and after nodes that are lost.

use std::time::Duration;

use tokio_util::task::TaskTracker;
use trainyard_core::{ids::NodeName, node::NodeState, retry::OnLost, service::Drain};

use super::*;
use crate::actors::{
    nodes::{NodeInfo, NodeOrder},
    scheduler::SchedulerMsg,
};

/// Nodes are believed for half a second.
pub(super) fn short() -> Lease {
    Lease {
        suspect_after: Duration::from_millis(250),
        lost_after: Duration::from_millis(500),
    }
}

pub(super) fn at_once() -> RetryPolicy {
    RetryPolicy {
        limit: 20,
        backoff: Duration::ZERO,
        ..RetryPolicy::default()
    }
}

/// Waits for a state of the job, at most half a minute.
pub(super) async fn until(world: &World, job: JobId, what: impl Fn(&Job) -> bool) -> Job {
    let mut changes = world.store.changes(job);
    let wait = async {
        loop {
            let stored = world.store.job(job).unwrap().unwrap();
            if what(&stored) {
                return stored;
            }
            changes.changed().await.unwrap();
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, wait).await.expect("in time")
}

pub(super) async fn info(world: &World, name: &str) -> NodeInfo {
    let nodes = ask(&world.tree.nodes, NodesMsg::List).await.unwrap();
    let is_it = |node: &NodeInfo| node.row.name == NodeName(name.into());
    nodes.into_iter().find(is_it).unwrap()
}

async fn set_drain(world: &World, name: &str, reason: Option<String>) {
    let name = NodeName(name.into());
    let drain = reason.map(|reason| Drain {
        reason,
        deadline: None,
    });
    let by = String::new();
    let order = Box::new(NodeOrder { drain, by });
    let question = |reply| NodesMsg::SetDrain(name, order, reply);
    ask(&world.tree.nodes, question).await.unwrap();
}

pub(super) fn say(session: &SessionRef, report: v1::TaskReport) {
    let frame = connect_request::Frame::Report(report);
    session.cast(SessionMsg::Incoming(Box::new(frame))).unwrap();
}

pub(super) fn runs(task: Option<v1::TaskKey>) -> v1::TaskReport {
    v1::TaskReport {
        task,
        phase: TaskPhase::Running.into(),
        started_at: Some(timestamp(Timestamp(0))),
        ..v1::TaskReport::default()
    }
}

pub(super) fn exits(task: Option<v1::TaskKey>) -> v1::TaskReport {
    v1::TaskReport {
        phase: TaskPhase::Exited.into(),
        end: Some(v1::TaskEnd {
            exit_code: Some(0),
            ..v1::TaskEnd::default()
        }),
        ..runs(task)
    }
}

/// Waits until a session is over; what it was told until then is left.
async fn ended(frames: &mut Frames) {
    let over = async { while frames.recv().await.is_some() {} };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, over).await.expect("in time");
}

/// It did not start, by the fault of something that all nodes share.
fn unfetched(task: Option<v1::TaskKey>) -> v1::TaskReport {
    v1::TaskReport {
        end: Some(v1::TaskEnd {
            error: "dataset 'pets' cannot be fetched: the store answers 503".into(),
            infrastructure: true,
            ..v1::TaskEnd::default()
        }),
        ..broken(task)
    }
}

fn broken(task: Option<v1::TaskKey>) -> v1::TaskReport {
    v1::TaskReport {
        task,
        phase: TaskPhase::NotStarted.into(),
        end: Some(v1::TaskEnd {
            error: "no space left on device".into(),
            infrastructure: true,
            node_fault: true,
            ..v1::TaskEnd::default()
        }),
        ..v1::TaskReport::default()
    }
}

/// The tasks that a node has been told to start since it was last asked.
pub(super) fn starts(frames: &mut Frames) -> Vec<Option<v1::TaskKey>> {
    let mut found = Vec::new();
    while let Ok(frame) = frames.try_recv() {
        if let Frame::Start(start) = *frame {
            found.push(start.task);
        }
    }
    found
}

/// Signs of life of a node, until it is dropped.
pub(super) struct Beats(tokio::task::JoinHandle<()>);

impl Beats {
    /// Of one that has no task any more.
    pub(super) fn of(session: &SessionRef) -> Self {
        Self::listing(session, Vec::new())
    }

    /// What they do not list has ended, as in the agent's own.
    fn listing(session: &SessionRef, tasks: Vec<v1::TaskReport>) -> Self {
        let session = session.clone();
        Self(TaskTracker::new().spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            loop {
                tick.tick().await;
                let beat = connect_request::Frame::Heartbeat(v1::Heartbeat {
                    tasks: tasks.clone(),
                    ..v1::Heartbeat::default()
                });
                session.cast(SessionMsg::Incoming(Box::new(beat))).ok();
            }
        }))
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn node_that_fails_every_launch_is_cordoned_after_a_few() {
    let world = world(Lease::default()).await;
    let (session, mut frames) = node(&world, "n1").await;
    submit(&world, at_once()).await;
    // Each launch fails, until there are no more.
    let failing = async {
        loop {
            if let Some(why) = info(&world, "n1").await.row.drained {
                return why;
            }
            for task in starts(&mut frames) {
                say(&session, broken(task));
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(30);
    let why = tokio::time::timeout(limit, failing).await.unwrap();
    assert_eq!(
        why,
        "3 launches in a row failed, the last one: no space left on device"
    );
    // Another node gets it; one more launch may have been on its way to this one.
    let (_other, mut others) = node(&world, "n2").await;
    let elsewhere = async {
        loop {
            for task in starts(&mut frames) {
                say(&session, broken(task));
            }
            if let Some(task) = starts(&mut others).pop() {
                return task.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let attempt = tokio::time::timeout(limit, elsewhere)
        .await
        .unwrap()
        .attempt;
    assert!((4..=5).contains(&attempt), "{attempt}");
    // Resumed, and alone, it begins to count anew.
    set_drain(&world, "n2", Some("a case wants it".to_owned())).await;
    set_drain(&world, "n1", None).await;
    submit(&world, at_once()).await;
    let start = start_of(&mut frames).await;
    say(&session, broken(start.task));
    let again = tokio::time::timeout(limit, start_of(&mut frames)).await;
    assert_eq!(again.unwrap().task.unwrap().attempt, 2);
    assert_eq!(info(&world, "n1").await.row.drained, None);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn launches_that_fail_by_what_all_nodes_share_close_no_node() {
    let world = world(Lease::default()).await;
    let (session, mut frames) = node(&world, "n1").await;
    let limited = RetryPolicy {
        limit: 5,
        ..at_once()
    };
    let job = submit(&world, limited).await;
    let limit = Duration::from_secs(30);
    for _ in 0..6 {
        let start = tokio::time::timeout(limit, start_of(&mut frames)).await;
        say(&session, unfetched(start.expect("the node is open").task));
    }
    let failed = until(&world, job, |job| job.state.is_terminal()).await;
    assert_eq!(failed.attempts.len(), 6);
    // Behind all that the job has told of its launches, and the node still gets work.
    submit(&world, at_once()).await;
    let next = tokio::time::timeout(limit, start_of(&mut frames)).await;
    assert_eq!(next.unwrap().task.unwrap().attempt, 1);
    assert_eq!(info(&world, "n1").await.row.drained, None);
    world.root.stop_and_wait(None, None).await.unwrap();
}

/// A job that runs on `n1`: the job, the node's session and frames, and the task.
pub(super) async fn running(
    world: &World,
    retry: RetryPolicy,
) -> (JobId, SessionRef, Frames, Option<v1::TaskKey>) {
    let (session, mut frames) = node(world, "n1").await;
    let job = submit(world, retry).await;
    let task = start_of(&mut frames).await.task;
    say(&session, runs(task));
    until(world, job, |job| job.state == JobState::Running).await;
    (job, session, frames, task)
}

#[tokio::test]
async fn a_lost_node_that_speaks_again_gets_no_work_before_its_strays_have_ended() {
    let world = world(short()).await;
    let (job, first, mut frames, task) = running(&world, at_once()).await;
    until(&world, job, |job| job.state == JobState::Queued).await;
    // It was only slow, and alone: it speaks on where it was, and nobody believes it.
    let on = connect_request::Frame::Report(runs(task));
    first.cast(SessionMsg::Incoming(Box::new(on))).ok();
    ended(&mut frames).await;
    let (again, mut frames) = node_with(&world, "n1", vec![runs(task)]).await;
    let alive = Beats::listing(&again, vec![runs(task)]);
    let stopped = super::strays::stopped(&mut frames).await;
    assert_eq!(stopped, task);
    // What is asked behind that: there was time enough to place it.
    info(&world, "n1").await;
    ask(&world.tree.scheduler, SchedulerMsg::View)
        .await
        .unwrap();
    assert!(starts(&mut frames).is_empty());
    drop(alive);
    say(&again, exits(task));
    let _alive = Beats::of(&again);
    let next = tokio::time::timeout(Duration::from_secs(30), start_of(&mut frames)).await;
    assert_eq!(next.unwrap().task.unwrap().attempt, 2);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn agent_that_returns_after_its_lease_is_fenced_not_trusted() {
    let world = world(short()).await;
    let (job, _first, mut frames, task) = running(&world, at_once()).await;
    let (second, mut others) = node(&world, "n2").await;
    let _alive = Beats::of(&second);
    // n1 says nothing more: its lease runs out, and the job begins anew elsewhere.
    let again = start_of(&mut others).await;
    assert_eq!(again.task.as_ref().unwrap().attempt, 2);
    say(&second, runs(again.task));
    let on = until(&world, job, |job| job.state == JobState::Running).await;
    let lost = on.attempts.first().unwrap().outcome().unwrap();
    assert_eq!(lost.class.map(|class| class.name()), Some("lost"));
    // Here it is again, with a task that even ends well.
    ended(&mut frames).await;
    let (first, mut frames) = node_with(&world, "n1", vec![runs(task)]).await;
    let stop = async {
        loop {
            if let Frame::Stop(stop) = *frames.recv().await.unwrap() {
                return stop;
            }
        }
    };
    let limit = Duration::from_secs(30);
    let stop = tokio::time::timeout(limit, stop).await.unwrap();
    assert_eq!((stop.task, stop.cause()), (task, v1::StopCause::Fenced));
    say(&first, exits(task));
    // The answer to the report: by then it has been taken, or not.
    let forgotten = async {
        loop {
            if let Frame::Forget(forget) = *frames.recv().await.unwrap() {
                return forget.task;
            }
        }
    };
    let forgotten = tokio::time::timeout(limit, forgotten).await.unwrap();
    assert_eq!(forgotten, task);
    let still = world.store.job(job).unwrap().unwrap();
    assert_eq!((still.state, still.attempts.len()), (JobState::Running, 2));
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_job_that_waits_for_its_node_is_running_again_when_the_node_speaks() {
    let world = world(short()).await;
    let (session, mut frames) = node(&world, "n1").await;
    let wait = RetryPolicy {
        on_lost: OnLost::Wait,
        ..at_once()
    };
    let job = submit(&world, wait).await;
    let start = start_of(&mut frames).await;
    say(&session, runs(start.task));
    let waited_for = |job: &Job| job.reason.contains("it is waited for");
    let silent = until(&world, job, waited_for).await;
    assert_eq!(silent.state, JobState::Running);
    let (session, _frames) = node_with(&world, "n1", vec![runs(start.task)]).await;
    let _alive = Beats::of(&session);
    let back = until(&world, job, |job| job.reason.is_empty()).await;
    assert_eq!((back.state, back.attempts.len()), (JobState::Running, 1));
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn twenty_five_status_timeouts_of_a_healthy_job_cause_no_relaunch() {
    let lease = Lease {
        suspect_after: Duration::from_millis(200),
        lost_after: Duration::from_secs(600),
    };
    let world = world(lease).await;
    let (session, mut frames) = node(&world, "n1").await;
    let job = submit(&world, at_once()).await;
    let start = start_of(&mut frames).await;
    say(&session, runs(start.task));
    until(&world, job, |job| job.state == JobState::Running).await;
    let limit = Duration::from_secs(30);
    for _ in 0..25 {
        let silent = async {
            while info(&world, "n1").await.state == NodeState::Ready {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(limit, silent).await.unwrap();
        say(&session, runs(start.task));
    }
    let still = world.store.job(job).unwrap().unwrap();
    assert_eq!((still.state, still.attempts.len()), (JobState::Running, 1));
    assert!(starts(&mut frames).is_empty());
    world.root.stop_and_wait(None, None).await.unwrap();
}

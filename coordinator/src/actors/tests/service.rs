//! Maintenance windows over time: they begin, empty their nodes, end, and all of that over restarts.

use std::{collections::BTreeSet, time::Duration};

use ::tests::wait::until as eventually;
use trainyard_core::{
    ids::NodeName,
    retry::OnLost,
    service::{AtDeadline, Deadline, Drain, Duty, Scope, Window},
};

use super::{
    retries::{Beats, info, running, runs, say, until},
    *,
};
use crate::{
    actors::nodes::{NewWindow, NodeOrder},
    clock::{self, ahead},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Nodes are looked at ten times a second, and silent ones are believed for long.
fn lease() -> Lease {
    Lease {
        suspect_after: Duration::from_millis(400),
        lost_after: 100 * HOUR,
    }
}

fn on(nodes: &[&str]) -> Scope {
    let nodes = nodes.iter().map(|&node| NodeName(node.to_owned()));
    Scope::Nodes(nodes.collect::<BTreeSet<_>>())
}

async fn plan(world: &World, scope: Scope, (from, until): (u32, u32)) -> Window {
    let now = clock::now();
    let new = Box::new(NewWindow {
        scope,
        from: now.plus(HOUR * from),
        until: now.plus(HOUR * until),
        why: "new fan".into(),
        made_by: "o@example.com".into(),
    });
    let question = |reply| NodesMsg::AddWindow(new, reply);
    ask(&world.tree.nodes, question).await.unwrap()
}

async fn drain(world: &World, name: &str, drain: Option<Drain>) {
    let name = NodeName(name.into());
    let by = "o@example.com".to_owned();
    let order = Box::new(NodeOrder { drain, by });
    let question = |reply| NodesMsg::SetDrain(name, order, reply);
    ask(&world.tree.nodes, question).await.unwrap();
}

async fn does(world: &World, name: &str, what: impl Fn(&Duty) -> bool) {
    eventually("the node does what it should", async || {
        what(&info(world, name).await.duty).then_some(())
    })
    .await;
}

async fn limited(world: &World, limit: Option<Duration>) -> JobId {
    let mut submission = submission(RetryPolicy::default());
    submission.spec.time_limit = limit;
    let question = |reply| JobsMsg::Submit(Box::new(submission), reply);
    ask(&world.tree.jobs, question).await.unwrap().id
}

async fn stop_of(frames: &mut Frames) -> v1::StopTask {
    loop {
        if let Frame::Stop(stop) = *frames.recv().await.unwrap() {
            return stop;
        }
    }
}

/// A node with a job that runs there, for as long as it takes.
struct Busy {
    job: JobId,
    task: Option<v1::TaskKey>,
    session: SessionRef,
    frames: Frames,
    _beats: Beats,
}

async fn busy(world: &World) -> Busy {
    let (job, session, frames, task) = running(world, RetryPolicy::default()).await;
    Busy {
        job,
        task,
        _beats: Beats::of(&session),
        session,
        frames,
    }
}

/// Another coordinator on the same store.
async fn restarted(world: World) -> World {
    world.root.stop_and_wait(None, None).await.unwrap();
    world_on((world.store, world.folder), lease()).await
}

/// It went as it was told.
fn went(task: Option<v1::TaskKey>) -> v1::TaskReport {
    v1::TaskReport {
        phase: TaskPhase::Exited.into(),
        end: Some(v1::TaskEnd {
            signal: Some(15),
            stop_cause: v1::StopCause::Preempted.into(),
            ..v1::TaskEnd::default()
        }),
        ..runs(task)
    }
}

#[tokio::test]
async fn a_window_empties_its_node_when_it_begins_and_the_node_is_back_when_it_ends() {
    let world = world(lease()).await;
    let mut one = busy(&world).await;
    let (job, task) = (one.job, one.task);
    plan(&world, on(&["n1"]), (1, 3)).await;
    let (two, mut at_two) = node(&world, "n2").await;
    let _beats = Beats::of(&two);
    assert_eq!(info(&world, "n1").await.duty, Duty::Open);
    // It would reach into the window on n1, and is alone on n2.
    let long = limited(&world, Some(2 * HOUR)).await;
    assert_eq!(start_of(&mut at_two).await.task.unwrap().job_id, long.0);
    ahead::pass(HOUR);
    let stop = stop_of(&mut one.frames).await;
    assert_eq!((stop.task, stop.cause()), (task, v1::StopCause::Preempted));
    let shown = world.store.job(job).unwrap().unwrap();
    let told = "; saves its work, and goes on elsewhere";
    assert!(
        shown.reason.starts_with("maintenance of node n1 until "),
        "{}",
        shown.reason
    );
    assert!(shown.reason.ends_with(told), "{}", shown.reason);
    say(&one.session, went(task));
    let waits = until(&world, job, |job| job.state == JobState::Queued).await;
    assert_eq!(waits.tried.again, 0);
    does(&world, "n1", |duty| matches!(duty, Duty::Vacating(_))).await;
    ahead::pass(2 * HOUR);
    does(&world, "n1", |duty| *duty == Duty::Open).await;
    let again = start_of(&mut one.frames).await.task.unwrap();
    assert_eq!((again.job_id, again.attempt), (job.0, 2));
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_window_that_is_on_outlives_an_operators_resume_and_ends_when_it_is_taken_back() {
    let world = world(lease()).await;
    let (one, mut at_one) = node(&world, "n1").await;
    let _beats = Beats::of(&one);
    let window = plan(&world, Scope::All, (0, 1)).await;
    assert_eq!(window.id, 1);
    does(&world, "n1", |duty| matches!(duty, Duty::Vacating(_))).await;
    let job = limited(&world, None).await;
    drain(&world, "n1", None).await;
    let shown = info(&world, "n1").await;
    assert!(matches!(shown.duty, Duty::Vacating(_)));
    assert_eq!(shown.window.map(|window| window.id), Some(1));
    let question = |reply| NodesMsg::RemoveWindow(1, "p@example.com".into(), reply);
    let removed = ask(&world.tree.nodes, question).await.unwrap();
    assert_eq!(removed.map(|window| window.id), Some(1));
    assert_eq!(start_of(&mut at_one).await.task.unwrap().job_id, job.0);
    assert_eq!(
        plan(&world, Scope::All, (5, 6)).await.id,
        2,
        "no number twice"
    );
    plan(&world, Scope::All, (6, 7)).await;
    let windows = async || ask(&world.tree.nodes, NodesMsg::Windows).await.unwrap();
    let look = async |passed| {
        ahead::pass(passed);
        world.tree.nodes.cast(NodesMsg::LeaseTick).unwrap();
        windows().await.len()
    };
    // By one look at a clock that may be wrong none is gone.
    assert_eq!(look(40 * HOUR).await, 2);
    assert_eq!(look(HOUR / 10).await, 2);
    for _ in 0..10 {
        look(HOUR / 10).await;
    }
    assert_eq!(windows().await, [], "they were over a day ago");
    assert_eq!(world.store.documents::<Window>("").unwrap(), []);
    world.root.stop_and_wait(None, None).await.unwrap();
}

fn by_deadline(reason: &str, then: AtDeadline) -> Option<Drain> {
    Some(Drain {
        reason: reason.into(),
        deadline: Some(Deadline {
            at: clock::now().plus(HOUR),
            then,
        }),
    })
}

#[tokio::test]
async fn at_its_deadline_a_drain_tells_who_is_left_to_go_or_waits_for_them() {
    let world = world(lease()).await;
    let mut one = busy(&world).await;
    let waits = by_deadline("whenever they are done", AtDeadline::Wait);
    drain(&world, "n1", waits).await;
    ahead::pass(2 * HOUR);
    // It is looked at, and whoever would be told to go is told for this reason.
    world.tree.nodes.cast(NodesMsg::LeaseTick).unwrap();
    assert_eq!(info(&world, "n1").await.duty, Duty::Draining);
    let goes = by_deadline("new fan", AtDeadline::Preempt);
    drain(&world, "n1", goes).await;
    assert_eq!(info(&world, "n1").await.duty, Duty::Draining);
    ahead::pass(HOUR);
    let stop = stop_of(&mut one.frames).await;
    let told = (stop.task, stop.cause());
    assert_eq!(told, (one.task, v1::StopCause::Preempted));
    // The first reason is the one that stays.
    let shown = world.store.job(one.job).unwrap().unwrap().reason;
    assert_eq!(
        shown,
        "node n1 is drained: new fan; saves its work, and goes on elsewhere"
    );
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_drain_goes_on_after_a_restart_by_the_clock_that_there_is_then() {
    let world = world(lease()).await;
    let one = busy(&world).await;
    let goes = by_deadline("new fan", AtDeadline::Preempt);
    drain(&world, "n1", goes).await;
    // Back before the drain: its deadline is to come.
    ahead::pass(HOUR / 2);
    let world = restarted(world).await;
    ahead::back(HOUR / 2);
    let (session, _frames) = node_with(&world, "n1", vec![runs(one.task)]).await;
    assert_eq!(info(&world, "n1").await.duty, Duty::Draining);
    let shown = world.store.job(one.job).unwrap().unwrap();
    assert_eq!(shown.state, JobState::Running);
    drop(session);
    // Ahead beyond the deadline, while nobody is there to look.
    let world = restarted(world).await;
    ahead::pass(2 * HOUR);
    let (_session, mut frames) = node_with(&world, "n1", vec![runs(one.task)]).await;
    let stop = stop_of(&mut frames).await;
    let told = (stop.task, stop.cause());
    assert_eq!(told, (one.task, v1::StopCause::Preempted));
    assert!(matches!(info(&world, "n1").await.duty, Duty::Vacating(_)));
    let row = info(&world, "n1").await.row;
    assert_eq!(row.ordered_by, "o@example.com");
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn a_window_on_a_lost_node_sends_those_elsewhere_who_wait_for_it_and_it_comes_back_closed() {
    let world = world(Lease {
        suspect_after: Duration::from_millis(200),
        lost_after: Duration::from_millis(600),
    })
    .await;
    let waits = RetryPolicy {
        on_lost: OnLost::Wait,
        ..RetryPolicy::default()
    };
    let (job, _session, _frames, _task) = running(&world, waits).await;
    until(&world, job, |job| job.reason.contains("is waited for")).await;
    plan(&world, on(&["n1"]), (0, 2)).await;
    let queued = until(&world, job, |job| job.state == JobState::Queued).await;
    assert_eq!(queued.attempts.len(), 1);
    let (one, mut at_one) = node(&world, "n1").await;
    let _beats = Beats::of(&one);
    let shown = info(&world, "n1").await;
    assert!(matches!(shown.duty, Duty::Vacating(_)), "{shown:?}");
    let question = |reply| NodesMsg::RemoveWindow(1, "o@example.com".into(), reply);
    ask(&world.tree.nodes, question).await.unwrap();
    let again = start_of(&mut at_one).await.task.unwrap();
    assert_eq!((again.job_id, again.attempt), (job.0, 2));
    world.root.stop_and_wait(None, None).await.unwrap();
}

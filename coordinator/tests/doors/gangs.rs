//! Gangs, with agents by hand: all ranks start or none does, and one that fails ends all.

use tonic_types::StatusExt as _;
use trainyard_core::record::LogStream;
use trainyard_proto::v1;

use crate::{
    agent::{Agent, epoch, exited, hello, line, running},
    jobs::{job, program, reachable, try_submit},
    world::World,
};

/// The job takes the whole of each node.
async fn submit(world: &World, nodes: u32) -> Result<u64, tonic::Status> {
    let spec = program(|spec| {
        spec.nodes = nodes;
        spec.retry.backoff = std::time::Duration::ZERO;
        spec.grace_period = std::time::Duration::from_secs(600);
    });
    Ok(try_submit(world, spec, "").await?.job_id)
}

fn waiting(task: v1::TaskKey, port: u32) -> v1::TaskReport {
    v1::TaskReport {
        task: Some(task),
        phase: v1::TaskPhase::Waiting.into(),
        port,
        ..v1::TaskReport::default()
    }
}

/// Stopped before it had a process.
fn given_up(task: v1::TaskKey) -> v1::TaskReport {
    v1::TaskReport {
        task: Some(task),
        phase: v1::TaskPhase::NotStarted.into(),
        end: Some(v1::TaskEnd {
            stop_cause: v1::StopCause::PeerFailed.into(),
            ..v1::TaskEnd::default()
        }),
        ..v1::TaskReport::default()
    }
}

/// Says that it is ready, and that it runs once it is told to start.
async fn goes(agent: &mut Agent, (task, port): (v1::TaskKey, u32)) -> v1::LaunchTask {
    agent.report(waiting(task, port)).await;
    let launch = agent.launch().await;
    assert_eq!(launch.task, Some(task));
    agent.report(running(task)).await;
    launch
}

/// Two nodes that run a job as its ranks 0 and 1; the second has the lower address.
async fn gang(world: &World) -> (u64, [(Agent, v1::TaskKey); 2]) {
    let mut high = reachable(world, "n1", "10.0.0.2").await;
    let mut low = reachable(world, "n2", "10.0.0.10").await;
    let id = submit(world, 2).await.unwrap();
    let tasks = [high.start().await, low.start().await];
    assert!(tasks.iter().all(|start| start.world_size == 2));
    let [one, zero] = tasks.map(|start| start.task.unwrap());
    assert_eq!((zero.rank, one.rank), (0, 1), "as texts 10.0.0.10 is first");
    let (first, second) = tokio::join!(goes(&mut high, (one, 0)), goes(&mut low, (zero, 29_511)));
    assert_eq!(first.addresses, ["10.0.0.10", "10.0.0.2"]);
    assert_eq!((first.port, second.port), (29_511, 29_511));
    assert_eq!(first.addresses, second.addresses);
    (id, [(low, zero), (high, one)])
}

#[tokio::test]
async fn a_gang_meets_where_rank_0_says_and_ends_when_all_ranks_have() {
    let world = World::start().await;
    let (id, [(mut low, zero), (mut high, one)]) = gang(&world).await;
    let mut first = low.attach(&world).await;
    let mut second = high.attach(&world).await;
    first.deliver(zero, 1, &[epoch(1, &[("loss", 0.5)])]).await;
    let said = [
        epoch(1, &[("loss", 7.0)]),
        line(LogStream::Stdout, "", "of rank 1"),
    ];
    second.deliver(one, 1, &said).await;
    low.report(exited(zero, 0, 1)).await;
    assert_eq!(low.forget().await, zero);
    let shown = job(&world, id).await;
    assert_eq!(shown.state(), v1::JobState::Running, "rank 1 goes on");
    // Its place is free for others meanwhile.
    let other = submit(&world, 1).await.unwrap();
    assert_eq!(low.start().await.task.unwrap().job_id, other);
    high.report(exited(one, 0, 2)).await;
    assert_eq!(high.forget().await, one);
    let shown = job(&world, id).await;
    assert_eq!(shown.state(), v1::JobState::Completed);
    let tasks = &shown.attempts[0].tasks;
    let nodes: Vec<_> = tasks.iter().map(|task| task.node.as_str()).collect();
    assert_eq!(nodes, ["n2", "n1"]);
    assert!(tasks.iter().all(|task| task.outcome.is_some()));
    // Rank 0 speaks for the job; the others are there for who asks for all.
    let mut jobs = world.jobs().await;
    let mut points = async |with_superseded| {
        let request = v1::ListMetricsRequest {
            job_id: id,
            with_superseded,
            ..v1::ListMetricsRequest::default()
        };
        let points = jobs
            .list_metrics(request)
            .await
            .unwrap()
            .into_inner()
            .points;
        points.iter().map(|point| point.rank).collect::<Vec<_>>()
    };
    assert_eq!(points(false).await, [0]);
    assert_eq!(points(true).await, [0, 1]);
    let request = v1::ListLogsRequest {
        job_id: id,
        ..v1::ListLogsRequest::default()
    };
    let lines = jobs.list_logs(request).await.unwrap().into_inner().lines;
    assert_eq!((lines[0].rank, lines[0].text.as_str()), (1, "of rank 1"));
}

#[tokio::test]
async fn a_rank_that_fails_stops_the_others_within_thirty_seconds_whatever_grace_the_job_has() {
    let world = World::start().await;
    let (id, [(mut low, zero), (mut high, one)]) = gang(&world).await;
    high.report(exited(one, 3, 0)).await;
    assert_eq!(high.forget().await, one);
    let stop = low.stop().await;
    assert_eq!(
        (stop.task, stop.cause()),
        (Some(zero), v1::StopCause::PeerFailed)
    );
    assert!(
        stop.grace_period.unwrap().seconds <= 20,
        "of 600 that it asks for"
    );
    // A stop may be lost: whoever runs on hears of it again.
    low.report(running(zero)).await;
    assert_eq!(low.stop().await.task, Some(zero));
    let mut end = exited(zero, 143, 0);
    if let Some(end) = &mut end.end {
        end.stop_cause = v1::StopCause::PeerFailed.into();
    }
    low.report(end).await;
    assert_eq!(low.forget().await, zero);
    let shown = job(&world, id).await;
    assert_eq!(shown.state(), v1::JobState::Failed);
    assert_eq!(shown.outcome.unwrap().message, "rank 1 on n1: exit code 3");
}

#[tokio::test]
async fn a_node_that_is_not_ready_in_time_is_avoided_and_all_give_their_places_back() {
    let world = World::with(|config| config.nodes.gang_patience_seconds = 1).await;
    let mut silent = reachable(&world, "n1", "10.0.0.1").await;
    let mut ready = reachable(&world, "n2", "10.0.0.2").await;
    let id = submit(&world, 2).await.unwrap();
    let mute = silent.start().await.task.unwrap();
    let waits = ready.start().await.task.unwrap();
    ready.report(waiting(waits, 0)).await;
    let stops = [silent.stop().await, ready.stop().await];
    assert!(
        stops
            .iter()
            .all(|stop| stop.cause() == v1::StopCause::PeerFailed)
    );
    let mut spare = reachable(&world, "n3", "10.0.0.3").await;
    ready.report(given_up(waits)).await;
    assert_eq!(ready.forget().await, waits);
    silent.report(given_up(mute)).await;
    assert_eq!(silent.forget().await, mute);
    let again = [ready.start().await, spare.start().await];
    let again = again.map(|start| start.task.unwrap());
    assert_eq!(
        again.map(|task| (task.attempt, task.rank)),
        [(2, 0), (2, 1)]
    );
    let words = job(&world, id).await.attempts[0].outcome.clone().unwrap();
    assert_eq!(
        words.message,
        "rank 0 on n1: was not ready in time while the rest of its gang waited"
    );
}

#[tokio::test]
async fn a_coordinator_that_is_restarted_while_ranks_wait_lets_the_gang_go_when_it_is_whole() {
    let world = World::start().await;
    let mut first = reachable(&world, "n1", "10.0.0.1").await;
    let mut second = reachable(&world, "n2", "10.0.0.2").await;
    submit(&world, 2).await.unwrap();
    let zero = first.start().await.task.unwrap();
    let one = second.start().await.task.unwrap();
    first.report(waiting(zero, 29_500)).await;
    let world = World::on(world.stop().await).await;
    let back = |name: &str, address: &str, report: v1::TaskReport| v1::Hello {
        address: address.to_owned(),
        tasks: vec![report],
        ..hello(&world, name, 1)
    };
    let hello = back("n1", "10.0.0.1", waiting(zero, 29_500));
    let mut first = Agent::connect(&world, hello).await;
    let hello = back("n2", "10.0.0.2", waiting(one, 0));
    let mut second = Agent::connect(&world, hello).await;
    assert_eq!(first.launch().await.port, 29_500);
    assert_eq!(second.launch().await.task, Some(one));
}

#[tokio::test]
async fn a_gang_of_more_nodes_than_could_hold_it_is_refused_with_how_many_there_are() {
    let world = World::start().await;
    let _one = reachable(&world, "n1", "10.0.0.1").await;
    let _two = reachable(&world, "n2", "10.0.0.2").await;
    let refused = submit(&world, 3).await.unwrap_err();
    let details = refused.get_details_bad_request().unwrap();
    let found = &details.field_violations[0];
    assert_eq!(found.field, "spec.nodes");
    assert_eq!(
        found.description,
        "asks for 3 nodes that each hold its resources, and there are 2; give 2, or ask for less on each"
    );
}

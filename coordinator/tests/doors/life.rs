//! The life of a job with an agent: records once, streams that end, cancel, restart, and what is
//! there after the coordinator was stopped and started again.

use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::{Streaming, transport::Channel};
use trainyard_core::record::{LogStream, Record};
use trainyard_proto::v1::{self, job_service_client::JobServiceClient};

use crate::{
    agent::{Agent, epoch, exited, hello, line, running},
    world::{PATIENCE, World, command, yolo},
};

type Jobs = JobServiceClient<
    tonic::service::interceptor::InterceptedService<Channel, crate::world::Bearer>,
>;

fn records() -> Vec<Record> {
    vec![
        line(LogStream::Stdout, "", "one"),
        epoch(1, &[("loss", 0.5)]),
        line(LogStream::Stdout, "", "two"),
        epoch(2, &[("loss", 0.25)]),
        line(LogStream::Stderr, "", "three"),
    ]
}

async fn all<T>(stream: Streaming<T>) -> Vec<T> {
    let all = tokio::time::timeout(PATIENCE, stream.collect::<Result<Vec<T>, _>>());
    all.await.expect("the stream ends").unwrap()
}

async fn texts(jobs: &mut Jobs, job_id: u64) -> Vec<String> {
    let request = v1::ListLogsRequest {
        job_id,
        page_size: 100,
        ..v1::ListLogsRequest::default()
    };
    let answer = jobs.list_logs(request).await.unwrap().into_inner();
    answer.lines.into_iter().map(|line| line.text).collect()
}

/// Attempt and epoch of all points, or of those that count.
async fn epochs(jobs: &mut Jobs, job_id: u64, with_superseded: bool) -> Vec<(u32, u32)> {
    let request = v1::ListMetricsRequest {
        job_id,
        page_size: 100,
        with_superseded,
        ..v1::ListMetricsRequest::default()
    };
    let answer = jobs.list_metrics(request).await.unwrap().into_inner();
    let points = answer.points.into_iter();
    points.map(|point| (point.attempt, point.epoch)).collect()
}

#[tokio::test]
async fn records_delivered_twice_are_stored_once() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let records = records();
    let mut data = agent.attach(&world).await;
    data.deliver(task, 1, &records[..3]).await;
    // The acknowledgement was lost: all of it again, then with more behind it.
    data.deliver(task, 1, &records[..3]).await;
    let mut again = agent.attach(&world).await;
    again.deliver(task, 2, &records[1..]).await;
    let mut jobs = world.jobs().await;
    assert_eq!(texts(&mut jobs, job).await, ["one", "two", "three"]);
    assert_eq!(epochs(&mut jobs, job, true).await, [(1, 1), (1, 2)]);
    agent.report(exited(task, 0, 5)).await;
    assert_eq!(agent.forget().await, task);
    // After the end nothing of it is taken any more, but the agent may forget it.
    again
        .deliver(task, 6, &[line(LogStream::Stdout, "", "late")])
        .await;
    assert_eq!(texts(&mut jobs, job).await.len(), 3);
}

#[tokio::test]
async fn streams_deliver_everything_and_end_with_the_job() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job_id = world.submit(&yolo()).await;
    let mut jobs = world.jobs().await;
    let states = jobs
        .watch_job(v1::WatchJobRequest { job_id })
        .await
        .unwrap()
        .into_inner();
    let logs = v1::StreamLogsRequest {
        job_id,
        follow: true,
        ..v1::StreamLogsRequest::default()
    };
    let logs = jobs.stream_logs(logs).await.unwrap().into_inner();
    let metrics = v1::StreamMetricsRequest {
        job_id,
        ..v1::StreamMetricsRequest::default()
    };
    let metrics = jobs.stream_metrics(metrics).await.unwrap().into_inner();
    let run = async {
        let task = agent.run().await.task.unwrap();
        let mut data = agent.attach(&world).await;
        for (first, record) in (1..).zip(records()) {
            data.deliver(task, first, &[record]).await;
        }
        agent.report(exited(task, 0, 5)).await;
        agent.forget().await;
    };
    let ((), states, logs, metrics) = tokio::join!(run, all(states), all(logs), all(metrics));
    let last = states.last().unwrap().job.as_ref().unwrap();
    assert_eq!(last.state(), v1::JobState::Completed);
    let order: Vec<_> = states
        .iter()
        .map(|state| state.job.as_ref().unwrap().state)
        .collect();
    assert!(order.is_sorted(), "{order:?}");
    let texts: Vec<_> = logs
        .into_iter()
        .flat_map(|page| page.lines)
        .map(|line| line.text)
        .collect();
    assert_eq!(texts, ["one", "two", "three"]);
    let epochs: Vec<_> = metrics
        .into_iter()
        .flat_map(|page| page.points)
        .map(|point| point.epoch)
        .collect();
    assert_eq!(epochs, [1, 2]);
    // What is over is delivered from the store, and ends too.
    let later = v1::StreamLogsRequest {
        job_id,
        follow: true,
        after_line_id: 1,
    };
    let later = all(jobs.stream_logs(later).await.unwrap().into_inner()).await;
    assert_eq!(later.iter().map(|page| page.lines.len()).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_running_job_is_cancelled_through_its_agent_and_the_answer_says_so() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let stopping = async {
        let stop = agent.stop().await;
        assert_eq!(
            (stop.task, stop.cause()),
            (Some(task), v1::StopCause::Cancelled)
        );
        let mut report = exited(task, 143, 0);
        if let Some(end) = &mut report.end {
            end.stop_cause = v1::StopCause::Cancelled.into();
        }
        agent.report(report).await;
        agent.forget().await;
    };
    let path = format!("/training/jobs/{job}/cancel");
    let ((status, answer), ()) = tokio::join!(world.post(&path), stopping);
    assert_eq!((status, &answer["status"]), (200, &json!("cancelled")));
    assert_eq!(answer["error_message"], "cancelled by a user");
}

#[tokio::test]
async fn a_restart_makes_a_second_attempt_and_reports_of_the_first_change_nothing() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&yolo()).await;
    let first = agent.run().await;
    let old = first.task.unwrap();
    let mut data = agent.attach(&world).await;
    data.deliver(old, 1, &[epoch(1, &[("loss", 0.5)])]).await;
    agent.report(exited(old, 1, 1)).await;
    agent.forget().await;
    let (status, answer) = world.post(&format!("/training/jobs/{job}/restart")).await;
    assert_eq!((status, &answer["status"]), (200, &json!("pending")));
    assert_eq!(
        (&answer["completed_at"], &answer["error_message"]),
        (&json!(null), &json!(null))
    );
    let second = agent.start().await;
    let new = second.task.unwrap();
    assert_eq!((new.job_id, new.attempt), (job, 2));
    assert_ne!(second.secret, first.secret);

    // Late ones of the first attempt, by every way.
    agent.report(exited(old, 0, 1)).await;
    assert_eq!(agent.forget().await, old);
    agent.report(running(old)).await;
    let stop = agent.stop().await;
    assert_eq!(
        (stop.task, stop.cause()),
        (Some(old), v1::StopCause::Fenced)
    );
    data.deliver(old, 2, &[epoch(2, &[("loss", 9.0)])]).await;
    let body =
        json!({"job_id": job, "status": "completed", "total_epochs_completed": 2, "exit_code": 0});
    let path = format!("/training/jobs/{job}/callback/completion");
    let (status, _) = world.callback(&first.secret, &path, &body).await;
    assert_eq!(status, 404);

    agent.report(running(new)).await;
    data.deliver(new, 1, &[epoch(1, &[("loss", 0.4)])]).await;
    agent.report(exited(new, 0, 1)).await;
    assert_eq!(agent.forget().await, new);
    let (_, answer) = world.get(&format!("/training/jobs/{job}")).await;
    assert_eq!(answer["status"], "completed");
    let mut jobs = world.jobs().await;
    assert_eq!(epochs(&mut jobs, job, true).await, [(1, 1), (2, 1)]);
    assert_eq!(epochs(&mut jobs, job, false).await, [(2, 1)]);
    // Clients that know nothing of attempts see the epoch once.
    let (_, rows) = world.get(&format!("/training/jobs/{job}/metrics")).await;
    let losses: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["loss"])
        .collect();
    assert_eq!(losses, [&json!(0.4)]);
}

#[tokio::test]
async fn a_stopped_coordinator_comes_back_with_jobs_points_lines_and_nodes() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let first = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(&world).await;
    data.deliver(task, 1, &records()[..3]).await;
    let waiting = world.submit(&command()).await;
    let (_, before) = world.get(&format!("/training/jobs/{first}")).await;
    let join_token = world.join_token.clone();
    let token = world.token.clone();
    drop((agent, data));

    let world = World::on(world.stop().await).await;
    assert_eq!(world.join_token, join_token);
    let bearer = world.plain(reqwest::Method::GET, &format!("/training/jobs/{first}"));
    let (status, after) = world.send(bearer.bearer_auth(token)).await;
    assert_eq!((status, &after), (200, &before));
    let mut jobs = world.jobs().await;
    assert_eq!(texts(&mut jobs, first).await, ["one", "two"]);
    assert_eq!(epochs(&mut jobs, first, true).await, [(1, 1)]);
    let nodes = world
        .nodes()
        .await
        .list_nodes(v1::ListNodesRequest {})
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(
        nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect::<Vec<_>>(),
        ["n1"]
    );

    // The agent comes back with its task, delivers the rest, and the one that waited runs.
    let mut back = hello(&world, "n1", 1);
    back.tasks = vec![running(task)];
    let mut agent = Agent::connect(&world, back).await;
    let mut data = agent.attach(&world).await;
    data.deliver(task, 1, &records()).await;
    agent.report(exited(task, 0, 5)).await;
    assert_eq!(agent.forget().await, task);
    assert_eq!(texts(&mut jobs, first).await, ["one", "two", "three"]);
    assert_eq!(epochs(&mut jobs, first, true).await, [(1, 1), (1, 2)]);
    assert_eq!(agent.start().await.task.unwrap().job_id, waiting);
    assert!(world.submit(&command()).await > waiting);
}

#[tokio::test]
async fn a_job_that_runs_again_needs_room_as_a_new_one_does() {
    let world = World::with(|config| config.limits.open_jobs = 1).await;
    let first = world.submit(&command()).await;
    let again = |verb: &str| format!("/training/jobs/{first}/{verb}");
    // One that waits has its room.
    assert_eq!(world.post(&again("start")).await.0, 200);
    assert_eq!(world.post(&again("cancel")).await.0, 200);
    let second = world.submit(&command()).await;
    for verb in ["restart", "start", "start?resume=true"] {
        let (status, answer) = world.post(&again(verb)).await;
        assert_eq!(status, 429, "{verb}: {answer}");
        let words = answer["detail"].as_str().unwrap();
        assert!(words.contains("limits.open_jobs"), "{words}");
    }
    let (_, job) = world.get(&format!("/training/jobs/{first}")).await;
    assert_eq!(job["status"], "cancelled");
    world.post(&format!("/training/jobs/{second}/cancel")).await;
    assert_eq!(world.post(&again("restart")).await.0, 200);
}

#[tokio::test]
async fn a_full_disk_takes_no_job_that_runs_again() {
    let folder = {
        let world = World::start().await;
        let id = world.submit(&command()).await;
        world.post(&format!("/training/jobs/{id}/cancel")).await;
        world.stop().await
    };
    let world = World::set_up(folder, |config| config.store.reserve_mib = 1 << 30).await;
    for verb in ["restart", "start"] {
        let (status, answer) = world.post(&format!("/training/jobs/1/{verb}")).await;
        assert_eq!(status, 429, "{verb}: {answer}");
        let words = answer["detail"].as_str().unwrap();
        assert!(words.contains("store.reserve_mib"), "{words}");
    }
}

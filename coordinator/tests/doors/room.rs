//! Jobs that make room for others: they are told to go, wait, and go on where they were.

use tonic::Code;
use trainyard_core::{retry::RetryPolicy, spec::JobSpec};
use trainyard_proto::v1;

use crate::{
    agent::{Agent, exited, running},
    world::World,
};

/// A cluster that looks every second who should make room, and leaves nobody alone for long.
async fn eager() -> World {
    let world = World::with(|config| {
        config.scheduling.round_seconds = 1;
        config.scheduling.settled_seconds = 0;
        config.scheduling.restart_cost_seconds = 0;
    });
    world.await
}

/// It takes the whole of the node.
fn whole(priority: i32, preemptible: bool) -> JobSpec {
    JobSpec {
        framework: "command".into(),
        command: vec!["train".into()],
        priority,
        preemptible,
        retry: RetryPolicy {
            limit: 0,
            ..RetryPolicy::default()
        },
        ..JobSpec::default()
    }
}

async fn submit(world: &World, spec: JobSpec) -> u64 {
    let request = v1::SubmitJobRequest {
        spec: Some(spec.into()),
        ..v1::SubmitJobRequest::default()
    };
    let submitted = world.jobs().await.submit_job(request).await;
    let submitted = submitted.expect("it is accepted");
    submitted.into_inner().job.expect("a job").job_id
}

async fn job(world: &World, job_id: u64) -> v1::Job {
    let request = v1::GetJobRequest { job_id };
    let answer = world.jobs().await.get_job(request).await;
    let answer = answer.expect("it is there").into_inner();
    answer.job.expect("a job")
}

/// It has gone as it was told.
fn gone(task: v1::TaskKey, cause: v1::StopCause) -> v1::TaskReport {
    v1::TaskReport {
        task: Some(task),
        phase: v1::TaskPhase::Exited.into(),
        end: Some(v1::TaskEnd {
            signal: Some(15),
            stop_cause: cause.into(),
            ..v1::TaskEnd::default()
        }),
        ..v1::TaskReport::default()
    }
}

#[tokio::test]
async fn a_job_that_allows_it_goes_for_an_urgent_one_and_goes_on_after_it_at_no_cost_of_its_retries()
 {
    let world = eager().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let first = submit(&world, whole(0, true)).await;
    let task = agent.run().await.task.unwrap();
    let urgent = submit(&world, whole(500, false)).await;
    let stop = agent.stop().await;
    assert_eq!(
        (stop.task, stop.cause()),
        (Some(task), v1::StopCause::Preempted)
    );
    let shown = job(&world, first).await;
    let words = format!("makes room for job {urgent}: saves its work, and goes on later");
    assert_eq!(
        (shown.state(), shown.reason),
        (v1::JobState::Running, words)
    );
    let waits = job(&world, urgent).await.reason;
    let words =
        format!("has a place on n1 as soon as job {first} has saved its work there and gone");
    assert_eq!(waits, words);
    agent.report(gone(task, stop.cause())).await;
    assert_eq!(agent.forget().await, task);
    let next = agent.run().await.task.unwrap();
    assert_eq!(next.job_id, urgent);
    let shown = job(&world, first).await;
    assert_eq!(shown.state(), v1::JobState::Queued);
    let attempt = &shown.attempts[0];
    let why = attempt.outcome.as_ref().unwrap().failure_class();
    assert_eq!(why, v1::FailureClass::Preempted);
    agent.report(exited(next, 0, 0)).await;
    assert_eq!(agent.forget().await, next);
    let again = agent.run().await.task.unwrap();
    assert_eq!((again.job_id, again.attempt), (first, 2));
    agent.report(exited(again, 0, 0)).await;
    assert_eq!(agent.forget().await, again);
    let shown = job(&world, first).await;
    assert_eq!(shown.state(), v1::JobState::Completed);
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_it_makes_room_is_cancelled_and_its_place_is_free() {
    let world = eager().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let first = submit(&world, whole(0, true)).await;
    let task = agent.run().await.task.unwrap();
    let urgent = submit(&world, whole(500, false)).await;
    let stop = agent.stop().await;
    assert_eq!(stop.cause(), v1::StopCause::Preempted);
    let request = v1::CancelJobRequest {
        job_id: first,
        ..Default::default()
    };
    world.jobs().await.cancel_job(request).await.unwrap();
    assert_eq!(agent.stop().await.cause(), v1::StopCause::Cancelled);
    agent.report(gone(task, v1::StopCause::Preempted)).await;
    assert_eq!(agent.forget().await, task);
    assert_eq!(agent.run().await.task.unwrap().job_id, urgent);
    assert_eq!(job(&world, first).await.state(), v1::JobState::Cancelled);
}

#[tokio::test]
async fn a_task_that_has_not_heard_that_it_is_to_make_room_hears_of_it_again() {
    let world = eager().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    submit(&world, whole(0, true)).await;
    let task = agent.run().await.task.unwrap();
    submit(&world, whole(500, false)).await;
    agent.stop().await;
    agent.report(running(task)).await;
    let stop = agent.stop().await;
    assert_eq!(
        (stop.task, stop.cause()),
        (Some(task), v1::StopCause::Preempted)
    );
}

#[tokio::test]
async fn a_project_that_may_have_so_many_jobs_waiting_is_told_so_and_where_it_stands() {
    let world = World::with(|config| {
        let limited = trainyard_coordinator::config::ProjectConfig {
            queued: Some(2),
            ..Default::default()
        };
        config.scheduling.projects.insert("1".to_owned(), limited);
    });
    let world = world.await;
    let project = world.project("vision").await;
    assert_eq!(project, 1);
    let spec = || JobSpec {
        project_id: Some(project),
        ..whole(0, false)
    };
    submit(&world, spec()).await;
    submit(&world, spec()).await;
    let request = v1::SubmitJobRequest {
        spec: Some(spec().into()),
        ..v1::SubmitJobRequest::default()
    };
    let refused = world
        .jobs()
        .await
        .submit_job(request)
        .await
        .expect_err("two wait");
    let words = "2 jobs of project 1 wait already, and it may have 2 (scheduling.projects.1.queued); try again when some have started";
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, words)
    );
    submit(&world, whole(0, false)).await;
}

//! Jobs of a project that may have only so many waiting: who comes too late is refused, at every door and at any moment.

use tonic::Code;
use trainyard_core::spec::JobSpec;
use trainyard_proto::v1;

use crate::{
    jobs::{cancel, job, program, submit, try_submit},
    world::World,
};

/// Project 1 may have so many waiting.
async fn limited(queued: u32) -> World {
    let world = World::with(|config| {
        let limited = trainyard_coordinator::config::ProjectConfig {
            queued: Some(queued),
            ..Default::default()
        };
        config.scheduling.projects.insert("1".to_owned(), limited);
    });
    world.await
}

fn small() -> JobSpec {
    program(|spec| spec.retry.limit = 0)
}

#[tokio::test]
async fn a_project_that_may_have_so_many_jobs_waiting_is_told_so_and_where_it_stands() {
    let world = limited(2).await;
    let project = world.project("vision").await;
    assert_eq!(project, 1);
    let spec = || JobSpec {
        project_id: Some(project),
        ..small()
    };
    let over = submit(&world, spec()).await;
    cancel(&world, over, false).await;
    submit(&world, spec()).await;
    submit(&world, spec()).await;
    let refused = try_submit(&world, spec(), "").await.expect_err("two wait");
    let words = "the project 1 has 2 jobs waiting already, and may have 2 (scheduling.projects.1.queued); try again when some have started";
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, words)
    );
    // Nor does a dry run say that it would start.
    let request = v1::ForeseeJobRequest {
        spec: Some(spec().into()),
    };
    let foreseen = world.jobs().await.foresee_job(request).await;
    let refused = foreseen.expect_err("two wait");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, words)
    );
    // One that has ended is not let in by another door either.
    for way in ["restart", "start"] {
        let path = format!("/training/jobs/{over}/{way}");
        let (status, answer) = world.post_json(&path, &serde_json::json!({})).await;
        assert_eq!(status, 429, "{answer}");
        assert!(answer.to_string().contains(words), "{answer}");
    }
    assert_eq!(job(&world, over).await.state(), v1::JobState::Cancelled);
    submit(&world, small()).await;
}

#[tokio::test]
async fn submissions_at_the_same_moment_are_let_in_up_to_the_limit_and_not_beyond_it() {
    let world = limited(10).await;
    let project = world.project("vision").await;
    let spec = || JobSpec {
        project_id: Some(project),
        ..small()
    };
    let all = (0..60).map(|_| try_submit(&world, spec(), ""));
    let all = futures::future::join_all(all).await;
    let accepted = all.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, 10);
    let refused = all.into_iter().find_map(Result::err).expect("one is");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("may have 10"), "{refused}");
}

#[tokio::test]
async fn an_array_that_is_larger_than_a_project_may_ever_have_waiting_is_told_how_large_it_may_be()
{
    let world = limited(2).await;
    let project = world.project("vision").await;
    let array = |indices: &str| JobSpec {
        project_id: Some(project),
        indices: Some(indices.to_owned()),
        ..small()
    };
    let refused = try_submit(&world, array("1-3"), "").await.expect_err("3");
    let words = "the array has 3 jobs, and the project 1 may have 2 waiting (scheduling.projects.1.queued); give 2 indices at most, or have that raised";
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, words)
    );
    submit(&world, array("1-2")).await;
}

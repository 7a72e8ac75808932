//! Jobs that make room for others: they are told to go, wait, and go on where they were.

use std::{collections::BTreeMap, time::Duration};

use tests::wait::until;
use tonic::Code;
use trainyard_core::{
    record::{Checkpoint, Progress, Record},
    resources::{Capacity, parse_gpus},
    sched::policy::Reserve,
    spec::JobSpec,
    time::Timestamp,
};
use trainyard_proto::{convert::timestamp, v1};

use crate::{
    agent::{Agent, exited, hello, running},
    jobs::{cancel, job, label, program, submit, try_submit},
    world::World,
};

/// It takes the whole of the node.
fn whole(priority: i32, preemptible: bool) -> JobSpec {
    program(|spec| {
        spec.priority = priority;
        spec.preemptible = preemptible;
        spec.retry.limit = 0;
    })
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
    let world = World::eager().await;
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
    let words = format!("has a place on n1 as soon as job {first} has saved its work and gone");
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
    let world = World::eager().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let first = submit(&world, whole(0, true)).await;
    let task = agent.run().await.task.unwrap();
    let urgent = submit(&world, whole(500, false)).await;
    let stop = agent.stop().await;
    assert_eq!(stop.cause(), v1::StopCause::Preempted);
    cancel(&world, first, false).await;
    assert_eq!(agent.stop().await.cause(), v1::StopCause::Cancelled);
    agent.report(gone(task, v1::StopCause::Preempted)).await;
    assert_eq!(agent.forget().await, task);
    assert_eq!(agent.run().await.task.unwrap().job_id, urgent);
    assert_eq!(job(&world, first).await.state(), v1::JobState::Cancelled);
}

#[tokio::test]
async fn a_task_that_has_not_heard_that_it_is_to_make_room_hears_of_it_again() {
    let world = World::eager().await;
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

/// A project with eight GPUs, which may not borrow, and its number.
async fn eight_of_its_own() -> (World, i64) {
    let world = World::with(|config| {
        let own = trainyard_coordinator::config::ProjectConfig {
            gpus: Some(8),
            borrow: false,
            ..Default::default()
        };
        config.scheduling.projects.insert("1".to_owned(), own);
    });
    let world = world.await;
    let project = world.project("vision").await;
    (world, project)
}

#[tokio::test]
async fn a_job_that_its_project_could_never_have_is_refused_with_the_field_and_the_way_out() {
    let (world, project) = eight_of_its_own().await;
    let asks = |nodes, gpus| {
        program(|spec| {
            spec.project_id = Some(project);
            spec.nodes = nodes;
            spec.resources.gpus = gpus;
        })
    };
    let words = "asks for 16 GPUs in all, and project 1 has 8 of its own and may not borrow (scheduling.projects.1); ask for 8 at most, or have gpus raised or borrow set there";
    for (nodes, gpus, field) in [(1, 16, "resources.gpus"), (2, 8, "nodes")] {
        let submitted = try_submit(&world, asks(nodes, gpus), "").await;
        let refused = submitted.expect_err("more than its own");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let told = refused.message();
        assert!(told.contains(words) && told.contains(field), "{told}");
        let request = v1::ForeseeJobRequest {
            spec: Some(asks(nodes, gpus).into()),
        };
        let foreseen = world.jobs().await.foresee_job(request).await;
        assert!(foreseen.is_err_and(|refused| refused.message() == told));
    }
    submit(&world, asks(1, 8)).await;
}

#[tokio::test]
async fn a_job_that_wants_nodes_alone_is_refused_where_the_smallest_are_more_than_its_project_has()
{
    let (world, project) = eight_of_its_own().await;
    let node = async |name: &str, gpus: &str| {
        let capacity = Capacity {
            cpus: 4,
            gpus: parse_gpus(gpus, name).unwrap(),
            ..Capacity::default()
        };
        let hello = v1::Hello {
            capacity: Some(capacity.into()),
            ..hello(&world, name, 4)
        };
        Agent::connect(&world, hello).await
    };
    let _large = node("n1", "16xH100-80GB").await;
    let alone = || {
        program(|spec| {
            spec.project_id = Some(project);
            spec.resources.gpus = 1;
            spec.placement.exclusive = true;
        })
    };
    let submitted = try_submit(&world, alone(), "").await;
    let refused = submitted.expect_err("more than its own");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let told = refused.message();
    let words = "asks for nodes for itself alone, which have 16 GPUs at least, and project 1 has 8 of its own and may not borrow (scheduling.projects.1); leave exclusive out, ";
    assert!(
        told.contains(words) && told.contains("placement.exclusive"),
        "{told}"
    );
    let request = v1::ForeseeJobRequest {
        spec: Some(alone().into()),
    };
    let foreseen = world.jobs().await.foresee_job(request).await;
    assert!(foreseen.is_err_and(|refused| refused.message() == told));
    // Beside others it may be there; and alone on a node that is small enough, and that is where it is put.
    let mut beside = alone();
    beside.placement.exclusive = false;
    let request = v1::ForeseeJobRequest {
        spec: Some(beside.into()),
    };
    let foreseen = world.jobs().await.foresee_job(request).await;
    assert_eq!(foreseen.unwrap().into_inner().nodes, ["n1"]);
    let mut small = node("n2", "8xH100-80GB").await;
    let job = submit(&world, alone()).await;
    assert_eq!(small.start().await.task.unwrap().job_id, job);
    // Once that may never be back the large one is the smallest.
    let (status, said) = world.post("/nodes/n2/revoke").await;
    assert_eq!(status, 200, "{said}");
    let refused = try_submit(&world, alone(), "").await;
    assert_eq!(refused.expect_err("it is gone").message(), told);
}

#[tokio::test]
async fn for_whom_nodes_are_kept_is_what_the_settings_say() {
    let world = World::with(|config| config.scheduling.reserve = Reserve::Top).await;
    let mut first = labelled(&world, "n1", "rack=a").await;
    let lasts = |nodes: u32, hours: u64, priority: i32| {
        program(|spec| {
            spec.nodes = nodes;
            spec.priority = priority;
            spec.resources.cpus = 4;
            spec.time_limit = Some(Duration::from_secs(3_600 * hours));
        })
    };
    submit(&world, lasts(1, 2, 0)).await;
    first.run().await;
    let mut second = labelled(&world, "n2", "rack=a").await;
    let gang = submit(&world, lasts(2, 1, 500)).await;
    let late = submit(&world, lasts(1, 3, 0)).await;
    let words = format!("waits beside another: nodes n1, n2 are kept for job {gang} from ");
    until("it waits beside the gang", async || {
        let reason = job(&world, late).await.reason;
        reason.starts_with(&words).then_some(())
    })
    .await;
    // Whoever is gone before the gang can start is not held up.
    let early = submit(&world, lasts(1, 1, 0)).await;
    assert_eq!(second.start().await.task.unwrap().job_id, early);
}

#[tokio::test]
async fn of_two_alike_the_one_goes_of_which_a_checkpoint_is_known_as_soon_as_it_is() {
    for saved in [0, 1] {
        let world = World::eager().await;
        let mut agent = Agent::join(&world, "n1", 2).await;
        let one = || {
            let mut spec = whole(0, true);
            spec.resources.cpus = 1;
            // Else its checkpoint is of no use to it.
            spec.resume = true;
            spec
        };
        let mut tasks = Vec::new();
        for _ in 0..2 {
            submit(&world, one()).await;
            let task = agent.start().await.task.unwrap();
            // For an hour, all of which would be lost.
            let hour = Duration::from_secs(3_600);
            let since = trainyard_coordinator::clock::now().minus(hour);
            agent
                .report(v1::TaskReport {
                    started_at: Some(timestamp(since)),
                    ..running(task)
                })
                .await;
            // Nobody is told to go before it runs.
            until("it runs", async || {
                let state = job(&world, task.job_id).await.state();
                (state == v1::JobState::Running).then_some(())
            })
            .await;
            tasks.push(task);
        }
        let task = tasks[saved];
        let root = world.data().join("artifacts").canonicalize().unwrap();
        let path = root.join(format!("checkpoints/{}/last.pt", task.job_id));
        let stored = Record::Stored(Progress {
            checkpoint: Some(Checkpoint {
                path: path.display().to_string(),
                size_bytes: Some(7),
            }),
            at: Timestamp(0),
            epoch: 0,
            total_epochs: 0,
            step: None,
            values: BTreeMap::new(),
            has_metrics: false,
            best_checkpoint: None,
        });
        let mut data = agent.attach(&world).await;
        data.deliver(task, 1, &[stored]).await;
        let urgent = JobSpec {
            priority: 500,
            preemptible: false,
            ..one()
        };
        submit(&world, urgent).await;
        assert_eq!(agent.stop().await.task, Some(task));
    }
}

/// An agent of four CPUs on a node that is labelled so.
async fn labelled(world: &World, name: &str, text: &str) -> Agent {
    let hello = v1::Hello {
        address: format!("10.0.0.{name}"),
        labels: label(text),
        ..hello(world, name, 4)
    };
    Agent::connect(world, hello).await
}

/// It has as many CPUs there as it says.
fn there(text: &str, cpus: u32, preemptible: bool) -> JobSpec {
    let mut spec = whole(0, preemptible);
    spec.resources.cpus = cpus;
    spec.placement.labels = [text.to_owned()].into();
    spec
}

/// Nodes that are labelled so, each with a job that takes the whole of it and may be told to go, or not.
async fn filled(world: &World, text: &str, nodes: [(&str, bool); 2]) -> Vec<Agent> {
    let mut agents = Vec::new();
    for (name, preemptible) in nodes {
        let mut agent = labelled(world, name, text).await;
        submit(world, there(text, 4, preemptible)).await;
        agent.run().await;
        agents.push(agent);
    }
    agents
}

#[tokio::test]
async fn room_for_a_gang_of_one_fabric_is_made_where_the_whole_of_it_can_be() {
    let world = World::eager().await;
    // One of rack b stays, so there is no room to be made there.
    let _others = filled(&world, "rack=b", [("n1", true), ("n2", false)]).await;
    let mut agents = filled(&world, "rack=a", [("n3", true), ("n4", true)]).await;
    let gang = program(|spec| {
        spec.nodes = 2;
        spec.priority = 500;
        spec.resources.cpus = 3;
        spec.placement.fabric = Some("rack".into());
    });
    let gang = submit(&world, gang).await;
    for agent in &mut agents {
        let stop = agent.stop().await;
        assert_eq!(stop.cause(), v1::StopCause::Preempted);
        let task = stop.task.unwrap();
        agent.report(gone(task, stop.cause())).await;
        assert_eq!(agent.forget().await, task);
    }
    for agent in &mut agents {
        assert_eq!(agent.start().await.task.unwrap().job_id, gang);
    }
}

#[tokio::test]
async fn room_for_a_job_that_wants_its_node_alone_is_a_node_from_which_all_have_gone() {
    let world = World::eager().await;
    let mut one = labelled(&world, "n1", "rack=a").await;
    let mut two = labelled(&world, "n2", "rack=b").await;
    // Enough is left on both, and on the first somebody stays.
    for (text, preemptible) in [
        ("rack=a", true),
        ("rack=a", false),
        ("rack=b", true),
        ("rack=b", true),
    ] {
        submit(&world, there(text, 1, preemptible)).await;
    }
    for agent in [&mut one, &mut two] {
        for _ in 0..2 {
            agent.run().await;
        }
    }
    let mut alone = whole(500, false);
    alone.placement.exclusive = true;
    let alone = submit(&world, alone).await;
    for stop in [two.stop().await, two.stop().await] {
        assert_eq!(stop.cause(), v1::StopCause::Preempted);
        let task = stop.task.unwrap();
        two.report(gone(task, stop.cause())).await;
        assert_eq!(two.forget().await, task);
    }
    assert_eq!(two.start().await.task.unwrap().job_id, alone);
}

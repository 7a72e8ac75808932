//! What a job may ask for beyond resources: labels, nodes for itself, jobs that it waits for, a time, arrays; and what
//! of that is refused.

use reqwest::Method;
use serde_json::{Value, json};
use tests::wait::until;
use trainyard_core::{ids::JobId, spec::JobSpec};
use trainyard_proto::v1;

use crate::{
    agent::{Agent, exited, hello, running},
    jobs::{all_jobs, cancel, job, program, submit, try_submit},
    world::{World, command},
};

#[tokio::test]
async fn an_array_is_one_submission_with_a_job_for_each_index_and_is_cancelled_as_a_whole() {
    let world = World::start().await;
    let asked = || program(|spec| spec.indices = Some("5,10-11%2".into()));
    let first = try_submit(&world, asked(), "k").await.unwrap();
    let place = |job: &v1::Job| job.spec.as_ref().unwrap().array.unwrap();
    let id = first.job_id;
    assert_eq!((place(&first).id, place(&first).size), (id, 3));
    // The key stands for all of them.
    let again = try_submit(&world, asked(), "k").await.unwrap();
    assert_eq!(again.job_id, id);
    let mut jobs = all_jobs(&world).await;
    jobs.reverse();
    let told: Vec<_> = jobs
        .iter()
        .map(|job| (job.job_id, place(job).index))
        .collect();
    assert_eq!(told, [(id, 5), (id + 1, 10), (id + 2, 11)]);
    assert!(jobs.iter().all(|job| place(job).at_most == 2));
    cancel(&world, id + 1, false).await;
    let answer = cancel(&world, id, true).await;
    assert_eq!(answer.told, 2, "one had ended already");
    let jobs = all_jobs(&world).await;
    let over = |job: &v1::Job| job.state() == v1::JobState::Cancelled;
    assert!(jobs.iter().all(over), "{jobs:?}");
    let alone = try_submit(&world, program(|_| ()), "").await.unwrap();
    let request = v1::CancelJobRequest {
        job_id: alone.job_id,
        whole_array: true,
    };
    let refused = world.jobs().await.cancel_job(request).await.unwrap_err();
    assert!(refused.message().contains("is of no array"), "{refused:?}");
}

#[tokio::test]
async fn a_key_stands_for_a_submission_that_is_to_start_later_whenever_that_is_said() {
    let world = World::start().await;
    let in_two_hours = |from: i64| {
        let from = trainyard_core::time::Timestamp(from * 1_000_000);
        program(|spec| spec.not_before = Some(from.plus(std::time::Duration::from_secs(7_200))))
    };
    let first = try_submit(&world, in_two_hours(4_000_000_000), "k").await;
    let again = try_submit(&world, in_two_hours(4_000_000_009), "k").await;
    assert_eq!(first.unwrap().job_id, again.unwrap().job_id);
}

#[tokio::test]
async fn an_array_that_would_be_more_jobs_than_may_be_is_refused_whole() {
    let world = World::with(|config| config.limits.open_jobs = 5).await;
    try_submit(&world, program(|_| ()), "").await.unwrap();
    let many = |text: &str| {
        let text = text.to_owned();
        program(|spec| spec.indices = Some(text))
    };
    let refused = try_submit(&world, many("0-4"), "").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(
        refused.message().contains("give fewer indices"),
        "{refused:?}"
    );
    assert_eq!(all_jobs(&world).await.len(), 1);
    try_submit(&world, many("0-3"), "").await.unwrap();
    assert_eq!(all_jobs(&world).await.len(), 5);
}

#[tokio::test]
async fn who_waits_for_a_job_must_see_it_and_it_must_be_able_to_succeed() {
    let world = World::start().await;
    let theirs = world.somebody("bob", "standard_engineer").await.1;
    let (status, hidden) = world
        .call(&theirs, (Method::POST, "/training/jobs"), command())
        .await;
    assert_eq!(status, 200, "{hidden}");
    let own = try_submit(&world, program(|_| ()), "")
        .await
        .unwrap()
        .job_id;
    cancel(&world, own, false).await;
    let after = |jobs: Value| {
        let mut body = command();
        body["config"]["after"] = jobs;
        body
    };
    for (token, job, words) in [
        (&world.token, own, "which was cancelled: run it again first"),
        (&world.token, 999, "which is not there or not yours to see"),
        (&theirs, own, "which is not there or not yours to see"),
    ] {
        let body = after(json!([job]));
        let (status, answer) = world
            .call(token, (Method::POST, "/training/jobs"), body)
            .await;
        assert_eq!(status, 422, "{answer}");
        let found = &answer["detail"][0];
        assert_eq!(found["loc"], json!(["body", "config", "after"]));
        assert!(found["msg"].as_str().unwrap().contains(words), "{answer}");
    }
    let met = program(|spec| spec.after_any = vec![JobId(own)]);
    try_submit(&world, met, "").await.unwrap();
}

#[tokio::test]
async fn what_is_asked_of_nodes_over_rest_reaches_the_specification() {
    let world = World::start().await;
    let mut body = command();
    let config = body["config"].as_object_mut().unwrap();
    let asked = json!({
        "nodes": 2, "launcher": "torchrun", "procs_per_node": 4, "preemptible": true,
        "not_before": "2027-01-31T18:00:00+01:00",
        "placement": {
            "labels": ["zone=a"], "anti_labels": ["zone=b"], "arrange": "spread",
            "fabric": "rack", "exclusive": true,
        },
        "resources": {"gpus": 1, "gpu_memory": "40GB", "gpu_memory_max": "80GiB"},
    });
    config.extend(asked.as_object().unwrap().clone());
    let (status, job) = world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 200, "{job}");
    let request = v1::GetJobRequest {
        job_id: job["id"].as_u64().unwrap(),
    };
    let job = world.jobs().await.get_job(request).await.unwrap();
    let spec = JobSpec::try_from(job.into_inner().job.unwrap().spec.unwrap()).unwrap();
    assert_eq!((spec.nodes, spec.procs_per_node), (2, Some(4)));
    assert!(spec.preemptible && spec.placement.exclusive);
    assert_eq!(spec.placement.fabric.as_deref(), Some("rack"));
    assert_eq!(spec.resources.gpu_memory_max_bytes, 80 << 30);
    let then = spec.not_before.unwrap().to_naive_iso();
    assert_eq!(then, "2027-01-31T17:00:00.000000");
    let bad = json!({
        "not_before": "tomorrow", "after": [1.5], "array": "9-0",
        "placement": {"labels": ["zone"], "arrange": "heap", "gpus_total": 0},
    });
    let found = refused(&world, &bad).await;
    let wanted = [
        "after",
        "array",
        "not_before",
        "placement.arrange",
        "placement.gpus_total",
        "placement.labels",
    ];
    assert_eq!(found, wanted.map(|place| format!("body.config.{place}")));
}

/// Where a command with these settings is refused over REST.
async fn refused(world: &World, settings: &Value) -> Vec<String> {
    let mut body = command();
    let config = body["config"].as_object_mut().unwrap();
    config.extend(settings.as_object().unwrap().clone());
    let (status, answer) = world.post_json("/training/jobs", &body).await;
    assert_eq!(status, 422, "{answer}");
    let found = answer["detail"].as_array().unwrap().iter();
    let mut found: Vec<String> = found
        .map(|entry| {
            let place = entry["loc"].as_array().unwrap().iter();
            let place: Vec<_> = place.filter_map(Value::as_str).collect();
            place.join(".")
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn which_gpus_without_how_many_is_refused_over_rest_at_their_number() {
    let world = World::start().await;
    for which in ["gpu_model", "gpu_memory", "gpu_memory_max"] {
        let asked = json!({"resources": {which: "80GB"}});
        let found = refused(&world, &asked).await;
        assert_eq!(found, ["body.config.resources.gpus"], "{which}");
    }
    // A number that cannot be read is told of once.
    let asked = json!({"resources": {"gpus": "two", "gpu_model": "H100"}});
    let found = refused(&world, &asked).await;
    assert_eq!(found, ["body.config.resources.gpus"]);
}

/// An agent with labels, that runs one job at a time unless it has more CPUs.
async fn labelled(world: &World, name: &str, cpus: u32, label: &str) -> Agent {
    let hello = v1::Hello {
        labels: crate::jobs::label(label),
        ..hello(world, name, cpus)
    };
    Agent::connect(world, hello).await
}

async fn reason(world: &World, job_id: u64) -> String {
    job(world, job_id).await.reason
}

async fn id(world: &World, change: impl FnOnce(&mut JobSpec)) -> u64 {
    submit(world, program(change)).await
}

/// The next task of the agent is this job's; it runs and ends with this code.
async fn runs(agent: &mut Agent, job: u64, code: i32) {
    let task = agent.start().await.task.unwrap();
    assert_eq!(task.job_id, job);
    agent.report(running(task)).await;
    agent.report(exited(task, code, 0)).await;
    assert_eq!(agent.forget().await, task);
}

#[tokio::test]
async fn a_job_goes_to_nodes_that_are_labelled_as_it_wants_by_whomever() {
    let world = World::start().await;
    let mut a = labelled(&world, "n1", 4, "zone=a").await;
    let mut b = labelled(&world, "n2", 4, "zone=b").await;
    let of = |text: &str| std::collections::BTreeSet::from([text.to_owned()]);
    let with = id(&world, |spec| spec.placement.labels = of("zone=b")).await;
    assert_eq!(b.start().await.task.unwrap().job_id, with);
    let without = id(&world, |spec| spec.placement.anti_labels = of("zone=b")).await;
    assert_eq!(a.start().await.task.unwrap().job_id, without);
    let spec = program(|spec| spec.placement.labels = of("zone=c"));
    let refused = try_submit(&world, spec.clone(), "").await.unwrap_err();
    let words = "placement.labels: no node has zone=c; labels of nodes are zone=a, zone=b";
    assert!(refused.message().contains(words), "{refused:?}");
    let request = v1::SetLabelsRequest {
        name: "n1".into(),
        set: [("zone".to_owned(), "c".to_owned())].into(),
        remove: Vec::new(),
    };
    world.nodes().await.set_labels(request).await.unwrap();
    let now = try_submit(&world, spec, "").await.unwrap().job_id;
    assert_eq!(a.start().await.task.unwrap().job_id, now);
}

#[tokio::test]
async fn a_job_waits_for_others_and_a_chain_ends_whole_when_one_fails() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let first = id(&world, |_| ()).await;
    let after = |job: u64| move |spec: &mut JobSpec| spec.after = vec![JobId(job)];
    let second = id(&world, after(first)).await;
    let third = id(&world, after(second)).await;
    let any = id(&world, |spec| spec.after_any = vec![JobId(second)]).await;
    let words = format!("waits for job {first} to succeed");
    assert_eq!(reason(&world, second).await, words);
    runs(&mut agent, first, 0).await;
    runs(&mut agent, second, 3).await;
    // It ends, and not by itself.
    let ended = until("the chain has ended", async || {
        let jobs = all_jobs(&world).await;
        let third = jobs.into_iter().find(|job| job.job_id == third)?;
        (third.state() == v1::JobState::Cancelled).then_some(third)
    });
    let words = ended.await.outcome.unwrap().message;
    assert!(
        words.contains(&format!(
            "when job {second} has succeeded, and that has failed"
        )),
        "{words}"
    );
    runs(&mut agent, any, 0).await;
}

#[tokio::test]
async fn after_a_start_anew_the_store_says_how_those_stand_that_jobs_wait_for() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let first = id(&world, |_| ()).await;
    let later = "2999-01-01T00:00:00Z";
    let later = trainyard_core::time::Timestamp::parse_rfc3339(later);
    let held = id(&world, |spec| {
        spec.after = vec![JobId(first)];
        spec.not_before = later;
    })
    .await;
    let open = id(&world, |spec| spec.after_any = vec![JobId(held)]).await;
    runs(&mut agent, first, 0).await;
    let both = "not before 2999-01-01 00:00 UTC";
    until("the other half is met", async || {
        (reason(&world, held).await == both).then_some(())
    })
    .await;
    drop(agent);
    let world = World::on(world.stop().await).await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    assert_eq!(reason(&world, held).await, both);
    let words = format!("waits for job {held} to end");
    assert_eq!(reason(&world, open).await, words);
    cancel(&world, held, false).await;
    runs(&mut agent, open, 0).await;
}

#[tokio::test]
async fn of_an_array_no_more_run_at_once_than_it_says() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 8).await;
    let first = id(&world, |spec| spec.indices = Some("0-3%2".into())).await;
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(agent.start().await.task.unwrap());
    }
    let mut known: Vec<u64> = running.iter().map(|task| task.job_id).collect();
    known.sort_unstable();
    assert_eq!(known, [first, first + 1]);
    let words = reason(&world, first + 2).await;
    assert!(words.contains("2 of its array run"), "{words}");
    let done = running.remove(0);
    agent.report(exited(done, 1, 0)).await;
    assert_eq!(agent.forget().await, done);
    assert_eq!(agent.start().await.task.unwrap().job_id, first + 2);
    assert!(
        reason(&world, first + 3)
            .await
            .contains("2 of its array run")
    );
}

#[tokio::test]
async fn a_job_that_wants_its_node_alone_waits_for_it_and_lets_nobody_else_there() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let small = id(&world, |_| ()).await;
    let task = agent.start().await.task.unwrap();
    assert_eq!(task.job_id, small);
    let alone = id(&world, |spec| spec.placement.exclusive = true).await;
    let words = reason(&world, alone).await;
    assert!(
        words.starts_with("waits for nodes that nobody else uses"),
        "{words}"
    );
    agent.report(exited(task, 0, 0)).await;
    assert_eq!(agent.forget().await, task);
    let alone_task = agent.start().await.task.unwrap();
    assert_eq!(alone_task.job_id, alone);
    let other = id(&world, |_| ()).await;
    assert!(
        reason(&world, other).await.contains("cpus"),
        "it has all of the node"
    );
    agent.report(exited(alone_task, 0, 0)).await;
    assert_eq!(agent.forget().await, alone_task);
    assert_eq!(agent.start().await.task.unwrap().job_id, other);
}

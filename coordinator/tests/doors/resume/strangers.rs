//! Nobody begins with a checkpoint that they may not read, by whichever door and however they name it.

use super::*;

/// A job of a project with a checkpoint in the store, and tokens of a member and of somebody else.
struct Secret {
    store: Store,
    location: String,
    member: String,
    stranger: String,
}

impl Secret {
    async fn kept() -> Self {
        let store = Store::folder().await;
        let world = &store.world;
        let project = world.project("faces").await;
        let (id, member) = world.somebody("member", "standard_engineer").await;
        let (_, stranger) = world.somebody("stranger", "standard_engineer").await;
        world.member(project, id, "member").await;
        let mut body = command();
        body["project_id"] = json!(project);
        let job = world.submit(&body).await;
        let (_, shown) = world.get(&format!("/training/jobs/{job}")).await;
        assert_eq!(shown["project_id"], json!(project), "{shown}");
        let location = store.put(job, "last.pt", "secret");
        Self {
            store,
            location,
            member,
            stranger,
        }
    }

    /// What a submission with a location is told when nothing is submitted.
    async fn foresee(&self, token: &str, resume_from: &str) -> Result<(), Status> {
        let request = v1::ForeseeJobRequest {
            spec: Some(spec(resume_from)),
        };
        let mut jobs = self.store.world.jobs_of(token).await;
        jobs.foresee_job(request).await.map(drop)
    }

    /// Submits with a location over gRPC.
    async fn submit(&self, token: &str, resume_from: &str) -> Result<u64, Status> {
        let request = v1::SubmitJobRequest {
            spec: Some(spec(resume_from)),
            idempotency_key: String::new(),
        };
        let mut jobs = self.store.world.jobs_of(token).await;
        let answer = jobs.submit_job(request).await?.into_inner();
        Ok(answer.job.unwrap().job_id)
    }

    /// Starts a job of this caller's own from a location over HTTP.
    async fn start(&self, token: &str, query: &str) -> (u16, Value) {
        let world = &self.store.world;
        let made = world.call(token, (Method::POST, "/training/jobs"), command());
        let (status, job) = made.await;
        assert_eq!(status, 200, "{job}");
        let path = format!("/training/jobs/{}/start{query}", job["id"]);
        world.call(token, (Method::POST, &path), Value::Null).await
    }
}

fn spec(resume_from: &str) -> v1::JobSpec {
    v1::JobSpec {
        framework: "command".to_owned(),
        command: vec!["/bin/true".to_owned()],
        resume_from: resume_from.to_owned(),
        ..v1::JobSpec::default()
    }
}

#[tokio::test]
async fn nobody_begins_with_a_checkpoint_that_they_may_not_read_by_either_door() {
    let secret = Secret::kept().await;
    let Secret {
        location,
        member,
        stranger,
        store,
    } = &secret;
    let nowhere = store.location(999, "last.pt");
    let inside = format!("{}/snapshots/snap_1/metadata.json", store.name);
    let climbing = location.replace("last.pt", "../../snapshots/x");
    let mut words = Vec::new();
    for text in [location, &nowhere, &inside, &climbing] {
        let refused = secret.submit(stranger, text).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        assert!(refused.message().contains("resume_from"), "{refused:?}");
        let foreseen = secret.foresee(stranger, text).await.unwrap_err();
        assert_eq!(foreseen.message(), refused.message(), "a dry run, too");
        let query = format!("?checkpoint_path={text}&resume=true");
        let (status, answer) = secret.start(stranger, &query).await;
        assert_eq!(status, 400, "{text}: {answer}");
        words.push(detail(&answer).replace(text.as_str(), "X"));
    }
    assert!(
        words[0].contains("'X' is no checkpoint of a job that you may read"),
        "{words:?}"
    );
    assert!(
        words.iter().all(|told| *told == words[0]),
        "a hidden job is as one that is not there: {words:?}"
    );
    secret.foresee(member, location).await.unwrap();
    secret.submit(member, location).await.unwrap();
    let (status, job) = secret
        .start(member, &format!("?checkpoint_path={location}"))
        .await;
    assert_eq!(status, 200, "{job}");
    // Paths as nodes see them are no matter of the store.
    secret.submit(stranger, "/nfs/last.pt").await.unwrap();
}

#[tokio::test]
async fn a_trainer_that_calls_anothers_checkpoint_its_last_one_gets_nobody_to_it() {
    let secret = Secret::kept().await;
    let world = &secret.store.world;
    let mut agent = Agent::join(world, "n1", 1).await;
    // The job with the secret runs first.
    let other = agent.run().await;
    agent.report(exited(other.task.unwrap(), 0, 0)).await;
    agent.forget().await;
    let made = world.call(
        &secret.stranger,
        (Method::POST, "/training/jobs"),
        command(),
    );
    let id = made.await.1["id"].as_u64().unwrap();
    let start = agent.run().await;
    let task = start.task.unwrap();
    assert_eq!(task.job_id, id);
    let Record::Progress(report) = epoch(1, &[("loss", 1.0)]) else {
        panic!("a report of progress");
    };
    let claimed = Record::Progress(Progress {
        checkpoint: Some(Checkpoint {
            path: secret.location.clone(),
            size_bytes: None,
        }),
        ..report
    });
    let mut data = agent.attach(world).await;
    data.deliver(task, 1, &[claimed]).await;
    agent.report(exited(task, 0, 1)).await;
    agent.forget().await;
    let path = format!("/training/jobs/{id}");
    let (_, job) = world.get(&path).await;
    assert_eq!(job["last_checkpoint_path"], json!(secret.location));
    let call = format!("{path}/start?resume=true");
    let (status, answer) = world
        .call(&secret.stranger, (Method::POST, &call), Value::Null)
        .await;
    assert_eq!(status, 400, "{answer}");
    assert!(detail(&answer).contains("is no checkpoint"), "{answer}");
    // From its beginning it may run.
    let call = format!("{path}/start");
    let (status, answer) = world
        .call(&secret.stranger, (Method::POST, &call), Value::Null)
        .await;
    assert_eq!(status, 200, "{answer}");
}

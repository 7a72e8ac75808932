//! What a call tells of the reports that its trainer keeps. Owns no product code; called by the test runner.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::FutureExt as _;
use tower::ServiceExt as _;
use trainyard_core::{ids::JobId, time::Timestamp};

use super::{Registry, TaskEndpoint, router};
use crate::{
    dataset::Told,
    objects::TaskObjects,
    spool::{Spool, TaskSpool},
};

const PROGRESS: &str = "training/jobs/7/callback/progress";
const LOG: &str = "training/jobs/7/callback/logs";

struct Scene {
    registry: Registry,
    told: Told,
}

impl Scene {
    fn over(spool: Spool, folder: &std::path::Path) -> Self {
        let (registry, told) = (
            Registry::new(Arc::new(|| Timestamp(1_000))),
            Told::default(),
        );
        let task = TaskEndpoint {
            told: told.clone(),
            job: JobId(7),
            total_epochs: 3,
            spool,
            checkpoint_root: folder.to_owned(),
            objects: TaskObjects::new(JobId(7), None, folder.join("view"), folder),
        };
        registry.register("s3cret", task);
        Self { registry, told }
    }

    async fn call(&self, what: &str, kept: Option<&str>) -> StatusCode {
        let body = r#"{"job_id":7,"status":"running","current_epoch":1,"total_epochs":3,"progress_percent":33,"metrics":null,
            "event_type":"log","message":"x","level":"INFO"}"#;
        let mut call = Request::post(format!("/t/s3cret/api/v1/{what}"));
        if let Some(kept) = kept {
            call = call.header("X-Trainyard-Kept", kept);
        }
        let call = call.body(Body::from(body)).unwrap();
        let answer = router(self.registry.clone()).oneshot(call).await;
        answer.unwrap().status()
    }

    fn is_settled(&self) -> bool {
        self.told.owing().is_settled().now_or_never().is_some()
    }
}

#[tokio::test]
async fn a_trainer_says_with_each_call_how_many_it_keeps_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path().join("spool"), u64::MAX).await;
    let scene = Scene::over(spool.unwrap(), folder.path());
    assert!(scene.is_settled());
    for (what, kept, settled) in [
        (PROGRESS, None, true),
        (PROGRESS, Some("2"), false),
        (LOG, None, false),
        (LOG, Some("0"), true),
        (LOG, Some("1"), false),
        // Of others that it may keep it says nothing: they are waited for.
        (PROGRESS, None, false),
        (PROGRESS, Some("none"), false),
        (PROGRESS, Some("0"), true),
    ] {
        assert_eq!(scene.call(what, kept).await, StatusCode::OK);
        assert_eq!(scene.is_settled(), settled, "{what} {kept:?}");
    }
}

#[tokio::test]
async fn what_is_refused_for_now_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = TaskSpool::open(&folder.path().join("spool")).unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    spool.writer = full.unwrap();
    let scene = Scene::over(Spool::on(spool), folder.path());
    let status = scene.call(PROGRESS, Some("0")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!scene.is_settled());
}

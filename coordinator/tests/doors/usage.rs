//! What was used, as each caller sees it at both doors.

use reqwest::Method;
use serde_json::{Value, json};
use trainyard_proto::v1::{self, report_service_client::ReportServiceClient};

use crate::{
    agent::{Agent, exited, running},
    world::{Bearer, World, command},
};

async fn usage(world: &World, token: &str, query: &str) -> Value {
    let path = format!("/usage{query}");
    let call = (Method::GET, path.as_str());
    let (status, answer) = world.call(token, call, Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Project, user and jobs of each row.
fn rows(answer: &Value) -> Vec<(Option<i64>, Option<&str>, u64)> {
    let rows = answer["rows"].as_array().unwrap().iter();
    let rows = rows.map(|row| {
        let jobs = row["used"]["jobs"].as_u64().unwrap();
        (row["project_id"].as_i64(), row["user"].as_str(), jobs)
    });
    rows.collect()
}

#[tokio::test]
async fn who_administers_sees_what_all_have_used_and_others_what_is_theirs() {
    let world = World::start().await;
    let project = world.project("vision").await;
    let (bob, bobs) = world.somebody("bob", "standard_engineer").await;
    let (_, eves) = world.somebody("eve", "standard_engineer").await;
    world.member(project, bob, "member").await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let mut of_project = command();
    of_project["project_id"] = json!(project);
    let ran = world.submit(&of_project).await;
    let task = agent.run().await.task.unwrap();
    agent.report(running(task)).await;
    agent.report(exited(task, 0, 0)).await;
    world.until(ran, "completed").await;
    let call = (Method::POST, "/training/jobs");
    let (status, _) = world.call(&bobs, call, command()).await;
    assert_eq!(status, 200);

    let all = usage(&world, &world.token, "?by=both").await;
    let (admin, bob) = (Some("admin@example.com"), Some("bob@example.com"));
    assert_eq!(rows(&all), [(None, bob, 1), (Some(project), admin, 1)]);
    assert_eq!(all["rows"][1]["project_name"], "vision");
    let used = &all["rows"][1]["used"];
    assert!(used["cpu_hours"].as_f64().unwrap() > 0.0, "{used}");
    assert_eq!(used["failures"], 0);
    assert_eq!(all["total"]["jobs"], 2);
    let his = usage(&world, &bobs, "").await;
    assert_eq!(rows(&his), [(None, None, 1), (Some(project), None, 1)]);
    let hers = usage(&world, &eves, "").await;
    assert_eq!((rows(&hers), &hers["total"]["jobs"]), (vec![], &json!(0)));
    // Nothing was used in another year.
    let before = usage(
        &world,
        &world.token,
        "?from=2001-01-01T00:00:00Z&to=2002-01-01T00:00:00Z",
    );
    assert_eq!(rows(&before.await), []);

    let bearer = Bearer(world.token.clone());
    let mut reports = ReportServiceClient::with_interceptor(world.channel().await, bearer);
    let request = v1::GetUsageRequest {
        by: v1::UsageBy::User.into(),
        ..v1::GetUsageRequest::default()
    };
    let answer = reports.get_usage(request).await.unwrap().into_inner();
    let users: Vec<_> = answer.rows.iter().map(|row| row.user.as_str()).collect();
    assert_eq!(users, ["admin@example.com", "bob@example.com"]);
    assert_eq!(answer.total.unwrap().jobs, 2);
}

#[tokio::test]
async fn a_span_that_is_none_is_refused_by_its_name() {
    let world = World::with(|config| config.auth.open_reads = true).await;
    for (query, place) in [
        ("?from=soon", "from"),
        ("?to=2026", "to"),
        ("?by=node", "by"),
        ("?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("?from=2999-01-01T00:00:00Z", "from"),
    ] {
        let (status, answer) = world.get(&format!("/usage{query}")).await;
        assert_eq!(status, 422, "{answer}");
        assert_eq!(answer["detail"][0]["loc"], json!(["query", place]));
    }
    let bearer = Bearer(world.token.clone());
    let mut reports = ReportServiceClient::with_interceptor(world.channel().await, bearer);
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for (from, to, by, words) in [
        (2_000, 1_000, 0, "from: is not before to"),
        (1_000, 2_000, 9, "by: is 9"),
    ] {
        let request = v1::GetUsageRequest {
            from: at(from),
            to: at(to),
            by,
        };
        let refused = reports.get_usage(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with(words), "{refused:?}");
    }
    // Where everybody reads jobs, it is still told to nobody unknown.
    let (status, _) = world.send(world.plain(Method::GET, "/usage")).await;
    assert_eq!(status, 401);
}

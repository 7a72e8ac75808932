//! The REST door without an agent: login, refusals, lists, the life of a queued job, health.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, command, keys};

fn detail(text: &str) -> Value {
    json!({"detail": text})
}

#[tokio::test]
async fn a_user_logs_in_refreshes_and_is_told_who_it_is() {
    let world = World::start().await;
    let (status, tokens) = world.login("admin@example.com", "admin123").await;
    assert_eq!(status, 200);
    assert_eq!(
        keys(&tokens),
        ["access_token", "refresh_token", "token_type"]
    );
    assert_eq!(tokens["token_type"], "bearer");
    for (user, password) in [("admin@example.com", "wrong"), ("nobody@example.com", "x")] {
        let answer = world.login(user, password).await;
        assert_eq!(answer, (401, detail("Incorrect email or password")));
    }
    let json_body = world
        .plain(Method::POST, "/auth/login")
        .json(&json!({"username": "a"}));
    let missing = |name| json!({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": null});
    let expected = json!({"detail": [missing("username"), missing("password")]});
    assert_eq!(world.send(json_body).await, (422, expected));

    let refresh = |token: &str| {
        let query = [("refresh_token", token.to_owned())];
        world.plain(Method::POST, "/auth/refresh").query(&query)
    };
    let (status, newer) = world
        .send(refresh(tokens["refresh_token"].as_str().unwrap()))
        .await;
    assert_eq!((status, keys(&newer)), (200, keys(&tokens)));
    let (status, refused) = world.send(refresh("x")).await;
    assert_eq!(status, 401);
    let words = refused["detail"].as_str().unwrap();
    assert!(words.starts_with("Invalid refresh token: "), "{words}");
    let without = world.plain(Method::POST, "/auth/refresh");
    assert_eq!(world.send(without).await.0, 422);

    let (status, me) = world.get("/auth/me").await;
    assert_eq!(status, 200);
    let expected = "email full_name company company_custom division division_custom department \
        phone_number bio id system_role is_active badge_color avatar_name organization_id created_at";
    assert_eq!(keys(&me), expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        (&me["email"], &me["system_role"]),
        (&json!("admin@example.com"), &json!("admin"))
    );
    let (status, bye) = world.post("/auth/logout").await;
    assert_eq!((status, keys(&bye)), (200, vec!["message"]));
}

#[tokio::test]
async fn every_route_of_users_asks_for_a_token_and_says_which_scheme() {
    let world = World::start().await;
    let routes = [
        (Method::GET, "/auth/me"),
        (Method::POST, "/auth/logout"),
        (Method::POST, "/training/jobs"),
        (Method::GET, "/training/jobs"),
        (Method::GET, "/training/jobs/1"),
        (Method::GET, "/training/jobs/1/status"),
        (Method::GET, "/training/jobs/1/metrics"),
        (Method::GET, "/training/jobs/1/metric-schema"),
        (Method::GET, "/training/jobs/1/logs"),
        (Method::GET, "/training/jobs/1/checkpoints"),
        (Method::POST, "/training/jobs/1/cancel"),
        (Method::POST, "/training/jobs/1/restart"),
        (Method::POST, "/training/jobs/1/start"),
        (Method::POST, "/training/stop/1"),
        (Method::GET, "/projects/1/experiments"),
        (Method::GET, "/validation/jobs/1/results"),
        (Method::GET, "/validation/jobs/1/summary"),
    ];
    for (method, path) in routes {
        for (token, words) in [
            (None, "Not authenticated"),
            (Some("x.y.z"), "Could not validate credentials"),
        ] {
            let mut request = world.plain(method.clone(), path);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{path}");
            assert_eq!(
                answer.json::<Value>().await.unwrap(),
                detail(words),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn unknown_paths_methods_and_numbers_are_answered_as_the_contract_says() {
    let world = World::start().await;
    assert_eq!(world.get("/nothing").await, (404, detail("Not Found")));
    let no_job = (404, detail("Training job not found"));
    for path in [
        "",
        "/status",
        "/metrics",
        "/metric-schema",
        "/logs",
        "/checkpoints",
    ] {
        assert_eq!(
            world.get(&format!("/training/jobs/77{path}")).await,
            no_job,
            "{path}"
        );
        let far = format!("/training/jobs/99999999999999999999{path}");
        assert_eq!(world.get(&far).await, no_job, "{path}");
    }
    for path in [
        "jobs/77/cancel",
        "jobs/77/restart",
        "jobs/77/start",
        "stop/77",
    ] {
        assert_eq!(
            world.post(&format!("/training/{path}")).await,
            no_job,
            "{path}"
        );
    }
    for path in ["/training/jobs/1", "/auth/me", "/training/jobs/1/logs"] {
        let answer = world.post(path).await;
        assert_eq!(answer, (405, detail("Method Not Allowed")), "{path}");
    }
    let integer = "Input should be a valid integer, unable to parse string as an integer";
    let entry = |place: Value, input: &str| json!({"detail": [{"type": "int_parsing", "loc": place, "msg": integer, "input": input}]});
    let expected = entry(json!(["path", "job_id"]), "abc");
    assert_eq!(world.get("/training/jobs/abc").await, (422, expected));
    let expected = entry(json!(["path", "project_id"]), "x");
    assert_eq!(world.get("/projects/x/experiments").await, (422, expected));
    let id = world.submit(&command()).await;
    let expected = entry(json!(["query", "limit"]), "many");
    let path = format!("/training/jobs/{id}/metrics?limit=many");
    assert_eq!(world.get(&path).await, (422, expected));
    let (status, answer) = world
        .get(&format!("/training/jobs/{id}/logs?limit=0&log_type=x"))
        .await;
    assert_eq!(status, 422);
    let kinds: Vec<_> = answer["detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["type"])
        .collect();
    assert_eq!(kinds, ["greater_than_equal", "literal_error"]);
    assert_eq!(world.get("/training/jobs?status=lost").await.0, 422);
}

#[tokio::test]
async fn more_rows_than_a_page_has_are_refused_and_not_silently_cut() {
    let world = World::start().await;
    let id = world.submit(&command()).await;
    for (path, most) in [
        ("/training/jobs".to_owned(), 1_000),
        (format!("/training/jobs/{id}/metrics"), 100_000),
        (format!("/training/jobs/{id}/logs"), 100_000),
        (format!("/validation/jobs/{id}/results"), 1_000),
        (format!("/validation/jobs/{id}/summary"), 1_000),
    ] {
        let beyond = most + 1;
        let (status, answer) = world.get(&format!("{path}?limit={beyond}")).await;
        assert_eq!(status, 422, "{path}");
        let entry = &answer["detail"][0];
        assert_eq!(entry["ctx"], json!({"le": most}), "{path}");
        let (status, answer) = world.get(&format!("{path}?limit={most}")).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }
}

#[tokio::test]
async fn jobs_are_listed_by_page_status_and_project() {
    let world = World::start().await;
    let projects = [world.project("zero").await, world.project("one").await];
    let mut ids = Vec::new();
    for number in 0..5 {
        let mut body = command();
        body["project_id"] = json!(projects[number % 2]);
        ids.push(world.submit(&body).await);
    }
    let listed = async |path: &str| {
        let (status, answer) = world.get(path).await;
        assert_eq!(status, 200, "{answer}");
        let jobs = answer["jobs"].as_array().unwrap().iter();
        let ids: Vec<u64> = jobs.map(|job| job["id"].as_u64().unwrap()).collect();
        (ids, answer["next_cursor"].clone())
    };
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let (page, next) = listed(&format!("/training/jobs?limit=2{cursor}")).await;
        assert!(page.len() <= 2);
        seen.extend(page);
        let Some(next) = next.as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    ids.reverse();
    assert_eq!(seen, ids);
    world
        .post(&format!("/training/jobs/{}/cancel", ids[0]))
        .await;
    assert_eq!(
        listed("/training/jobs?status=cancelled").await,
        (vec![ids[0]], Value::Null)
    );
    assert_eq!(
        listed("/training/jobs?status=pending").await,
        (ids[1..].to_vec(), Value::Null)
    );
    assert!(listed("/training/jobs?status=running").await.0.is_empty());
    let of_one = vec![ids[1], ids[3]];
    let one = projects[1];
    let path = format!("/training/jobs?project_id={one}");
    assert_eq!(listed(&path).await.0, of_one);
    let path = format!("/projects/{one}/experiments");
    let (status, experiments) = world.get(&path).await;
    assert_eq!(status, 200);
    assert_eq!(experiments[0]["project_name"], "one");
    let none = (404, detail("Project not found"));
    assert_eq!(world.get("/projects/77/experiments").await, none);
    assert_eq!(world.get("/training/jobs?project_id=77").await, none);
    let found: Vec<_> = experiments
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].clone())
        .collect();
    assert_eq!(found, of_one.iter().map(|id| json!(id)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_queued_job_is_cancelled_started_again_and_stopped() {
    let world = World::start().await;
    let id = world.submit(&command()).await;
    let path = |verb: &str| format!("/training/jobs/{id}/{verb}");
    let refused = world.post(&path("restart")).await;
    assert_eq!(
        refused,
        (400, detail("Cannot restart job with status 'pending'"))
    );
    let (status, job) = world.post(&path("start")).await;
    assert_eq!((status, &job["status"]), (200, &json!("pending")));
    let (status, job) = world.post(&path("cancel")).await;
    assert_eq!((status, &job["status"]), (200, &json!("cancelled")));
    assert_eq!(
        job["error_message"],
        "cancelled by a user before it started"
    );
    assert!(job["completed_at"].is_string());
    let refused = world.post(&path("cancel")).await;
    assert_eq!(
        refused,
        (400, detail("Cannot cancel job with status 'cancelled'"))
    );
    let (status, job) = world.post(&path("restart")).await;
    assert_eq!((status, &job["status"]), (200, &json!("pending")));
    let (status, answer) = world.post(&format!("/training/stop/{id}")).await;
    assert_eq!(status, 200);
    assert_eq!(keys(&answer), ["job_id", "status", "message"]);
    assert_eq!(
        (&answer["job_id"], &answer["status"]),
        (&json!(id), &json!("stopped"))
    );
    let (_, job) = world.get(&format!("/training/jobs/{id}")).await;
    assert_eq!(job["status"], "cancelled");
    let (status, job) = world.post(&path("start?resume=true")).await;
    assert_eq!((status, &job["status"]), (200, &json!("pending")));
}

#[tokio::test]
async fn health_says_503_when_the_store_cannot_be_read() {
    // Nothing is remembered of the file, so that the next look at it is one.
    let world = World::with(|config| config.store.cache_mib = 0).await;
    world.submit(&command()).await;
    let file = world.data().join("trainyard.redb");
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(0).unwrap();
    for url in ["health", "api/v1/health"] {
        let url = format!("http://{}/{url}", world.address);
        let (status, health) = world.send(world.http.get(url)).await;
        assert_eq!(status, 503, "{health}");
        assert_eq!(health["status"], "unhealthy");
        assert_eq!(health["database"], "unreadable");
        assert_eq!(health["open_jobs"], Value::Null);
        // What works is said to work.
        assert_eq!(
            (&health["scheduler"], &health["nodes"]),
            (&json!("running"), &json!(0))
        );
    }
}

#[tokio::test]
async fn health_tells_what_it_has_looked_up() {
    let world = World::start().await;
    world.submit(&command()).await;
    for url in ["health", "api/v1/health"] {
        let url = format!("http://{}/{url}", world.address);
        let (status, health) = world.send(world.http.get(url)).await;
        assert_eq!(status, 200);
        assert_eq!(health["status"], "healthy");
        assert_eq!(health["database"], "connected");
        assert_eq!(
            (&health["open_jobs"], &health["nodes"]),
            (&json!(1), &json!(0))
        );
    }
}

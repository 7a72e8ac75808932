//! Accounts and their tokens: registration, sessions, keys, limits, API keys.

use reqwest::Method;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;
use trainyard_proto::v1::{
    self, auth_service_client::AuthServiceClient, job_service_client::JobServiceClient,
};

use crate::{
    live::Watcher,
    world::{Bearer, World, command, keys},
};

fn detail(text: &str) -> Value {
    json!({"detail": text})
}

fn access(tokens: &Value) -> &str {
    tokens["access_token"].as_str().unwrap()
}

async fn refresh(world: &World, tokens: &Value) -> (u16, Value) {
    let query = [("refresh_token", tokens["refresh_token"].as_str().unwrap())];
    let request = world.plain(Method::POST, "/auth/refresh").query(&query);
    world.send(request).await
}

async fn me(world: &World, token: &str) -> u16 {
    world
        .call(token, (Method::GET, "/auth/me"), Value::Null)
        .await
        .0
}

async fn register(world: &World, body: &Value) -> (u16, Value) {
    world
        .send(world.plain(Method::POST, "/auth/register").json(body))
        .await
}

#[tokio::test]
async fn somebody_registers_as_a_guest_and_keeps_a_profile() {
    let world = World::start().await;
    let body = json!({
        "email": "Ada@Example.org", "password": "engines!", "full_name": "Ada", "company": "A & Co",
        "bio": "x".repeat(2_000), "system_role": "admin", "is_active": false, "unknown": [1],
    });
    let (status, user) = register(&world, &body).await;
    assert_eq!(status, 201, "{user}");
    assert_eq!(keys(&user)[..3], ["email", "full_name", "company"]);
    assert_eq!(
        (&user["email"], &user["system_role"]),
        (&json!("ada@example.org"), &json!("guest"))
    );
    assert_eq!(
        (&user["company"], &user["is_active"]),
        (&json!("A & Co"), &json!(true))
    );
    let taken = (400, detail("Email already registered"));
    assert_eq!(register(&world, &body).await, taken);
    // Whoever makes users is told as of any other name that is taken.
    let taken = (409, detail("Email already registered"));
    assert_eq!(world.post_json("/users", &body).await, taken);
    let account = json!({"name": "ci"});
    assert_eq!(world.post_json("/service-accounts", &account).await.0, 201);
    assert_eq!(world.post_json("/service-accounts", &account).await, taken);
    assert_eq!(world.login("ada@example.org", "engines!").await.0, 200);
    let (status, tokens) = world.login("ADA@example.org", "engines!").await;
    assert_eq!(status, 200, "{tokens}");

    let put = |body: Value| world.call(access(&tokens), (Method::PUT, "/auth/me"), body);
    let change = json!({"department": "Engines", "company": null, "system_role": "admin", "email": "x@y.zz"});
    let (status, user) = put(change).await;
    assert_eq!(status, 200, "{user}");
    assert_eq!(
        (&user["department"], &user["company"]),
        (&json!("Engines"), &Value::Null)
    );
    assert_eq!(
        (&user["full_name"], &user["system_role"]),
        (&json!("Ada"), &json!("guest"))
    );
    assert_eq!(user["email"], "ada@example.org");
    let (status, refused) = put(json!({"bio": 7, "company": "x".repeat(201)})).await;
    assert_eq!(
        (status, refused["detail"].as_array().unwrap().len()),
        (422, 2)
    );
}

#[tokio::test]
async fn a_bad_registration_names_every_bad_field_and_never_shows_the_password() {
    let world = World::start().await;
    let (status, refused) =
        register(&world, &json!({"email": "nobody", "password": "hunter2"})).await;
    assert_eq!(status, 422);
    let found: Vec<_> = refused["detail"].as_array().unwrap().iter().collect();
    let kinds: Vec<_> = found
        .iter()
        .map(|one| (&one["type"], &one["loc"][1]))
        .collect();
    let expected = [("value_error", "email"), ("string_too_short", "password")];
    assert_eq!(
        kinds,
        expected
            .map(|(kind, name)| (json!(kind), json!(name)))
            .iter()
            .map(|(a, b)| (a, b))
            .collect::<Vec<_>>()
    );
    assert!(!refused.to_string().contains("hunter2"), "{refused}");
    assert_eq!(register(&world, &json!({})).await.0, 422);
    let closed = World::with(|config| config.auth.open_registration = false).await;
    let body = json!({"email": "a@example.org", "password": "engines!"});
    let (status, refused) = register(&closed, &body).await;
    assert_eq!(status, 403, "{refused}");
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_a_second_use_ends_the_whole_session() {
    let world = World::start().await;
    let (_, first) = world.login("admin@example.com", "admin123").await;
    let (status, second) = refresh(&world, &first).await;
    assert_eq!(status, 200, "{second}");
    let (status, third) = refresh(&world, &second).await;
    assert_eq!(status, 200);
    for tokens in [&first, &second, &third] {
        assert_eq!(me(&world, access(tokens)).await, 200);
    }
    let (status, refused) = refresh(&world, &first).await;
    assert_eq!(status, 401);
    let words = refused["detail"].as_str().unwrap();
    assert!(
        words.starts_with("Invalid refresh token: it was used before"),
        "{words}"
    );
    for tokens in [&first, &second, &third] {
        assert_eq!(me(&world, access(tokens)).await, 401);
        assert_eq!(refresh(&world, tokens).await.0, 401);
    }
    // Another login of the same user is another session.
    assert_eq!(me(&world, &world.token).await, 200);
}

#[tokio::test]
async fn of_two_refreshes_at_once_exactly_one_wins() {
    let world = World::start().await;
    for _ in 0..5 {
        let (_, tokens) = world.login("admin@example.com", "admin123").await;
        let (one, other) = tokio::join!(refresh(&world, &tokens), refresh(&world, &tokens));
        let mut statuses = [one.0, other.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401]);
    }
}

#[tokio::test]
async fn a_logout_ends_its_session_at_once_and_a_restart_brings_nothing_back() {
    let world = World::start().await;
    let (_, here) = world.login("admin@example.com", "admin123").await;
    let (_, there) = world.login("admin@example.com", "admin123").await;
    let (_, stays) = world.login("admin@example.com", "admin123").await;
    let path = format!(
        "/auth/logout?refresh_token={}",
        there["refresh_token"].as_str().unwrap()
    );
    let (status, bye) = world
        .call(access(&here), (Method::POST, &path), Value::Null)
        .await;
    assert_eq!((status, keys(&bye)), (200, vec!["message"]));
    let world = World::on(world.stop().await).await;
    for tokens in [&here, &there] {
        assert_eq!(me(&world, access(tokens)).await, 401);
        assert_eq!(refresh(&world, tokens).await.0, 401);
    }
    assert_eq!(me(&world, access(&stays)).await, 200);
    assert_eq!(refresh(&world, &stays).await.0, 200);
}

#[tokio::test]
async fn a_stream_tells_nothing_more_once_its_login_has_ended() {
    let world = World::start().await;
    let (_, tokens) = world.login("admin@example.com", "admin123").await;
    let job_id = world.submit(&command()).await;
    let mut jobs = world.jobs_of(access(&tokens)).await;
    let watching = jobs.watch_job(v1::WatchJobRequest { job_id }).await;
    let mut watching = watching.unwrap().into_inner();
    assert!(watching.message().await.unwrap().is_some());
    let out = (Method::POST, "/auth/logout");
    assert_eq!(world.call(access(&tokens), out, Value::Null).await.0, 200);
    world.post(&format!("/training/jobs/{job_id}/cancel")).await;
    // What was on its way before the logout may still come.
    let refused = loop {
        match watching.message().await {
            Ok(Some(answer)) => assert_ne!(answer.job.unwrap().state(), v1::JobState::Cancelled),
            Ok(None) => panic!("it was told to the end"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_new_password_ends_every_session_of_the_account() {
    let world = World::start().await;
    let (id, tokens) = world.user("ada@example.org", "guest").await;
    let change = |current: &str| {
        let body = json!({"current_password": current, "new_password": "battery staple"});
        world.call(access(&tokens), (Method::PUT, "/auth/password"), body)
    };
    assert_eq!(
        change("wrong one").await,
        (400, detail("Incorrect password"))
    );
    assert_eq!(change("correct horse").await.0, 200);
    assert_eq!(me(&world, access(&tokens)).await, 401);
    assert_eq!(world.login("ada@example.org", "correct horse").await.0, 401);
    let (status, tokens) = world.login("ada@example.org", "battery staple").await;
    assert_eq!(status, 200);
    let path = format!("/users/{id}/password");
    let body = json!({"password": "set by an admin"});
    assert_eq!(
        world.call(&world.token, (Method::PUT, &path), body).await.0,
        200
    );
    assert_eq!(me(&world, access(&tokens)).await, 401);
}

#[tokio::test]
async fn keys_are_replaced_without_logging_anyone_out_unless_asked_to() {
    let world = World::start().await;
    let old = world.token.clone();
    let (_, tokens) = world.login("admin@example.com", "admin123").await;
    let rotate = async |token: &str, body: Value| {
        world
            .call(token, (Method::POST, "/auth/keys/rotate"), body)
            .await
    };
    let (status, first) = rotate(&old, Value::Null).await;
    assert_eq!((status, keys(&first)), (200, vec!["kid"]));
    let (_, newer) = world.login("admin@example.com", "admin123").await;
    for token in [&*old, access(&newer)] {
        assert_eq!(me(&world, token).await, 200);
    }
    assert_eq!(refresh(&world, &tokens).await.0, 200);
    let world = World::on(world.stop().await).await;
    assert_eq!(me(&world, &old).await, 200);
    let body = json!({"drop_old": true});
    let (status, second) = world
        .call(&old, (Method::POST, "/auth/keys/rotate"), body)
        .await;
    assert_eq!(status, 200);
    assert_ne!(first["kid"], second["kid"]);
    assert_eq!(me(&world, &old).await, 401);
    assert_eq!(refresh(&world, &newer).await.0, 401);
    assert_eq!(world.login("admin@example.com", "admin123").await.0, 200);
}

#[tokio::test]
async fn too_many_wrong_passwords_are_told_when_to_come_back_and_right_ones_do_not_count() {
    let world = World::with(|config| config.login.failures_per_account = 3).await;
    for _ in 0..5 {
        assert_eq!(world.login("admin@example.com", "admin123").await.0, 200);
    }
    for account in ["admin@example.com", "nobody@example.com"] {
        for _ in 0..3 {
            assert_eq!(world.login(account, "wrong").await.0, 401);
        }
        let form = [("username", account), ("password", "admin123")];
        let request = world.plain(Method::POST, "/auth/login").form(&form);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 429, "{account}");
        let wait: u64 = answer.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=301).contains(&wait), "{wait}");
        let body: Value = answer.json().await.unwrap();
        let words = body["detail"].as_str().unwrap();
        assert!(
            words.starts_with("Too many wrong passwords for this account"),
            "{words}"
        );
    }
    let mut auth = AuthServiceClient::new(world.channel().await);
    let asked = v1::LoginRequest {
        email: "Admin@Example.com".into(),
        password: "admin123".into(),
    };
    let status = auth.login(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    // The account is not locked: whoever is logged in works on.
    assert_eq!(me(&world, &world.token).await, 200);
}

#[tokio::test]
async fn an_address_that_tries_many_accounts_is_stopped_by_where_it_comes_from() {
    let world = World::with(|config| {
        config.login.failures_per_address = 3;
        config.login.trusted_proxies = "127.0.0.0/8".to_owned();
    })
    .await;
    let attempt = async |number: u32, from: &str| {
        let account = format!("user{number}@example.com");
        let form = [("username", account.as_str()), ("password", "wrong")];
        let request = world.plain(Method::POST, "/auth/login").form(&form);
        let request = request.header("x-forwarded-for", from);
        request.send().await.unwrap().status().as_u16()
    };
    for number in 0..3 {
        assert_eq!(attempt(number, "198.51.100.7").await, 401);
    }
    assert_eq!(attempt(9, "198.51.100.7").await, 429);
    // What the client wrote itself, further left, moves it nowhere.
    assert_eq!(attempt(9, "1.2.3.4, 198.51.100.7").await, 429);
    assert_eq!(attempt(9, "203.0.113.5").await, 401);
}

#[tokio::test]
async fn an_api_key_does_not_log_out_and_the_answer_says_how_it_ends() {
    let world = World::start().await;
    let (_, account) = world
        .post_json("/service-accounts", &json!({"name": "ci"}))
        .await;
    let body = json!({"user_id": account["id"], "name": "main"});
    let (_, made) = world.post_json("/api-keys", &body).await;
    let key = made["key"].as_str().unwrap();
    let out = (Method::POST, "/auth/logout");
    let (status, answer) = world.call(key, out, Value::Null).await;
    assert_eq!(status, 400, "{answer}");
    let way = format!("api-keys revoke {}", made["id"].as_str().unwrap());
    assert!(
        answer["detail"].as_str().unwrap().contains(&way),
        "{answer}"
    );
    assert_eq!(me(&world, key).await, 200);
}

#[tokio::test]
async fn a_service_account_calls_with_its_key_at_both_doors_until_it_is_revoked() {
    let world = World::start().await;
    let (status, project) = world.post_json("/projects", &json!({"name": "CI"})).await;
    assert_eq!(status, 201);
    let body = json!({"name": "ci", "project_id": project["id"]});
    let (status, account) = world.post_json("/service-accounts", &body).await;
    assert_eq!(status, 201, "{account}");
    assert_eq!(account["email"], "ci@service.local");
    assert_eq!(world.login("ci@service.local", "").await.0, 422);
    assert_eq!(world.login("ci@service.local", "x").await.0, 401);
    let body = json!({"user_id": account["id"], "name": "main", "expires_in_seconds": 3600});
    let (status, made) = world.post_json("/api-keys", &body).await;
    assert_eq!(status, 201, "{made}");
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with(&format!("ty_{}_", made["id"].as_str().unwrap())));

    let mut job = command();
    job["project_id"] = project["id"].clone();
    let (status, job) = world.call(key, (Method::POST, "/training/jobs"), job).await;
    assert_eq!(status, 200, "{job}");
    let bearer = Bearer(key.to_owned());
    let mut jobs = JobServiceClient::with_interceptor(world.channel().await, bearer);
    let job_id = job["id"].as_u64().unwrap();
    let found = jobs.get_job(v1::GetJobRequest { job_id }).await.unwrap();
    assert_eq!(
        found.into_inner().job.unwrap().submitted_by,
        "ci@service.local"
    );
    let (status, refused) = world.call(key, (Method::GET, "/users"), Value::Null).await;
    assert_eq!(status, 403, "{refused}");

    let (status, listed) = world.get("/api-keys").await;
    assert_eq!(status, 200);
    assert!(!listed.to_string().contains(key));
    assert!(listed[0]["last_used_at"].is_string(), "{listed}");
    let last = if key.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", key.split_at(key.len() - 1).0);
    for bad in [wrong, key.replace("ty_", "tz_")] {
        assert_eq!(me(&world, &bad).await, 401);
    }
    let path = format!("/api-keys/{}", made["id"].as_str().unwrap());
    assert_eq!(
        world
            .call(&world.token, (Method::DELETE, &path), Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(me(&world, key).await, 401);
    let status = jobs
        .get_job(v1::GetJobRequest { job_id })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(
        world
            .call(&world.token, (Method::DELETE, &path), Value::Null)
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn reads_of_jobs_are_open_only_where_the_settings_say_so() {
    let closed = World::start().await;
    let id = closed.submit(&command()).await;
    let path = format!("/training/jobs/{id}");
    assert_eq!(closed.send(closed.plain(Method::GET, &path)).await.0, 401);

    let open = World::with(|config| config.auth.open_reads = true).await;
    let id = open.submit(&command()).await;
    let path = format!("/training/jobs/{id}");
    let anyone = async |method: Method, path: &str| open.send(open.plain(method, path)).await;
    assert_eq!(anyone(Method::GET, &path).await.0, 200);
    for below in ["status", "metrics", "logs", "metric-schema", "checkpoints"] {
        assert_eq!(
            anyone(Method::GET, &format!("{path}/{below}")).await.0,
            200,
            "{below}"
        );
    }
    let (status, page) = anyone(Method::GET, "/training/jobs").await;
    assert_eq!((status, page["jobs"].as_array().unwrap().len()), (200, 1));
    let project = open.project("vision").await;
    let mut body = command();
    body["project_id"] = json!(project);
    let of_project = open.submit(&body).await;
    let (status, page) = anyone(Method::GET, &format!("/training/jobs?project_id={project}")).await;
    assert_eq!((status, &page["jobs"][0]["id"]), (200, &json!(of_project)));
    let experiments = format!("/projects/{project}/experiments");
    let (status, listed) = anyone(Method::GET, &experiments).await;
    assert_eq!((status, &listed[0]["id"]), (200, &json!(of_project)));
    let none = anyone(Method::GET, "/projects/77/experiments").await;
    assert_eq!(none, (404, detail("Project not found")));
    let mut watcher = Watcher::open(&open, &format!("?job_id={of_project}"), None)
        .await
        .unwrap();
    assert_eq!(watcher.next().await["type"], "connected");
    let project = format!("/projects/{project}");
    for refused in ["/auth/me", "/users", "/projects", &project, "/api-keys"] {
        assert_eq!(anyone(Method::GET, refused).await.0, 401, "{refused}");
    }
    assert_eq!(anyone(Method::POST, &format!("{path}/cancel")).await.0, 401);
    assert_eq!(anyone(Method::POST, "/training/jobs").await.0, 401);
    let bad = open.call("x.y.z", (Method::GET, &path), Value::Null).await;
    assert_eq!(bad.0, 401);
    let (_, guest) = open.user("guest@example.org", "guest").await;
    let listed = open.call(access(&guest), (Method::GET, &experiments), Value::Null);
    assert_eq!(listed.await.0, 200);
    assert_eq!(
        open.call(access(&guest), (Method::GET, &path), Value::Null)
            .await
            .0,
        200
    );
}

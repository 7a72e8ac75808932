//! Users, projects, service accounts and keys from the command line, with real processes.

use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use serde_json::Value;
use tests::cluster::{Cluster, CoordinatorSetup};

use crate::{TRAINYARD, text};

/// What a command printed as JSON.
fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let output = cluster.cli(&all);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

/// Runs the client with `input` on stdin and these variables, without the login of the tests.
fn with_input(
    cluster: &Cluster,
    arguments: &[&str],
    (variables, input): (&[(&str, &str)], &str),
) -> Output {
    let mut command = cluster.command();
    command
        .args(arguments)
        .env("TRAINYARD_COORDINATOR", cluster.url())
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_makes_users_and_projects_from_the_command_line() {
    let cluster = Cluster::start(TRAINYARD).await;
    let admin = [("TRAINYARD_ACCESS_TOKEN", cluster.token())];
    let add = [
        "users",
        "add",
        "ada@example.org",
        "--role",
        "guest",
        "--password-stdin",
    ];
    let output = with_input(&cluster, &add, (&admin, "correct horse\n"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "made user ada@example.org, a guest\n");
    let user = json(
        &cluster,
        &["users", "set-role", "ada@example.org", "advanced_engineer"],
    );
    assert_eq!(user["role"], "advanced_engineer");
    let refused = cluster.cli(&["users", "set-role", "ada@example.org", "king"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("'king' is none of guest,"),
        "{}",
        text(&refused.stderr)
    );

    let project = json(
        &cluster,
        &["projects", "create", "Faces", "--description", "of people"],
    );
    assert_eq!(project["project_id"], 1);
    json(
        &cluster,
        &[
            "projects",
            "add-member",
            "1",
            "ada@example.org",
            "--role",
            "viewer",
        ],
    );
    let shown = text(&cluster.cli(&["projects", "show", "1"]).stdout);
    assert!(shown.contains("ada@example.org (viewer)"), "{shown}");
    json(
        &cluster,
        &["projects", "remove-member", "1", "ada@example.org"],
    );
    let listed = text(&cluster.cli(&["projects", "list"]).stdout);
    assert!(
        listed.contains("Faces") && listed.contains("of people"),
        "{listed}"
    );
    let disable = ["users", "disable", "ada@example.org"];
    assert!(cluster.cli(&disable).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn ci_calls_with_an_api_key_until_it_is_revoked() {
    let cluster = Cluster::start(TRAINYARD).await;
    json(&cluster, &["projects", "create", "Faces"]);
    json(
        &cluster,
        &["service-accounts", "create", "ci", "--project", "1"],
    );
    let made = json(
        &cluster,
        &["api-keys", "create", "ci", "--expires-in", "720h"],
    );
    let key = made["key"].as_str().expect("a key");
    let as_ci = [("TRAINYARD_API_KEY", key)];
    let output = with_input(&cluster, &["--json", "status"], (&as_ci, ""));
    let status: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(status["user"]["email"], "ci@service.local");
    let denied = with_input(&cluster, &["users", "list"], (&as_ci, ""));
    assert!(
        text(&denied.stderr).contains("may not administer users"),
        "{}",
        text(&denied.stderr)
    );
    let id = made["key_id"].as_str().expect("an id");
    let listed = text(&cluster.cli(&["api-keys", "list"]).stdout);
    assert!(listed.contains(id) && !listed.contains(key), "{listed}");
    json(&cluster, &["api-keys", "revoke", id]);
    let refused = with_input(&cluster, &["status"], (&as_ci, ""));
    assert_eq!(refused.status.code(), Some(77));
    let rotated = json(&cluster, &["keys", "rotate"]);
    assert!(rotated["kid"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_project_may_have_stands_in_the_file_of_settings() {
    let settings = "[scheduling.projects.1]\nqueued = 1\nrunning = 5\n";
    let setup = CoordinatorSetup {
        settings: settings.to_owned(),
        ..CoordinatorSetup::default()
    };
    let cluster = Cluster::start_with(TRAINYARD, setup).await;
    json(&cluster, &["projects", "create", "Faces"]);
    let submit = ["submit", "--project", "1", "--", "true"];
    let first = json(&cluster, &submit);
    assert_eq!(first["state"], "queued", "{first}");
    let second = cluster.cli(&submit);
    let words = text(&second.stderr);
    assert!(!second.status.success(), "{words}");
    assert!(
        words.contains("the project 1 has 1 job waiting already")
            && words.contains("scheduling.projects.1.queued"),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_run_at_once_share_one_renewal_and_a_logout_ends_the_login() {
    let cluster = Cluster::start(TRAINYARD).await;
    let login = ["login", "--email", "admin@example.com", "--password-stdin"];
    let output = with_input(&cluster, &login, (&[], "admin123"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    // An access token that is no good any more, as after an hour.
    let path = cluster.path("home/trainyard/credentials.json");
    let kept = std::fs::read_to_string(&path).expect("a login is kept");
    let mut kept: Value = serde_json::from_str(&kept).expect("it is JSON");
    for login in kept["servers"]
        .as_object_mut()
        .expect("logins")
        .values_mut()
    {
        login["access_token"] = "x.y.z".into();
    }
    std::fs::write(&path, kept.to_string()).expect("it is written");
    let cluster = std::sync::Arc::new(cluster);
    let many: Vec<_> = (0..6)
        .map(|_| {
            let cluster = std::sync::Arc::clone(&cluster);
            std::thread::spawn(move || with_input(&cluster, &["status"], (&[], "")))
        })
        .collect();
    for one in many {
        let output = one.join().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("admin@example.com (admin)"));
    }
    let access = std::fs::read_to_string(&path).expect("a login is kept");
    let output = with_input(&cluster, &["logout"], (&[], ""));
    assert!(output.status.success(), "{}", text(&output.stderr));
    // Also whoever has copied the file is out.
    std::fs::write(&path, access).expect("it is written");
    let output = with_input(&cluster, &["status"], (&[], ""));
    assert_eq!(output.status.code(), Some(77), "{}", text(&output.stdout));
}

//! Agents join: tokens, credentials, and cutting an agent off, over both doors.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use reqwest::Method;
use serde_json::json;
use tests::wait::until;
use tonic::{Code, Status};
use trainyard_proto::v1::{
    self, RevokeNodeRequest, agent_service_client::AgentServiceClient, connect_request::Frame,
    report_service_client::ReportServiceClient,
};

use crate::{
    agent::{Agent, Stream, hello},
    jobs::{program, submit, try_submit},
    world::{Bearer, World, command},
};

async fn token(world: &World, ttl: Duration, node: &str, uses: u32) -> String {
    let request = v1::CreateJoinTokenRequest {
        ttl: Some(trainyard_proto::convert::duration(ttl)),
        node_name: node.to_owned(),
        uses,
    };
    let made = world.nodes().await.create_join_token(request).await;
    made.unwrap().into_inner().token
}

const HOUR: Duration = Duration::from_secs(3_600);

fn refused<T>(answer: Result<T, Status>, code: Code, words: &str) {
    let status = answer.err().expect("a refusal");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{status}");
}

#[tokio::test]
async fn a_token_lets_as_many_in_as_it_says_and_a_lost_answer_is_given_again() {
    let world = World::start().await;
    let one = token(&world, HOUR, "", 1).await;
    let first = world.join_as(&one, ("n1", "id-of-n1")).await.unwrap();
    let again = world.join_as(&one, ("n1", "id-of-n1")).await.unwrap();
    assert_ne!(
        first, again,
        "what is kept is a hash; it cannot be told twice"
    );
    let other = world.join_as(&one, ("n2", "id-of-n2")).await;
    refused(other, Code::Unauthenticated, "has been used");

    // The first answer was lost: only the second one counts. Once it is used, the token is spent.
    let mut lost = hello(&world, "n1", 1);
    lost.token = first;
    let stream = Stream::open_with(&world, Frame::Hello(lost)).await;
    refused(stream, Code::Unauthenticated, "not known here");
    let mut kept = hello(&world, "n1", 1);
    kept.token = again;
    let _agent = Agent::connect(&world, kept).await;
    let spent = world.join_as(&one, ("n1", "id-of-n1")).await;
    refused(spent, Code::Unauthenticated, "has been used");
}

#[tokio::test]
async fn a_token_of_another_node_one_that_has_expired_and_one_of_nobody_are_refused() {
    let world = World::start().await;
    let bound = token(&world, HOUR, "n1", 1).await;
    let other = world.join_as(&bound, ("n2", "2")).await;
    refused(other, Code::PermissionDenied, "is for node 'n1'");
    world.join_as(&bound, ("n1", "1")).await.unwrap();
    for nobodys in ["", "tyj_", "tyj_0011_22", "x", "tya:n1:x"] {
        let answer = world.join_as(nobodys, ("n3", "3")).await;
        refused(answer, Code::Unauthenticated, "trainyard node token");
    }
    let short = token(&world, Duration::from_secs(1), "", 9).await;
    let number = AtomicUsize::new(0);
    until("the token has expired", async || {
        let name = format!("e{}", number.fetch_add(1, Ordering::Relaxed));
        let refused = world.join_as(&short, (&name, &name)).await.err()?;
        refused.message().contains("has expired").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_credential_is_good_for_its_node_and_its_data_folder_only() {
    let world = World::start().await;
    let many = token(&world, HOUR, "", 9).await;
    let a = world.join_as(&many, ("a", "id-of-a")).await.unwrap();
    world.join_as(&many, ("b", "id-of-b")).await.unwrap();
    let try_as = async |node: &str, change: fn(&mut v1::Hello)| {
        let mut hello = hello(&world, node, 1);
        hello.token.clone_from(&a);
        change(&mut hello);
        Stream::open_with(&world, Frame::Hello(hello)).await
    };
    let stolen = try_as("b", |_| {}).await;
    refused(
        stolen,
        Code::PermissionDenied,
        "that of node 'a' and not of 'b'",
    );
    let copied = try_as("a", |hello| hello.agent_id = "id-of-b".into()).await;
    refused(copied, Code::PermissionDenied, "another data folder");
    let taken = world.join_as(&many, ("a", "id-of-c")).await;
    refused(taken, Code::PermissionDenied, "belongs to another agent");
    // The data stream is held to the same.
    let _b = Agent::join(&world, "b", 1).await;
    let attach = v1::Attach {
        node_name: "b".into(),
        session: 1,
        token: a,
    };
    let stolen = Stream::open_with(&world, Frame::Attach(attach)).await;
    refused(stolen, Code::PermissionDenied, "that of node 'a'");
}

#[tokio::test]
async fn calls_beside_the_session_need_the_credential() {
    let world = World::start().await;
    let mut agents = AgentServiceClient::new(world.channel().await);
    let upload = v1::SignUploadRequest::default();
    let without = agents.sign_upload(upload.clone()).await;
    refused(without, Code::Unauthenticated, "not known here");
    let manifest = agents
        .fetch_manifest(v1::FetchManifestRequest::default())
        .await;
    refused(manifest, Code::Unauthenticated, "not known here");
    let join_token = world.join_token.clone();
    let credential = world.join_as(&join_token, ("n1", "1")).await.unwrap();
    let mut request = tonic::Request::new(upload);
    let header = format!("Bearer {credential}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    let answer = agents.sign_upload(request).await;
    assert_ne!(
        answer.err().map(|status| status.code()),
        Some(Code::Unauthenticated)
    );
}

#[tokio::test]
async fn a_revoked_agent_is_cut_off_at_once_and_comes_back_with_a_newer_token_only() {
    let world = World::start().await;
    let many = token(&world, HOUR, "", 9).await;
    let mut greeting = hello(&world, "n1", 1);
    greeting.token = world.join_as(&many, ("n1", "id-of-n1")).await.unwrap();
    let mut agent = Agent::connect(&world, greeting.clone()).await;
    let mut data = agent.attach(&world).await;
    let job = world.submit(&command()).await;
    agent.run().await;
    world.until(job, "running").await;

    let mut nodes = world.nodes().await;
    let unknown = nodes.revoke_node(RevokeNodeRequest { name: "n9".into() });
    refused(unknown.await, Code::NotFound, "'n9'");
    let (status, said) = world.post("/nodes/n1/revoke").await;
    assert_eq!(status, 200, "{said}");
    assert!(agent.control.ends().await, "the control stream is closed");
    assert!(data.ends().await, "and the data stream");
    let back = Stream::open_with(&world, Frame::Hello(greeting.clone())).await;
    refused(back, Code::Unauthenticated, "was revoked");
    for old in [&many, &world.join_token] {
        let joined = world.join_as(old, ("n1", "id-of-n1")).await;
        refused(joined, Code::PermissionDenied, "was revoked");
    }
    // Its job is that of a silent node: nothing is decided before the lease is over.
    let (_, now) = world.get(&format!("/training/jobs/{job}")).await;
    assert_eq!(now["status"], "running");

    let newer = token(&world, HOUR, "n1", 1).await;
    greeting.token = world.join_as(&newer, ("n1", "id-of-n1")).await.unwrap();
    Agent::connect(&world, greeting).await;
}

#[tokio::test]
async fn what_only_a_revoked_node_could_hold_is_refused_until_an_agent_joins_as_it_again() {
    let world = World::start().await;
    let _small = Agent::join(&world, "n1", 1).await;
    let large = Agent::join(&world, "n2", 8).await;
    let wide = || program(|spec| spec.resources.cpus = 4);
    submit(&world, wide()).await;
    let (status, said) = world.post("/nodes/n2/revoke").await;
    assert_eq!(status, 200, "{said}");
    drop(large);
    let refused_now = try_submit(&world, wide(), "").await;
    refused(refused_now, Code::InvalidArgument, "cpus");
    // Nor does a coordinator that is started anew take it for one that comes back.
    let world = World::on(world.stop().await).await;
    let refused_now = try_submit(&world, wide(), "").await;
    refused(refused_now, Code::InvalidArgument, "cpus");
    let newer = token(&world, HOUR, "n2", 1).await;
    let mut greeting = hello(&world, "n2", 8);
    greeting.token = world.join_as(&newer, ("n2", "id-of-n2")).await.unwrap();
    let _back = Agent::connect(&world, greeting).await;
    submit(&world, wide()).await;
}

/// Of the nodes: how they are shown, and the names of those that a replay is told of.
async fn known(world: &World) -> (Vec<(String, bool)>, Vec<String>) {
    let (status, answer) = world.get("/nodes").await;
    assert_eq!(status, 200, "{answer}");
    let mut nodes = world.nodes().await;
    let listed = nodes.list_nodes(v1::ListNodesRequest {});
    let listed = listed.await.unwrap().into_inner().nodes.into_iter();
    let listed: Vec<_> = listed.map(|node| (node.name, node.revoked)).collect();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let rest = answer.as_array().unwrap().iter();
    let rest = rest.map(|node| (text(&node["name"]), node["revoked"].as_bool().unwrap()));
    assert!(rest.eq(listed.iter().cloned()), "{answer}");
    let bearer = Bearer(world.token.clone());
    let mut reports = ReportServiceClient::with_interceptor(world.channel().await, bearer);
    let pieces = reports.stream_history(v1::StreamHistoryRequest::default());
    let first = pieces.await.unwrap().into_inner().message().await.unwrap();
    let told = first.unwrap().nodes.into_iter().map(|node| node.name);
    (listed, told.collect())
}

#[tokio::test]
async fn a_node_that_is_revoked_is_shown_so_and_is_no_part_of_a_replay_until_it_is_back() {
    let world = World::start().await;
    let _one = Agent::join(&world, "n1", 1).await;
    let two = Agent::join(&world, "n2", 1).await;
    let listed = |revoked| vec![("n1".to_owned(), false), ("n2".to_owned(), revoked)];
    let both = vec!["n1".to_owned(), "n2".to_owned()];
    assert_eq!(known(&world).await, (listed(false), both.clone()));
    let (status, said) = world.post("/nodes/n2/revoke").await;
    assert_eq!(status, 200, "{said}");
    drop(two);
    assert_eq!(known(&world).await, (listed(true), vec!["n1".to_owned()]));
    let world = World::on(world.stop().await).await;
    assert_eq!(known(&world).await, (listed(true), vec!["n1".to_owned()]));
    let newer = token(&world, HOUR, "n2", 1).await;
    let mut greeting = hello(&world, "n2", 1);
    greeting.token = world.join_as(&newer, ("n2", "id-of-n2")).await.unwrap();
    let _back = Agent::connect(&world, greeting).await;
    assert_eq!(known(&world).await, (listed(false), both));
}

#[tokio::test]
async fn who_has_revoked_a_node_is_noted_also_of_one_that_has_never_connected() {
    let world = World::start().await;
    let connected = Agent::join(&world, "n1", 1).await;
    world
        .join_as(&world.join_token, ("n2", "id-of-n2"))
        .await
        .unwrap();
    for node in ["n1", "n2"] {
        let (status, said) = world.post(&format!("/nodes/{node}/revoke")).await;
        assert_eq!(status, 200, "{said}");
        let words = "revoked: admin@example.com: its agent may not connect any more";
        assert_eq!(noted(&world, node).await, [words]);
    }
    drop(connected);
}

/// What was decided about a node.
async fn noted(world: &World, node: &str) -> Vec<String> {
    let (status, answer) = world.get(&format!("/events?node={node}")).await;
    assert_eq!(status, 200, "{answer}");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let told = answer["events"].as_array().unwrap().iter();
    let told = told.map(|event| text(&event["kind"]) + ": " + &text(&event["words"]));
    told.collect()
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_over_http_without_showing_a_secret_twice() {
    let world = World::start().await;
    let body = json!({"ttl_seconds": 60, "node_name": "n1", "uses": 2});
    let (status, made) = world.post_json("/nodes/tokens", &body).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(
        (&made["node_name"], &made["uses"]),
        (&json!("n1"), &json!(2))
    );
    let token = made["token"].as_str().unwrap();
    world.join_as(token, ("n1", "1")).await.unwrap();
    let (status, all) = world.get("/nodes/tokens").await;
    assert_eq!(status, 200);
    assert_eq!(all[0]["joined"], json!(["n1"]));
    assert!(!all.to_string().contains(token));
    assert!(all[0].get("hash").is_none());
    let id = made["id"].as_str().unwrap();
    let path = format!("/nodes/tokens/{id}");
    let remove = || world.plain(Method::DELETE, &path).bearer_auth(&world.token);
    assert_eq!(world.send(remove()).await.0, 200);
    let (status, said) = world.send(remove()).await;
    assert_eq!((status, said["detail"].is_string()), (404, true));
    let gone = world.join_as(token, ("n1", "1")).await;
    refused(gone, Code::Unauthenticated, "not one of this coordinator's");

    for bad in [
        json!({"uses": 0}),
        json!({"ttl_seconds": 2_592_001}),
        json!({"ttl_seconds": "soon"}),
        json!({"node_name": "a b"}),
    ] {
        let (status, said) = world.post_json("/nodes/tokens", &bad).await;
        assert_eq!(status, 422, "{bad}: {said}");
    }
    let paths = [
        (Method::POST, "/nodes/tokens"),
        (Method::GET, "/nodes/tokens"),
    ];
    for (method, path) in paths
        .into_iter()
        .chain([(Method::POST, "/nodes/n1/revoke")])
    {
        let (status, _) = world.send(world.plain(method, path)).await;
        assert_eq!(status, 401, "{path}");
    }
}

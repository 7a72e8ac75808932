//! Every REST route of the OpenAPI document and every gRPC method × every kind of caller that must
//! be refused.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tonic::{Code, Request, client::Grpc, metadata::MetadataValue};
use tonic_prost::ProstCodec;
use trainyard_coordinator::{
    auth::SigningKeyRow,
    store::{Store, StoreOptions},
};
use trainyard_proto::DESCRIPTORS;

use crate::world::{World, command};

/// Calls that need no user: what logs in, what trainers report with their attempt's secret, and what
/// tells nothing about anybody.
const OPEN: [&str; 5] = [
    "/auth/login",
    "/auth/register",
    "/auth/refresh",
    "/health",
    "/openapi.json",
];

/// A coordinator, and tokens of callers that it must refuse, by what is wrong with each. Some are
/// signed with its own key, which is taken from its store while it stands still.
async fn strangers() -> (World, Vec<(&'static str, String)>) {
    let world = World::start().await;
    let mut claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(&world.token).unwrap();
    let folder = world.stop().await;
    let path = folder.path().join("data/trainyard.redb");
    let store = Store::open(StoreOptions::new(path), Box::new(|_| ())).unwrap();
    let key = store.documents::<SigningKeyRow>("").unwrap().remove(0);
    drop(store);
    let world = World::on(folder).await;

    let signed = |algorithm, secret: &str, kid: Option<&str>, claims: &Value| {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        encode(
            &header,
            claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    };
    let (own, kid) = (key.secret.expose(), Some(&*key.kid));
    let good = signed(Algorithm::HS256, own, kid, &claims);
    let me = (Method::GET, "/auth/me");
    // So the refusals below come of what was changed, and of nothing else.
    assert_eq!(world.call(&good, me, Value::Null).await.0, 200);
    let parts: Vec<_> = good.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let mut refused = vec![
        (
            "another key",
            signed(Algorithm::HS256, "guess", kid, &claims),
        ),
        (
            "an unknown kid",
            signed(Algorithm::HS256, own, Some("k"), &claims),
        ),
        ("no kid", signed(Algorithm::HS256, own, None, &claims)),
        ("HS384", signed(Algorithm::HS384, own, kid, &claims)),
        ("alg none", format!("{none}.{body}.")),
        ("alg none, signed", format!("{none}.{body}.{signature}")),
        ("no signature", format!("{header}.{body}.")),
        ("the join token", world.join_token.clone()),
        ("no token of any kind", "x".to_owned()),
        ("an unknown API key", format!("ty_{:016x}_{:064x}", 1, 1)),
    ];
    let mut changed = |what, name: &str, value: Value| {
        let was = claims[name].clone();
        claims[name] = value;
        refused.push((what, signed(Algorithm::HS256, own, kid, &claims)));
        claims[name] = was;
    };
    changed("expired", "exp", json!(1_700_000_000));
    changed("another user's session", "sub", json!("2"));
    changed("an unknown session", "sid", json!("0"));
    changed("of no type", "type", json!("x"));

    refused.extend(former(&world).await);
    (world, refused)
}

/// Tokens that were good once, or are good for something else.
async fn former(world: &World) -> [(&'static str, String); 3] {
    let (_, tokens) = world.login("admin@example.com", "admin123").await;
    let revoked = tokens["access_token"].as_str().unwrap().to_owned();
    let out = (Method::POST, "/auth/logout");
    assert_eq!(world.call(&revoked, out, Value::Null).await.0, 200);
    let (_, tokens) = world.login("admin@example.com", "admin123").await;
    let refresh = tokens["refresh_token"].as_str().unwrap().to_owned();
    let (id, tokens) = world.user("off@example.org", "admin").await;
    let off = (Method::PATCH, &*format!("/users/{id}"));
    let body = json!({"is_active": false});
    assert_eq!(world.call(&world.token, off, body).await.0, 200);
    let off = tokens["access_token"].as_str().unwrap().to_owned();
    [
        ("revoked", revoked),
        ("a refresh token", refresh),
        ("deactivated", off),
    ]
}

/// Method and path of every call that needs a user, parameters filled in.
async fn routes(world: &World) -> Vec<(Method, String)> {
    let (status, document) = world.send(world.plain(Method::GET, "/openapi.json")).await;
    assert_eq!(status, 200);
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1").unwrap();
        for (method, call) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else {
                continue;
            };
            let schemes = call["security"].to_string();
            let open = OPEN.contains(&path) || !schemes.contains("token");
            if !open {
                let filled = path
                    .split('/')
                    .map(|part| if part.starts_with('{') { "1" } else { part })
                    .collect::<Vec<_>>()
                    .join("/");
                routes.push((method, filled));
            }
        }
    }
    routes
}

#[tokio::test]
async fn no_route_of_rest_lets_a_stranger_in() {
    let (world, strangers) = strangers().await;
    world.submit(&command()).await;
    let routes = routes(&world).await;
    assert!(routes.len() >= 35, "{routes:?}");
    for (method, path) in &routes {
        let request = world.plain(method.clone(), path);
        let (status, answer) = world.send(request).await;
        let expected = (401, json!({"detail": "Not authenticated"}));
        assert_eq!(
            (status, answer),
            expected,
            "{method} {path} without a token"
        );
        for (what, token) in &strangers {
            let request = world.plain(method.clone(), path).bearer_auth(token);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{method} {path}: {what}");
            assert_eq!(
                answer.headers()["www-authenticate"],
                "Bearer",
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn every_route_is_described_with_who_may_call_it_or_is_known_to_be_open() {
    let world = World::start().await;
    let (_, document) = world.send(world.plain(Method::GET, "/openapi.json")).await;
    let paths = document["paths"].as_object().unwrap().iter();
    let without = paths.flat_map(|(path, item)| {
        let calls = item.as_object().unwrap().values();
        let open = calls.filter(|call| call["security"].is_null());
        open.map(move |_| path.trim_start_matches("/api/v1").to_owned())
    });
    for path in without {
        let known = OPEN.contains(&&*path) || path.starts_with("/models") || path == "/metrics";
        assert!(known, "{path} asks for nothing");
    }
}

#[tokio::test]
async fn guests_and_members_of_other_projects_get_nowhere() {
    let world = World::start().await;
    let (_, guest) = world.user("guest@example.org", "guest").await;
    let (_, other) = world.user("other@example.org", "advanced_engineer").await;
    let other = other["access_token"].as_str().unwrap();
    let own = world
        .call(
            other,
            (Method::POST, "/projects"),
            json!({"name": "theirs"}),
        )
        .await;
    assert_eq!(own.0, 201);
    let (status, project) = world.post_json("/projects", &json!({"name": "ours"})).await;
    assert_eq!(status, 201);
    let id = project["id"].as_i64().unwrap();
    let mut job = command();
    job["project_id"] = json!(id);
    let job = world.submit(&job).await;
    for token in [guest["access_token"].as_str().unwrap(), other] {
        for (method, path) in routes(&world).await {
            let path = path.replace("/projects/1", &format!("/projects/{id}"));
            let path = path.replace("jobs/1", &format!("jobs/{job}"));
            let path = path.replace("stop/1", &format!("stop/{job}"));
            // What is everybody's own.
            let harmless = [
                "/auth/me",
                "/auth/password",
                "/auth/logout",
                "/training/jobs",
                "/projects",
                "/metrics",
            ];
            // An engineer sees them, and an advanced one registers them; a guest does neither.
            let of_datasets = path.starts_with("/datasets") || path.starts_with("/snapshots");
            let may = of_datasets && token == other;
            if may || harmless.contains(&&*path) || path.starts_with("/models") {
                continue;
            }
            let body = json!({
                "email": "x@example.org", "password": "engines!", "role": "member", "name": "n",
                "user_id": 1, "checkpoint_filename": "a.pt", "id": "d", "storage_path": "/d",
            });
            let (status, answer) = world.call(token, (method.clone(), &path), body).await;
            assert!(
                matches!(status, 403 | 404),
                "{method} {path}: {status} {answer}"
            );
        }
    }
    assert_eq!(
        world.get(&format!("/training/jobs/{job}")).await.1["status"],
        "pending"
    );
}

/// Path of every unary method of our services that needs a user.
fn methods() -> Vec<String> {
    let set = <prost_types::FileDescriptorSet as prost::Message>::decode(DESCRIPTORS).unwrap();
    let open = ["AuthService/Login", "AuthService/Refresh"];
    let mut methods = Vec::new();
    for file in set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("{}/{}", service.name(), method.name());
                // Agents show a token of their own, in the first message of a stream.
                let agents = service.name() == "AgentService";
                if !agents && !open.contains(&&*path) && !method.client_streaming() {
                    methods.push(format!("/{}.{path}", file.package()));
                }
            }
        }
    }
    methods
}

#[tokio::test]
async fn no_method_of_grpc_lets_a_stranger_in() {
    let (world, strangers) = strangers().await;
    let methods = methods();
    assert!(methods.len() >= 30, "{methods:?}");
    let channel = world.channel().await;
    let call = async |path: &str, token: Option<&str>| {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let mut request = Request::new(());
        if let Some(token) = token {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let path = path.parse().unwrap();
        let codec = ProstCodec::<(), ()>::default();
        grpc.server_streaming(request, path, codec).await.err()
    };
    for path in &methods {
        let refused = call(path, None).await.unwrap_or_else(|| panic!("{path}"));
        assert_eq!(refused.code(), Code::Unauthenticated, "{path}: {refused}");
        for (what, token) in &strangers {
            let refused = call(path, Some(token)).await;
            let refused = refused.unwrap_or_else(|| panic!("{path}: {what}"));
            assert_eq!(refused.code(), Code::Unauthenticated, "{path}: {what}");
        }
    }
}

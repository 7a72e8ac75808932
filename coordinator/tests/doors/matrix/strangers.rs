//! Every way not to be known, at every call of both doors that needs a user.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tonic::Code;
use trainyard_coordinator::{
    auth::SigningKeyRow,
    store::{Store, StoreOptions},
};

use super::{
    calls::{self, guarded},
    table::{rows, shape},
};
use crate::world::World;

/// A coordinator, and tokens of callers that it must refuse, by what is wrong with each: each kind as an
/// administrator's and as a standard engineer's. Some are signed with its own key, which is taken from its store
/// while it stands still.
pub(super) async fn strangers() -> (World, Vec<(String, String)>) {
    let world = World::start().await;
    let (_, engineer) = world.somebody("engineer", "standard_engineer").await;
    let people = [("admin", world.token.clone()), ("engineer", engineer)];
    let folder = world.stop().await;
    let path = folder.path().join("data/trainyard.redb");
    let store = Store::open(StoreOptions::new(path), Box::new(|_| ())).unwrap();
    let key = store.documents::<SigningKeyRow>("").unwrap().remove(0);
    drop(store);
    let world = World::on(folder).await;
    let claims = people.each_ref().map(|(_, token)| {
        let read: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap();
        read
    });
    let mut refused = Vec::new();
    for ((who, _), (mine, other)) in people.iter().zip([(0, 1), (1, 0)]) {
        let (mine, other) = (&claims[mine], &claims[other]["sub"]);
        let good = signed(
            (Algorithm::HS256, key.secret.expose()),
            Some(&key.kid),
            mine,
        );
        let me = (Method::GET, "/auth/me");
        // So the refusals below come of what was changed, and of nothing else.
        assert_eq!(world.call(&good, me, Value::Null).await.0, 200, "{who}");
        let made = forged(&key, &good, (mine, other));
        refused.extend(
            made.into_iter()
                .map(|(what, token)| (format!("{who}, {what}"), token)),
        );
    }
    let others = [
        ("the join token", world.join_token.clone()),
        ("no token of any kind", "x".to_owned()),
        ("an unknown API key", format!("ty_{:016x}_{:064x}", 1, 1)),
    ];
    let others = others.into_iter().chain(former(&world).await);
    refused.extend(others.map(|(what, token)| (what.to_owned(), token)));
    (world, refused)
}

fn signed((algorithm, secret): (Algorithm, &str), kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&header, claims, &key).unwrap()
}

/// Tokens that are nearly good: these claims signed otherwise, and others (of which one names another user)
/// signed well.
fn forged(
    key: &SigningKeyRow,
    good: &str,
    (claims, other): (&Value, &Value),
) -> Vec<(&'static str, String)> {
    let (own, kid) = (key.secret.expose(), Some(&*key.kid));
    let parts: Vec<_> = good.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let by = |algorithm, secret: &str, kid| signed((algorithm, secret), kid, claims);
    let mut refused = vec![
        ("another key", by(Algorithm::HS256, "guess", kid)),
        ("an unknown kid", by(Algorithm::HS256, own, Some("k"))),
        ("no kid", by(Algorithm::HS256, own, None)),
        ("HS384", by(Algorithm::HS384, own, kid)),
        ("alg none", format!("{none}.{body}.")),
        ("alg none, signed", format!("{none}.{body}.{signature}")),
        ("no signature", format!("{header}.{body}.")),
    ];
    for (what, name, value) in [
        ("expired", "exp", json!(1_700_000_000)),
        ("another user's session", "sub", other.clone()),
        ("an unknown session", "sid", json!("0")),
        ("of no type", "type", json!("x")),
    ] {
        let mut changed = claims.clone();
        changed[name] = value;
        refused.push((what, signed((Algorithm::HS256, own), kid, &changed)));
    }
    refused
}

/// Tokens that were good once, or are good for something else.
async fn former(world: &World) -> [(&'static str, String); 5] {
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
    let account = json!({"name": "gone", "role": "admin"});
    let (_, account) = world.post_json("/service-accounts", &account).await;
    let key = json!({"user_id": account["id"], "name": "k"});
    let (status, key) = world.post_json("/api-keys", &key).await;
    assert_eq!(status, 201, "{key}");
    let path = format!("/api-keys/{}", key["id"].as_str().unwrap());
    let removal = (Method::DELETE, &*path);
    assert_eq!(world.call(&world.token, removal, Value::Null).await.0, 200);
    let agent = world.join_as(&world.join_token, ("n9", "id-of-n9")).await;
    [
        ("a revoked API key", key["key"].as_str().unwrap().to_owned()),
        ("an agent's credential", agent.unwrap()),
        ("revoked", revoked),
        ("a refresh token", refresh),
        ("deactivated", off),
    ]
}

#[tokio::test]
async fn the_document_says_of_every_route_whether_it_needs_a_user() {
    let world = World::start().await;
    let (_, document) = world.send(world.plain(Method::GET, "/openapi.json")).await;
    let mut said = std::collections::BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = shape(path.strip_prefix("/api/v1").unwrap());
        for (method, call) in item.as_object().unwrap() {
            let needs = call["security"].to_string().contains("token");
            said.insert(format!("{}:{path}", method.to_uppercase()), needs);
        }
    }
    for row in rows() {
        let route = row.route().unwrap_or_default();
        if let Some(needs) = said.get(&route) {
            assert_eq!(*needs, row.needs_user(), "{route}");
        }
    }
}

#[tokio::test]
async fn no_call_of_either_door_lets_a_stranger_in() {
    let (world, strangers) = strangers().await;
    let (stage, calls) = guarded(world).await;
    for (row, target, message) in &calls {
        let nobody = calls::rest_answer(&stage, row, target, None).await;
        if let Some(answer) = nobody {
            let words = "Not authenticated";
            assert_eq!(answer.status(), 401, "{}", row.rest);
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body, json!({"detail": words}), "{}", row.rest);
        }
        for (what, token) in &strangers {
            if let Some(answer) = calls::rest_answer(&stage, row, target, Some(token)).await {
                assert_eq!(answer.status(), 401, "{}: {what}", row.rest);
                let scheme = &answer.headers()["www-authenticate"];
                assert_eq!(scheme, "Bearer", "{}", row.rest);
            }
            if row.grpc != "-" {
                let channel = stage.channel();
                let answer = calls::grpc(channel, row.grpc, message.clone(), Some(token)).await;
                let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
                assert_eq!(code, Code::Unauthenticated, "{}: {what}", row.grpc);
            }
        }
    }
}

//! Whoever is let in no more: streams that go on end, and what was taken from somebody stays taken.

use reqwest::Method;
use serde_json::{Value, json};
use tonic::{Code, Status, Streaming};
use trainyard_proto::v1;

use crate::{
    live::Watcher,
    oidc::{Issuer, Key},
    world::{PATIENCE, World, command},
};

/// Follows a job; what it is now has been told.
async fn watch(world: &World, token: &str, job_id: u64) -> Streaming<v1::WatchJobResponse> {
    let mut jobs = world.jobs_of(token).await;
    let watching = jobs.watch_job(v1::WatchJobRequest { job_id }).await;
    let mut watching = watching.unwrap().into_inner();
    assert!(watching.message().await.unwrap().is_some());
    watching
}

/// The refusal that a stream ends with.
async fn refusal(mut watching: Streaming<v1::WatchJobResponse>) -> Status {
    let refused = async {
        loop {
            match watching.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was told to the end"),
                Err(refused) => return refused,
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap()
}

/// A service account with a key: its number, the key's id and the key.
async fn account(world: &World) -> (u64, String, String) {
    let body = json!({"name": "ci", "system_role": "admin"});
    let (_, account) = world.post_json("/service-accounts", &body).await;
    let body = json!({"user_id": account["id"], "name": "main"});
    let (status, made) = world.post_json("/api-keys", &body).await;
    assert_eq!(status, 201, "{made}");
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (account["id"].as_u64().unwrap(), text("id"), text("key"))
}

async fn me(world: &World, token: &str) -> u16 {
    let me = (Method::GET, "/auth/me");
    world.call(token, me, Value::Null).await.0
}

#[tokio::test]
async fn a_stream_of_a_revoked_api_key_ends_though_nothing_happens() {
    let world = World::start().await;
    let job = world.submit(&command()).await;
    let (_, id, key) = account(&world).await;
    let watching = watch(&world, &key, job).await;
    let path = format!("/api-keys/{id}");
    let revoke = (Method::DELETE, path.as_str());
    assert_eq!(world.call(&world.token, revoke, Value::Null).await.0, 200);
    assert_eq!(refusal(watching).await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn streams_of_an_issuers_token_end_when_it_expires() {
    let key = Key::ec();
    let issuer = Issuer::start(&key).await;
    let world = issuer.world().await;
    world.user("ada@example.org", "manager").await;
    let job = world.submit(&command()).await;
    let token = issuer.token(&key, "one", |claims| {
        claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 4);
    });
    assert_eq!(me(&world, &token).await, 200);
    let watching = watch(&world, &token, job).await;
    let mut watcher = Watcher::open(&world, "", Some(&token)).await.unwrap();
    let (refused, code) = tokio::join!(refusal(watching), watcher.until_closed());
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(code, 1008);
    assert_eq!(me(&world, &token).await, 401);
}

#[tokio::test]
async fn the_api_keys_of_a_deactivated_account_stay_dead_when_it_is_active_again() {
    let world = World::start().await;
    let (user, _, key) = account(&world).await;
    assert_eq!(me(&world, &key).await, 200);
    let path = format!("/users/{user}");
    for active in [false, true] {
        let change = (Method::PATCH, path.as_str());
        let body = json!({"is_active": active});
        assert_eq!(world.call(&world.token, change, body).await.0, 200);
        assert_eq!(me(&world, &key).await, 401, "active: {active}");
    }
    assert_eq!(world.get("/api-keys").await.1, json!([]));
    // A new one is good.
    let body = json!({"user_id": user, "name": "next"});
    let (_, made) = world.post_json("/api-keys", &body).await;
    assert_eq!(me(&world, made["key"].as_str().unwrap()).await, 200);
}

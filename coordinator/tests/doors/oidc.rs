//! Tokens of an issuer: a real HTTP server serves its discovery document and its keys, which rotate.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use axum::{Json, Router, extract::State, routing::get};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reqwest::Method;
use serde_json::{Value, json};
use tests::wait::until;
use tokio::{net::TcpListener, task::JoinSet};
use trainyard_proto::v1::{self, auth_service_client::AuthServiceClient};

use crate::world::{Bearer, World};

/// What signs.
pub(crate) enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    const fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
        }
    }

    /// Its public half as the issuer publishes it.
    fn published(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let public = key.public_key();
                json!({
                    "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
                    "n": BASE64.encode(public.modulus().big_endian_without_leading_zero()),
                    "e": BASE64.encode(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (&point[1..33], &point[33..65]);
                json!({
                    "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
                    "x": BASE64.encode(x), "y": BASE64.encode(y),
                })
            }
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Self::Ec(key) => key
                .sign(&random, text.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
        };
        format!("{text}.{}", BASE64.encode(signature))
    }
}

/// The issuer's server.
#[derive(Clone)]
pub(crate) struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    fetched: Arc<AtomicUsize>,
    /// Where its discovery document says that the keys are; none is where they are.
    keys_at: Arc<Mutex<Option<String>>>,
}

impl Issuer {
    pub(crate) async fn start(first: &Key) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self {
            url: format!("http://{}/realm", listener.local_addr().unwrap()),
            keys: Arc::new(Mutex::new(vec![first.published("one")])),
            fetched: Arc::default(),
            keys_at: Arc::default(),
        };
        let discovery = "/realm/.well-known/openid-configuration";
        let router = Router::new()
            .route(discovery, get(describe))
            .route("/realm/keys", get(keys))
            .with_state(issuer.clone());
        let mut running = JoinSet::new();
        running.spawn(async move { axum::serve(listener, router).await });
        // It serves until the test's runtime ends.
        running.detach_all();
        issuer
    }

    pub(crate) async fn world(&self) -> World {
        let url = self.url.clone();
        World::with(|config| {
            config.oidc.issuer = url;
            config.oidc.audience = "trainyard".to_owned();
            config.oidc.role_claim = "realm_access.roles".to_owned();
            config.oidc.role_map = "ml-engineers=advanced_engineer".to_owned();
            config.oidc.refetch_seconds = 1;
        })
        .await
    }

    fn claims(&self) -> Value {
        let now = trainyard_coordinator::clock::now().0 / 1_000_000;
        json!({
            "iss": self.url, "aud": ["other", "trainyard"], "sub": "f:42", "name": "Ada",
            "email": "Ada@Example.org", "email_verified": true, "iat": now, "exp": now + 600,
        })
    }

    pub(crate) fn token(&self, key: &Key, kid: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        let header = json!({"alg": key.algorithm(), "typ": "JWT", "kid": kid});
        key.sign(&header, &claims)
    }
}

async fn describe(State(issuer): State<Issuer>) -> Json<Value> {
    let keys = issuer.keys_at.lock().unwrap().clone();
    let keys = keys.unwrap_or_else(|| format!("{}/keys", issuer.url));
    Json(json!({"issuer": issuer.url, "jwks_uri": keys}))
}

async fn keys(State(issuer): State<Issuer>) -> Json<Value> {
    issuer.fetched.fetch_add(1, Ordering::SeqCst);
    let keys = issuer.keys.lock().unwrap().clone();
    Json(json!({"keys": keys}))
}

async fn me(world: &World, token: &str) -> (u16, Value) {
    world
        .call(token, (Method::GET, "/auth/me"), Value::Null)
        .await
}

#[tokio::test]
async fn an_issuers_user_is_made_on_first_sight_and_is_the_same_ever_after() {
    let key = Key::rsa();
    let issuer = Issuer::start(&key).await;
    let world = issuer.world().await;
    let token = issuer.token(&key, "one", |_| ());
    let (status, user) = me(&world, &token).await;
    assert_eq!(status, 200, "{user}");
    assert_eq!(
        (&user["email"], &user["full_name"]),
        (&json!("ada@example.org"), &json!("Ada"))
    );
    assert_eq!(user["system_role"], "guest");
    let later = issuer.token(&key, "one", |claims| {
        claims["email"] = json!("new@example.org")
    });
    assert_eq!(me(&world, &later).await.1["id"], user["id"]);

    let bearer = Bearer(token.clone());
    let mut auth = AuthServiceClient::with_interceptor(world.channel().await, bearer);
    let answer = auth.me(v1::MeRequest {}).await.unwrap().into_inner();
    assert_eq!(json!(answer.user_id), user["id"]);

    let of_roles = issuer.token(&key, "one", |claims| {
        claims["sub"] = json!("f:43");
        claims["email"] = json!("bob@example.org");
        claims["realm_access"] = json!({"roles": ["offline", "ml-engineers", "guest"]});
    });
    assert_eq!(
        me(&world, &of_roles).await.1["system_role"],
        "advanced_engineer"
    );
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 1);

    let out = (Method::POST, "/auth/logout");
    let (status, answer) = world.call(&token, out, Value::Null).await;
    let words = answer["detail"].as_str().unwrap();
    assert!(
        status == 400 && words.contains("ends at its issuer"),
        "{words}"
    );
    let path = format!("/users/{}", user["id"]);
    let off = json!({"is_active": false});
    assert_eq!(
        world
            .call(&world.token, (Method::PATCH, &path), off)
            .await
            .0,
        200
    );
    assert_eq!(me(&world, &token).await.0, 401);
}

#[tokio::test]
async fn a_token_that_is_not_wholly_right_is_refused() {
    let key = Key::rsa();
    let issuer = Issuer::start(&key).await;
    let world = issuer.world().await;
    let changed = |change: fn(&mut Value)| issuer.token(&key, "one", change);
    let bad = vec![
        (
            "issuer",
            changed(|claims| claims["iss"] = json!("http://elsewhere")),
        ),
        ("audience", changed(|claims| claims["aud"] = json!("other"))),
        (
            "no audience",
            changed(|claims| drop(claims.as_object_mut().unwrap().remove("aud"))),
        ),
        (
            "expired",
            changed(|claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() - 60)),
        ),
        (
            "not yet",
            changed(|claims| claims["nbf"] = claims["exp"].clone()),
        ),
        (
            "no address",
            changed(|claims| drop(claims.as_object_mut().unwrap().remove("email"))),
        ),
        (
            "unverified",
            changed(|claims| claims["email_verified"] = json!(false)),
        ),
        (
            "another's account",
            changed(|claims| {
                claims["email"] = json!("admin@example.com");
                drop(claims.as_object_mut().unwrap().remove("email_verified"));
            }),
        ),
    ];
    for (what, token) in bad {
        assert_eq!(me(&world, &token).await.0, 401, "{what}");
    }
    assert_eq!(me(&world, &changed(|_| ())).await.0, 200);
    let (_, users) = world.get("/users").await;
    assert_eq!(users.as_array().unwrap().len(), 2, "{users}");
}

#[tokio::test]
async fn a_token_that_another_key_or_algorithm_has_signed_is_refused() {
    let key = Key::rsa();
    let issuer = Issuer::start(&key).await;
    let world = issuer.world().await;
    let mut bad = vec![
        ("another key", issuer.token(&Key::rsa(), "one", |_| ())),
        ("another algorithm", issuer.token(&Key::ec(), "one", |_| ())),
        (
            "no kid",
            key.sign(&json!({"alg": "RS256"}), &issuer.claims()),
        ),
    ];
    // The issuer's public key as the secret of an HMAC, and no signature at all.
    let good = issuer.token(&key, "one", |_| ());
    let body = good.split('.').nth(1).unwrap();
    let public = issuer.keys.lock().unwrap()[0]["n"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some("one".to_owned());
    let secret = jsonwebtoken::EncodingKey::from_secret(public.as_bytes());
    bad.push((
        "confused",
        jsonwebtoken::encode(&header, &issuer.claims(), &secret).unwrap(),
    ));
    let none = BASE64.encode(json!({"alg": "none", "kid": "one"}).to_string());
    bad.push(("unsigned", format!("{none}.{body}.")));
    for (what, token) in bad {
        assert_eq!(me(&world, &token).await.0, 401, "{what}");
    }
    assert_eq!(me(&world, &good).await.0, 200);
}

#[tokio::test]
async fn keys_that_the_issuer_replaces_are_fetched_once_for_an_unknown_one() {
    let first = Key::rsa();
    let issuer = Issuer::start(&first).await;
    let world = issuer.world().await;
    assert_eq!(
        me(&world, &issuer.token(&first, "one", |_| ())).await.0,
        200
    );
    let second = Key::ec();
    *issuer.keys.lock().unwrap() = vec![second.published("two")];
    let token = issuer.token(&second, "two", |_| ());
    until("the new key is taken", async || {
        (me(&world, &token).await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 2);
    // The first key is no longer the issuer's.
    let old = issuer.token(&first, "one", |claims| {
        claims["jti"] = json!("another token")
    });
    assert_eq!(me(&world, &old).await.0, 401);
    for number in 0..20 {
        let unknown = issuer.token(&first, &format!("k{number}"), |_| ());
        assert_eq!(me(&world, &unknown).await.0, 401);
    }
    let fetched = issuer.fetched.load(Ordering::SeqCst);
    assert!(fetched < 20, "asked {fetched} times");
}

#[tokio::test]
async fn an_address_that_the_issuer_has_verified_opens_the_account_of_that_address() {
    let key = Key::ec();
    let issuer = Issuer::start(&key).await;
    let world = issuer.world().await;
    let (id, _) = world.user("ada@example.org", "manager").await;
    let (status, user) = me(&world, &issuer.token(&key, "one", |_| ())).await;
    assert_eq!(
        (status, &user["id"], &user["system_role"]),
        (200, &json!(id), &json!("manager"))
    );
}

#[tokio::test]
async fn who_registered_an_address_loses_it_to_whom_the_issuer_has_verified() {
    let key = Key::ec();
    let issuer = Issuer::start(&key).await;
    let world = issuer.world().await;
    let person = json!({"email": "ada@example.org", "password": "not hers at all"});
    let (status, user) = world.post_json("/auth/register", &person).await;
    assert_eq!(status, 201, "{user}");
    let (status, squatter) = world.login("ada@example.org", "not hers at all").await;
    assert_eq!(status, 200, "{squatter}");
    let (status, ada) = me(&world, &issuer.token(&key, "one", |_| ())).await;
    assert_eq!((status, &ada["id"]), (200, &user["id"]));
    let token = squatter["access_token"].as_str().unwrap();
    assert_eq!(me(&world, token).await.0, 401);
    let again = world.login("ada@example.org", "not hers at all").await;
    assert_eq!(again.0, 401);
}

#[tokio::test]
async fn keys_in_plain_text_from_elsewhere_are_not_asked_for() {
    let key = Key::rsa();
    let issuer = Issuer::start(&key).await;
    // It is there, but by its name not on this machine.
    let elsewhere = issuer.url.replace("127.0.0.1", "0.0.0.0") + "/keys";
    *issuer.keys_at.lock().unwrap() = Some(elsewhere);
    let world = issuer.world().await;
    let token = issuer.token(&key, "one", |_| ());
    assert_eq!(me(&world, &token).await.0, 401);
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 0);
}

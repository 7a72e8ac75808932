//! Secrets and the first user: what must be there before anyone can call.
//!
//! Drawn once and kept in the store, unless the configuration gives them. Called by `boot`.

use thiserror::Error;
use trainyard_core::account::normal_email;

use crate::{
    api::users::new_key,
    auth::{PasswordError, SigningKeyRow, hash_password},
    clock,
    config::{Auth, Secret},
    store::{Change, ReadError, Store, StoreError, UserRow},
};

/// Under this name it stands in the store.
const JOIN_TOKEN: &str = "auth.join_token";

/// The user of `--dev`, known to everybody.
const DEV_USER: (&str, &str) = ("admin@example.com", "admin123");

/// Why secrets or the first user could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store could not be written.
    #[error(transparent)]
    Write(#[from] StoreError),
    /// The first user's password could not be hashed.
    #[error("the first user could not be created: {0}")]
    Password(#[from] PasswordError),
}

/// What the coordinator signs with and asks for.
pub(crate) struct Identity {
    /// Sign user tokens.
    pub(crate) keys: Vec<SigningKeyRow>,
    /// A join token for any number of agents, where there is one.
    pub(crate) join_token: Option<Secret>,
}

/// Reads the secrets from the store or draws them, and makes the first user if there is none.
pub(crate) async fn establish(
    store: &Store,
    auth: &Auth,
    dev: bool,
) -> Result<Identity, IdentityError> {
    let keys = signing_keys(store).await?;
    let configured = &auth.join_token;
    let join_token = match (configured.expose().is_empty(), dev) {
        (false, _) => Some(configured.clone()),
        (true, true) => Some(Secret::new(kept(store, JOIN_TOKEN).await?)),
        (true, false) => None,
    };
    first_user(store, auth, dev).await?;
    Ok(Identity { keys, join_token })
}

/// The keys that sign user tokens; the first is drawn here.
async fn signing_keys(store: &Store) -> Result<Vec<SigningKeyRow>, IdentityError> {
    let keys = store.documents::<SigningKeyRow>("")?;
    if keys.iter().any(|key| key.retired_at.is_none()) {
        return Ok(keys);
    }
    let first = new_key(clock::now());
    store.commit_and_wait(vec![Change::put(&first)]).await?;
    Ok(vec![first])
}

/// A secret of 256 bits, the same at each start.
async fn kept(store: &Store, key: &str) -> Result<String, IdentityError> {
    if let Some(secret) = store.meta(key)? {
        return Ok(secret);
    }
    let (high, low) = rand::random::<(u128, u128)>();
    let secret = format!("{high:032x}{low:032x}");
    let change = Change::PutMeta {
        key: key.to_owned(),
        value: secret.clone(),
    };
    store.commit_and_wait(vec![change]).await?;
    Ok(secret)
}

async fn first_user(store: &Store, auth: &Auth, dev: bool) -> Result<(), IdentityError> {
    let id = store.next_user()?;
    if id > 1 {
        return Ok(());
    }
    let configured = auth.first_user_email.as_str();
    let (email, password) = match (configured.is_empty(), dev) {
        (false, _) => (configured, auth.first_user_password.expose()),
        (true, true) => DEV_USER,
        (true, false) => {
            tracing::warn!(
                "there is no user yet: set TRAINYARD__AUTH__FIRST_USER_EMAIL and TRAINYARD__AUTH__FIRST_USER_PASSWORD and start again, or use --dev for a trial"
            );
            return Ok(());
        }
    };
    let user = UserRow {
        id,
        email: normal_email(email),
        password_hash: hash_password(password, rand::random())?,
        role: "admin".to_owned(),
        active: true,
        created_at: clock::now(),
        ..UserRow::default()
    };
    store.commit_and_wait(vec![Change::PutUser(user)]).await?;
    tracing::info!(%email, "the first user was created");
    Ok(())
}

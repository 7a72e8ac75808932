//! Secrets and the first user: what must be there before anyone can call.
//!
//! Drawn once and kept in the store, unless the configuration gives them. Called by `boot`.

use thiserror::Error;

use crate::{
    auth::{PasswordError, hash_password},
    clock,
    config::Auth,
    store::{Change, ReadError, Store, StoreError, UserRow},
};

/// Under these names they stand in the store.
const JWT_SECRET: &str = "auth.jwt_secret";
const JOIN_TOKEN: &str = "auth.join_token";
const WAY_KEY: &str = "storage.way_key";

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
    /// Signs user tokens.
    pub(crate) jwt_secret: Vec<u8>,
    /// What agents must show.
    pub(crate) join_token: String,
    /// Signs ways to files on the coordinator.
    pub(crate) way_key: Vec<u8>,
}

/// Reads the secrets from the store or draws them, and makes the first user if there is none.
pub(crate) async fn establish(
    store: &Store,
    auth: &Auth,
    dev: bool,
) -> Result<Identity, IdentityError> {
    let jwt_secret = kept(store, JWT_SECRET).await?.into_bytes();
    let configured = auth.join_token.expose();
    let join_token = match configured.is_empty() {
        true => kept(store, JOIN_TOKEN).await?,
        false => configured.to_owned(),
    };
    first_user(store, auth, dev).await?;
    Ok(Identity {
        jwt_secret,
        join_token,
        way_key: kept(store, WAY_KEY).await?.into_bytes(),
    })
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
        email: email.to_owned(),
        password_hash: hash_password(password, rand::random())?,
        full_name: String::new(),
        role: "admin".to_owned(),
        active: true,
        created_at: clock::now(),
    };
    store.commit_and_wait(vec![Change::PutUser(user)]).await?;
    tracing::info!(%email, "the first user was created");
    Ok(())
}

//! Who calls: login, refresh, and the user behind a token.
//!
//! Owns the answers of the HTTP contract to wrong passwords and tokens. Never decides what a user
//! may do with a job.

use std::sync::Arc;

use tokio::sync::Semaphore;
use trainyard_proto::status::Kind;

use super::ApiError;
use crate::{
    auth::{Keys, PasswordError, Subject, TokenPair, verify_password},
    clock,
    store::{Store, UserRow},
};

/// Passwords checked at once: each takes 19 MiB and a core for tens of milliseconds.
const CHECKS: usize = 2;

/// The hash of no password, so that an unknown address takes as long as a wrong password.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A user who has shown a good token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user's row, as it is now.
    pub user: UserRow,
}

/// Users and their tokens. A clone is cheap.
#[derive(Clone, Debug)]
pub(super) struct Users {
    store: Store,
    keys: Keys,
    checks: Arc<Semaphore>,
}

impl Users {
    pub(super) fn new(store: Store, keys: Keys) -> Self {
        Self {
            store,
            keys,
            checks: Arc::new(Semaphore::new(CHECKS)),
        }
    }

    /// Both tokens for a right password.
    pub(super) async fn login(&self, email: &str, password: &str) -> Result<TokenPair, ApiError> {
        let user = self.store.user_by_email(email)?;
        let hash = user
            .as_ref()
            .map_or_else(|| NOBODY.to_owned(), |user| user.password_hash.clone());
        let right = self.check(password.to_owned(), hash).await?;
        let Some(user) = user.filter(|_| right) else {
            let words = "Incorrect email or password";
            return Err(ApiError::new(Kind::Unauthenticated, words));
        };
        if !user.active {
            return Err(ApiError::new(Kind::Conflict, "Inactive user"));
        }
        self.issue(&user)
    }

    /// A new pair for a good refresh token.
    pub(super) fn refresh(&self, token: &str) -> Result<TokenPair, ApiError> {
        let refused = |why: &str| {
            let words = format!("Invalid refresh token: {why}");
            ApiError::new(Kind::Unauthenticated, words)
        };
        let claims = self
            .keys
            .refresh(token, clock::now())
            .map_err(|error| refused(&error.to_string()))?;
        match self.active(&claims.sub)? {
            Some(user) => self.issue(&user),
            None => Err(refused("its user does not exist or is not active")),
        }
    }

    /// The user behind an access token.
    pub(super) fn caller(&self, token: Option<&str>) -> Result<Caller, ApiError> {
        let refused = |words: &str| ApiError::new(Kind::Unauthenticated, words);
        let token = token.ok_or_else(|| refused("Not authenticated"))?;
        let Ok(claims) = self.keys.access(token, clock::now()) else {
            return Err(refused("Could not validate credentials"));
        };
        match self.active(&claims.sub)? {
            Some(user) => Ok(Caller { user }),
            None => Err(refused("Could not validate credentials")),
        }
    }

    fn active(&self, sub: &str) -> Result<Option<UserRow>, ApiError> {
        let Ok(id) = sub.parse() else { return Ok(None) };
        Ok(self.store.user(id)?.filter(|user| user.active))
    }

    fn issue(&self, user: &UserRow) -> Result<TokenPair, ApiError> {
        let subject = Subject {
            user_id: user.id,
            email: user.email.clone(),
            role: user.role.clone(),
            organization_id: None,
        };
        let pair = self.keys.issue(&subject, clock::now());
        pair.map_err(|error| ApiError::new(Kind::Internal, error.to_string()))
    }

    async fn check(&self, password: String, hash: String) -> Result<bool, ApiError> {
        let busy = || ApiError::new(Kind::Unavailable, "the coordinator is stopping");
        let permit = Arc::clone(&self.checks).acquire_owned().await;
        let permit = permit.ok().ok_or_else(busy)?;
        let checked = tokio::task::spawn_blocking(move || {
            let checked = verify_password(&password, &hash);
            drop(permit);
            checked
        });
        let checked: Result<bool, PasswordError> = checked.await.ok().ok_or_else(busy)?;
        checked.map_err(|error| {
            tracing::error!(%error, "a password could not be checked");
            ApiError::new(Kind::Internal, "the password could not be checked")
        })
    }
}

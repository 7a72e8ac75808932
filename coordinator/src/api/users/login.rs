//! Passwords: login, and how often it may fail.
//!
//! Owns the order: limits, then the password, then whether the user is active, so that nothing about
//! an account is told to somebody without its password.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use trainyard_core::account::normal_email;
use trainyard_proto::status::Kind;

use super::{Users, no_user};
use crate::{
    api::{ApiError, Service, peer::network, service::stopping},
    auth::{PasswordError, TokenPair, hash_password, verify_password},
    clock,
    store::UserRow,
};

/// The hash of no password, so that an unknown address takes as long as a wrong password.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

impl Users {
    /// Both tokens for a right password.
    async fn login(
        &self,
        (email, password): (&str, &str),
        from: Option<IpAddr>,
    ) -> Result<TokenPair, ApiError> {
        let user = self.user_of(email)?;
        let right = self.prove(email, from, user.as_ref(), password).await?;
        let Some(user) = user.filter(|_| right) else {
            let words = "Incorrect email or password";
            return Err(ApiError::new(Kind::Unauthenticated, words));
        };
        if !user.active {
            return Err(ApiError::new(Kind::Conflict, "Inactive user"));
        }
        self.begin(&user).await
    }

    /// The user of an address, as it was given or in the form in which addresses are kept.
    fn user_of(&self, email: &str) -> Result<Option<UserRow>, ApiError> {
        let store = &self.inner.store;
        match store.user_by_email(email)? {
            Some(user) => Ok(Some(user)),
            None => Ok(store.user_by_email(&normal_email(email))?),
        }
    }

    /// Whether the password is the user's. Failures are counted, for known and unknown accounts alike.
    pub(super) async fn prove(
        &self,
        account: &str,
        from: Option<IpAddr>,
        user: Option<&UserRow>,
        password: &str,
    ) -> Result<bool, ApiError> {
        let account = *blake3::hash(normal_email(account).as_bytes()).as_bytes();
        let from = from.map(network);
        self.charge(&account, from)?;
        // A service account has no password.
        let hash = user.map(|user| user.password_hash.as_str());
        let hash = hash.filter(|hash| !hash.is_empty()).unwrap_or(NOBODY);
        let right = self.check(password.to_owned(), hash.to_owned()).await?;
        if right {
            self.inner.by_account.give_back(&account);
            if let Some(from) = &from {
                self.inner.by_address.give_back(from);
            }
        }
        Ok(right)
    }

    fn charge(&self, account: &[u8; 32], from: Option<IpAddr>) -> Result<(), ApiError> {
        let now = clock::now();
        if let Some(from) = &from {
            let refused = |wait| too_many("from this address", wait);
            self.inner.by_address.charge(from, now).map_err(refused)?;
        }
        self.inner.by_account.charge(account, now).map_err(|wait| {
            if let Some(from) = &from {
                self.inner.by_address.give_back(from);
            }
            too_many("for this account", wait)
        })
    }

    /// Counts an account that somebody registers from an address.
    pub(super) fn charge_registration(&self, from: Option<IpAddr>) -> Result<(), ApiError> {
        let Some(from) = from.map(network) else {
            return Ok(());
        };
        let charged = self.inner.by_registrar.charge(&from, clock::now());
        charged.map_err(|wait| {
            let seconds = wait.as_secs().saturating_add(1);
            let words = format!(
                "Too many accounts were registered from this address; try again in {seconds} s (login.registrations_per_address in the coordinator's settings)"
            );
            ApiError::new(Kind::Exhausted, words).retry_after(seconds)
        })
    }

    /// The hash of a new password, of somebody who is let in already.
    pub(super) async fn hash(&self, password: &str) -> Result<String, ApiError> {
        let password = password.to_owned();
        let work = move || hash_password(&password, rand::random());
        slowly(&self.inner.checks, work).await
    }

    /// The hash of a new password, of somebody who registers: few wait, and no login waits for them.
    pub(super) async fn hash_of_stranger(&self, password: &str) -> Result<String, ApiError> {
        let _waits = self.inner.waiting.try_acquire().map_err(|_full| {
            let words = "many are registering just now; try again in a moment";
            ApiError::new(Kind::Exhausted, words).retry_after(1)
        })?;
        let password = password.to_owned();
        let work = move || hash_password(&password, rand::random());
        slowly(&self.inner.registering, work).await
    }

    async fn check(&self, password: String, hash: String) -> Result<bool, ApiError> {
        let work = move || verify_password(&password, &hash);
        slowly(&self.inner.checks, work).await
    }

    /// Another password for a user whose sessions all end with it.
    pub(super) async fn replace_password(&self, id: u64, password: &str) -> Result<(), ApiError> {
        let hash = self.hash(password).await?;
        let _alone = self.alone().await;
        let _lock = self.lock(id).await?;
        let mut user = self.inner.store.user(id)?.ok_or_else(no_user)?;
        user.password_hash = hash;
        let mut changes = self.ending_all(id)?;
        changes.push(crate::store::Change::PutUser(user));
        self.inner.store.commit_and_wait(changes).await?;
        Ok(())
    }
}

/// Runs what takes memory and a core, as many at once as there are `places`.
async fn slowly<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = Arc::clone(places).acquire_owned().await;
    let permit = permit.ok().ok_or_else(stopping)?;
    let done = trainyard_runtime::blocking(move || {
        let done = work();
        drop(permit);
        done
    });
    done.await.ok().ok_or_else(stopping)?.map_err(|error| {
        tracing::error!(%error, "a password could not be hashed or checked");
        ApiError::new(Kind::Internal, "the password could not be checked")
    })
}

fn too_many(what: &str, wait: Duration) -> ApiError {
    let seconds = wait.as_secs().saturating_add(1);
    let words = format!(
        "Too many wrong passwords {what}; try again in {seconds} s (login.* in the coordinator's settings)"
    );
    ApiError::new(Kind::Exhausted, words).retry_after(seconds)
}

impl Service {
    /// Both tokens for a right password.
    ///
    /// # Errors
    /// Wrong address or password; a user who is not active; too many failures of late.
    pub async fn login(
        &self,
        email: &str,
        password: &str,
        from: Option<IpAddr>,
    ) -> Result<TokenPair, ApiError> {
        self.users().login((email, password), from).await
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        api::UserSettings,
        auth::{Keys, Lives},
        store::{Store, StoreOptions},
    };

    /// Users over an empty store in the folder.
    pub(in crate::api::users) fn users(folder: &std::path::Path) -> Users {
        let options = StoreOptions::new(folder.join("s.redb"));
        let store = Store::open(options, Box::new(|_| ())).unwrap();
        let hour = Duration::from_secs(3_600);
        let lives = Lives {
            access: hour,
            refresh: hour,
        };
        let settings = UserSettings {
            open_registration: true,
            open_reads: false,
            failures: (10, 10),
            registrations: 10,
            window: hour,
            trusted_proxies: Vec::new(),
            oidc: None,
        };
        Users::new(store, Keys::new(&[], lives), settings)
    }

    #[tokio::test]
    async fn no_login_waits_for_those_who_register() {
        let folder = tempfile::tempdir().unwrap();
        let users = users(folder.path());
        let registering = &users.inner.registering;
        let busy = registering.acquire_many(1).await.unwrap();
        let right = users.check("x".to_owned(), NOBODY.to_owned()).await;
        assert_eq!(right, Ok(false));
        drop(busy);
        let _checked = users.inner.checks.acquire_many(2).await.unwrap();
        let hashing = users.hash_of_stranger("x");
        let hashed = tokio::time::timeout(Duration::from_secs(30), hashing).await;
        hashed.expect("logins do not hold it up").unwrap();
        // As many wait as may, and the next one is told so.
        let _waiting = users.inner.waiting.try_acquire_many(32).unwrap();
        let refused = users.hash_of_stranger("x").await.unwrap_err();
        assert_eq!(
            (refused.kind, refused.retry_after),
            (Kind::Exhausted, Some(1))
        );
    }
}

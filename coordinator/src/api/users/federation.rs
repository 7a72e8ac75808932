//! Users of an issuer: a good token of theirs makes or finds a user of ours.
//!
//! Verifying may ask the issuer for keys and takes time, while the doors ask at once who calls: so a
//! token is met before a request is handled, and who it speaks for is remembered for a minute.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use trainyard_core::{
    access::SystemRole,
    account::{email_problem, normal_email},
    time::Timestamp,
};

use super::Users;
use crate::{
    api::{ApiError, Service},
    auth::{IssuerLinkRow, Oidc, Person},
    clock,
    store::{Change, UserRow},
};

/// A token that was verified is believed this long, in microseconds.
const BELIEVED: i64 = 60_000_000;
/// Tokens remembered at once.
const MOST: usize = 16_384;

/// Tokens that were met, by hash.
#[derive(Debug, Default)]
pub(super) struct Foreign(Mutex<BTreeMap<[u8; 32], Met>>);

/// A token that was verified.
#[derive(Clone, Copy, Debug)]
struct Met {
    /// Whom it speaks for.
    user: u64,
    /// Until when it is believed without being verified again.
    until: Timestamp,
    /// When it expires.
    ends: Timestamp,
}

impl Foreign {
    fn find(&self, token: &str, now: Timestamp) -> Option<Met> {
        let met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = met.get(blake3::hash(token.as_bytes()).as_bytes())?;
        (now < found.until).then_some(*found)
    }

    fn keep(&self, token: &str, new: Met, now: Timestamp) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if met.len() >= MOST {
            met.retain(|_, one| now < one.until);
        }
        if met.len() >= MOST {
            // Whoever is forgotten is verified again at the next request.
            met.pop_first();
        }
        met.insert(*blake3::hash(token.as_bytes()).as_bytes(), new);
    }
}

impl Users {
    /// The user of a token that was met a moment ago, and when the token expires.
    pub(super) fn of_foreign(&self, token: &str) -> Result<Option<(UserRow, Timestamp)>, ApiError> {
        let Some(met) = self.inner.foreign.find(token, clock::now()) else {
            return Ok(None);
        };
        let user = self.inner.store.user(met.user)?;
        Ok(user.map(|user| (user, met.ends)))
    }

    /// Verifies an issuer's token and finds or makes its user. One that is not good is not kept, and
    /// so is refused like any bad token.
    async fn meet(&self, oidc: &Oidc, token: &str) {
        if self.inner.foreign.find(token, clock::now()).is_some() {
            return;
        }
        let person = match oidc.verify(token).await {
            Ok(person) => person,
            Err(error) => {
                tracing::debug!(%error, "an issuer's token was refused");
                return;
            }
        };
        let now = clock::now();
        let ends = Timestamp(person.exp.saturating_mul(1_000_000));
        let until = ends.min(Timestamp(now.0.saturating_add(BELIEVED)));
        match self.user_of_person(oidc.issuer(), person).await {
            Ok(Some(user)) => {
                let user = user.id;
                self.inner
                    .foreign
                    .keep(token, Met { user, until, ends }, now);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = %error.message, "an issuer's user was not made"),
        }
    }

    async fn user_of_person(
        &self,
        issuer: &str,
        person: Person,
    ) -> Result<Option<UserRow>, ApiError> {
        let store = &self.inner.store;
        if person.email_verified == Some(false) {
            tracing::info!(subject = %person.subject, "refused: the issuer has not verified the address");
            return Ok(None);
        }
        let key = IssuerLinkRow::key_of(issuer, &person.subject);
        if let Some(link) = store.document::<IssuerLinkRow>(&key)? {
            return Ok(store.user(link.user_id)?);
        }
        let email = normal_email(&person.email);
        if email_problem(&email).is_some() {
            tracing::info!(subject = %person.subject, "refused: the token's address is none");
            return Ok(None);
        }
        let _alone = self.alone().await;
        if let Some(link) = store.document::<IssuerLinkRow>(&key)? {
            return Ok(store.user(link.user_id)?);
        }
        let known = store.user_by_email(&email)?;
        // An address that nobody has verified must not open somebody's account.
        if known.is_some() && person.email_verified != Some(true) {
            tracing::info!(%email, "refused: an account has this address, and the issuer does not say that it is verified");
            return Ok(None);
        }
        let mut changes = Vec::new();
        // Alone among those who change the account's sessions, until what ends them is stored: a refresh
        // that has read its session would put it back. Taken after `alone`, as everywhere.
        let _lock = match &known {
            Some(user) => Some(self.lock(user.id).await?),
            None => None,
        };
        let user = match known {
            // Whoever registered it may not have been whose address it is: the password goes, and
            // every login with it.
            Some(user) if user.registered => {
                changes = self.ending_all(user.id)?;
                UserRow {
                    password_hash: String::new(),
                    registered: false,
                    ..user
                }
            }
            Some(user) => user,
            None => new_user(store.next_user()?, email, &person),
        };
        let link = IssuerLinkRow {
            issuer: issuer.to_owned(),
            subject: person.subject,
            user_id: user.id,
        };
        changes.extend([Change::PutUser(user.clone()), Change::put(&link)]);
        store.commit_and_wait(changes).await?;
        tracing::info!(user_id = user.id, %issuer, "an issuer's user was seen for the first time");
        Ok(Some(user))
    }
}

fn new_user(id: u64, email: String, person: &Person) -> UserRow {
    UserRow {
        id,
        email,
        full_name: person.name.clone(),
        role: person.role.unwrap_or(SystemRole::Guest).name().to_owned(),
        active: true,
        created_at: clock::now(),
        ..UserRow::default()
    }
}

impl Service {
    /// Looks at a token that may be an issuer's, before anyone asks who calls.
    pub(crate) async fn meet(&self, token: &str) {
        let users = self.users();
        if let Some(oidc) = &users.settings().oidc
            && Oidc::is_candidate(token)
        {
            users.meet(oidc, token).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::users::login::tests::users, auth::SessionRow};

    #[tokio::test]
    async fn a_refresh_that_is_under_way_does_not_survive_that_the_issuer_gives_the_account_away() {
        let folder = tempfile::tempdir().unwrap();
        let users = users(folder.path());
        let store = users.inner.store.clone();
        let squatter = UserRow {
            id: 7,
            email: "ada@example.org".to_owned(),
            active: true,
            registered: true,
            ..UserRow::default()
        };
        let mut session = SessionRow {
            user_id: 7,
            sid: "s".to_owned(),
            jti: "one".to_owned(),
            created_at: clock::now(),
            expires_at: Timestamp(i64::MAX),
        };
        let rows = vec![Change::PutUser(squatter), Change::put(&session)];
        store.commit_and_wait(rows).await.unwrap();
        let ada = Person {
            subject: "f:42".to_owned(),
            email: "ada@example.org".to_owned(),
            email_verified: Some(true),
            name: "Ada".to_owned(),
            role: None,
            exp: i64::MAX,
        };
        // The refresh has read its session and is about to store the next.
        let refreshing = users.lock(7).await.unwrap();
        let mut taking = std::pin::pin!(users.user_of_person("https://issuer", ada));
        assert!(futures::poll!(&mut taking).is_pending());
        session.jti = "two".to_owned();
        let next = vec![Change::put(&session)];
        store.commit_and_wait(next).await.unwrap();
        drop(refreshing);
        assert_eq!(taking.await.unwrap().unwrap().id, 7);
        let left = store.documents::<SessionRow>("").unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

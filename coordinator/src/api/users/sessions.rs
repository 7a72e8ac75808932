//! Sessions: what comes of one login, and how it ends.
//!
//! A session keeps the number of its one unused refresh token. Using that token draws the next number;
//! showing an older one means that somebody has a copy, and ends the session with all its tokens.

use std::sync::atomic::Ordering;

use trainyard_core::time::Timestamp;
use trainyard_proto::status::Kind;

use super::{Shown, Users, draw, no_credentials, subject};
use crate::{
    api::{ApiError, Caller, Service},
    auth::{Refresh, SessionRow, TokenPair},
    clock,
    store::{Change, UserRow},
};

/// Sessions that one user may have; the oldest end when there would be more.
const MOST: usize = 100;
/// Ended sessions are removed this often, in microseconds: an hour.
const SWEEP: i64 = 3_600_000_000;

impl Users {
    /// A new session of a user who has just proved who they are.
    pub(super) async fn begin(&self, user: &UserRow) -> Result<TokenPair, ApiError> {
        let _lock = self.lock(user.id).await?;
        // The password may have been changed, or the user disabled, while it was checked.
        let now_is = self.inner.store.user(user.id)?;
        let same = now_is.filter(|row| row.password_hash == user.password_hash && row.active);
        let user = same.ok_or_else(no_credentials)?;
        let now = clock::now();
        let session = SessionRow {
            user_id: user.id,
            sid: draw(),
            jti: draw(),
            created_at: now,
            expires_at: now.plus(self.keys().lives().refresh),
        };
        let pair = self.issue(&user, &session, now)?;
        let mut changes = self.surplus(user.id)?;
        changes.extend(self.sweep(now)?);
        changes.push(Change::put(&session));
        self.inner.store.commit_and_wait(changes).await?;
        Ok(pair)
    }

    /// The next pair for a refresh token that is good and was never used.
    async fn refresh(&self, token: &str) -> Result<TokenPair, ApiError> {
        let now = clock::now();
        let claims = self.keys().refresh(token, now);
        let claims = claims.map_err(|error| refused(&error.to_string()))?;
        let gone = || refused("its session has ended; log in again");
        let id: u64 = claims.sub.parse().ok().ok_or_else(gone)?;
        let _lock = self.lock(id).await?;
        let key = SessionRow::key_of(id, &claims.sid);
        let session = self.inner.store.document::<SessionRow>(&key)?;
        let mut session = session.ok_or_else(gone)?;
        if session.jti != claims.jti {
            let change = Change::remove::<SessionRow>(key);
            self.inner.store.commit_and_wait(vec![change]).await?;
            tracing::warn!(
                user_id = id,
                "a refresh token was used twice; its session has ended"
            );
            return Err(refused(
                "it was used before; its session has ended, log in again",
            ));
        }
        let user = self.inner.store.user(id)?.filter(|user| user.active);
        let user = user.ok_or_else(|| refused("its user does not exist or is not active"))?;
        session.jti = draw();
        session.expires_at = now.plus(self.keys().lives().refresh);
        let pair = self.issue(&user, &session, now)?;
        let change = Change::put(&session);
        self.inner.store.commit_and_wait(vec![change]).await?;
        Ok(pair)
    }

    /// Ends the sessions of these tokens, where they are the caller's.
    async fn logout(
        &self,
        caller: &Caller,
        access: &str,
        refresh: Option<&str>,
    ) -> Result<(), ApiError> {
        let id = caller.user.id;
        let now = clock::now();
        let keys = self.keys();
        let of_access = keys
            .access(access, now)
            .ok()
            .map(|claims| claims.sid.clone());
        let own = |claims: &Refresh| claims.sub == id.to_string();
        let of_refresh = refresh
            .and_then(|token| keys.refresh(token, now).ok())
            .filter(own)
            .map(|claims| claims.sid);
        let ends = of_access.into_iter().chain(of_refresh);
        let changes = ends.map(|sid| Change::remove::<SessionRow>(SessionRow::key_of(id, &sid)));
        let _lock = self.lock(id).await?;
        self.inner.store.commit_and_wait(changes.collect()).await?;
        Ok(())
    }

    /// What ends every session of a user.
    pub(super) fn ending_all(&self, user_id: u64) -> Result<Vec<Change>, ApiError> {
        let prefix = SessionRow::of_user(user_id);
        let sessions = self.inner.store.documents::<SessionRow>(&prefix)?;
        Ok(sessions.iter().map(removal).collect())
    }

    fn issue(
        &self,
        user: &UserRow,
        session: &SessionRow,
        now: Timestamp,
    ) -> Result<TokenPair, ApiError> {
        let names = (session.sid.as_str(), session.jti.as_str());
        let pair = self.keys().issue(&subject(user), names, now);
        pair.map_err(|error| ApiError::new(Kind::Internal, error.to_string()))
    }

    fn surplus(&self, user_id: u64) -> Result<Vec<Change>, ApiError> {
        let prefix = SessionRow::of_user(user_id);
        let mut sessions = self.inner.store.documents::<SessionRow>(&prefix)?;
        sessions.sort_by_key(|session| session.created_at);
        let surplus = (sessions.len() + 1).saturating_sub(MOST);
        Ok(sessions.iter().take(surplus).map(removal).collect())
    }

    /// What removes ended sessions, of all users, once an hour.
    fn sweep(&self, now: Timestamp) -> Result<Vec<Change>, ApiError> {
        let swept_at = &self.inner.swept_at;
        let last = swept_at.load(Ordering::Relaxed);
        if now.0.saturating_sub(last) < SWEEP {
            return Ok(Vec::new());
        }
        let taken = swept_at.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_err() {
            return Ok(Vec::new());
        }
        let sessions = self.inner.store.documents::<SessionRow>("")?;
        let ended = sessions.iter().filter(|row| row.expires_at <= now);
        Ok(ended.map(removal).collect())
    }
}

fn removal(session: &SessionRow) -> Change {
    let key = SessionRow::key_of(session.user_id, &session.sid);
    Change::remove::<SessionRow>(key)
}

fn refused(why: &str) -> ApiError {
    ApiError::new(
        Kind::Unauthenticated,
        format!("Invalid refresh token: {why}"),
    )
}

impl Service {
    /// A new pair for a refresh token that was not used before.
    ///
    /// # Errors
    /// When the token is not good, with the reason. One that was used before ends its session.
    pub async fn refresh(&self, token: &str) -> Result<TokenPair, ApiError> {
        self.users().refresh(token).await
    }

    /// Ends the session of the access token, and that of the refresh token if one is given.
    ///
    /// # Errors
    /// When the caller is not known, or has shown what no logout ends.
    pub async fn logout(
        &self,
        access: Option<&str>,
        refresh: Option<&str>,
    ) -> Result<(), ApiError> {
        let caller = self.caller(access)?;
        let access = access.unwrap_or_default();
        let words = match &caller.shown {
            Shown::Session(_) | Shown::Nothing => None,
            Shown::ApiKey(id) => Some(format!(
                "An API key does not log out, it is good until it is revoked; an administrator does that with `trainyard api-keys revoke {id}` or DELETE /api-keys/{id}"
            )),
            Shown::Foreign(_) => Some(
                "This login is not the coordinator's and ends at its issuer; log out there. The token is taken until it expires"
                    .to_owned(),
            ),
        };
        if let Some(words) = words {
            return Err(ApiError::new(Kind::Conflict, words));
        }
        self.users().logout(&caller, access, refresh).await
    }
}

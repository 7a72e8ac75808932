//! Who calls: logins, sessions, accounts, API keys, an issuer's users.
//!
//! Owns the rows of users and of their tokens, and the answers of the HTTP contract to wrong ones.
//! Never decides what a user may do with a job. Called by both doors through the service.

mod accounts;
mod federation;
mod keys;
mod login;
mod machines;
mod sessions;

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicI64},
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use trainyard_core::{access::SystemRole, time::Timestamp};
use trainyard_proto::status::Kind;

use self::federation::Foreign;
pub(crate) use self::keys::new_key;
pub use self::{
    accounts::{Change as AccountChange, NewUser, Patch},
    machines::{MadeKey, NewKey, NewServiceAccount},
};
use super::{ApiError, Service};
use crate::{
    auth::{ApiKey, ApiKeyRow, Keys, Oidc, SessionRow, Subject, Throttle},
    clock,
    store::{Store, UserRow},
};

/// Passwords checked or hashed at once: each takes 19 MiB and a core for tens of milliseconds.
const CHECKS: usize = 2;
/// Passwords of those who register hashed at once, beside those checked: registering never makes a
/// login wait.
const REGISTERING: usize = 1;
/// Registrations that wait for their turn at most.
const WAITING: usize = 32;

/// Locks over users; those whose numbers fall together wait for each other.
const LOCKS: u64 = 64;

/// A user who has shown a good token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user's row, as it is now.
    pub user: UserRow,
    shown: Shown,
}

/// What a caller has shown.
#[derive(Clone, Debug)]
enum Shown {
    /// Nothing.
    Nothing,
    /// An access token of ours; the key of its session's row.
    Session(String),
    /// An API key; its id.
    ApiKey(String),
    /// A token of the issuer; when it expires.
    Foreign(Timestamp),
}

impl Caller {
    /// Whoever reads without a token where `auth.open_reads` lets them: may read jobs, nothing else.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            user: UserRow {
                role: SystemRole::Guest.name().to_owned(),
                active: true,
                ..UserRow::default()
            },
            shown: Shown::Nothing,
        }
    }

    /// Whether nobody is known to call.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.user.id == 0
    }
}

/// What the configuration says about users.
#[derive(Debug)]
pub struct UserSettings {
    /// Anyone may register.
    pub open_registration: bool,
    /// Anyone may read jobs.
    pub open_reads: bool,
    /// Wrong passwords for one account and from one address within the window.
    pub failures: (u32, u32),
    /// Accounts that one address may register within the window.
    pub registrations: u32,
    /// The window.
    pub window: Duration,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The issuer whose tokens are taken.
    pub oidc: Option<Oidc>,
}

/// Users and their tokens. A clone is cheap.
#[derive(Clone, Debug)]
pub(super) struct Users {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    keys: RwLock<Arc<Keys>>,
    settings: UserSettings,
    checks: Arc<Semaphore>,
    registering: Arc<Semaphore>,
    /// Places before that.
    waiting: Semaphore,
    /// Held over changes of accounts: unique addresses, the last administrator, projects.
    accounts: Mutex<()>,
    /// Held over changes of one user's sessions.
    sessions: Vec<Mutex<()>>,
    by_account: Throttle<[u8; 32]>,
    by_address: Throttle<IpAddr>,
    by_registrar: Throttle<IpAddr>,
    foreign: Foreign,
    swept_at: AtomicI64,
}

impl Users {
    pub(super) fn new(store: Store, keys: Keys, settings: UserSettings) -> Self {
        let (account, address) = settings.failures;
        let inner = Inner {
            store,
            keys: RwLock::new(Arc::new(keys)),
            checks: Arc::new(Semaphore::new(CHECKS)),
            registering: Arc::new(Semaphore::new(REGISTERING)),
            waiting: Semaphore::new(WAITING),
            by_registrar: Throttle::new(settings.registrations, settings.window),
            accounts: Mutex::default(),
            sessions: (0..LOCKS).map(|_| Mutex::default()).collect(),
            by_account: Throttle::new(account, settings.window),
            by_address: Throttle::new(address, settings.window),
            foreign: Foreign::default(),
            swept_at: AtomicI64::new(0),
            settings,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn settings(&self) -> &UserSettings {
        &self.inner.settings
    }

    /// The user behind a token of any kind; an issuer's token was met before ([`Service::meet`]).
    pub(super) fn caller(&self, token: Option<&str>) -> Result<Caller, ApiError> {
        let token = token.ok_or_else(not_authenticated)?;
        let found = if let Some(key) = ApiKey::parse(token) {
            let user = self.of_api_key(&key)?;
            user.map(|user| (user, Shown::ApiKey(key.id)))
        } else {
            match self.of_access_token(token)? {
                Some((user, session)) => Some((user, Shown::Session(session))),
                None => {
                    let met = self.of_foreign(token)?;
                    met.map(|(user, ends)| (user, Shown::Foreign(ends)))
                }
            }
        };
        let found = found.filter(|(user, _)| user.active);
        let (user, shown) = found.ok_or_else(no_credentials)?;
        Ok(Caller { user, shown })
    }

    /// The caller as it is now, for what goes on after the call began: refused when the user was
    /// deactivated, or the session, the API key or the issuer's token has ended.
    fn still(&self, caller: &Caller) -> Result<Caller, ApiError> {
        let store = &self.inner.store;
        let now = clock::now();
        let good = match &caller.shown {
            Shown::Nothing => return Ok(caller.clone()),
            Shown::Session(key) => {
                let row = store.document::<SessionRow>(key)?;
                // Refreshing moves its end; it is swept some time after it.
                row.is_some_and(|row| now < row.expires_at)
            }
            Shown::ApiKey(id) => {
                let row = store.document::<ApiKeyRow>(id)?;
                row.is_some_and(|row| row.expires_at.is_none_or(|at| now < at))
            }
            // It cannot be renewed: the next one is another login.
            Shown::Foreign(ends) => now < *ends,
        };
        let user = store.user(caller.user.id)?;
        let user = user.filter(|user| user.active && good);
        Ok(Caller {
            user: user.ok_or_else(no_credentials)?,
            shown: caller.shown.clone(),
        })
    }

    fn of_access_token(&self, token: &str) -> Result<Option<(UserRow, String)>, ApiError> {
        let Ok(claims) = self.keys().access(token, clock::now()) else {
            return Ok(None);
        };
        let Ok(id) = claims.sub.parse() else {
            return Ok(None);
        };
        let key = SessionRow::key_of(id, &claims.sid);
        let user = self.inner.store.user_with::<SessionRow>(&key, id)?;
        Ok(user.map(|user| (user, key)))
    }

    fn keys(&self) -> Arc<Keys> {
        let keys = self.inner.keys.read();
        Arc::clone(&keys.unwrap_or_else(PoisonError::into_inner))
    }

    /// Alone among those who change this user's sessions.
    async fn lock(&self, user_id: u64) -> Result<MutexGuard<'_, ()>, ApiError> {
        let index = usize::try_from(user_id % LOCKS).unwrap_or_default();
        let lock = self
            .inner
            .sessions
            .get(index)
            .ok_or_else(super::service::stopping)?;
        Ok(lock.lock().await)
    }

    /// Alone among those who change accounts and projects.
    pub(super) async fn alone(&self) -> MutexGuard<'_, ()> {
        self.inner.accounts.lock().await
    }

    fn user(&self, id: u64) -> Result<UserRow, ApiError> {
        self.inner.store.user(id)?.ok_or_else(no_user)
    }
}

impl Service {
    /// The user behind an access token, an API key or an issuer's token.
    ///
    /// # Errors
    /// Without a token, or with one that is not good.
    pub fn caller(&self, token: Option<&str>) -> Result<Caller, ApiError> {
        self.users().caller(token)
    }

    /// The caller as it is now, for streams, which outlive what they began with.
    ///
    /// # Errors
    /// When the user was deactivated or the session has ended.
    pub(super) fn still(&self, caller: &Caller) -> Result<Caller, ApiError> {
        self.users().still(caller)
    }

    /// Who reads jobs: the caller, or anyone where `auth.open_reads` says so and no token came.
    ///
    /// # Errors
    /// As [`Service::caller`]; a token that came must be good.
    pub fn reader_of(&self, token: Option<&str>) -> Result<Caller, ApiError> {
        match token {
            None if self.open_reads() => Ok(Caller::anonymous()),
            token => self.caller(token),
        }
    }

    /// As [`Service::reader_of`], for a token that did not come in the `Authorization` header, such as
    /// one of a query: an issuer's token is looked at here.
    ///
    /// # Errors
    /// As [`Service::reader_of`].
    pub async fn identify(&self, token: Option<&str>) -> Result<Caller, ApiError> {
        if let Some(token) = token {
            self.meet(token).await;
        }
        self.reader_of(token)
    }

    /// Whether anyone may read jobs.
    pub(super) fn open_reads(&self) -> bool {
        self.users().settings().open_reads
    }
}

fn subject(user: &UserRow) -> Subject {
    Subject {
        user_id: user.id,
        email: user.email.clone(),
        role: user.role.clone(),
        organization_id: user.organization_id,
    }
}

/// 128 drawn bits.
fn draw() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The contract's answer to a call without a token.
pub(super) fn not_authenticated() -> ApiError {
    ApiError::new(Kind::Unauthenticated, "Not authenticated")
}

fn no_credentials() -> ApiError {
    ApiError::new(Kind::Unauthenticated, "Could not validate credentials")
}

fn no_user() -> ApiError {
    ApiError::new(Kind::NotFound, "User not found")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Change;

    #[tokio::test]
    async fn what_goes_on_after_a_call_began_ends_with_the_login_that_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let users = login::tests::users(folder.path());
        let user = UserRow {
            id: 7,
            active: true,
            ..UserRow::default()
        };
        let now = clock::now();
        let later = now.plus(Duration::from_secs(3_600));
        let session = |sid: &str, expires_at| SessionRow {
            user_id: 7,
            sid: sid.to_owned(),
            jti: "j".to_owned(),
            created_at: now,
            expires_at,
        };
        let rows = vec![
            Change::PutUser(user.clone()),
            Change::put(&session("over", now)),
            Change::put(&session("good", later)),
        ];
        users.inner.store.commit_and_wait(rows).await.unwrap();
        let still = |shown| {
            let user = user.clone();
            users.still(&Caller { user, shown }).is_ok()
        };
        let session = |sid| Shown::Session(SessionRow::key_of(7, sid));
        assert!(still(session("good")) && still(Shown::Foreign(later)));
        assert!(!still(session("over")), "an expired session");
        assert!(!still(session("gone")), "a session that was ended");
        assert!(!still(Shown::Foreign(now)), "an expired token of an issuer");
    }
}

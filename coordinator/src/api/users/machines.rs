//! Service accounts and their API keys: how CI calls.
//!
//! A service account is a user without a password. Of a key the store has the hash; the key itself is
//! shown once.

use trainyard_core::{
    access::{Permission, ProjectRole, SystemRole},
    account::{SERVICE_DOMAIN, name_problem},
    time::Timestamp,
};
use trainyard_proto::status::Kind;

use super::{Users, no_user};
use crate::{
    api::{
        ApiError, Caller, Service,
        access::{MemberRow, Target},
    },
    auth::{ApiKey, ApiKeyRow, ApiKeyUseRow},
    clock,
    store::{Change, UserRow},
};

/// Keys that one account may have.
const MOST: usize = 100;
/// A use is noted at most this often, in microseconds: a minute.
const NOTED: i64 = 60_000_000;

/// A service account to be made.
#[derive(Clone, Debug)]
pub struct NewServiceAccount {
    /// 1 to 63 of `a-z0-9-_.`; its address is `NAME@service.local`.
    pub name: String,
    /// Its role.
    pub role: SystemRole,
    /// The project it joins, and as what.
    pub project: Option<(i64, ProjectRole)>,
}

/// An API key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The service account.
    pub user_id: u64,
    /// For people.
    pub name: String,
    /// When it ends, if ever.
    pub expires_at: Option<Timestamp>,
}

/// A key that was just made.
#[derive(Clone, Debug)]
pub struct MadeKey {
    /// The key itself, for this one time.
    pub key: ApiKey,
    /// Its row.
    pub row: ApiKeyRow,
}

impl Users {
    /// The user that a key speaks for, while it is good.
    pub(super) fn of_api_key(&self, key: &ApiKey) -> Result<Option<UserRow>, ApiError> {
        let store = &self.inner.store;
        let now = clock::now();
        let good =
            |row: &ApiKeyRow| key.fits(&row.hash) && row.expires_at.is_none_or(|at| now < at);
        let Some(row) = store.document::<ApiKeyRow>(&key.id)?.filter(good) else {
            return Ok(None);
        };
        let used = store.document::<ApiKeyUseRow>(&row.id)?;
        if used.is_none_or(|used| now.0.saturating_sub(used.at.0) >= NOTED) {
            let noted = ApiKeyUseRow {
                id: row.id,
                at: now,
            };
            // When the store is busy it is noted the next time.
            store
                .try_commit(vec![Change::put(&noted)], Box::new(|_| ()))
                .ok();
        }
        Ok(store.user(row.user_id)?)
    }

    async fn make_key(&self, new: NewKey) -> Result<MadeKey, ApiError> {
        let _alone = self.alone().await;
        let user = self.inner.store.user(new.user_id)?;
        let user = user.filter(|user| user.service).ok_or_else(no_user)?;
        let own = |row: &&ApiKeyRow| row.user_id == user.id;
        let keys = self.inner.store.documents::<ApiKeyRow>("")?;
        if keys.iter().filter(own).count() >= MOST {
            let words = format!("{} has {MOST} API keys already; revoke some", user.email);
            return Err(ApiError::new(Kind::Exhausted, words));
        }
        let key = ApiKey::of(rand::random(), rand::random());
        let row = ApiKeyRow {
            id: key.id.clone(),
            user_id: user.id,
            name: new.name,
            hash: key.hash(),
            created_at: clock::now(),
            expires_at: new.expires_at,
        };
        let change = Change::put(&row);
        self.inner.store.commit_and_wait(vec![change]).await?;
        Ok(MadeKey { key, row })
    }

    async fn revoke_key(&self, id: &str) -> Result<(), ApiError> {
        let _alone = self.alone().await;
        if self.inner.store.document::<ApiKeyRow>(id)?.is_none() {
            return Err(ApiError::new(Kind::NotFound, "API key not found"));
        }
        let changes = revoking(id).to_vec();
        self.inner.store.commit_and_wait(changes).await?;
        Ok(())
    }

    /// What revokes every API key of a user; for whoever is `alone`.
    pub(super) fn revoking_all(&self, user_id: u64) -> Result<Vec<Change>, ApiError> {
        let keys = self.inner.store.documents::<ApiKeyRow>("")?;
        let own = keys.iter().filter(|row| row.user_id == user_id);
        Ok(own.flat_map(|row| revoking(&row.id)).collect())
    }
}

fn revoking(id: &str) -> [Change; 2] {
    [
        Change::remove::<ApiKeyRow>(id),
        Change::remove::<ApiKeyUseRow>(id),
    ]
}

impl Service {
    /// Makes a service account.
    ///
    /// # Errors
    /// A bad or taken name, an unknown project, a caller who may not.
    pub async fn create_service_account(
        &self,
        caller: &Caller,
        new: NewServiceAccount,
    ) -> Result<UserRow, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        if let Some(words) = name_problem(&new.name) {
            return Err(ApiError::field("name", words));
        }
        if let Some((project, _)) = new.project {
            self.require(
                caller,
                Permission::AdministerProject,
                Target::Project(project),
            )?;
        }
        let user = UserRow {
            email: format!("{}@{SERVICE_DOMAIN}", new.name),
            full_name: new.name,
            role: new.role.name().to_owned(),
            active: true,
            service: true,
            created_at: clock::now(),
            ..UserRow::default()
        };
        let member = |user: &UserRow| {
            let (project_id, role) = new.project?;
            Some(Change::put(&MemberRow {
                project_id,
                user_id: user.id,
                role,
            }))
        };
        self.users().add(user, member).await
    }

    /// All service accounts by number.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn service_accounts(&self, caller: &Caller) -> Result<Vec<UserRow>, ApiError> {
        let users = self.list_users(caller).await?;
        Ok(users.into_iter().filter(|user| user.service).collect())
    }

    /// A service account by name or address.
    ///
    /// # Errors
    /// When there is none, or the caller may not.
    pub fn service_account(&self, caller: &Caller, name: &str) -> Result<UserRow, ApiError> {
        let email = match name.contains('@') {
            true => name.to_owned(),
            false => format!("{name}@{SERVICE_DOMAIN}"),
        };
        let user = self.find_user(caller, &email)?;
        Some(user).filter(|user| user.service).ok_or_else(no_user)
    }

    /// Makes an API key; this answer is the only one that holds it.
    ///
    /// # Errors
    /// No such service account, a time that is over, a caller who may not.
    pub async fn create_api_key(&self, caller: &Caller, new: NewKey) -> Result<MadeKey, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        if let Some(words) = name_problem(&new.name) {
            return Err(ApiError::field("name", words));
        }
        if new.expires_at.is_some_and(|at| at <= clock::now()) {
            return Err(ApiError::field("expires_in_seconds", "must be above 0"));
        }
        let made = self.users().make_key(new).await?;
        tracing::info!(key = %made.row.id, by = %caller.user.email, "an API key was made");
        Ok(made)
    }

    /// The API keys of one account or of all, each with the time of its last use.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn api_keys(
        &self,
        caller: &Caller,
        of: Option<u64>,
    ) -> Result<Vec<(ApiKeyRow, Option<Timestamp>)>, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        let rows = self.store().documents::<ApiKeyRow>("")?.into_iter();
        let wanted = rows.filter(|row| of.is_none_or(|id| row.user_id == id));
        let with_use = |row: ApiKeyRow| {
            let used = self.store().document::<ApiKeyUseRow>(&row.id)?;
            Ok((row, used.map(|used| used.at)))
        };
        wanted.map(with_use).collect()
    }

    /// Revokes an API key; it is refused from now on.
    ///
    /// # Errors
    /// When there is none, or the caller may not.
    pub async fn revoke_api_key(&self, caller: &Caller, id: &str) -> Result<(), ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        self.users().revoke_key(id).await?;
        tracing::info!(key = %id, by = %caller.user.email, "an API key was revoked");
        Ok(())
    }
}

//! Accounts: registration, profiles, roles, who may log in.
//!
//! Owns that addresses are unique and that one active administrator remains.

use std::net::IpAddr;

use trainyard_core::{
    access::{Permission, SystemRole},
    account::{PASSWORD, PROFILE, email_problem, normal_email, password_fits},
    spec::Violation,
};
use trainyard_proto::status::Kind;

use super::{Users, no_user};
use crate::{
    api::{ApiError, Caller, Service, access::Target},
    clock,
    store::{Change as Row, Store, UserRow},
};

/// Names of profile fields, each with its new value; none clears it.
pub type Patch = Vec<(&'static str, Option<String>)>;

/// A user to be made.
#[derive(Clone)]
pub struct NewUser {
    /// Unique.
    pub email: String,
    /// 8 to 100 characters.
    pub password: String,
    /// The profile.
    pub profile: Patch,
}

impl std::fmt::Debug for NewUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewUser")
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

/// What an administrator changes of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Another role.
    pub role: Option<SystemRole>,
    /// May use the coordinator or not.
    pub active: Option<bool>,
}

/// Who makes an account.
#[derive(Clone, Copy, Debug)]
enum Maker {
    /// Whoever it is of, from an address.
    Themselves(Option<IpAddr>),
    /// An administrator, with a role.
    Administrator(SystemRole),
}

impl NewUser {
    /// Whether each field is in order.
    ///
    /// # Errors
    /// Every bad one at once.
    pub(in crate::api) fn check(&self) -> Result<(), ApiError> {
        let email = email_problem(&self.email).map(str::to_owned);
        let mut found = vec![("email", email), ("password", bad_length(&self.password))];
        found.extend(self.profile.iter().map(bad_text));
        let told = |(field, words): (&str, Option<String>)| {
            Some(Violation {
                field: field.to_owned(),
                message: words?,
            })
        };
        let found: Vec<_> = found.into_iter().filter_map(told).collect();
        match found.is_empty() {
            true => Ok(()),
            false => Err(ApiError::invalid(found)),
        }
    }
}

impl Users {
    async fn create(&self, new: NewUser, by: Maker) -> Result<UserRow, ApiError> {
        new.check()?;
        let email = normal_email(&new.email);
        let (role, registered) = match by {
            Maker::Themselves(from) => {
                self.charge_registration(from)?;
                (SystemRole::Guest, true)
            }
            Maker::Administrator(role) => (role, false),
        };
        self.vacant(&email)?;
        let password_hash = match registered {
            true => self.hash_of_stranger(&new.password).await?,
            false => self.hash(&new.password).await?,
        };
        let mut user = UserRow {
            email,
            password_hash,
            role: role.name().to_owned(),
            active: true,
            registered,
            created_at: clock::now(),
            ..UserRow::default()
        };
        apply(&mut user, new.profile)?;
        self.add(user, |_| None).await
    }

    /// Gives the user a number and keeps it, with what belongs to it in the same commit.
    pub(super) async fn add(
        &self,
        mut user: UserRow,
        more: impl FnOnce(&UserRow) -> Option<Row>,
    ) -> Result<UserRow, ApiError> {
        let _alone = self.alone().await;
        self.vacant(&user.email)?;
        user.id = self.inner.store.next_user()?;
        let mut changes = vec![Row::PutUser(user.clone())];
        changes.extend(more(&user));
        self.inner.store.commit_and_wait(changes).await?;
        Ok(user)
    }

    fn vacant(&self, email: &str) -> Result<(), ApiError> {
        match self.inner.store.user_by_email(email)? {
            Some(_) => Err(ApiError::new(Kind::Taken, "Email already registered")),
            None => Ok(()),
        }
    }

    async fn profile(&self, id: u64, patch: Patch) -> Result<UserRow, ApiError> {
        let _alone = self.alone().await;
        let _lock = self.lock(id).await?;
        let mut user = self.user(id)?;
        apply(&mut user, patch)?;
        let change = Row::PutUser(user.clone());
        self.inner.store.commit_and_wait(vec![change]).await?;
        Ok(user)
    }

    async fn change(&self, id: u64, wanted: Change) -> Result<UserRow, ApiError> {
        let _alone = self.alone().await;
        let _lock = self.lock(id).await?;
        let mut user = self.user(id)?;
        let was_admin = is_admin(&user);
        if let Some(role) = wanted.role {
            role.name().clone_into(&mut user.role);
        }
        user.active = wanted.active.unwrap_or(user.active);
        if was_admin && !is_admin(&user) {
            let others = self.inner.store.users()?;
            if !others.iter().any(|other| other.id != id && is_admin(other)) {
                let words = "The last active admin can be neither demoted nor deactivated; make another user an admin first";
                return Err(ApiError::new(Kind::Conflict, words));
            }
        }
        let mut changes = match user.active {
            true => Vec::new(),
            // Nothing comes back to life when the user is active again, also no API key.
            false => {
                let sessions = self.ending_all(id)?;
                sessions.into_iter().chain(self.revoking_all(id)?).collect()
            }
        };
        changes.push(Row::PutUser(user.clone()));
        self.inner.store.commit_and_wait(changes).await?;
        Ok(user)
    }
}

/// Whether the user is an administrator who can do something: a person, and active.
fn is_admin(user: &UserRow) -> bool {
    user.active && !user.service && user.role == SystemRole::Admin.name()
}

/// What is wrong with the length of a password, if anything.
fn bad_length(password: &str) -> Option<String> {
    let (least, most) = PASSWORD;
    let fits = password_fits(password);
    (!fits).then(|| format!("must have {least} to {most} characters"))
}

/// What is wrong with a text of a profile, if anything.
fn bad_text((name, value): &(&'static str, Option<String>)) -> (&'static str, Option<String>) {
    let most = PROFILE.iter().find(|(known, _)| known == name);
    let most = most.map_or(0, |(_, most)| *most);
    let long = value
        .as_ref()
        .is_some_and(|text| text.chars().count() > most);
    (
        *name,
        long.then(|| format!("must have at most {most} characters")),
    )
}

fn apply(user: &mut UserRow, patch: Patch) -> Result<(), ApiError> {
    for entry in patch {
        if let (name, Some(words)) = bad_text(&entry) {
            return Err(ApiError::field(name, words));
        }
        let (name, value) = entry;
        let profile = &mut user.profile;
        match name {
            "full_name" => user.full_name = value.unwrap_or_default(),
            "company" => profile.company = value,
            "company_custom" => profile.company_custom = value,
            "division" => profile.division = value,
            "division_custom" => profile.division_custom = value,
            "department" => profile.department = value,
            "phone_number" => profile.phone_number = value,
            "bio" => profile.bio = value,
            "badge_color" => profile.badge_color = value,
            "avatar_name" => profile.avatar_name = value,
            _ => return Err(ApiError::field(name, "is no field of a profile")),
        }
    }
    Ok(())
}

impl Service {
    /// Makes a guest of whoever asks.
    ///
    /// # Errors
    /// Bad address or password; an address that is taken; when registration is closed; too many of late
    /// from where it comes.
    pub async fn register(&self, new: NewUser, from: Option<IpAddr>) -> Result<UserRow, ApiError> {
        if !self.users().settings().open_registration {
            let words = "Registration is closed (auth.open_registration); ask an administrator for an account";
            return Err(ApiError::new(Kind::Forbidden, words));
        }
        self.users().create(new, Maker::Themselves(from)).await
    }

    /// Makes a user of any role.
    ///
    /// # Errors
    /// As [`Service::register`]; when the caller may not.
    pub async fn create_user(
        &self,
        caller: &Caller,
        new: NewUser,
        role: SystemRole,
    ) -> Result<UserRow, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        self.users().create(new, Maker::Administrator(role)).await
    }

    /// Changes the caller's own profile; nothing else of the account.
    ///
    /// # Errors
    /// When a text is too long.
    pub async fn update_profile(&self, caller: &Caller, patch: Patch) -> Result<UserRow, ApiError> {
        self.users().profile(caller.user.id, patch).await
    }

    /// All users by number.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn list_users(&self, caller: &Caller) -> Result<Vec<UserRow>, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        // Anyone may register: they may be many.
        self.blocking(Store::users).await
    }

    /// One user.
    ///
    /// # Errors
    /// When the caller may not, or there is none.
    pub fn get_user(&self, caller: &Caller, id: u64) -> Result<UserRow, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        self.users().user(id)
    }

    /// One user by address.
    ///
    /// # Errors
    /// When the caller may not, or there is none.
    pub fn find_user(&self, caller: &Caller, email: &str) -> Result<UserRow, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        let found = self.store().user_by_email(&normal_email(email))?;
        found.ok_or_else(no_user)
    }

    /// Changes role and active flag; a user who is no longer active is refused from now on, and what it
    /// called with (sessions, API keys) is gone for good.
    ///
    /// # Errors
    /// When the caller may not, there is no such user, or it is the last active administrator.
    pub async fn change_user(
        &self,
        caller: &Caller,
        id: u64,
        wanted: Change,
    ) -> Result<UserRow, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        let user = self.users().change(id, wanted).await?;
        tracing::info!(user_id = id, role = %user.role, active = user.active, by = %caller.user.email, "a user was changed");
        Ok(user)
    }

    /// Sets a user's password; all its sessions end.
    ///
    /// # Errors
    /// When the caller may not, there is no such user, or the length is wrong.
    pub async fn set_password(
        &self,
        caller: &Caller,
        id: u64,
        password: &str,
    ) -> Result<(), ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        if self.users().user(id)?.service {
            let words = "A service account has no password; make an API key for it";
            return Err(ApiError::new(Kind::Conflict, words));
        }
        self.replace(id, ("password", password)).await
    }

    /// Changes the caller's own password; all its sessions end, this one too.
    ///
    /// # Errors
    /// When the present one is wrong, or the length of the new one.
    pub async fn change_password(
        &self,
        caller: &Caller,
        (current, new): (&str, &str),
        from: Option<IpAddr>,
    ) -> Result<(), ApiError> {
        let user = &caller.user;
        let right = self.users().prove(&user.email, from, Some(user), current);
        if !right.await? {
            return Err(ApiError::new(Kind::Conflict, "Incorrect password"));
        }
        self.replace(user.id, ("new_password", new)).await
    }

    async fn replace(&self, id: u64, (field, password): (&str, &str)) -> Result<(), ApiError> {
        if let Some(words) = bad_length(password) {
            return Err(ApiError::field(field, words));
        }
        self.users().replace_password(id, password).await
    }
}

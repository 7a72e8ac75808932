//! `UserService`: accounts, service accounts, API keys, signing keys.

use tonic::{Request, Response, Status, async_trait};
use trainyard_core::{
    access::{ProjectRole, SystemRole},
    account::name_problem,
    time::Timestamp,
};
use trainyard_proto::{
    convert::{span, timestamp},
    v1::{self, user_service_server::UserService},
};

use super::{caller, peer, token};
use crate::{
    api::{
        ApiError, Service,
        peer::Peer,
        users::{AccountChange, NewKey, NewServiceAccount, NewUser},
    },
    auth::ApiKeyRow,
    clock,
    store::UserRow,
};

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct UserDoor(pub(super) Service);

#[async_trait]
impl UserService for UserDoor {
    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let users = match request.into_inner().only_service {
            true => self.0.service_accounts(&caller).await?,
            false => self.0.list_users(&caller).await?,
        };
        let users = users.into_iter().map(user).collect();
        Ok(Response::new(v1::ListUsersResponse { users }))
    }

    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> Result<Response<v1::CreateUserResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let name = Some(asked.full_name).filter(|name| !name.is_empty());
        let new = NewUser {
            email: asked.email,
            password: asked.password,
            profile: vec![("full_name", name)],
        };
        let role = role(&asked.role, SystemRole::Guest);
        let (role, ()) = ApiError::both(role, new.check())?;
        let user = Some(user(self.0.create_user(&caller, new, role).await?));
        Ok(Response::new(v1::CreateUserResponse { user }))
    }

    async fn update_user(
        &self,
        request: Request<v1::UpdateUserRequest>,
    ) -> Result<Response<v1::UpdateUserResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let wanted = AccountChange {
            role: asked.role.as_deref().map(known_role).transpose()?,
            active: asked.is_active,
        };
        let id = self.0.find_user(&caller, &asked.email)?.id;
        let user = Some(user(self.0.change_user(&caller, id, wanted).await?));
        Ok(Response::new(v1::UpdateUserResponse { user }))
    }

    async fn set_password(
        &self,
        request: Request<v1::SetPasswordRequest>,
    ) -> Result<Response<v1::SetPasswordResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let id = self.0.find_user(&caller, &asked.email)?.id;
        self.0.set_password(&caller, id, &asked.password).await?;
        Ok(Response::new(v1::SetPasswordResponse {}))
    }

    async fn set_my_password(
        &self,
        request: Request<v1::SetMyPasswordRequest>,
    ) -> Result<Response<v1::SetMyPasswordResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let Peer(from) = peer(&request);
        let asked = request.into_inner();
        let passwords = (&*asked.current_password, &*asked.new_password);
        self.0.change_password(&caller, passwords, from).await?;
        Ok(Response::new(v1::SetMyPasswordResponse {}))
    }

    async fn logout(
        &self,
        request: Request<v1::LogoutRequest>,
    ) -> Result<Response<v1::LogoutResponse>, Status> {
        let access = token(&request).map(str::to_owned);
        let refresh = request.into_inner().refresh_token;
        let refresh = Some(refresh.as_str()).filter(|token| !token.is_empty());
        self.0.logout(access.as_deref(), refresh).await?;
        Ok(Response::new(v1::LogoutResponse {}))
    }

    async fn create_service_account(
        &self,
        request: Request<v1::CreateServiceAccountRequest>,
    ) -> Result<Response<v1::CreateServiceAccountResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let project = match asked.project_id {
            0 => Ok(None),
            id => {
                let named = ("project_role", &*asked.project_role);
                project_role(named, ProjectRole::Member).map(|role| Some((id, role)))
            }
        };
        let role = role(&asked.role, SystemRole::StandardEngineer);
        let rest = ApiError::both(role, project);
        let ((role, project), ()) = ApiError::both(rest, good_name(&asked.name))?;
        let new = NewServiceAccount {
            name: asked.name,
            role,
            project,
        };
        let user = Some(user(self.0.create_service_account(&caller, new).await?));
        Ok(Response::new(v1::CreateServiceAccountResponse { user }))
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let life = asked
            .expires_in
            .as_ref()
            .map(|life| span("expires_in", life));
        let life = life.transpose().map_err(ApiError::from);
        let (life, ()) = ApiError::both(life, good_name(&asked.name))?;
        let account = self.0.service_account(&caller, &asked.account)?;
        let new = NewKey {
            user_id: account.id,
            name: asked.name,
            expires_at: life.map(|life| clock::now().plus(life)),
        };
        let made = self.0.create_api_key(&caller, new).await?;
        Ok(Response::new(v1::CreateApiKeyResponse {
            key: Some(key(made.row, None, account.email)),
            secret: made.key.expose(),
        }))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let account = request.into_inner().account;
        let of = match account.is_empty() {
            true => None,
            false => Some(self.0.service_account(&caller, &account)?.id),
        };
        let users = self.0.service_accounts(&caller).await?;
        let name = |id: u64| {
            let found = users.iter().find(|user| user.id == id);
            found.map(|user| user.email.clone()).unwrap_or_default()
        };
        let rows = self.0.api_keys(&caller, of)?.into_iter();
        let keys = rows.map(|(row, used)| {
            let account = name(row.user_id);
            key(row, used, account)
        });
        Ok(Response::new(v1::ListApiKeysResponse {
            keys: keys.collect(),
        }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::RevokeApiKeyResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let id = request.into_inner().key_id;
        self.0.revoke_api_key(&caller, &id).await?;
        Ok(Response::new(v1::RevokeApiKeyResponse {}))
    }

    async fn rotate_keys(
        &self,
        request: Request<v1::RotateKeysRequest>,
    ) -> Result<Response<v1::RotateKeysResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let drop_old = request.into_inner().drop_old;
        let kid = self.0.rotate_keys(&caller, drop_old).await?;
        Ok(Response::new(v1::RotateKeysResponse { kid }))
    }
}

fn user(row: UserRow) -> v1::User {
    v1::User {
        user_id: row.id,
        email: row.email,
        full_name: row.full_name,
        role: row.role,
        is_active: row.active,
        is_service: row.service,
        created_at: Some(timestamp(row.created_at)),
    }
}

fn key(row: ApiKeyRow, used: Option<Timestamp>, account: String) -> v1::ApiKey {
    v1::ApiKey {
        key_id: row.id,
        user_id: row.user_id,
        account,
        name: row.name,
        created_at: Some(timestamp(row.created_at)),
        expires_at: row.expires_at.map(timestamp),
        last_used_at: used.map(timestamp),
    }
}

fn role(name: &str, default: SystemRole) -> Result<SystemRole, ApiError> {
    match name {
        "" => Ok(default),
        name => known_role(name),
    }
}

fn known_role(name: &str) -> Result<SystemRole, ApiError> {
    SystemRole::parse(name).ok_or_else(|| {
        let known = SystemRole::ALL.map(SystemRole::name).join(", ");
        ApiError::field("role", format!("'{name}' is none of {known}"))
    })
}

/// Whether it is a name of a service account or of a key.
fn good_name(name: &str) -> Result<(), ApiError> {
    name_problem(name).map_or(Ok(()), |words| Err(ApiError::field("name", words)))
}

/// A role within a project, from a field of the message; an empty text takes the default.
pub(super) fn project_role(
    (field, name): (&str, &str),
    default: ProjectRole,
) -> Result<ProjectRole, ApiError> {
    if name.is_empty() {
        return Ok(default);
    }
    ProjectRole::parse(name).ok_or_else(|| {
        let known = ProjectRole::ALL.map(ProjectRole::name).join(", ");
        ApiError::field(field, format!("'{name}' is none of {known}"))
    })
}

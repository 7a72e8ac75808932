//! What administrators do with users, service accounts, API keys and signing keys.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use trainyard_core::{
    access::{ProjectRole, SystemRole},
    account::name_problem,
    time::Timestamp,
};
use trainyard_proto::http::{self, Fields, SAFE};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    auth::{Message, ProfileRequest, UserView, new_password, new_user},
    error::{Answer, Refusal, both},
    openapi::{About, Acting, Asking, Sending, Signed},
    request::{Asked, Body, Named, User, UserId},
};
use crate::{
    api::{
        Service,
        users::{AccountChange, NewKey, NewServiceAccount},
    },
    auth::ApiKeyRow,
    clock,
};

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(user, change, replace))
        .routes(routes!(password))
        .routes(routes!(accounts, create_account))
        .routes(routes!(keys, create_key))
        .routes(routes!(revoke_key))
        .routes(routes!(rotate))
}

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct NewUserRequest {
    #[schema(format = Email, max_length = 254, pattern = "^[^@]*@(?!service[.]local$)")]
    email: String,
    #[schema(min_length = 8, max_length = 100)]
    password: String,
    /// `guest` when it is left out.
    #[schema(pattern = "^(guest|standard_engineer|advanced_engineer|manager|admin)$")]
    system_role: Option<String>,
    #[serde(flatten)]
    profile: ProfileRequest,
}

/// What is changed of a user; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct ChangeUserRequest {
    #[schema(pattern = "^(guest|standard_engineer|advanced_engineer|manager|admin)$")]
    system_role: Option<String>,
    /// A user who is not active is refused at once; logins end and API keys are revoked, for good.
    is_active: Option<bool>,
}

/// List users
#[utoipa::path(
    get,
    path = "/users",
    tag = "users",
    security(("token" = []), ("login" = [])),
    responses((status = 200, description = "All, by number", body = Vec<UserView>), Signed)
)]
pub(super) async fn list(
    State(service): State<Service>,
    User(caller): User,
) -> Answer<Vec<UserView>> {
    let users = service.list_users(&caller).await?;
    Ok(Json(users.into_iter().map(UserView::of).collect()))
}

/// Make a user
#[utoipa::path(
    post,
    path = "/users",
    tag = "users",
    security(("token" = []), ("login" = [])),
    request_body = NewUserRequest,
    responses((status = 201, description = "Made", body = UserView), Sending)
)]
pub(super) async fn create(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Result<(StatusCode, Json<UserView>), Refusal> {
    let (new, role) = http::read(&body, |fields, _| (new_user(fields), role(fields)))?;
    let role = role.unwrap_or_default();
    let user = service.create_user(&caller, new, role).await?;
    Ok((StatusCode::CREATED, Json(UserView::of(user))))
}

/// Show a user
#[utoipa::path(
    get,
    path = "/users/{id}",
    tag = "users",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The user's number")),
    responses((status = 200, description = "The user", body = UserView), About)
)]
pub(super) async fn user(
    State(service): State<Service>,
    User(caller): User,
    UserId(id): UserId,
) -> Answer<UserView> {
    Ok(Json(UserView::of(service.get_user(&caller, id)?)))
}

/// Change a user's role, or whether the user is active
///
/// The last active admin can be neither demoted nor deactivated.
#[utoipa::path(
    patch,
    path = "/users/{id}",
    tag = "users",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The user's number")),
    request_body = ChangeUserRequest,
    responses((status = 200, description = "The user, as it is now", body = UserView), Sending)
)]
pub(super) async fn change(
    State(service): State<Service>,
    User(caller): User,
    id: Result<UserId, Refusal>,
    Body(body): Body,
) -> Answer<UserView> {
    let wanted = http::read(&body, |fields, _| AccountChange {
        role: role(fields),
        active: fields.optional_flag("is_active"),
    });
    let (UserId(id), wanted) = both(id, wanted)?;
    let user = service.change_user(&caller, id, wanted).await?;
    Ok(Json(UserView::of(user)))
}

/// As PATCH, for clients that know only PUT
#[utoipa::path(
    put,
    path = "/users/{id}",
    tag = "users",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The user's number")),
    request_body = ChangeUserRequest,
    responses((status = 200, description = "The user, as it is now", body = UserView), Sending)
)]
pub(super) async fn replace(
    state: State<Service>,
    caller: User,
    id: Result<UserId, Refusal>,
    body: Body,
) -> Answer<UserView> {
    change(state, caller, id, body).await
}

/// Another password for a user.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct SetPasswordRequest {
    #[schema(min_length = 8, max_length = 100)]
    password: String,
}

/// Set a user's password
///
/// Every session of the user ends.
#[utoipa::path(
    put,
    path = "/users/{id}/password",
    tag = "users",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The user's number")),
    request_body = SetPasswordRequest,
    responses((status = 200, description = "Set", body = Message), Sending)
)]
pub(super) async fn password(
    State(service): State<Service>,
    User(caller): User,
    id: Result<UserId, Refusal>,
    Body(body): Body,
) -> Answer<Message> {
    let password = http::read(&body, |fields, _| new_password(fields, "password"));
    let (UserId(id), password) = both(id, password)?;
    service.set_password(&caller, id, &password).await?;
    Ok(Json(Message {
        message: "Password set; the user's sessions have ended",
    }))
}

/// A service account to be made.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct ServiceAccountRequest {
    /// Its address becomes `NAME@service.local`.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]*$", max_length = 63)]
    name: String,
    /// `standard_engineer` when it is left out.
    #[schema(pattern = "^(guest|standard_engineer|advanced_engineer|manager|admin)$")]
    system_role: Option<String>,
    /// The project that it joins.
    #[schema(minimum = -9007199254740991_i64, maximum = 9007199254740991_i64)]
    project_id: Option<i64>,
    /// `member` when it is left out.
    #[schema(pattern = "^(viewer|member|admin)$")]
    project_role: Option<String>,
}

/// List service accounts
#[utoipa::path(
    get,
    path = "/service-accounts",
    tag = "users",
    security(("token" = []), ("login" = [])),
    responses((status = 200, description = "All, by number", body = Vec<UserView>), Signed)
)]
pub(super) async fn accounts(
    State(service): State<Service>,
    User(caller): User,
) -> Answer<Vec<UserView>> {
    let users = service.service_accounts(&caller).await?;
    Ok(Json(users.into_iter().map(UserView::of).collect()))
}

/// Make a service account
#[utoipa::path(
    post,
    path = "/service-accounts",
    tag = "users",
    security(("token" = []), ("login" = [])),
    request_body = ServiceAccountRequest,
    responses((status = 201, description = "Made", body = UserView), Sending)
)]
pub(super) async fn create_account(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Result<(StatusCode, Json<UserView>), Refusal> {
    let new = http::read(&body, |fields, _| {
        let project_role = project_role(fields, "project_role");
        let name = fields.text("name");
        fields.check("name", name_problem(&name));
        NewServiceAccount {
            name,
            role: role(fields).unwrap_or(SystemRole::StandardEngineer),
            project: fields
                .whole_within("project_id", &SAFE)
                .map(|id| (id, project_role.unwrap_or(ProjectRole::Member))),
        }
    })?;
    let user = service.create_service_account(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(UserView::of(user))))
}

/// An API key to be made.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct ApiKeyRequest {
    /// The service account's number.
    user_id: i64,
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]*$", max_length = 63)]
    name: String,
    /// Until it is revoked, when it is left out.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    expires_in_seconds: Option<i64>,
}

/// An API key without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApiKeyView {
    id: String,
    user_id: u64,
    name: String,
    created_at: String,
    expires_at: Option<String>,
    /// To the minute.
    last_used_at: Option<String>,
}

/// An API key that was just made.
#[derive(Serialize, ToSchema)]
pub(super) struct MadeKeyView {
    /// The key: `ty_<id>_<secret>`. It is never shown again.
    key: String,
    id: String,
    user_id: u64,
    name: String,
    created_at: String,
    expires_at: Option<String>,
}

/// List API keys
#[utoipa::path(
    get,
    path = "/api-keys",
    tag = "users",
    security(("token" = []), ("login" = [])),
    params(("user_id" = Option<i64>, Query, minimum = 0, maximum = 9007199254740991_i64, description = "Only of this service account")),
    responses((status = 200, description = "All", body = Vec<ApiKeyView>), Asking)
)]
pub(super) async fn keys(
    State(service): State<Service>,
    User(caller): User,
    asked: Asked,
) -> Answer<Vec<ApiKeyView>> {
    let bounds = [http::Bound::Ge(0), SAFE[1]];
    let of = asked.read(|fields| fields.whole_within("user_id", &bounds))?;
    let of = of.map(|id| u64::try_from(id).unwrap_or(0));
    let rows = service.api_keys(&caller, of)?.into_iter();
    Ok(Json(rows.map(|(row, used)| key_view(row, used)).collect()))
}

/// Make an API key of a service account
#[utoipa::path(
    post,
    path = "/api-keys",
    tag = "users",
    security(("token" = []), ("login" = [])),
    request_body = ApiKeyRequest,
    responses((status = 201, description = "Made; the only answer that holds the key", body = MadeKeyView), Sending)
)]
pub(super) async fn create_key(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Result<(StatusCode, Json<MadeKeyView>), Refusal> {
    let new = http::read(&body, |fields, _| {
        let bounds = [http::Bound::Ge(1), http::Bound::Le(1_000_000_000)];
        let life = fields.whole_within("expires_in_seconds", &bounds);
        let life = life.and_then(|seconds| u64::try_from(seconds).ok());
        let name = fields.text("name");
        fields.check("name", name_problem(&name));
        NewKey {
            user_id: u64::try_from(fields.whole("user_id", i64::MIN)).unwrap_or(0),
            name,
            expires_at: life.map(|seconds| clock::now().plus(Duration::from_secs(seconds))),
        }
    })?;
    let made = service.create_api_key(&caller, new).await?;
    let key = made.key.expose();
    let view = key_view(made.row, None);
    let made = MadeKeyView {
        key,
        id: view.id,
        user_id: view.user_id,
        name: view.name,
        created_at: view.created_at,
        expires_at: view.expires_at,
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Revoke an API key
///
/// It is refused from now on.
#[utoipa::path(
    delete,
    path = "/api-keys/{id}",
    tag = "users",
    security(("token" = []), ("login" = [])),
    params(("id" = String, Path, description = "The part between the two underscores of the key")),
    responses((status = 200, description = "Revoked", body = Message), Acting)
)]
pub(super) async fn revoke_key(
    State(service): State<Service>,
    User(caller): User,
    Named(id): Named,
) -> Answer<Message> {
    service.revoke_api_key(&caller, &id).await?;
    Ok(Json(Message {
        message: "API key revoked",
    }))
}

/// How the keys are replaced.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct RotateRequest {
    /// The older keys verify no more: everybody logs in anew.
    drop_old: Option<bool>,
}

/// The key that signs now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SigningKeyView {
    kid: String,
}

/// Replace the key that signs user tokens
///
/// Tokens of the older keys are believed until they expire.
#[utoipa::path(
    post,
    path = "/auth/keys/rotate",
    tag = "auth",
    security(("token" = []), ("login" = [])),
    request_body = Option<RotateRequest>,
    responses((status = 200, description = "A new key signs", body = SigningKeyView), Sending)
)]
pub(super) async fn rotate(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Answer<SigningKeyView> {
    let drop_old = match body.is_empty() || &body[..] == b"null" {
        true => None,
        false => http::read(&body, |fields, _| fields.optional_flag("drop_old"))?,
    };
    let kid = service.rotate_keys(&caller, drop_old.unwrap_or(false));
    Ok(Json(SigningKeyView { kid: kid.await? }))
}

fn key_view(row: ApiKeyRow, used: Option<Timestamp>) -> ApiKeyView {
    ApiKeyView {
        id: row.id,
        user_id: row.user_id,
        name: row.name,
        created_at: row.created_at.to_naive_iso(),
        expires_at: row.expires_at.map(Timestamp::to_naive_iso),
        last_used_at: used.map(Timestamp::to_naive_iso),
    }
}

fn role(fields: &mut Fields<'_>) -> Option<SystemRole> {
    let names = SystemRole::ALL.map(SystemRole::name);
    fields
        .one_of("system_role", &names)
        .and_then(SystemRole::parse)
}

/// A role within a project.
pub(super) fn project_role(fields: &mut Fields<'_>, name: &str) -> Option<ProjectRole> {
    let names = ProjectRole::ALL.map(ProjectRole::name);
    fields.one_of(name, &names).and_then(ProjectRole::parse)
}

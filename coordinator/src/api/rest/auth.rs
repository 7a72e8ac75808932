//! Tokens and the user behind one: login, refresh, logout, registration, one's own account.

use axum::{
    Json,
    extract::State,
    http::{Extensions, HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use trainyard_core::account::{PASSWORD, PROFILE, email_problem};
use trainyard_proto::{
    http::{self, Fields},
    status::Kind,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Refusal},
    form::Form,
    openapi::{Open, Sending, Signed},
    request::{Asked, Body, User, parameters, read},
};
use crate::{
    api::{
        Service,
        peer::{Peer, bearer},
        users::{NewUser, Patch},
    },
    auth::TokenPair,
    store::UserRow,
};

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(register))
        .routes(routes!(me, update_me))
        .routes(routes!(password))
}

/// The OAuth2 password form; its other fields are not needed.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct LoginRequest {
    /// An e-mail address.
    #[schema(min_length = 1)]
    username: String,
    #[schema(min_length = 1)]
    password: String,
    grant_type: Option<String>,
    scope: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// Both tokens of a login.
#[derive(Serialize, ToSchema)]
pub(super) struct Tokens {
    /// For calls: `Authorization: Bearer`.
    access_token: String,
    /// For the next pair; good for one use.
    refresh_token: String,
    /// Always `bearer`.
    token_type: &'static str,
}

/// Done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Message {
    pub(super) message: &'static str,
}

/// Log in
///
/// The form may also come as `multipart/form-data`. Too many wrong passwords of late, for one account or from one address, answer 429 with
/// `Retry-After`; right ones do not count.
#[utoipa::path(
    post,
    path = "/auth/login",
    tag = "auth",
    request_body(content = LoginRequest, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "Logged in", body = Tokens), Sending)
)]
pub(super) async fn login(
    State(service): State<Service>,
    extensions: Extensions,
    Form(pairs): Form,
) -> Answer<Tokens> {
    let given = pairs.into_iter().filter(|(_, text)| !text.is_empty());
    let form = parameters(given.collect());
    let (email, password) = read(&form, "body", |fields| {
        (fields.text("username"), fields.text("password"))
    })?;
    let Peer(from) = Peer::of(&extensions);
    Ok(tokens(service.login(&email, &password, from).await?))
}

/// Get a new pair of tokens
///
/// A refresh token is good once; one that comes a second time ends its session with all its tokens.
#[utoipa::path(
    post,
    path = "/auth/refresh",
    tag = "auth",
    params(("refresh_token" = String, Query, description = "As the last answer gave it")),
    responses(
        (status = 200, description = "Both tokens are new", body = Tokens),
        (status = 401, description = "The token is not good; the words say why", body = super::openapi::Detail),
        Open
    )
)]
pub(super) async fn refresh(State(service): State<Service>, asked: Asked) -> Answer<Tokens> {
    let token = asked.read(|fields| fields.text("refresh_token"))?;
    Ok(tokens(service.refresh(&token).await?))
}

/// Log out
///
/// The session of the access token ends: its tokens are refused from now on. So does that of a
/// refresh token, if one comes in the query or the body. 400 for an API key, which is revoked, and for a
/// token of an issuer, whose logins end there.
#[utoipa::path(
    post,
    path = "/auth/logout",
    tag = "auth",
    security(("token" = []), ("login" = [])),
    params(("refresh_token" = Option<String>, Query, description = "Of another session to end")),
    responses((status = 200, description = "Logged out", body = Message), Sending)
)]
pub(super) async fn logout(
    State(service): State<Service>,
    headers: HeaderMap,
    _caller: User,
    asked: Asked,
    Body(body): Body,
) -> Answer<Message> {
    let in_query = asked.read(|fields| fields.optional_text("refresh_token"))?;
    // Clients send all sorts of bodies, or none.
    let in_body = http::read(&body, |fields, _| fields.optional_text("refresh_token"));
    let refresh = in_query.or_else(|| in_body.ok().flatten());
    service.logout(bearer(&headers), refresh.as_deref()).await?;
    Ok(Json(Message {
        message: "Successfully logged out",
    }))
}

/// An account to be made.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct RegisterRequest {
    #[schema(format = Email, max_length = 254, pattern = "^[^@]*@(?!service[.]local$)")]
    email: String,
    #[schema(min_length = 8, max_length = 100)]
    password: String,
    #[serde(flatten)]
    profile: ProfileRequest,
}

/// What users tell of themselves; with PUT, what is left out stays as it is and null clears it.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct ProfileRequest {
    #[schema(max_length = 200)]
    full_name: Option<String>,
    #[schema(max_length = 200)]
    company: Option<String>,
    #[schema(max_length = 200)]
    company_custom: Option<String>,
    #[schema(max_length = 200)]
    division: Option<String>,
    #[schema(max_length = 200)]
    division_custom: Option<String>,
    #[schema(max_length = 200)]
    department: Option<String>,
    #[schema(max_length = 50)]
    phone_number: Option<String>,
    #[schema(max_length = 2000)]
    bio: Option<String>,
    #[schema(max_length = 50)]
    badge_color: Option<String>,
    #[schema(max_length = 100)]
    avatar_name: Option<String>,
}

/// Register
///
/// The account is a guest's: it sees nothing until somebody invites it into a project. Too many accounts
/// from one address answer 429 with `Retry-After`.
#[utoipa::path(
    post,
    path = "/auth/register",
    tag = "auth",
    request_body = RegisterRequest,
    responses((status = 201, description = "Registered", body = UserView), Sending)
)]
pub(super) async fn register(
    State(service): State<Service>,
    extensions: Extensions,
    Body(body): Body,
) -> Result<(StatusCode, Json<UserView>), Refusal> {
    let new = http::read(&body, |fields, _| new_user(fields))?;
    let Peer(from) = Peer::of(&extensions);
    let mut made = service.register(new, from).await;
    if let Err(refused) = &mut made
        && refused.kind == Kind::Taken
    {
        // What is taken is 409 everywhere else; of this call the contract says 400.
        refused.kind = Kind::Conflict;
    }
    let user = made?;
    Ok((StatusCode::CREATED, Json(UserView::of(user))))
}

/// Who is logged in
#[utoipa::path(
    get,
    path = "/auth/me",
    tag = "auth",
    security(("token" = []), ("login" = [])),
    responses((status = 200, description = "The caller", body = UserView), Signed)
)]
pub(super) async fn me(User(caller): User) -> Json<UserView> {
    Json(UserView::of(caller.user))
}

/// Change one's own profile
///
/// Never the role, the address or whether the account is active.
#[utoipa::path(
    put,
    path = "/auth/me",
    tag = "auth",
    security(("token" = []), ("login" = [])),
    request_body = ProfileRequest,
    responses((status = 200, description = "The caller, as it is now", body = UserView), Sending)
)]
pub(super) async fn update_me(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Answer<UserView> {
    let patch = http::read(&body, |fields, _| profile(fields))?;
    let user = service.update_profile(&caller, patch).await?;
    Ok(Json(UserView::of(user)))
}

/// Another password for oneself.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct PasswordRequest {
    current_password: String,
    #[schema(min_length = 8, max_length = 100)]
    new_password: String,
}

/// Change one's own password
///
/// Every session of the account ends, this one too.
#[utoipa::path(
    put,
    path = "/auth/password",
    tag = "auth",
    security(("token" = []), ("login" = [])),
    request_body = PasswordRequest,
    responses((status = 200, description = "Changed", body = Message), Sending)
)]
pub(super) async fn password(
    State(service): State<Service>,
    User(caller): User,
    extensions: Extensions,
    Body(body): Body,
) -> Answer<Message> {
    let (current, new) = http::read(&body, |fields, _| {
        let current = fields.text("current_password");
        (current, self::new_password(fields, "new_password"))
    })?;
    let Peer(from) = Peer::of(&extensions);
    let passwords = (&*current, &*new);
    service.change_password(&caller, passwords, from).await?;
    Ok(Json(Message {
        message: "Password changed; log in again",
    }))
}

/// Address, password and profile of an account to be made.
pub(super) fn new_user(fields: &mut Fields<'_>) -> NewUser {
    let email = fields.text("email");
    let given = fields
        .get("email")
        .is_some_and(serde_json::Value::is_string);
    if let Some(words) = email_problem(&email).filter(|_| given) {
        fields.refuse_as(
            "email",
            &format!("value is not a valid email address: {words}"),
            words,
        );
    }
    NewUser {
        email,
        password: new_password(fields, "password"),
        profile: profile(fields),
    }
}

/// A password of an allowed length.
pub(super) fn new_password(fields: &mut Fields<'_>, name: &str) -> String {
    let (least, most) = PASSWORD;
    fields.required_text_within(name, least, most)
}

fn profile(fields: &mut Fields<'_>) -> Patch {
    let given = PROFILE.iter().filter(|(name, _)| fields.has(name));
    let given: Vec<_> = given.collect();
    let read = given
        .into_iter()
        .map(|(name, most)| (*name, fields.short_text(name, *most)));
    read.collect()
}

fn tokens(pair: TokenPair) -> Json<Tokens> {
    Json(Tokens {
        access_token: pair.access,
        refresh_token: pair.refresh,
        token_type: "bearer",
    })
}

/// A user; keys in the contract's order, those that are not set null.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserView {
    email: String,
    full_name: Option<String>,
    company: Option<String>,
    company_custom: Option<String>,
    division: Option<String>,
    division_custom: Option<String>,
    department: Option<String>,
    phone_number: Option<String>,
    bio: Option<String>,
    id: u64,
    /// `guest`, `standard_engineer`, `advanced_engineer`, `manager` or `admin`.
    system_role: String,
    is_active: bool,
    badge_color: Option<String>,
    avatar_name: Option<String>,
    organization_id: Option<i64>,
    /// UTC, without a zone.
    created_at: String,
}

impl UserView {
    pub(super) fn of(row: UserRow) -> Self {
        let profile = row.profile;
        Self {
            email: row.email,
            full_name: Some(row.full_name).filter(|name| !name.is_empty()),
            company: profile.company,
            company_custom: profile.company_custom,
            division: profile.division,
            division_custom: profile.division_custom,
            department: profile.department,
            phone_number: profile.phone_number,
            bio: profile.bio,
            id: row.id,
            system_role: row.role,
            is_active: row.active,
            badge_color: profile.badge_color,
            avatar_name: profile.avatar_name,
            organization_id: row.organization_id,
            created_at: row.created_at.to_naive_iso(),
        }
    }
}

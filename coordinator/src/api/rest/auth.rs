//! Tokens and the user behind one.

use axum::{
    Json,
    extract::{Form, State, rejection::FormRejection},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    error::{Answer, Refusal},
    request::{Asked, User, parameters, read},
};
use crate::{api::Service, auth::TokenPair, store::UserRow};

type LoginForm = Result<Form<Vec<(String, String)>>, FormRejection>;

/// The OAuth2 password form; its other fields are not needed.
pub(super) async fn login(State(service): State<Service>, form: LoginForm) -> Answer {
    // A body that is no form has none of the fields.
    let pairs = form.map(|Form(pairs)| pairs).unwrap_or_default();
    let given = pairs.into_iter().filter(|(_, text)| !text.is_empty());
    let form = parameters(given.collect());
    let (email, password) = read(&form, "body", |fields| {
        (fields.text("username"), fields.text("password"))
    })?;
    let pair = service.login(&email, &password).await?;
    Ok(Json(tokens(&pair)))
}

pub(super) async fn refresh(State(service): State<Service>, asked: Asked) -> Answer {
    let token = asked.read(|fields| fields.text("refresh_token"))?;
    Ok(Json(tokens(&service.refresh(&token)?)))
}

pub(super) async fn me(User(caller): User) -> Json<UserView> {
    Json(UserView::of(caller.user))
}

/// Tokens are not kept here: a client logs out by forgetting its own.
pub(super) async fn logout(User(_): User) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({"message": "Successfully logged out"})))
}

fn tokens(pair: &TokenPair) -> Value {
    json!({
        "access_token": pair.access,
        "refresh_token": pair.refresh,
        "token_type": "bearer",
    })
}

/// A user; keys in the contract's order, those that nobody keeps yet always null.
#[derive(Debug, Serialize)]
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
    system_role: String,
    is_active: bool,
    badge_color: Option<String>,
    avatar_name: Option<String>,
    organization_id: Option<i64>,
    created_at: String,
}

impl UserView {
    fn of(row: UserRow) -> Self {
        Self {
            email: row.email,
            full_name: Some(row.full_name).filter(|name| !name.is_empty()),
            company: None,
            company_custom: None,
            division: None,
            division_custom: None,
            department: None,
            phone_number: None,
            bio: None,
            id: row.id,
            system_role: row.role,
            is_active: row.active,
            badge_color: None,
            avatar_name: None,
            organization_id: None,
            created_at: row.created_at.to_naive_iso(),
        }
    }
}

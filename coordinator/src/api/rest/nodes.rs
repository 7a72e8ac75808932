//! Join tokens, the agents that have joined, and labels of nodes, for operators.
//!
//! Parses and renders; the service decides. The same calls are in the gRPC door's `nodes`.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use trainyard_core::join::JoinToken;
use trainyard_proto::http::{Bound, read};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::Refusal,
    openapi::{About, Sending, Signed},
    request::{Body, Named, User},
};
use crate::{
    actors::nodes::LabelChange,
    api::{NewJoinToken, Service, agents::bad_name},
};

/// A join token without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JoinTokenView {
    /// To revoke it by.
    id: String,
    /// The only node that may join with it.
    node_name: Option<String>,
    /// How many agents may join with it.
    uses: u32,
    /// The nodes whose agents have.
    joined: Vec<String>,
    /// The e-mail address of who made it.
    created_by: String,
    /// In UTC.
    created_at: String,
    /// In UTC.
    expires_at: String,
}

/// A new join token.
#[derive(Serialize, ToSchema)]
pub(super) struct NewTokenView {
    /// What the agent is given; told once.
    token: String,
    #[serde(flatten)]
    view: JoinTokenView,
}

/// What to make.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "it only describes the body, which is read field by field"
)]
pub(super) struct NewTokenRequest {
    /// How long it is good, in seconds: 1 to 2592000 [default: 3600].
    #[schema(minimum = 1, maximum = 2_592_000)]
    ttl_seconds: Option<i64>,
    /// The only node that may join with it [default: any].
    #[schema(min_length = 1, max_length = 253, pattern = "^[A-Za-z0-9._-]+$")]
    node_name: Option<String>,
    /// How many agents may join with it: 1 to 1000 [default: 1].
    #[schema(minimum = 1, maximum = 1_000)]
    uses: Option<i64>,
}

/// That it was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// For people.
    message: String,
}

/// What to change of a node's labels.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "it only describes the body, which is read field by field"
)]
pub(super) struct LabelsRequest {
    /// Values by key, each of 1 to 63 letters, digits and `. _ - /`.
    set: Option<BTreeMap<String, String>>,
    /// Keys that operators have set and do not any more.
    remove: Option<Vec<String>>,
}

/// The labels of a node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LabelsView {
    /// The node's name.
    name: String,
    /// As its agent says, and over that as operators have set.
    labels: BTreeMap<String, String>,
    /// Of them those that operators have set.
    set_labels: BTreeMap<String, String>,
}

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(remove))
        .routes(routes!(revoke))
        .routes(routes!(set_labels))
}

/// Make a token by which agents join.
#[utoipa::path(
    post,
    path = "/nodes/tokens",
    tag = "nodes",
    request_body = NewTokenRequest,
    responses((status = 201, description = "Made; the only answer that holds the token", body = NewTokenView), Sending),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn create(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Result<(StatusCode, Json<NewTokenView>), Refusal> {
    let new = read(&body, |fields, _| {
        let within = |most: i64| [Bound::Ge(1), Bound::Le(most)];
        let ttl = fields
            .whole_within("ttl_seconds", &within(2_592_000))
            .unwrap_or(3_600);
        let uses = fields.whole_within("uses", &within(1_000)).unwrap_or(1);
        let node = fields.optional_text("node_name");
        fields.check("node_name", node.as_deref().and_then(bad_name));
        NewJoinToken {
            ttl: Duration::from_secs(u64::try_from(ttl).unwrap_or_default()),
            node,
            uses: u32::try_from(uses).unwrap_or_default(),
        }
    })?;
    let (made, token) = service.create_join_token(&caller, new).await?;
    let view = JoinTokenView::of(made);
    Ok((StatusCode::CREATED, Json(NewTokenView { token, view })))
}

/// List the join tokens that have not expired.
#[utoipa::path(
    get,
    path = "/nodes/tokens",
    tag = "nodes",
    responses((status = 200, description = "As it is now", body = Vec<JoinTokenView>), Signed),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn list(
    State(service): State<Service>,
    User(caller): User,
) -> Result<Json<Vec<JoinTokenView>>, Refusal> {
    let tokens = service.join_tokens(&caller)?;
    Ok(Json(tokens.into_iter().map(JoinTokenView::of).collect()))
}

/// Revoke a join token; agents that have joined with it stay.
#[utoipa::path(
    delete,
    path = "/nodes/tokens/{id}",
    tag = "nodes",
    params(("id" = String, Path, description = "The token's id")),
    responses((status = 200, description = "As it is now", body = Done), About),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn remove(
    State(service): State<Service>,
    User(caller): User,
    Named(id): Named,
) -> Result<Json<Done>, Refusal> {
    service.revoke_join_token(&caller, &id).await?;
    let message = format!("join token {id} is revoked");
    Ok(Json(Done { message }))
}

/// Cut a node's agent off; it must join anew.
#[utoipa::path(
    post,
    path = "/nodes/{name}/revoke",
    tag = "nodes",
    params(("name" = String, Path, description = "The node's name")),
    responses((status = 200, description = "As it is now", body = Done), About),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn revoke(
    State(service): State<Service>,
    User(caller): User,
    Named(name): Named,
) -> Result<Json<Done>, Refusal> {
    service.revoke_agent(&caller, &name).await?;
    let message = format!("the agent of node {name} is revoked");
    Ok(Json(Done { message }))
}

/// Change the labels of a node by which jobs choose it
///
/// They go before those that its agent says, and outlive it.
#[utoipa::path(
    patch,
    path = "/nodes/{name}/labels",
    tag = "nodes",
    params(("name" = String, Path, description = "The node's name")),
    request_body = LabelsRequest,
    responses((status = 200, description = "As they are now", body = LabelsView), Sending),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn set_labels(
    State(service): State<Service>,
    User(caller): User,
    Named(name): Named,
    Body(body): Body,
) -> Result<Json<LabelsView>, Refusal> {
    let change = read(&body, |fields, _| LabelChange {
        set: fields.texts_by_name("set").unwrap_or_default(),
        remove: fields
            .texts("remove")
            .unwrap_or_default()
            .into_iter()
            .collect(),
        ..LabelChange::default()
    })?;
    let row = service.set_labels(&caller, &name, change).await?.info.row;
    Ok(Json(LabelsView {
        labels: row.all_labels(),
        set_labels: row.set_labels,
        name: row.name.0,
    }))
}

impl JoinTokenView {
    fn of(token: JoinToken) -> Self {
        Self {
            id: token.id,
            node_name: token.node,
            uses: token.uses,
            joined: token.joined.into_iter().map(|who| who.node).collect(),
            created_by: token.created_by,
            created_at: token.created_at.to_naive_iso(),
            expires_at: token.expires_at.to_naive_iso(),
        }
    }
}

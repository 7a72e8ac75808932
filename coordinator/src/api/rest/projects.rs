//! Projects and their members. The jobs of a project are in `jobs`.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use trainyard_core::{access::ProjectRole, account::project_name_problem};
use trainyard_proto::http::{self, Fields};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    auth::Message,
    error::{Answer, Refusal, both},
    openapi::{About, Acting, Sending, Signed},
    request::{Body, ProjectId, User, UserId},
    users::project_role,
};
use crate::api::{
    Service,
    access::ProjectRow,
    projects::{Member, ProjectText, Who},
};

/// The calls.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(project, change, replace))
        .routes(routes!(members, add_member))
        .routes(routes!(change_member, patch_member, remove_member))
}

/// A project to be founded.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct NewProjectRequest {
    /// Unique.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\x00-\\x1f\\x7f-\\x9f]([^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f])?$"
    )]
    name: String,
    #[schema(max_length = 2000)]
    description: Option<String>,
}

/// What is changed of a project; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct ProjectRequest {
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\x00-\\x1f\\x7f-\\x9f]([^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f])?$"
    )]
    name: Option<String>,
    #[schema(max_length = 2000)]
    description: Option<String>,
}

/// A project.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProjectView {
    id: i64,
    name: String,
    description: String,
    /// The address of who founded it.
    created_by: String,
    created_at: String,
}

/// Somebody in a project.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemberView {
    user_id: u64,
    email: String,
    full_name: Option<String>,
    /// `viewer`, `member` or `admin`.
    role: &'static str,
}

/// List projects
///
/// Those that the caller may see, by number.
#[utoipa::path(
    get,
    path = "/projects",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    responses((status = 200, description = "The projects", body = Vec<ProjectView>), Signed)
)]
pub(super) async fn list(
    State(service): State<Service>,
    User(caller): User,
) -> Answer<Vec<ProjectView>> {
    let projects = service.projects(&caller).await?;
    Ok(Json(projects.into_iter().map(view).collect()))
}

/// Found a project
///
/// Its founder is its first administrator.
#[utoipa::path(
    post,
    path = "/projects",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    request_body = NewProjectRequest,
    responses((status = 201, description = "Founded", body = ProjectView), Sending)
)]
pub(super) async fn create(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Result<(StatusCode, Json<ProjectView>), Refusal> {
    let text = http::read(&body, |fields, _| {
        let name = Some(fields.text("name"));
        project_text(fields, name)
    })?;
    let project = service.create_project(&caller, text).await?;
    Ok((StatusCode::CREATED, Json(view(project))))
}

/// Show a project
#[utoipa::path(
    get,
    path = "/projects/{id}",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The project's number")),
    responses((status = 200, description = "The project", body = ProjectView), About)
)]
pub(super) async fn project(
    State(service): State<Service>,
    User(caller): User,
    ProjectId(id): ProjectId,
) -> Answer<ProjectView> {
    Ok(Json(view(service.project(&caller, id)?)))
}

/// Change a project's name or description
#[utoipa::path(
    patch,
    path = "/projects/{id}",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The project's number")),
    request_body = ProjectRequest,
    responses((status = 200, description = "The project, as it is now", body = ProjectView), Sending)
)]
pub(super) async fn change(
    State(service): State<Service>,
    User(caller): User,
    id: Result<ProjectId, Refusal>,
    Body(body): Body,
) -> Answer<ProjectView> {
    let text = http::read(&body, |fields, _| {
        let name = fields.optional_text("name");
        project_text(fields, name)
    });
    let (ProjectId(id), text) = both(id, text)?;
    let project = service.update_project(&caller, id, text).await?;
    Ok(Json(view(project)))
}

/// As PATCH, for clients that know only PUT
#[utoipa::path(
    put,
    path = "/projects/{id}",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The project's number")),
    request_body = ProjectRequest,
    responses((status = 200, description = "The project, as it is now", body = ProjectView), Sending)
)]
pub(super) async fn replace(
    state: State<Service>,
    caller: User,
    id: Result<ProjectId, Refusal>,
    body: Body,
) -> Answer<ProjectView> {
    change(state, caller, id, body).await
}

/// List a project's members
#[utoipa::path(
    get,
    path = "/projects/{id}/members",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The project's number")),
    responses((status = 200, description = "The members, by number", body = Vec<MemberView>), About)
)]
pub(super) async fn members(
    State(service): State<Service>,
    User(caller): User,
    ProjectId(id): ProjectId,
) -> Answer<Vec<MemberView>> {
    let members = service.members(&caller, id)?;
    Ok(Json(members.into_iter().map(member).collect()))
}

/// Somebody who joins.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct NewMemberRequest {
    /// The user's address.
    email: String,
    /// `member` when it is left out.
    #[schema(pattern = "^(viewer|member|admin)$")]
    role: Option<String>,
}

/// A member's role.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "read field by field; this describes it")]
pub(super) struct MemberRequest {
    #[schema(pattern = "^(viewer|member|admin)$")]
    role: String,
}

/// Make somebody a member
#[utoipa::path(
    post,
    path = "/projects/{id}/members",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(("id" = i64, Path, description = "The project's number")),
    request_body = NewMemberRequest,
    responses((status = 201, description = "A member", body = MemberView), Sending)
)]
pub(super) async fn add_member(
    State(service): State<Service>,
    User(caller): User,
    id: Result<ProjectId, Refusal>,
    Body(body): Body,
) -> Result<(StatusCode, Json<MemberView>), Refusal> {
    let member_to_be = http::read(&body, |fields, _| {
        (fields.text("email"), project_role(fields, "role"))
    });
    let (ProjectId(id), (email, role)) = both(id, member_to_be)?;
    let who = (Who::Email(&email), role.unwrap_or(ProjectRole::Member));
    let set = service.set_member(&caller, id, who).await?;
    Ok((StatusCode::CREATED, Json(member(set))))
}

/// Give a member another role
///
/// Makes a member of somebody who was none.
#[utoipa::path(
    put,
    path = "/projects/{id}/members/{user_id}",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The project's number"),
        ("user_id" = i64, Path, description = "The user's number"),
    ),
    request_body = MemberRequest,
    responses((status = 200, description = "The member, as it is now", body = MemberView), Sending)
)]
pub(super) async fn change_member(
    State(service): State<Service>,
    User(caller): User,
    id: Result<ProjectId, Refusal>,
    user: Result<UserId, Refusal>,
    Body(body): Body,
) -> Answer<MemberView> {
    let role = http::read(&body, |fields, _| required_role(fields));
    let ((ProjectId(id), UserId(user)), role) = both(both(id, user), role)?;
    let who = (Who::Id(user), role.unwrap_or(ProjectRole::Member));
    Ok(Json(member(service.set_member(&caller, id, who).await?)))
}

/// As PUT
#[utoipa::path(
    patch,
    path = "/projects/{id}/members/{user_id}",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The project's number"),
        ("user_id" = i64, Path, description = "The user's number"),
    ),
    request_body = MemberRequest,
    responses((status = 200, description = "The member, as it is now", body = MemberView), Sending)
)]
pub(super) async fn patch_member(
    state: State<Service>,
    caller: User,
    id: Result<ProjectId, Refusal>,
    user: Result<UserId, Refusal>,
    body: Body,
) -> Answer<MemberView> {
    change_member(state, caller, id, user, body).await
}

/// Take somebody out of a project
#[utoipa::path(
    delete,
    path = "/projects/{id}/members/{user_id}",
    tag = "projects",
    security(("token" = []), ("login" = [])),
    params(
        ("id" = i64, Path, description = "The project's number"),
        ("user_id" = i64, Path, description = "The user's number"),
    ),
    responses((status = 200, description = "No longer a member", body = Message), Acting)
)]
pub(super) async fn remove_member(
    State(service): State<Service>,
    User(caller): User,
    id: Result<ProjectId, Refusal>,
    user: Result<UserId, Refusal>,
) -> Answer<Message> {
    let (ProjectId(id), UserId(user)) = both(id, user)?;
    service.remove_member(&caller, id, Who::Id(user)).await?;
    Ok(Json(Message {
        message: "Member removed",
    }))
}

fn project_text(fields: &mut Fields<'_>, name: Option<String>) -> ProjectText {
    fields.check("name", name.as_deref().and_then(project_name_problem));
    ProjectText {
        name,
        description: fields.short_text("description", 2_000),
    }
}

fn required_role(fields: &mut Fields<'_>) -> Option<ProjectRole> {
    fields.text("role");
    let text = fields.get("role").is_some_and(serde_json::Value::is_string);
    text.then(|| project_role(fields, "role")).flatten()
}

fn view(row: ProjectRow) -> ProjectView {
    ProjectView {
        id: row.id,
        name: row.name,
        description: row.description,
        created_by: row.created_by,
        created_at: row.created_at.to_naive_iso(),
    }
}

fn member(member: Member) -> MemberView {
    MemberView {
        user_id: member.user.id,
        email: member.user.email,
        full_name: Some(member.user.full_name).filter(|name| !name.is_empty()),
        role: member.role.name(),
    }
}

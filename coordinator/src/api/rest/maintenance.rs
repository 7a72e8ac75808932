//! Maintenance windows: which there are, one more, one less.
//!
//! Parses and renders; the service decides. The same calls are in the gRPC door's `nodes`.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use trainyard_core::{
    service::{Closure, Scope, Window},
    time::Timestamp,
};
use trainyard_proto::http::{Bound, Fields, read};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::{Answer, Refusal},
    machines::{LONGEST, seconds_of},
    openapi::{About, Sending, Signed},
    request::{Body, MaintenanceId, User},
};
use crate::{
    api::{AskedWindow, Service},
    clock,
};

/// A span in which nodes are out of service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WindowView {
    id: u64,
    /// `planned`, `on` or `over`.
    state: &'static str,
    /// On all nodes, those that come later too.
    all_nodes: bool,
    /// On these.
    nodes: Vec<String>,
    /// On those that have all of these labels at the time, each `key=value`.
    labels: Vec<String>,
    /// In UTC.
    from: String,
    /// In UTC: the first moment after it.
    until: String,
    why: String,
    /// The e-mail address of who made it.
    made_by: String,
    /// In UTC.
    made_at: String,
    /// Told when it is planned: what may be wrong with it, such as labels that no node has.
    warnings: Vec<String>,
}

/// Of a window what is told beside each of its nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClosureView {
    id: u64,
    /// `planned`, `on` or `over`.
    state: &'static str,
    /// In UTC.
    from: String,
    /// In UTC: the first moment after it.
    until: String,
    /// Its beginning, where it is long.
    why: String,
    /// In UTC: until then the node is closed from then on, since other windows follow without a gap or overlap it.
    closed_until: String,
    /// Those, by number; the first ten.
    others: Vec<u64>,
}

/// What to plan: one of `all_nodes`, `nodes` and `labels`.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "it only describes the body, which is read field by field"
)]
struct WindowRequest {
    /// On all nodes, those that come later too.
    all_nodes: Option<bool>,
    /// On these nodes.
    nodes: Option<Vec<String>>,
    /// On nodes that have all of these labels, each `key=value`.
    labels: Option<Vec<String>>,
    /// RFC 3339 [default: now].
    #[schema(format = "date-time")]
    from: Option<String>,
    /// How long.
    #[schema(minimum = 1, maximum = 31_622_400)]
    length_seconds: i64,
    /// For people.
    #[schema(max_length = 1_000)]
    why: Option<String>,
}

/// That it was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WindowRemoved {
    /// For people.
    message: String,
}

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(remove))
}

/// List maintenance windows: planned, on, or over within the last day.
#[utoipa::path(
    get,
    path = "/maintenance",
    tag = "nodes",
    responses((status = 200, description = "The first to begin comes first", body = Vec<WindowView>), Signed),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn list(
    State(service): State<Service>,
    User(caller): User,
) -> Answer<Vec<WindowView>> {
    let windows = service.windows(&caller).await?;
    Ok(Json(windows.into_iter().map(WindowView::of).collect()))
}

/// Plan maintenance
///
/// No job starts on its nodes whose time limit reaches into it. At its beginning whoever is left saves its work and goes on
/// elsewhere; at its end the nodes get jobs again by themselves.
#[utoipa::path(
    post,
    path = "/maintenance",
    tag = "nodes",
    request_body = WindowRequest,
    responses((status = 201, description = "Planned", body = WindowView), Sending),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn add(
    State(service): State<Service>,
    User(caller): User,
    Body(body): Body,
) -> Result<(StatusCode, Json<WindowView>), Refusal> {
    let asked = read(&body, |fields, _| {
        let mut texts = |name: &str| fields.texts(name).unwrap_or_default().into_iter().collect();
        let (nodes, labels) = (texts("nodes"), texts("labels"));
        let length = fields.whole_in("length_seconds", &[Bound::Ge(1), Bound::Le(LONGEST)]);
        AskedWindow {
            all: fields.optional_flag("all_nodes").unwrap_or_default(),
            nodes,
            labels,
            from: moment(fields),
            length: seconds_of(length),
            why: fields.short_text("why", 1_000).unwrap_or_default(),
        }
    })?;
    let planned = service.add_window(&caller, asked).await?;
    let mut view = WindowView::of(planned.window);
    view.warnings = planned.warnings;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Take maintenance back; nodes where it is on get jobs again at once, unless they are drained.
#[utoipa::path(
    delete,
    path = "/maintenance/{id}",
    tag = "nodes",
    params(("id" = i64, Path, description = "The window")),
    responses((status = 200, description = "Done", body = WindowRemoved), About),
    security(("token" = []), ("login" = []))
)]
pub(super) async fn remove(
    State(service): State<Service>,
    User(caller): User,
    MaintenanceId(id): MaintenanceId,
) -> Answer<WindowRemoved> {
    service.remove_window(&caller, id).await?;
    let message = format!("maintenance window {id} is removed");
    Ok(Json(WindowRemoved { message }))
}

fn moment(fields: &mut Fields<'_>) -> Option<Timestamp> {
    let text = fields.optional_text("from")?;
    let read = Timestamp::parse_rfc3339(&text);
    let words = "is no time; write for example 2027-01-31T18:00:00Z";
    fields.check("from", read.is_none().then_some(words));
    read
}

/// What a window does now.
fn state((from, until): (Timestamp, Timestamp)) -> &'static str {
    let now = clock::now();
    match (now < from, now < until) {
        (true, _) => "planned",
        (false, true) => "on",
        (false, false) => "over",
    }
}

impl ClosureView {
    pub(super) fn of(closure: Closure) -> Self {
        Self {
            id: closure.id,
            state: state((closure.from, closure.until)),
            from: closure.from.to_naive_iso(),
            until: closure.until.to_naive_iso(),
            why: closure.why,
            closed_until: closure.closed_until.to_naive_iso(),
            others: closure.others,
        }
    }
}

impl WindowView {
    fn of(window: Window) -> Self {
        let (mut all_nodes, mut nodes, mut labels) = (false, Vec::new(), Vec::new());
        match window.scope {
            Scope::All => all_nodes = true,
            Scope::Nodes(of) => nodes.extend(of.into_iter().map(|node| node.0)),
            Scope::Labels(of) => labels.extend(of),
        }
        Self {
            id: window.id,
            state: state((window.from, window.until)),
            all_nodes,
            nodes,
            labels,
            from: window.from.to_naive_iso(),
            until: window.until.to_naive_iso(),
            why: window.why,
            made_by: window.made_by,
            made_at: window.made_at.to_naive_iso(),
            warnings: Vec::new(),
        }
    }
}

//! What was decided.
//!
//! Parses and renders; the service decides who sees what. The same calls are in the gRPC door's `reports`.

use axum::{Json, extract::State};
use serde::Serialize;
use trainyard_core::ids::{JobId, NodeName};
use trainyard_proto::http::{Bound, SAFE};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::Answer,
    openapi::About,
    request::{Asked, User},
    usage::moment,
};
use crate::{
    api::{EventsAsked, Service},
    store::StoredEvent,
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new().routes(routes!(events))
}

/// A page of what was decided, oldest first. It may be shorter than asked for, or empty, and not be the last: only a null
/// `next_cursor` says that.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventPage {
    events: Vec<EventView>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Something that was decided.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventView {
    /// Ascending; 0 for the acceptance of a job, which is told from the job itself.
    id: u64,
    /// When, in UTC without a zone.
    at: String,
    /// `accepted`, `refused`, `waits`, `let_through`, `kept`, `placed`, `makes_room`, `vacates`, `preempted`, `gang_ended`,
    /// `retried`, `cancel_asked`, `completed`, `failed`, `cancelled`, `run_again`, `drained`, `resumed`, `labelled`,
    /// `revoked`, `maintenance_planned` or `maintenance_removed`; `unknown` for one that a newer program has noted.
    kind: &'static str,
    /// Null when it is about no job.
    #[schema(value_type = Option<u64>)]
    job_id: Option<JobId>,
    /// Null when it is about no attempt.
    attempt: Option<u32>,
    /// Nodes that it is about.
    nodes: Vec<String>,
    /// For whom: the job that needs the place.
    #[schema(value_type = Option<u64>)]
    for_job_id: Option<JobId>,
    /// For people.
    words: String,
}

/// List what was decided
///
/// Oldest first: why jobs wait, where they were placed and why, who made room for whom, how attempts ended, nodes drained and
/// resumed. Of jobs that the caller may read, and of nodes for whoever may see nodes.
#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    security(("token" = []), ("login" = [])),
    params(
        ("job_id" = Option<i64>, Query, minimum = 1, maximum = 9007199254740991_i64, description = "Only about this job, or for it"),
        ("node" = Option<String>, Query, description = "Only about this node"),
        ("since" = Option<String>, Query, format = "date-time", description = "Only what was decided then and later"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 when it is left out"),
        ("cursor" = Option<i64>, Query, minimum = 0, maximum = 9007199254740991_i64, description = "The `next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = EventPage), About)
)]
pub(super) async fn events(
    State(service): State<Service>,
    User(caller): User,
    asked: Asked,
) -> Answer<EventPage> {
    let most = service.page_rows();
    let wanted = asked.read(|fields| {
        let number = |found: Option<i64>| found.and_then(|id| u64::try_from(id).ok());
        let [_, safe] = SAFE;
        EventsAsked {
            job: number(fields.whole_within("job_id", &[Bound::Ge(1), safe])).map(JobId),
            node: fields
                .optional_text("node")
                .filter(|name| !name.is_empty())
                .map(NodeName),
            since: moment(fields, "since"),
            limit: fields.limit(50, most),
            after: number(fields.whole_within("cursor", &[Bound::Ge(0), safe])),
        }
    })?;
    let page = service.events(&caller, wanted).await?;
    Ok(Json(EventPage {
        next_cursor: page.next().map(|next| next.to_string()),
        events: page.rows.into_iter().map(EventView::from).collect(),
    }))
}

impl From<StoredEvent> for EventView {
    fn from(row: StoredEvent) -> Self {
        let decision = row.decision;
        Self {
            id: row.id,
            at: decision.at.to_naive_iso(),
            kind: decision.kind.name(),
            job_id: decision.job,
            attempt: decision.attempt.map(|attempt| attempt.0),
            nodes: decision.nodes.into_iter().map(|node| node.0).collect(),
            for_job_id: decision.for_job,
            words: decision.words,
        }
    }
}

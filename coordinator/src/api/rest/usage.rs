//! What was used, by projects and users.
//!
//! Parses and renders; the service decides. The same call is in the gRPC door's `reports`.

use axum::{Json, extract::State};
use serde::Serialize;
use trainyard_core::{
    time::Timestamp,
    usage::{By, Row},
};
use trainyard_proto::http::Fields;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::Answer,
    openapi::Counting,
    request::{Asked, User},
};
use crate::{
    api::{Service, UsageAsked, UsageRow},
    clock,
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<Service> {
    OpenApiRouter::new().routes(routes!(usage))
}

/// What was used in a span of time; times are UTC without a zone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageView {
    /// The first moment that is counted.
    from: String,
    /// The first that is not.
    to: String,
    /// By project, then by user.
    rows: Vec<UsageRowView>,
    /// Of all rows together.
    total: UsedView,
}

/// What jobs of one project, of one user, or of one user in one project have used.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageRowView {
    /// Null for jobs of no project, and where it is asked by user alone.
    project_id: Option<i64>,
    /// Null without a project, or when it is gone.
    project_name: Option<String>,
    /// Null where it is asked by project alone.
    user: Option<String>,
    /// The figures.
    used: UsedView,
}

/// What jobs have used, and how long they have waited.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsedView {
    /// Jobs that were submitted, waited or held something in the span.
    jobs: u64,
    /// GPUs times the hours for which they were held.
    gpu_hours: f64,
    /// CPU slots times the hours for which they were held.
    cpu_hours: f64,
    /// Of the GPU-hours those of attempts that failed, were lost or were preempted, and from which no later one went on.
    wasted_gpu_hours: f64,
    /// Seconds for which jobs have waited for a place, without what they themselves were to wait for (a moment, other
    /// jobs), all together.
    waited_seconds: f64,
    /// … one of them in the mean.
    wait_mean_seconds: f64,
    /// … nine of ten of them at most.
    wait_p90_seconds: f64,
    /// Attempts that ended because another job needed their place, or because operators took their node out of service,
    /// whether their job allowed that or not.
    preemptions: u64,
    /// Attempts that failed or were lost; not those that operators moved.
    failures: u64,
}

/// What was used, and for how long jobs have waited
///
/// Of the jobs that the caller may read: all of them for managers and administrators, else those of the caller's projects
/// and the caller's own. Computed from the jobs as they are stored; attempts and waits are cut to the span.
#[utoipa::path(
    get,
    path = "/usage",
    tag = "usage",
    security(("token" = []), ("login" = [])),
    params(
        ("from" = Option<String>, Query, format = "date-time", description = "The first moment that is counted; 30 days before the end when it is left out"),
        ("to" = Option<String>, Query, format = "date-time", description = "The first that is not; now when it is left out"),
        ("by" = Option<String>, Query, pattern = "^(project|user|both)$", description = "How jobs are put together; by project when it is left out"),
    ),
    responses((status = 200, description = "As it is now", body = UsageView), Counting)
)]
pub(super) async fn usage(
    State(service): State<Service>,
    User(caller): User,
    asked: Asked,
) -> Answer<UsageView> {
    let wanted = asked.read(|fields| {
        let wanted = UsageAsked {
            from: moment(fields, "from"),
            to: moment(fields, "to"),
            by: fields
                .one_of("by", &By::ALL.map(|(name, _)| name))
                .and_then(By::parse)
                .unwrap_or_default(),
        };
        if let Some(words) = wanted.problem(clock::now()) {
            fields.refuse("from", words);
        }
        wanted
    })?;
    let report = service.usage(&caller, wanted).await?;
    Ok(Json(UsageView {
        from: report.window.from.to_naive_iso(),
        to: report.window.to.to_naive_iso(),
        rows: report.rows.into_iter().map(UsageRowView::from).collect(),
        total: UsedView::from(&report.total),
    }))
}

/// A moment in RFC 3339.
pub(super) fn moment(fields: &mut Fields<'_>, name: &str) -> Option<Timestamp> {
    let text = fields.optional_text(name)?;
    let read = Timestamp::parse_rfc3339(&text);
    if read.is_none() {
        let words = "is not a moment; write for example 2026-11-26T08:00:00Z";
        fields.refuse(name, words);
    }
    read
}

impl From<UsageRow> for UsageRowView {
    fn from(row: UsageRow) -> Self {
        Self {
            project_id: row.used.project,
            project_name: row.project_name,
            used: UsedView::from(&row.used),
            user: row.used.user,
        }
    }
}

impl From<&Row> for UsedView {
    fn from(row: &Row) -> Self {
        Self {
            jobs: row.jobs,
            gpu_hours: row.gpu_hours,
            cpu_hours: row.cpu_hours,
            wasted_gpu_hours: row.wasted_gpu_hours,
            waited_seconds: row.waited_s,
            wait_mean_seconds: row.wait_mean_s,
            wait_p90_seconds: row.wait_p90_s,
            preemptions: row.preemptions,
            failures: row.failures,
        }
    }
}

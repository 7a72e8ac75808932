//! `trainyard usage`: what jobs have used and how long they have waited, by projects and users.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use trainyard_core::time::Timestamp;
use trainyard_proto::{
    convert::{time, timestamp},
    v1::{
        GetUsageRequest, GetUsageResponse, UsageBy, UsageRow,
        report_service_client::ReportServiceClient,
    },
};

use super::Context;
use crate::{
    clock,
    error::CliError,
    exit::Exit,
    output::{
        Screen,
        table::{Lean, Table},
    },
    text,
};

/// Flags of `trainyard usage`.
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// From when on: a moment such as 2026-11-01T00:00:00Z, or how long ago, such as 7d [default: 30d before the end]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Moment>,
    /// Until when, in the same way [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Moment>,
    /// How jobs are put together
    #[arg(long, value_enum, default_value_t)]
    by: ByName,
}

/// How jobs are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ByName {
    /// One row a project
    #[default]
    Project,
    /// One row a user
    User,
    /// One row a user of a project
    Both,
}

/// A moment, or how long ago it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    pub(crate) fn as_of(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.minus(span),
        }
    }
}

/// Reads a moment in RFC 3339, a day, or a span before now.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    let whole = Timestamp::parse_rfc3339(text);
    let day = || Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z"));
    if let Some(at) = whole.or_else(day) {
        return Ok(Moment::At(at));
    }
    let span = text::parse_span(text);
    span.map(Moment::Ago).map_err(|_neither| {
        format!("'{text}' is no moment; write 2026-11-01T00:00:00Z, 2026-11-01, or how long ago it is, such as 7d")
    })
}

/// Shows the report.
pub(crate) async fn run(context: &Context<'_>, args: UsageArgs) -> anyhow::Result<Exit> {
    let now = clock::now();
    let as_of = |moment: Option<Moment>| moment.map(|moment| moment.as_of(now));
    let (from, to) = (as_of(args.from), as_of(args.to));
    if from.is_some_and(|from| from >= to.unwrap_or(now)) {
        let words =
            "--from is not before --to, which is now unless it is given; give an earlier moment";
        return Err(CliError::Usage(words.to_owned()).into());
    }
    let by = match args.by {
        ByName::Project => UsageBy::Project,
        ByName::User => UsageBy::User,
        ByName::Both => UsageBy::Both,
    };
    let request = GetUsageRequest {
        from: from.map(timestamp),
        to: to.map(timestamp),
        by: by.into(),
    };
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| ReportServiceClient::new(via).get_usage(request).await)
        .await?;
    let screen = &context.screen;
    screen.show(|| document(&answer), || page(screen, &answer, args.by))?;
    Ok(Exit::Ok)
}

fn page(screen: &Screen, answer: &GetUsageResponse, by: ByName) -> String {
    let told = |at: &Option<prost_types::Timestamp>| {
        let at = at.as_ref().map(time).unwrap_or_default().to_naive_iso();
        at.get(..16).unwrap_or_default().replace('T', " ")
    };
    let head = format!("from {} to {} UTC\n", told(&answer.from), told(&answer.to));
    let mut columns = Vec::new();
    if by != ByName::User {
        columns.push(("PROJECT", Lean::Left));
    }
    if by != ByName::Project {
        columns.push(("USER", Lean::Left));
    }
    columns.extend([
        ("JOBS", Lean::Right),
        ("GPU-H", Lean::Right),
        ("CPU-H", Lean::Right),
        ("WASTED", Lean::Right),
        ("WAIT", Lean::Right),
        ("P90", Lean::Right),
        ("PREEMPT", Lean::Right),
        ("FAILED", Lean::Right),
    ]);
    let mut table = Table::new(screen, &columns);
    for row in &answer.rows {
        table.row(&cells(row, by, false));
    }
    if let Some(total) = answer.total.as_ref().filter(|_| answer.rows.len() != 1) {
        table.row(&cells(total, by, true));
    }
    format!("{head}{}", table.render())
}

fn cells(row: &UsageRow, by: ByName, total: bool) -> Vec<String> {
    let project = match row.project_id {
        None => "-".to_owned(),
        Some(id) if row.project_name.is_empty() => id.to_string(),
        Some(_) => row.project_name.clone(),
    };
    let names = match by {
        ByName::Project => vec![project],
        ByName::User => vec![row.user.clone()],
        ByName::Both => vec![project, row.user.clone()],
    };
    let names = names
        .into_iter()
        .enumerate()
        .map(|(place, name)| match (total, place) {
            (true, 0) => "all".to_owned(),
            (true, _) => String::new(),
            (false, _) => name,
        });
    let hours = |hours: f64| format!("{hours:.1}");
    let figures = [
        row.jobs.to_string(),
        hours(row.gpu_hours),
        hours(row.cpu_hours),
        hours(row.wasted_gpu_hours),
        span(row.wait_mean_seconds),
        span(row.wait_p90_seconds),
        row.preemptions.to_string(),
        row.failures.to_string(),
    ];
    names.chain(figures).collect()
}

fn span(seconds: f64) -> String {
    let span = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    text::span(Duration::from_secs(span.as_secs()))
}

fn document(answer: &GetUsageResponse) -> Value {
    let rows: Vec<_> = answer.rows.iter().map(figures).collect();
    json!({
        "from": answer.from.as_ref().map(text::rfc3339),
        "to": answer.to.as_ref().map(text::rfc3339),
        "rows": rows,
        "total": answer.total.as_ref().map(figures),
    })
}

fn figures(row: &UsageRow) -> Value {
    let named = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
    json!({
        "project_id": row.project_id,
        "project_name": named(&row.project_name),
        "user": named(&row.user),
        "jobs": row.jobs,
        "gpu_hours": row.gpu_hours,
        "cpu_hours": row.cpu_hours,
        "wasted_gpu_hours": row.wasted_gpu_hours,
        "waited_seconds": row.waited_seconds,
        "wait_mean_seconds": row.wait_mean_seconds,
        "wait_p90_seconds": row.wait_p90_seconds,
        "preemptions": row.preemptions,
        "failures": row.failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_how_long_ago_it_is() {
        let at = |seconds: i64| Ok(Moment::At(Timestamp(seconds * 1_000_000)));
        assert_eq!(moment("2000-02-29T00:00:01Z"), at(951_782_401));
        assert_eq!(moment("2000-02-29"), at(951_782_400));
        let week = Duration::from_secs(7 * 86_400);
        assert_eq!(moment("7d"), Ok(Moment::Ago(week)));
        assert!(moment("yesterday").unwrap_err().contains("such as 7d"));
    }

    #[test]
    fn a_report_shows_projects_and_users_and_all_of_them_within_eighty_columns() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let row = |user: &str, project: Option<i64>| UsageRow {
            project_id: project,
            project_name: project.map(|_| "vision".to_owned()).unwrap_or_default(),
            user: user.into(),
            jobs: 3,
            gpu_hours: 12.25,
            wait_p90_seconds: 5_400.0,
            preemptions: 2,
            ..UsageRow::default()
        };
        let answer = GetUsageResponse {
            rows: vec![row("ada", Some(7)), row("bob", None)],
            total: Some(row("", None)),
            ..GetUsageResponse::default()
        };
        let text = page(&screen, &answer, ByName::Both);
        for word in ["vision", "ada", "bob", "all", "12.2", "1h30m", "PREEMPT"] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert_eq!(document(&answer)["rows"][1]["project_id"], Value::Null);
    }
}

//! `trainyard trackers`: whether MLflow, ClearML and webhooks have everything, and why not.

use serde_json::{Value, json};
use trainyard_core::time::Timestamp;
use trainyard_proto::v1::{
    ListTrackersRequest, Tracker, TrackerKind, TrackerState,
    tracker_service_client::TrackerServiceClient,
};

use super::Context;
use crate::{
    clock,
    exit::Exit,
    output::{
        Screen,
        table::{Lean, Table},
    },
    text,
};

/// Lists all trackers.
pub(crate) async fn run(context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| {
            TrackerServiceClient::new(via)
                .list_trackers(ListTrackersRequest {})
                .await
        })
        .await?;
    let trackers = answer.trackers;
    let now = clock::now();
    context.screen.show(
        || json!({"trackers": trackers.iter().map(document).collect::<Vec<_>>()}),
        || table(&context.screen, &trackers, now),
    )?;
    Ok(Exit::Ok)
}

fn table(screen: &Screen, trackers: &[Tracker], now: Timestamp) -> String {
    let columns = [
        ("NAME", Lean::Left),
        ("STATE", Lean::Left),
        ("JOBS", Lean::Right),
        ("POINTS", Lean::Right),
        ("BEHIND", Lean::Right),
        ("SENT", Lean::Right),
        ("DROPPED", Lean::Right),
        ("SUCCESS", Lean::Right),
    ];
    let mut table = Table::new(screen, &columns);
    for tracker in trackers {
        table.row(&[
            tracker.name.clone(),
            state(tracker.state()).to_owned(),
            tracker.jobs_pending.to_string(),
            tracker.points_pending.to_string(),
            format!("{} s", tracker.seconds_behind),
            tracker.delivered.to_string(),
            tracker.dropped.to_string(),
            text::age(tracker.last_success_at.as_ref(), now),
        ]);
    }
    let mut shown = table.render();
    for tracker in trackers
        .iter()
        .filter(|tracker| !tracker.last_error.is_empty())
    {
        let age = text::age(tracker.last_error_at.as_ref(), now);
        let (name, error) = (&tracker.name, &tracker.last_error);
        shown.push_str(&format!("\n{name}: {age} ago: {error}"));
    }
    shown
}

fn document(tracker: &Tracker) -> Value {
    let time = |at: Option<&prost_types::Timestamp>| at.map(text::rfc3339);
    json!({
        "name": tracker.name,
        "kind": kind(tracker.kind()),
        "state": state(tracker.state()),
        "jobs_pending": tracker.jobs_pending,
        "points_pending": tracker.points_pending,
        "seconds_behind": tracker.seconds_behind,
        "delivered": tracker.delivered,
        "dropped": tracker.dropped,
        "failures": tracker.failures,
        "last_success_at": time(tracker.last_success_at.as_ref()),
        "last_error": Some(&tracker.last_error).filter(|words| !words.is_empty()),
        "last_error_at": time(tracker.last_error_at.as_ref()),
    })
}

fn kind(kind: TrackerKind) -> &'static str {
    match kind {
        TrackerKind::Unspecified => "unknown",
        TrackerKind::Mlflow => "mlflow",
        TrackerKind::Clearml => "clearml",
        TrackerKind::Webhook => "webhook",
    }
}

fn state(state: TrackerState) -> &'static str {
    match state {
        TrackerState::Unspecified => "unknown",
        TrackerState::Off => "off",
        TrackerState::Idle => "idle",
        TrackerState::Sending => "sending",
        TrackerState::Retrying => "retrying",
        TrackerState::Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_that_is_behind_shows_by_how_much_and_why_within_80_columns() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let behind = Tracker {
            name: "mlflow".into(),
            kind: TrackerKind::Mlflow.into(),
            state: TrackerState::Retrying.into(),
            jobs_pending: 3,
            points_pending: 1_200,
            seconds_behind: 3_600,
            last_error: "no connection (refused)".into(),
            last_error_at: Some(prost_types::Timestamp::default()),
            ..Tracker::default()
        };
        let text = table(&screen, &[behind], Timestamp(5_000_000));
        for word in [
            "mlflow",
            "retrying",
            "1200",
            "3600 s",
            "no connection (refused)",
        ] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
        let first: Vec<_> = text.lines().take(2).collect();
        assert!(
            first.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}

//! `trainyard events`: what was decided about jobs and nodes, and why.

use std::{cell::Cell, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use trainyard_core::time::Timestamp;
use trainyard_proto::{
    convert::{time, timestamp},
    v1::{
        Event, ListEventsRequest, StreamEventsRequest, report_service_client::ReportServiceClient,
    },
};

use super::{
    Context,
    follow::follow,
    usage::{Moment, moment},
};
use crate::{
    client::Client,
    clock,
    exit::Exit,
    output::{
        self, Screen,
        table::{Lean, Table},
    },
    text,
};

/// The coordinator gives no larger page.
const PAGE: u32 = 1_000;
/// How far it goes back when neither a job nor a moment is named.
const USUAL: Duration = Duration::from_secs(86_400);

/// Flags of `trainyard events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only about this job, or for it
    #[arg(value_name = "JOB")]
    job: Option<u64>,
    /// Only about this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// From when on: a moment such as 2026-11-01T00:00:00Z, or how long ago, such as 2h [default: 1d ago, of a job all]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Go on with what is decided from now on
    #[arg(long, short)]
    follow: bool,
}

/// Shows what was decided.
pub(crate) async fn run(context: &Context<'_>, args: EventsArgs) -> anyhow::Result<Exit> {
    let now = clock::now();
    let since = match (args.since, args.job) {
        (Some(moment), _) => Some(moment.as_of(now)),
        (None, Some(_)) => None,
        (None, None) => Some(now.minus(USUAL)),
    };
    let mut client = context.client().await?;
    let screen = &context.screen;
    if !args.follow {
        let events = list(&mut client, &args, since).await?;
        let document = || json!({"events": events.iter().map(document).collect::<Vec<_>>()});
        screen.show(document, || table(screen, &events))?;
        return Ok(Exit::Ok);
    }
    tokio::select! {
        done = go_on(screen, &mut client, (&args, since)) => done.map(|()| Exit::Ok),
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    }
}

async fn list(
    client: &mut Client,
    args: &EventsArgs,
    since: Option<Timestamp>,
) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEventsRequest {
            job_id: args.job.unwrap_or_default(),
            node: args.node.clone().unwrap_or_default(),
            since: since.map(timestamp),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .call(async |via| {
                ReportServiceClient::new(via)
                    .list_events(request.clone())
                    .await
            })
            .await?;
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(events);
        }
    }
}

async fn go_on(
    screen: &Screen,
    client: &mut Client,
    (args, since): (&EventsArgs, Option<Timestamp>),
) -> anyhow::Result<()> {
    let after = Cell::new(None);
    follow(
        client,
        async |client| {
            let request = StreamEventsRequest {
                job_id: args.job.unwrap_or_default(),
                node: args.node.clone().unwrap_or_default(),
                since: since.map(timestamp),
                after_event_id: after.get(),
            };
            client
                .call(async |via| {
                    ReportServiceClient::new(via)
                        .stream_events(request.clone())
                        .await
                })
                .await
        },
        |message| {
            for event in &message.events {
                if screen.json {
                    output::json_line(&document(event))?;
                } else {
                    output::line(&line(event))?;
                }
                after.set(Some(event.event_id));
            }
            Ok(())
        },
    )
    .await
}

fn table(screen: &Screen, events: &[Event]) -> String {
    if events.is_empty() {
        return "nothing was decided in that time".to_owned();
    }
    let columns = [
        ("TIME (UTC)", Lean::Left),
        ("JOB", Lean::Right),
        ("WHAT", Lean::Left),
        ("NODES", Lean::Left),
        ("WHY", Lean::Left),
    ];
    let mut table = Table::new(screen, &columns);
    for event in events {
        table.row(&[
            clock_of(event),
            event
                .job_id
                .map_or_else(|| "-".to_owned(), |job| job.to_string()),
            event.kind.replace('_', " "),
            nodes(event),
            event.words.clone(),
        ]);
    }
    table.render()
}

fn line(event: &Event) -> String {
    let mut words = clock_of(event);
    if let Some(job) = event.job_id {
        words.push_str(&format!(" job {job}"));
    }
    words.push_str(&format!(" {}", event.kind.replace('_', " ")));
    let nodes = nodes(event);
    if nodes != "-" {
        words.push_str(&format!(" ({nodes})"));
    }
    if !event.words.is_empty() {
        words.push_str(&format!(": {}", event.words));
    }
    words
}

/// A wide gang has more nodes than a line has room for.
fn nodes(event: &Event) -> String {
    match event.nodes.as_slice() {
        [] => "-".to_owned(),
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        few => few.join(", "),
    }
}

fn clock_of(event: &Event) -> String {
    let at = event.at.as_ref().map(time).unwrap_or_default();
    let text = at.to_naive_iso().replace('T', " ");
    text.get(..19).unwrap_or_default().to_owned()
}

fn document(event: &Event) -> Value {
    json!({
        "id": event.event_id,
        "at": event.at.as_ref().map(text::rfc3339),
        "kind": event.kind,
        "job_id": event.job_id,
        "attempt": event.attempt,
        "nodes": event.nodes,
        "for_job_id": event.for_job_id,
        "words": event.words,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_one_line_and_a_wide_gang_names_three_of_its_nodes() {
        let event = Event {
            at: Some(prost_types::Timestamp::default()),
            kind: "makes_room".into(),
            job_id: Some(7),
            for_job_id: Some(9),
            nodes: ["n1", "n2", "n3", "n4", "n5"].map(String::from).into(),
            words: "job 9 needs its place".into(),
            ..Event::default()
        };
        assert_eq!(
            line(&event),
            "1970-01-01 00:00:00 job 7 makes room (n1, n2, n3 and 2 more): job 9 needs its place"
        );
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let text = table(&screen, &[event]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(table(&screen, &[]).starts_with("nothing was decided"));
    }
}

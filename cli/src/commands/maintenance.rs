//! `trainyard node maintenance`: windows in which nodes are out of service.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use trainyard_core::time::Timestamp;
use trainyard_proto::{
    convert::{self, duration, timestamp},
    v1::{
        AddMaintenanceRequest, ListMaintenanceRequest, MaintenanceWindow, RemoveMaintenanceRequest,
        node_service_client::NodeServiceClient,
    },
};

use super::Context;
use crate::{
    clock,
    exit::Exit,
    output::{
        Screen, json as documents,
        table::{Lean, Table},
    },
    text,
};

/// The commands of `trainyard node maintenance`.
#[derive(Debug, Subcommand)]
pub(crate) enum MaintenanceCommand {
    /// Plan a window: jobs that would reach into it do not start there, those that run at its beginning save their work and
    /// go on elsewhere, and at its end the nodes get jobs again
    Add(AddArgs),
    /// List windows that are planned, on, or were over within the last day
    List,
    /// Take a window back; where it is on, nodes get jobs again at once
    Remove {
        /// Its number, as list shows it
        id: u64,
    },
}

/// Flags of `trainyard node maintenance add`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("scope").required(true).args(["nodes", "labels", "all"])))]
pub(crate) struct AddArgs {
    /// The nodes
    #[arg(value_name = "NAME")]
    nodes: Vec<String>,
    /// Nodes that have all of these labels, those that come later too
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labelled)]
    labels: Vec<String>,
    /// All nodes, those that come later too
    #[arg(long)]
    all: bool,
    /// When it begins: a time such as 2027-01-31T18:00:00Z, or +2h from now [default: now]
    #[arg(long, value_name = "TIME", value_parser = text::parse_moment)]
    from: Option<Timestamp>,
    /// How long it is, such as 4h
    #[arg(long = "for", value_name = "SPAN", value_parser = text::parse_span)]
    length: Duration,
    /// Why, for those whose jobs wait
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

fn labelled(text: &str) -> Result<String, String> {
    crate::args::label(text).map(|(key, value)| format!("{key}={value}"))
}

/// Runs one of them.
pub(crate) async fn run(
    context: &Context<'_>,
    command: MaintenanceCommand,
) -> anyhow::Result<Exit> {
    match command {
        MaintenanceCommand::Add(args) => add(context, args).await,
        MaintenanceCommand::List => list(context).await,
        MaintenanceCommand::Remove { id } => remove(context, id).await,
    }
}

async fn add(context: &Context<'_>, args: AddArgs) -> anyhow::Result<Exit> {
    let request = AddMaintenanceRequest {
        all_nodes: args.all,
        nodes: args.nodes,
        labels: args.labels,
        from: args.from.map(timestamp),
        length: Some(duration(args.length)),
        why: args.why,
    };
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| {
            let mut nodes = NodeServiceClient::new(via);
            nodes.add_maintenance(request.clone()).await
        })
        .await?;
    let (window, warnings) = (answer.window.unwrap_or_default(), answer.warnings);
    context.screen.show(
        || {
            let mut document = documents::window(&window);
            if let Some(fields) = document.as_object_mut() {
                fields.insert("warnings".to_owned(), json!(warnings));
            }
            document
        },
        || planned(&window, &warnings),
    )?;
    Ok(Exit::Ok)
}

fn planned(window: &MaintenanceWindow, warnings: &[String]) -> String {
    let warnings = warnings.iter().map(|words| format!("\nwarning: {words}"));
    format!(
        "maintenance {} of {} is planned: {} until {}{}",
        window.id,
        scope(window),
        moment(window.from.as_ref()),
        moment(window.until.as_ref()),
        warnings.collect::<String>()
    )
}

async fn list(context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| {
            let mut nodes = NodeServiceClient::new(via);
            nodes.list_maintenance(ListMaintenanceRequest {}).await
        })
        .await?;
    let windows = answer.windows;
    let document = || -> Value {
        let windows: Vec<Value> = windows.iter().map(documents::window).collect();
        json!({"windows": windows})
    };
    let now = clock::now();
    context
        .screen
        .show(document, || table(&context.screen, &windows, now))?;
    Ok(Exit::Ok)
}

async fn remove(context: &Context<'_>, id: u64) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    client
        .call(async |via| {
            let mut nodes = NodeServiceClient::new(via);
            nodes
                .remove_maintenance(RemoveMaintenanceRequest { id })
                .await
        })
        .await?;
    context.screen.show(
        || json!({"id": id, "removed": true}),
        || format!("maintenance {id} is taken back"),
    )?;
    Ok(Exit::Ok)
}

/// On which nodes, in words.
fn scope(window: &MaintenanceWindow) -> String {
    if window.all_nodes {
        "all nodes".to_owned()
    } else if window.nodes.is_empty() {
        window.labels.join(", ")
    } else {
        window.nodes.join(", ")
    }
}

/// In UTC, to the second.
pub(super) fn moment(at: Option<&prost_types::Timestamp>) -> String {
    let text = at.map(|at| convert::time(at).to_naive_iso());
    let text = text.and_then(|text| text.get(..19).map(|text| format!("{text}Z")));
    text.unwrap_or_default()
}

/// The same to the minute, for a column.
fn minute(at: Option<&prost_types::Timestamp>) -> String {
    let text = moment(at).replace('T', " ");
    text.get(..16).map(str::to_owned).unwrap_or_default()
}

/// What it does now.
fn state(window: &MaintenanceWindow, now: Timestamp) -> &'static str {
    let after = |at: &Option<prost_types::Timestamp>| {
        let at = at.as_ref().map(convert::time);
        at.is_some_and(|at| at <= now)
    };
    match (after(&window.from), after(&window.until)) {
        (_, true) => "over",
        (true, false) => "on",
        (false, false) => "planned",
    }
}

fn table(screen: &Screen, windows: &[MaintenanceWindow], now: Timestamp) -> String {
    if windows.is_empty() {
        return "no maintenance; plan some with `trainyard node maintenance add`".to_owned();
    }
    let mut table = Table::new(
        screen,
        &[
            ("ID", Lean::Right),
            ("STATE", Lean::Left),
            ("FROM (UTC)", Lean::Left),
            ("UNTIL (UTC)", Lean::Left),
            ("NODES", Lean::Left),
            ("WHY", Lean::Left),
        ],
    );
    for window in windows {
        table.row(&[
            window.id.to_string(),
            state(window, now).to_owned(),
            minute(window.from.as_ref()),
            minute(window.until.as_ref()),
            scope(window),
            window.why.clone(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_windows_shows_which_is_on_and_fits_the_terminal() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let window = |id, from: i64, nodes: &[&str]| MaintenanceWindow {
            id,
            all_nodes: nodes.is_empty(),
            nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
            from: Some(timestamp(Timestamp(from * 1_000_000))),
            until: Some(timestamp(Timestamp((from + 100) * 1_000_000))),
            why: "a new fan for each of them".into(),
            ..MaintenanceWindow::default()
        };
        let windows = [
            window(1, 0, &[]),
            window(2, 150, &["n1", "n2"]),
            window(3, 500, &[]),
        ];
        let text = table(&screen, &windows, Timestamp(200_000_000));
        for words in [
            "over",
            "on",
            "planned",
            "all nodes",
            "n1, n2",
            "1970-01-01 00:02",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        let fits = text.lines().all(|line| line.chars().count() <= 80);
        assert!(fits, "{text}");
    }
}

//! `trainyard metrics`: a job's points as a table, CSV, lines or JSON, each once. Never changes the
//! job.

use std::{cell::Cell, collections::BTreeSet};

use clap::Args;
use serde_json::json;
use trainyard_proto::v1::{ListMetricsRequest, MetricPoint, StreamMetricsRequest};

use super::{Context, follow::follow, watch::interrupted};
use crate::{
    client,
    client::Client,
    exit::Exit,
    output::{
        self, Screen, json,
        table::{Lean, Table},
    },
    text,
};

const PAGE: u32 = 1_000;
/// What people look for first.
const FIRST: [&str; 8] = [
    "loss",
    "accuracy",
    "mAP50",
    "mAP50-95",
    "precision",
    "recall",
    "val_loss",
    "learning_rate",
];
/// What a column of numbers takes.
const COLUMN: usize = 12;

/// Flags of `trainyard metrics`.
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// The job's number
    id: u64,
    /// Print comma-separated values with all columns
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Also what a later attempt has done again, and what was reported before a restart
    #[arg(short, long)]
    all: bool,
    /// Go on with new points until the job has ended
    #[arg(short, long)]
    follow: bool,
}

/// Prints a job's points.
pub(crate) async fn run(context: &Context<'_>, args: MetricsArgs) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    if !args.follow {
        let points = all(&mut client, args.id, args.all).await?;
        show_all(&context.screen, &points, args.csv)?;
        return Ok(Exit::Ok);
    }
    tokio::select! {
        done = stream(&context.screen, &mut client, &args) => done.map(|()| Exit::Ok),
        _ = tokio::signal::ctrl_c() => Ok(interrupted(args.id, "metrics -f")),
    }
}

async fn all(
    client: &mut Client,
    job_id: u64,
    with_superseded: bool,
) -> anyhow::Result<Vec<MetricPoint>> {
    let mut points = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListMetricsRequest {
            job_id,
            page_size: PAGE,
            page_token,
            with_superseded,
        };
        let page = client
            .call(async |via| client::job_service(via).list_metrics(request.clone()).await)
            .await?;
        points.extend(page.points);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(points);
        }
    }
}

fn show_all(screen: &Screen, points: &[MetricPoint], csv: bool) -> anyhow::Result<()> {
    if csv {
        let mut sheet = Sheet::default();
        sheet.learn(points);
        output::line(&sheet.header())?;
        for point in points {
            output::line(&sheet.row(point))?;
        }
        return Ok(());
    }
    let (text, hidden) = table(screen, points);
    screen.show(
        || json!({"points": points.iter().map(json::point).collect::<Vec<_>>()}),
        || text,
    )?;
    if hidden > 0 && !screen.json {
        output::note(&format!("{hidden} more columns with --csv or --json"));
    }
    Ok(())
}

async fn stream(screen: &Screen, client: &mut Client, args: &MetricsArgs) -> anyhow::Result<()> {
    let after = Cell::new(0);
    let mut sheet = Sheet::default();
    follow(
        client,
        async |client| {
            let request = StreamMetricsRequest {
                job_id: args.id,
                after_point_id: after.get(),
                with_superseded: args.all,
            };
            client
                .call(async |via| client::job_service(via).stream_metrics(request).await)
                .await
        },
        |message| {
            if args.csv && sheet.names.is_empty() {
                sheet.learn(&message.points);
                if !sheet.names.is_empty() {
                    output::line(&sheet.header())?;
                }
            }
            for point in &message.points {
                if screen.json {
                    output::json_line(&json::point(point))?;
                } else if args.csv && !sheet.names.is_empty() {
                    output::line(&sheet.row(point))?;
                } else if !args.csv {
                    output::line(&point_line(point))?;
                }
                after.set(point.point_id);
            }
            Ok(())
        },
    )
    .await
}

/// The columns of a CSV file; in a followed one they are those of its first points.
#[derive(Debug, Default)]
struct Sheet {
    names: Vec<String>,
}

impl Sheet {
    fn learn(&mut self, points: &[MetricPoint]) {
        self.names = names(points);
    }

    fn header(&self) -> String {
        let fixed = ["point_id", "attempt", "epoch", "step", "reported_at"];
        let fixed = fixed.into_iter().map(str::to_owned);
        let cells: Vec<_> = fixed.chain(self.names.iter().map(|n| cell(n))).collect();
        cells.join(",")
    }

    fn row(&self, point: &MetricPoint) -> String {
        let at = point.reported_at.as_ref().map(text::rfc3339);
        let step = point.step.map(|step| step.to_string());
        let mut cells = vec![
            point.point_id.to_string(),
            point.attempt.to_string(),
            point.epoch.to_string(),
            step.unwrap_or_default(),
            at.unwrap_or_default(),
        ];
        for name in &self.names {
            let value = point.values.get(name).map(f64::to_string);
            cells.push(value.unwrap_or_default());
        }
        cells.join(",")
    }
}

/// A name that holds a comma, a quote or a line's end is quoted.
fn cell(name: &str) -> String {
    if name.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}

/// The names of all metrics: the usual ones first, the others by name.
fn names(points: &[MetricPoint]) -> Vec<String> {
    let all: BTreeSet<&String> = points.iter().flat_map(|p| p.values.keys()).collect();
    let first = FIRST.iter().filter(|name| all.iter().any(|n| n == *name));
    let others = all.iter().filter(|name| !FIRST.contains(&name.as_str()));
    first
        .map(|name| (*name).to_owned())
        .chain(others.map(|name| (*name).clone()))
        .collect()
}

/// The points as a table of what fits, and how many columns do not.
fn table(screen: &Screen, points: &[MetricPoint]) -> (String, usize) {
    if points.is_empty() {
        return ("no points yet".to_owned(), 0);
    }
    let all = names(points);
    let room = usize::from(screen.width).saturating_sub(16) / COLUMN;
    let shown: Vec<_> = all.iter().take(room.max(1)).collect();
    let has_steps = points.iter().any(|point| point.step.is_some());
    let mut columns = vec![("EPOCH", Lean::Right)];
    if has_steps {
        columns.push(("STEP", Lean::Right));
    }
    columns.extend(shown.iter().map(|name| (name.as_str(), Lean::Right)));
    let mut table = Table::new(screen, &columns);
    for point in points.iter().filter(|point| !point.values.is_empty()) {
        let mut row = vec![point.epoch.to_string()];
        if has_steps {
            row.push(point.step.map(|step| step.to_string()).unwrap_or_default());
        }
        row.extend(shown.iter().map(|name| {
            let value = point.values.get(name.as_str());
            value.map_or_else(|| "-".to_owned(), |value| text::number(*value))
        }));
        table.row(&row);
    }
    (table.render(), all.len() - shown.len())
}

fn point_line(point: &MetricPoint) -> String {
    let mut words = vec![format!("epoch {}", point.epoch)];
    if let Some(step) = point.step {
        words.push(format!("step {step}"));
    }
    for name in names(std::slice::from_ref(point)) {
        let value = point.values.get(&name).copied().unwrap_or(f64::NAN);
        words.push(format!("{name} {}", text::number(value)));
    }
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: u32, values: &[(&str, f64)]) -> MetricPoint {
        MetricPoint {
            point_id: u64::from(epoch),
            attempt: 1,
            epoch,
            values: values.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect(),
            ..MetricPoint::default()
        }
    }

    fn points() -> Vec<MetricPoint> {
        vec![
            point(1, &[("zeta", 1.0), ("loss", 0.5), ("a,b", 2.0)]),
            point(2, &[("loss", 0.25), ("accuracy", 0.9)]),
        ]
    }

    #[test]
    fn csv_holds_every_value_exactly() {
        let mut sheet = Sheet::default();
        sheet.learn(&points());
        assert_eq!(
            sheet.header(),
            "point_id,attempt,epoch,step,reported_at,loss,accuracy,\"a,b\",zeta"
        );
        assert_eq!(sheet.row(&points()[0]), "1,1,1,,,0.5,,2,1");
        assert_eq!(sheet.row(&points()[1]), "2,1,2,,,0.25,0.9,,");
    }

    #[test]
    fn a_table_shows_what_fits_and_counts_the_rest() {
        let mut screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 42,
        };
        let (text, hidden) = table(&screen, &points());
        assert_eq!(hidden, 2);
        let header = text.lines().next().unwrap();
        assert!(
            header.contains("loss") && header.contains("accuracy"),
            "{text}"
        );
        screen.width = 200;
        assert_eq!(table(&screen, &points()).1, 0);
    }

    #[test]
    fn a_followed_point_is_one_line() {
        assert_eq!(
            point_line(&points()[1]),
            "epoch 2  loss 0.2500  accuracy 0.9000"
        );
    }
}

//! `trainyard jobs`: the list, newest first. Never changes a job.

use clap::{Args, ValueEnum};
use serde_json::json;
use trainyard_core::time::Timestamp;
use trainyard_proto::v1::{self, Job, JobState, ListJobsRequest};

use super::Context;
use crate::{
    client,
    client::Client,
    clock,
    exit::Exit,
    output::{
        self, Screen, json, progress,
        table::{Lean, Table},
    },
    text,
};

/// The coordinator gives no larger page.
const MOST_ROWS: u32 = 1_000;

/// Flags of `trainyard jobs`.
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// Only jobs in this state; may be given often
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<StateName>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Only jobs of this project
    #[arg(long, value_name = "ID")]
    project: Option<i64>,
}

/// A state by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StateName {
    Pending,
    Queued,
    Starting,
    Running,
    Finishing,
    Completed,
    Failed,
    Cancelled,
}

impl From<StateName> for JobState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Pending => Self::Pending,
            StateName::Queued => Self::Queued,
            StateName::Starting => Self::Starting,
            StateName::Running => Self::Running,
            StateName::Finishing => Self::Finishing,
            StateName::Completed => Self::Completed,
            StateName::Failed => Self::Failed,
            StateName::Cancelled => Self::Cancelled,
        }
    }
}

/// Lists jobs.
pub(crate) async fn run(context: &Context<'_>, args: JobsArgs) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let (jobs, more) = list(&mut client, &args).await?;
    let now = clock::now();
    context.screen.show(
        || json!({"jobs": jobs.iter().map(json::job).collect::<Vec<_>>()}),
        || table(&context.screen, &jobs, now),
    )?;
    if more && !context.screen.json {
        output::note("there are more; see all of them with --all");
    }
    Ok(Exit::Ok)
}

/// The jobs that were asked for, and whether there are more.
async fn list(client: &mut Client, args: &JobsArgs) -> anyhow::Result<(Vec<Job>, bool)> {
    let limit = if args.all { u32::MAX } else { args.limit };
    let states: Vec<i32> = args
        .states
        .iter()
        .map(|name| JobState::from(*name).into())
        .collect();
    let mut jobs: Vec<Job> = Vec::new();
    let mut page_token = String::new();
    loop {
        let have = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let request = ListJobsRequest {
            page_size: limit.saturating_sub(have).min(MOST_ROWS),
            page_token,
            states: states.clone(),
            project_id: args.project,
        };
        let page = client
            .call(async |via| client::job_service(via).list_jobs(request.clone()).await)
            .await?;
        jobs.extend(page.jobs);
        page_token = page.next_page_token;
        let is_full = u32::try_from(jobs.len()).is_ok_and(|have| have >= limit);
        if page_token.is_empty() || is_full {
            return Ok((jobs, !page_token.is_empty()));
        }
    }
}

/// The list as a table.
fn table(screen: &Screen, jobs: &[Job], now: Timestamp) -> String {
    if jobs.is_empty() {
        return "no jobs; submit one with `trainyard submit`".to_owned();
    }
    let mut table = Table::new(
        screen,
        &[
            ("ID", Lean::Right),
            ("NAME", Lean::Left),
            ("WHAT", Lean::Left),
            ("STATE", Lean::Left),
            ("EPOCH", Lean::Right),
            ("METRIC", Lean::Right),
            ("NODE", Lean::Left),
            ("AGE", Lean::Right),
        ],
    );
    for job in jobs {
        let spec = job.spec.clone().unwrap_or_default();
        let progress = job.progress.filter(|progress| progress.epoch > 0);
        let metric = progress.and_then(|now| now.primary_metric.or(now.loss));
        table.row(&[
            job.job_id.to_string(),
            if spec.name.is_empty() {
                dash()
            } else {
                spec.name.clone()
            },
            what(&spec),
            text::state(job.state()).to_owned(),
            progress.map_or_else(dash, |now| format!("{}/{}", now.epoch, now.total_epochs)),
            metric.map_or_else(dash, text::number),
            progress::node(job).map_or_else(dash, str::to_owned),
            text::age(job.created_at.as_ref(), now),
        ]);
    }
    table.render()
}

fn dash() -> String {
    "-".to_owned()
}

/// The model, or the program of a command.
fn what(spec: &v1::JobSpec) -> String {
    let program = spec.command.first().map(String::as_str);
    match program.and_then(|program| program.rsplit('/').next()) {
        Some(program) => program.to_owned(),
        None if spec.model_name.is_empty() => spec.framework.clone(),
        None => spec.model_name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        }
    }

    #[test]
    fn a_list_fits_eighty_columns_and_shows_ages() {
        let job = Job {
            job_id: 12,
            spec: Some(v1::JobSpec {
                name: "digits with a long and telling name".into(),
                model_name: "yolo11n".into(),
                ..v1::JobSpec::default()
            }),
            state: JobState::Running.into(),
            progress: Some(v1::Progress {
                epoch: 3,
                total_epochs: 10,
                primary_metric: Some(0.5),
                ..v1::Progress::default()
            }),
            created_at: Some(prost_types::Timestamp::default()),
            ..Job::default()
        };
        let text = table(&screen(), &[job], Timestamp(180_000_000));
        for word in ["12", "yolo11n", "running", "3/10", "0.5000", "3m"] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn an_empty_list_says_what_to_do() {
        assert!(table(&screen(), &[], Timestamp(0)).contains("trainyard submit"));
    }

    #[test]
    fn a_command_is_called_by_its_program() {
        let spec = v1::JobSpec {
            framework: "command".into(),
            command: vec!["/bin/true".into()],
            ..v1::JobSpec::default()
        };
        assert_eq!(what(&spec), "true");
    }
}

//! `trainyard watch`: a job's way to its end, as a bar, as lines or as JSON. Never changes the job.
//! `submit --wait` and the demo follow jobs through it.

use trainyard_proto::v1::{Job, WatchJobRequest};

use super::{Context, follow::follow, get_job};
use crate::{
    client,
    client::Client,
    exit::Exit,
    output::{self, json, progress},
};

/// Follows a job to its end; the exit is the job's.
pub(crate) async fn run(context: &Context<'_>, job_id: u64) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    show_to_end(context, &mut client, job_id).await
}

/// Shows a job's way and its end. Ctrl-C leaves the job alone.
pub(super) async fn show_to_end(
    context: &Context<'_>,
    client: &mut Client,
    job_id: u64,
) -> anyhow::Result<Exit> {
    let screen = context.screen;
    let mut way = progress::Way::new(screen.terminal && !screen.json);
    let watched = to_end(client, job_id, |job| {
        if screen.json {
            output::json_line(&json::job(job))?;
        } else {
            way.show(job)?;
        }
        Ok(())
    });
    let ended = tokio::select! {
        ended = watched => ended,
        _ = tokio::signal::ctrl_c() => {
            way.end();
            return Ok(interrupted(job_id, "watch"));
        }
    };
    way.end();
    let job = ended?;
    if !screen.json {
        output::line(&progress::report(&job))?;
    }
    Ok(Exit::of_job(&job))
}

/// What is said when somebody stops looking.
pub(super) fn interrupted(job_id: u64, command: &str) -> Exit {
    output::note(&format!(
        "\njob {job_id} goes on; come back with `trainyard {command} {job_id}`, or stop it with `trainyard cancel {job_id}`"
    ));
    Exit::Interrupted
}

/// Hands a job to `each` now and after each change; the job as it ended.
pub(crate) async fn to_end(
    client: &mut Client,
    job_id: u64,
    mut each: impl FnMut(&Job) -> anyhow::Result<()>,
) -> anyhow::Result<Job> {
    let mut last = None;
    follow(
        client,
        async |client| {
            client
                .call(async |via| {
                    client::job_service(via)
                        .watch_job(WatchJobRequest { job_id })
                        .await
                })
                .await
        },
        |message| {
            if let Some(job) = message.job {
                each(&job)?;
                last = Some(job);
            }
            Ok(())
        },
    )
    .await?;
    match last {
        Some(job) if crate::text::has_ended(job.state()) => Ok(job),
        _ => get_job(client, job_id).await,
    }
}

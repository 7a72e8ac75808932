//! `trainyard cancel`: stops jobs, wherever they stand. Never waits for their end; `watch` does.

use serde_json::Value;
use trainyard_proto::v1::{CancelJobRequest, Job, job_service_client::JobServiceClient};

use super::Context;
use crate::{
    client::Client,
    exit::Exit,
    output::{self, json},
    text,
};

/// Asks for the end of one job; the job as it is now.
pub(crate) async fn cancel(client: &mut Client, job_id: u64) -> anyhow::Result<Job> {
    let answer = client
        .call(async |via| {
            JobServiceClient::new(via)
                .cancel_job(CancelJobRequest { job_id })
                .await
        })
        .await?;
    Ok(answer.job.unwrap_or_default())
}

/// Cancels each; one that cannot be is told, and the others go on.
pub(crate) async fn run(context: &Context<'_>, ids: Vec<u64>) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let mut cancelled = Vec::new();
    let mut exit = Exit::Ok;
    for job_id in ids {
        match cancel(&mut client, job_id).await {
            Ok(job) => cancelled.push(job),
            Err(error) => {
                let known = Exit::of_error(&error);
                if known != Exit::Error {
                    return Err(error);
                }
                output::note(&format!("error: job {job_id}: {error:#}"));
                exit = known;
            }
        }
    }
    if context.screen.json {
        let documents: Value = cancelled.iter().map(json::job).collect();
        output::line(&format!("{documents:#}"))?;
    } else {
        for job in &cancelled {
            let state = text::state(job.state());
            let words = if text::has_ended(job.state()) {
                state.to_owned()
            } else {
                format!("is being stopped ({state})")
            };
            output::line(&format!("job {} {words}", job.job_id))?;
        }
    }
    Ok(exit)
}

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

/// Asks for the end of one job, or of all of its array; the job as it is now, and how many were told.
pub(crate) async fn cancel(
    client: &mut Client,
    job_id: u64,
    whole_array: bool,
) -> anyhow::Result<(Job, u32)> {
    let request = CancelJobRequest {
        job_id,
        whole_array,
    };
    let answer = client
        .call(async |via| JobServiceClient::new(via).cancel_job(request).await)
        .await?;
    Ok((answer.job.unwrap_or_default(), answer.told))
}

/// Cancels each; one that cannot be is told, and the others go on.
pub(crate) async fn run(context: &Context<'_>, ids: Vec<u64>, array: bool) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let mut cancelled = Vec::new();
    let mut exit = Exit::Ok;
    for job_id in ids {
        match cancel(&mut client, job_id, array).await {
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
        let documents: Value = cancelled.iter().map(|(job, _)| json::job(job)).collect();
        output::line(&format!("{documents:#}"))?;
    } else {
        for (job, told) in &cancelled {
            let place = job.spec.as_ref().and_then(|spec| spec.array);
            if let Some(place) = place.filter(|_| array) {
                let words = format!(
                    "array {}: {told} of {} jobs were told to end",
                    place.id, place.size
                );
                output::line(&words)?;
                continue;
            }
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

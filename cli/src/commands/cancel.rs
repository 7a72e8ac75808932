//! `trainyard cancel`: stops jobs, wherever they stand. Never waits for their end; `watch` does.

use serde_json::Value;
use trainyard_proto::v1::{CancelJobRequest, Job};

use super::Context;
use crate::{
    client,
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
        .call(async |via| client::job_service(via).cancel_job(request).await)
        .await?;
    Ok((answer.job.unwrap_or_default(), answer.told))
}

/// The job; of an array, also how many of its jobs were told to end.
fn document(job: &Job, told: Option<u32>) -> Value {
    let mut document = json::job(job);
    if let (Some(fields), Some(told)) = (document.as_object_mut(), told) {
        fields.insert("told".to_owned(), told.into());
    }
    document
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
        let documents = cancelled.iter();
        let documents: Value = documents
            .map(|(job, told)| document(job, array.then_some(*told)))
            .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_array_the_document_says_how_many_were_told() {
        let job = Job {
            job_id: 7,
            ..Job::default()
        };
        assert_eq!(document(&job, Some(3))["told"], 3);
        let alone = document(&job, None);
        assert_eq!(
            (&alone["told"], &alone["job_id"]),
            (&Value::Null, &7.into())
        );
    }
}

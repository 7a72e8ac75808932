//! Whether what is published of a job's checkpoints has its name, before one of them is read.
//!
//! Owns how long that is waited for. Called by the checkpoints' downloads.

use std::time::Duration;

use trainyard_core::ids::JobId;
use trainyard_proto::status::Kind;

use super::Turns;
use crate::api::ApiError;

/// How long whoever reads a checkpoint waits for one of its job that is just being published: less than agents wait for
/// the answer.
const SETTLES: Duration = Duration::from_secs(10);

/// Waits until nothing of the job is being published. Its own next attempt asks again where that takes longer: with the
/// checkpoint before it would do again what is saved already. Whoever begins with another job's takes what there is: that
/// job may go on publishing.
pub(super) async fn settled(publishing: &Turns, job: JobId, own: bool) -> Result<(), ApiError> {
    if publishing.take(&job.to_string(), SETTLES).await.is_some() {
        return Ok(());
    }
    if own {
        let words = "a checkpoint of the job is still being published; ask again in a moment";
        return Err(ApiError::new(Kind::Unavailable, words));
    }
    tracing::warn!(%job, "a checkpoint of the job is still being published; who begins with one of them now may get the one before");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_attempt_asks_again_as_long_as_one_before_it_is_publishing_and_another_job_takes_what_there_is()
     {
        let turns = Turns::default();
        let publishes = turns.take("7", SETTLES).await;
        let refused = settled(&turns, JobId(7), true).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Unavailable);
        settled(&turns, JobId(7), false).await.unwrap();
        settled(&turns, JobId(8), true).await.unwrap();
        drop(publishes);
        settled(&turns, JobId(7), true).await.unwrap();
    }
}

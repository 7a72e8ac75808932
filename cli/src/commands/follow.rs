//! Streams that outlive a coordinator's restart. Owns when and how often a broken one is opened
//! anew; the caller's cursor sees to it that nothing is told twice. Called by watch, logs, metrics.

use std::time::Duration;

use tonic::Streaming;

use crate::{
    client::Client,
    error::{CliError, is_broken},
    output,
};

/// Waits between tries; together about two minutes.
const WAITS_MS: [u64; 7] = [100, 200, 500, 1_000, 2_000, 5_000, 5_000];
const MOST_TRIES: usize = 28;

/// Hands every message of a stream to `each` until it ends; opens it anew where it breaks.
pub(super) async fn follow<T>(
    client: &mut Client,
    open: impl AsyncFn(&mut Client) -> anyhow::Result<Streaming<T>>,
    mut each: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // The first time, a coordinator that is not there is an error and not waited for.
    let mut stream = open(client).await?;
    loop {
        match stream.message().await {
            Ok(Some(message)) => each(message)?,
            Ok(None) => return Ok(()),
            Err(status) if is_broken(&status) => {
                output::note(&format!(
                    "the connection to {} broke; trying again",
                    client.url()
                ));
                stream = reopen(client, &open).await?;
            }
            Err(status) => return Err(client.explain(status).into()),
        }
    }
}

async fn reopen<T>(
    client: &mut Client,
    open: &impl AsyncFn(&mut Client) -> anyhow::Result<Streaming<T>>,
) -> anyhow::Result<Streaming<T>> {
    let mut tries = 0;
    loop {
        let wait = WAITS_MS.get(tries).copied().unwrap_or(5_000);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match open(client).await {
            Err(error) if tries < MOST_TRIES && is_away(&error) => tries += 1,
            other => return other,
        }
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<CliError>() {
        Some(CliError::Unreachable { .. }) => true,
        Some(CliError::Refused(status)) => is_broken(status),
        _ => false,
    }
}

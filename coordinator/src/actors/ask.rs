//! The one wrapper of ractor's `call`: a timeout always, and an error instead of three outcomes.

use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort, rpc::CallResult};
use thiserror::Error;

/// How long a caller waits for an actor.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer. Whether the request was carried out is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// The actor is gone or dropped the question.
    #[error("the coordinator is stopping or restarting a part of itself; try again")]
    Gone,
    /// It did not answer in time.
    #[error("the coordinator is too busy to answer; try again")]
    Timeout,
}

/// Sends a question and waits for its answer.
///
/// # Errors
/// When the actor is gone, drops the question or does not answer in time.
pub async fn ask<M, T>(
    actor: &ActorRef<M>,
    question: impl FnOnce(RpcReplyPort<T>) -> M,
) -> Result<T, AskError>
where
    M: Message,
    T: Send + 'static,
{
    match actor.call(question, Some(PATIENCE)).await {
        Ok(CallResult::Success(answer)) => Ok(answer),
        Ok(CallResult::Timeout) => Err(AskError::Timeout),
        Ok(CallResult::SenderError) | Err(_) => Err(AskError::Gone),
    }
}

//! The client of all trackers: its time-outs, and what a refusal means.
//!
//! Owns the judgement whether a call is worth repeating. Never follows a redirect, never reads more
//! than a bounded answer, and never shows an address or a secret in an error. Used by the trackers.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode, header::RETRY_AFTER, redirect::Policy};
use serde_json::Value;
use trainyard_config::Secret;

const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(30);
/// The most of an answer that is read, in bytes.
const ANSWER: usize = 4 << 20;
/// The most of an answer that an error shows, in characters.
const SHOWN: usize = 200;
/// No tracker makes us wait longer than this before the next try.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Try again: it is away or wants to be left alone, so it would take nothing else now either. It may
    /// say when.
    Away(String, Option<Duration>),
    /// Try again: it failed with what was sent, or is ill; others may be taken. It may say when.
    Later(String, Option<Duration>),
    /// Try again, seldom: it does not know our credentials, or they are not good for this job; an operator
    /// must change that.
    Refused(String),
    /// It will never take this.
    Never(String),
    /// The store or an actor of ours does not answer: not the tracker's fault.
    Ours(String),
}

impl Failure {
    pub(super) fn later(words: impl Into<String>) -> Self {
        Self::Later(words.into(), None)
    }

    /// It may be about one job alone: the next one may be taken.
    pub(super) fn may_be_of_one_job(&self) -> bool {
        match self {
            Self::Later(..) | Self::Refused(_) => true,
            Self::Away(..) | Self::Never(_) | Self::Ours(_) => false,
        }
    }

    /// In words, for people.
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Away(words, _)
            | Self::Later(words, _)
            | Self::Refused(words)
            | Self::Never(words)
            | Self::Ours(words) => words,
        }
    }
}

impl From<crate::store::ReadError> for Failure {
    fn from(error: crate::store::ReadError) -> Self {
        Self::Ours(error.to_string())
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Ours(error.to_string())
    }
}

/// An answer, whatever it says.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) text: String,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

/// A client with this project's time-outs.
pub(super) fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .connect_timeout(CONNECT)
        .timeout(TOTAL)
        .redirect(Policy::none())
        .user_agent(format!("trainyard/{}", trainyard_proto::version()))
        .build()
}

/// Sends, and reads the answer to its end.
pub(super) async fn send(request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    let retry_after = retry_after(&response);
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > ANSWER {
            return Err(Failure::later("its answer is longer than 4 MiB"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status,
        retry_after,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// What an answer that is no success means; `words` are those of its body.
pub(super) fn judge(answer: &Answer, words: &str) -> Failure {
    let status = answer.status;
    let said = match words {
        "" => format!("it answered {status}"),
        words => format!("it answered {status}: {}", shortened(words)),
    };
    let again = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
    if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
        Failure::Refused(format!("{said}; check its credentials in the settings"))
    } else if status.is_redirection() {
        let words =
            format!("{said}; redirects are not followed, so give the address that it points to");
        Failure::Away(words, None)
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Failure::Away(said, answer.retry_after)
    } else if again {
        Failure::Later(said, answer.retry_after)
    } else {
        Failure::Never(said)
    }
}

/// Takes secrets out of a text that may quote them.
pub(super) fn without(secrets: &[&Secret], text: &str) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if !secret.expose().is_empty() {
            text = text.replace(secret.expose(), "***");
        }
    }
    text
}

/// The words of an error without the address, which may hold a token.
fn failed(error: reqwest::Error) -> Failure {
    let gone = error.is_connect();
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the call broke off"
    };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let words = format!("{what} ({cause})");
    match gone {
        true => Failure::Away(words, None),
        false => Failure::later(words),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn shortened(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN {
        return line;
    }
    let head: String = line.chars().take(SHOWN).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<u64>) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(Duration::from_secs),
            text: String::new(),
        }
    }

    #[test]
    fn only_what_can_never_succeed_is_given_up() {
        for status in [500, 502, 503, 408] {
            let failure = judge(&answer(status, None), "");
            assert!(matches!(failure, Failure::Later(..)), "{status}");
        }
        for status in [429, 301] {
            let failure = judge(&answer(status, None), "");
            assert!(matches!(failure, Failure::Away(..)), "{status}");
        }
        for status in [401, 403] {
            let failure = judge(&answer(status, None), "");
            assert!(matches!(failure, Failure::Refused(_)), "{status}");
        }
        for status in [400, 404, 410, 422] {
            let failure = judge(&answer(status, None), "");
            assert!(matches!(failure, Failure::Never(_)), "{status}");
        }
        let busy = judge(&answer(429, Some(7)), "slow down");
        let words = "it answered 429 Too Many Requests: slow down".to_owned();
        assert_eq!(busy, Failure::Away(words, Some(Duration::from_secs(7))));
    }

    #[test]
    fn a_long_answer_is_shown_shortened_and_a_quoted_secret_is_not() {
        let failure = judge(&answer(400, None), &"é ".repeat(500));
        assert!(failure.words().chars().count() < 240);
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(without(&[&secret], "bad token hunter2!"), "bad token ***!");
    }
}

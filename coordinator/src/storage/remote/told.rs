//! What a store or a web server says when it refuses, in words for the caller.
//!
//! Owns which refusals pass by themselves and which somebody has to mend. Never repeats the query of a URL,
//! for that of a signed one is a credential. Pure. Called by [`Remote`](super::Remote).

use http::StatusCode;
use object_store::Error;

use super::StorageError;

/// Characters of a store's own words that are repeated.
const WORDS: usize = 300;
/// How the words of a refusal begin, before its status.
const STATUS: &str = "non-2xx status code: ";

/// The error of a call about `name`.
pub(super) fn told(name: String, web: bool, error: &Error) -> StorageError {
    let words = words(error);
    // The guard's own words, from within the client.
    if words.contains("datasets.allow_private_urls") {
        return StorageError::Refused(words);
    }
    let who = if web {
        "the server must let everybody read it"
    } else {
        "see storage_options of the coordinator's settings, and the rights of its keys"
    };
    match refusal(error, &words) {
        Refusal::NotFound => StorageError::NotFound(name),
        Refusal::Denied => StorageError::Refused(format!(
            "{name} may not be used by the coordinator: {words}; {who}"
        )),
        Refusal::Wrong => StorageError::Refused(format!("{name} is refused: {words}; {who}")),
        Refusal::Passing => StorageError::Failed(format!("{name} cannot be used: {words}")),
    }
}

enum Refusal {
    NotFound,
    Denied,
    /// It is told so again, however often it is asked.
    Wrong,
    Passing,
}

fn refusal(error: &Error, words: &str) -> Refusal {
    if matches!(error, Error::NotFound { .. }) {
        return Refusal::NotFound;
    }
    if matches!(
        error,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
    ) {
        return Refusal::Denied;
    }
    let status = words
        .split_once(STATUS)
        .and_then(|(_, rest)| rest.get(..3)?.parse().ok())
        .and_then(|number: u16| StatusCode::from_u16(number).ok());
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    match status {
        Some(status) if status.is_client_error() && !passing.contains(&status) => Refusal::Wrong,
        Some(_) | None => Refusal::Passing,
    }
}

/// The innermost words: of a document of XML its message, of a URL no query.
fn words(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut text = cause.to_string();
    while let Some(next) = cause.source() {
        cause = next;
        text = cause.to_string();
    }
    let message = between(&text, "<Message>", "</Message>");
    let head = text.split('<').next().unwrap_or_default();
    let head = head.trim_end_matches([' ', ':']);
    let words = match message {
        Some(message) => format!("{head}: {message}"),
        None => head.to_owned(),
    };
    let words = words.split('?').next().unwrap_or_default();
    words.chars().take(WORDS).collect()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    rest.split_once(to).map(|(inner, _)| inner.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    fn error(said: &'static str) -> Error {
        Error::Generic {
            store: "S3",
            source: Box::new(Said(said)),
        }
    }

    fn of(said: &'static str) -> StorageError {
        told("s3://b/x".to_owned(), false, &error(said))
    }

    #[test]
    fn what_somebody_has_to_mend_is_refused_and_what_passes_is_not() {
        for (said, passing) in [
            (
                "Server returned non-2xx status code: 400 Bad Request: x",
                false,
            ),
            (
                "Server returned non-2xx status code: 405 Method Not Allowed: ",
                false,
            ),
            (
                "Server returned non-2xx status code: 408 Request Timeout: ",
                true,
            ),
            (
                "Server returned non-2xx status code: 429 Too Many Requests: ",
                true,
            ),
            (
                "Server returned non-2xx status code: 503 Service Unavailable: ",
                true,
            ),
            ("connection refused", true),
        ] {
            let told = of(said);
            assert_eq!(matches!(told, StorageError::Failed(_)), passing, "{told}");
            assert_eq!(matches!(told, StorageError::Refused(_)), !passing, "{told}");
        }
        let denied = Error::PermissionDenied {
            path: "x".to_owned(),
            source: Box::new(Said("Server returned non-2xx status code: 403 Forbidden: ")),
        };
        let told = told("s3://b/x".to_owned(), false, &denied);
        assert!(matches!(&told, StorageError::Refused(words) if words.contains("storage_options")));
    }

    #[test]
    fn the_stores_message_is_repeated_and_neither_its_document_nor_a_query() {
        let told = of(
            "Server returned non-2xx status code: 400 Bad Request: <?xml version=\"1.0\"?><Error><Code>X</Code><Message>Your upload is too large</Message><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>",
        );
        let words = told.to_string();
        assert!(
            words.contains("400 Bad Request: Your upload is too large"),
            "{words}"
        );
        assert!(!words.contains("AKIA") && !words.contains("xml"), "{words}");
        let words = of("error sending request for https://b/x?X-Amz-Signature=hunter2").to_string();
        assert!(!words.contains("hunter2"), "{words}");
    }
}

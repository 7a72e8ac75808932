//! The section `http`: what is asked of HTTP clients.

use std::time::Duration;

use http::HeaderValue;
use serde::Deserialize;

/// What is asked of HTTP clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Origins of web pages that may call, separated by commas; `*` for any.
    pub cors_origins: String,
    /// How long a call may take, in seconds.
    pub request_timeout_seconds: u32,
    /// How long a client may pause while it sends a body, in seconds.
    pub body_timeout_seconds: u32,
}

impl Http {
    /// The origins; the text has been checked when it was loaded.
    #[must_use]
    pub fn origins(&self) -> Vec<HeaderValue> {
        let each = parts(&self.cors_origins);
        each.filter_map(|origin| origin.parse().ok()).collect()
    }

    /// How long a call may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds.into())
    }

    /// How long a client may pause while it sends a body.
    #[must_use]
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_seconds.into())
    }
}

/// What is wrong with a list of origins.
pub(super) fn origins(text: &str) -> Option<&'static str> {
    let whole = |origin: &str| {
        let host = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        let host = host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ']));
        (host || origin == "*") && origin.parse::<HeaderValue>().is_ok()
    };
    let expected =
        "origins as browsers send them, such as https://train.example.com, separated by commas";
    (!parts(text).all(whole)).then_some(expected)
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_a_host_and_nothing_more() {
        for good in [
            "",
            "*",
            "http://localhost:3000",
            "https://a.example, https://b.example",
        ] {
            assert_eq!(origins(good), None, "{good}");
        }
        for bad in [
            "a.example",
            "https://a.example/",
            "https://",
            "https://a b",
            "ftp://a",
        ] {
            assert!(origins(bad).is_some(), "{bad}");
        }
    }
}

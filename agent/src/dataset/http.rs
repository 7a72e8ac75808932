//! The one HTTP client by which files come and checkpoints go. Made once at boot.

use std::time::Duration;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent within an answer; the callers keep to it, since the client's own
/// limit would count the time of an upload too.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// A pooled client. Follows few redirects and sends no cookies.
///
/// # Errors
/// When the machine's certificates cannot be read.
pub fn client() -> Result<reqwest::Client, String> {
    // A second provider in one process is refused, and is the same one.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::limited(3))
        .user_agent(concat!("trainyard-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| format!("no HTTP client can be made: {error}"))
}

/// The words of an error without its URL, which may be a signed one.
pub(super) fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

//! The one HTTP client by which files come and checkpoints go. Made once at boot.

use std::time::Duration;

use trainyard_net::Connection;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent within an answer; the callers keep to it, since the client's own
/// limit would count the time of an upload too.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// A pooled client. Follows few redirects and sends no cookies.
///
/// # Errors
/// When the machine's certificates cannot be read.
pub fn client(connection: &Connection) -> Result<reqwest::Client, String> {
    let made = connection.http().map_err(|error| error.to_string())?;
    made.connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::limited(3))
        .user_agent(format!("trainyard-agent/{}", trainyard_proto::version()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_does_not_show_the_signed_way_that_it_is_about() {
        // Nobody listens on a port that was free a moment ago.
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let url = format!("http://{address}/set/cat.png?signature=s3cret");
        let error = reqwest::Client::new().get(url).send().await.unwrap_err();
        assert!(error.to_string().contains("s3cret"), "{error}");
        let shown = words(error);
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("refused"), "{shown}");
    }
}

//! Where a coordinator is: scheme, host and port, and whether plain text may go there. Pure.

use std::net::IpAddr;

use http::Uri;
use thiserror::Error;

/// A coordinator's address in the one form in which it is kept: scheme, host and port, no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    url: String,
    tls: bool,
    loopback: bool,
}

/// Why a text is not the address of a coordinator, or not one that may be spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// It is no address.
    #[error(
        "'{text}' is not the address of a coordinator: {fault}; write for example http://127.0.0.1:8000 or https://10.0.0.1:8000"
    )]
    Not {
        /// As it was given.
        text: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// Whoever listens on the way would read the token.
    #[error(
        "{url} is not on this machine and not encrypted: tokens could be read on the way; use https:// (`trainyard tls init` makes certificates), or say --insecure if the network is yours alone"
    )]
    Exposed {
        /// The address.
        url: String,
    },
}

impl Place {
    /// Reads an address. One without a scheme is plain on this machine and encrypted elsewhere, or
    /// plain everywhere where `insecure` says so.
    ///
    /// # Errors
    /// When it is no address, or a plain one of another machine and not `insecure`.
    pub fn parse(text: &str, insecure: bool) -> Result<Self, PlaceError> {
        let fail = |fault| PlaceError::Not {
            text: text.to_owned(),
            fault,
        };
        let given = text.trim().trim_end_matches('/');
        let (scheme, rest) = match given.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, given),
        };
        let uri: Uri = format!("http://{rest}")
            .parse()
            .map_err(|_invalid| fail("it has no host"))?;
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| fail("it has no host"))?;
        if uri.path() != "/" || uri.query().is_some() || rest.contains('@') {
            return Err(fail("there is more than host and port"));
        }
        let loopback = is_loopback(host);
        let tls = match scheme {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(fail("it begins with neither http:// nor https://")),
            None => !loopback && !insecure,
        };
        let url = format!("{}://{rest}", if tls { "https" } else { "http" });
        if !tls && !loopback && !insecure {
            return Err(PlaceError::Exposed { url });
        }
        Ok(Self { url, tls, loopback })
    }

    /// Such as `https://10.0.0.1:8000`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether it is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }
}

/// Whether a host is this machine by its name or number; no name is looked up.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = bare.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str, insecure: bool) -> String {
        Place::parse(text, insecure).unwrap().url
    }

    #[test]
    fn an_address_without_a_scheme_is_plain_here_and_encrypted_elsewhere() {
        assert_eq!(url("127.0.0.1:8000", false), "http://127.0.0.1:8000");
        assert_eq!(url(" localhost:8000/ ", false), "http://localhost:8000");
        assert_eq!(url("[::1]:8000", false), "http://[::1]:8000");
        assert_eq!(url("c:8000", false), "https://c:8000");
        assert_eq!(url("c:8000", true), "http://c:8000");
        assert_eq!(url("https://127.0.0.1:1", false), "https://127.0.0.1:1");
    }

    #[test]
    fn plain_text_to_another_machine_is_refused_unless_it_is_said() {
        for text in [
            "http://c:8000",
            "http://10.0.0.1:8000",
            "http://[2001:db8::1]:1",
        ] {
            let error = Place::parse(text, false).unwrap_err();
            assert!(matches!(error, PlaceError::Exposed { .. }), "{error}");
            assert!(error.to_string().contains("--insecure"), "{error}");
            assert!(Place::parse(text, true).is_ok());
        }
        assert!(Place::parse("http://127.3.2.1:8000", false).is_ok());
        assert!(Place::parse("http://[::ffff:127.0.0.1]:8000", false).is_ok());
        // A name that only looks like this machine.
        assert!(Place::parse("http://localhost.example.com", false).is_err());
        assert!(Place::parse("http://127.0.0.1.example.com", false).is_err());
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        let texts = [
            "",
            "http://",
            "ftp://host",
            "http://host/api",
            "not a url",
            "http://u@127.0.0.1",
        ];
        for text in texts {
            let error = Place::parse(text, true).unwrap_err().to_string();
            assert!(error.contains("http://127.0.0.1:8000"), "{error}");
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}

//! Signed, expiring paths on the coordinator itself, for files that no object store can sign.
//!
//! Owns the signature: HMAC-SHA256 over method, path and expiry with a key that only the coordinator
//! has. Never reads or writes a file. Called by `storage` to sign and by the REST door to check.

use aws_lc_rs::hmac;
use trainyard_core::time::Timestamp;
use url::Url;

/// Below this path files are served.
const ROOT: &str = "/api/v1/files/";

/// What a way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To read one file.
    Read,
    /// To write one file.
    Write,
}

impl Use {
    const fn method(self) -> &'static str {
        match self {
            Self::Read => "GET",
            Self::Write => "PUT",
        }
    }
}

/// Signs and checks. Prints nothing of its key.
#[derive(Clone)]
pub struct Ways {
    key: hmac::Key,
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ways(..)")
    }
}

impl Ways {
    /// Ways of one key.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    /// The path and query by which the file can be had until `until`; `file` is what stands below
    /// [`ROOT`], not encoded.
    #[must_use]
    pub fn sign(&self, what: Use, file: &str, until: Timestamp) -> String {
        let expires = seconds(until);
        let tag = hmac::sign(&self.key, message(what, file, expires).as_bytes());
        let signature = hex(tag.as_ref());
        format!(
            "{ROOT}{}?expires={expires}&signature={signature}",
            encoded(file)
        )
    }

    /// Whether the signature is right and its time not over; compared in constant time.
    #[must_use]
    pub fn allows(&self, (what, file): (Use, &str), shown: &Shown, now: Timestamp) -> bool {
        let Some(signature) = unhex(&shown.signature) else {
            return false;
        };
        let message = message(what, file, shown.expires);
        let right = hmac::verify(&self.key, message.as_bytes(), &signature).is_ok();
        right && seconds(now) < shown.expires
    }
}

/// What a caller shows.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Shown {
    /// Seconds since the epoch.
    #[serde(default)]
    pub expires: i64,
    /// Hex.
    #[serde(default)]
    pub signature: String,
}

fn message(what: Use, file: &str, expires: i64) -> String {
    format!("{}\n{file}\n{expires}", what.method())
}

fn seconds(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000_000)
}

/// Each segment as a URL has it.
fn encoded(file: &str) -> String {
    let Ok(mut url) = Url::parse("http://x/") else {
        return String::new();
    };
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.clear().extend(file.split('/'));
    }
    url.path().trim_start_matches('/').to_owned()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let digit = |start| u8::from_str_radix(text.get(start..start + 2)?, 16).ok();
    (0..64).step_by(2).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn shown(way: &str) -> Shown {
        let (_, query) = way.split_once('?').unwrap();
        let (expires, signature) = query.split_once('&').unwrap();
        Shown {
            expires: expires.trim_start_matches("expires=").parse().unwrap(),
            signature: signature.trim_start_matches("signature=").to_owned(),
        }
    }

    #[test]
    fn a_way_is_good_for_one_file_one_use_and_its_time() {
        let ways = Ways::new(b"key");
        let until = NOW.plus(std::time::Duration::from_secs(60));
        let way = ways.sign(Use::Read, "snapshots/snap_1/a b#.png", until);
        assert!(
            way.starts_with("/api/v1/files/snapshots/snap_1/a%20b%23.png?expires="),
            "{way}"
        );
        let shown = shown(&way);
        let file = "snapshots/snap_1/a b#.png";
        assert!(ways.allows((Use::Read, file), &shown, NOW));
        assert!(!ways.allows((Use::Write, file), &shown, NOW));
        assert!(!ways.allows((Use::Read, "snapshots/snap_1/b.png"), &shown, NOW));
        assert!(!ways.allows((Use::Read, file), &shown, until));
        assert!(!Ways::new(b"other").allows((Use::Read, file), &shown, NOW));
        let later = Shown {
            expires: shown.expires + 1,
            ..shown.clone()
        };
        assert!(!ways.allows((Use::Read, file), &later, NOW));
        for signature in ["", "zz", &"g".repeat(64), &"é".repeat(32), &"0".repeat(64)] {
            let forged = Shown {
                signature: signature.to_owned(),
                ..shown.clone()
            };
            assert!(!ways.allows((Use::Read, file), &forged, NOW), "{signature}");
        }
        assert_eq!(format!("{ways:?}"), "Ways(..)");
    }
}

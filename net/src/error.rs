//! What can be wrong with certificates and their files, each with the way out.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a certificate or key cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {what} {}: {source}; check the path and who may read it", .path.display())]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}; see that its folder may be written to", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no {what} in PEM form ({reason}); `trainyard tls init` makes such files", .path.display())]
    Content {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together, or are of no use to TLS.
    #[error("certificate {} cannot be used with key {}: {reason}", .cert.display(), .key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate without a key, or a key without a certificate.
    #[error(
        "a certificate and its key are given together (--tls-cert and --tls-key); {0} is missing"
    )]
    Half(&'static str),
    /// The certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Make(String),
    /// What is asked for contradicts what is there.
    #[error("{0}")]
    There(String),
}

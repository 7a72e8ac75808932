//! Certificates and keys out of PEM files. Never writes. Used by both ends of a connection.

use std::{io, path::Path};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject as _},
    },
};

use crate::TlsError;

/// A certificate with those of its issuers, the server's or client's own first.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let fail = |error| failed(what, path, error);
    let read = CertificateDer::pem_file_iter(path).map_err(fail)?;
    let chain = read.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    if chain.is_empty() {
        return Err(failed(what, path, PemError::NoItemsFound));
    }
    Ok(chain)
}

/// A private key.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| failed("private key", path, error))
}

/// The authorities that a file names.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::Content {
            what: "certificate of an authority",
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum of which few kinds matter here"
)]
fn failed(what: &'static str, path: &Path, error: PemError) -> TlsError {
    let path = path.to_path_buf();
    match error {
        PemError::Io(source) if source.kind() != io::ErrorKind::InvalidData => {
            TlsError::Read { what, path, source }
        }
        PemError::NoItemsFound => TlsError::Content {
            what,
            path,
            reason: "nothing of the kind is in it".to_owned(),
        },
        other => TlsError::Content {
            what,
            path,
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_holds_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let error = chain(&missing).unwrap_err().to_string();
        assert!(error.contains("cannot read certificate"), "{error}");
        assert!(error.contains("missing.pem"), "{error}");
        let wrong = folder.path().join("wrong.pem");
        std::fs::write(&wrong, "hello").unwrap();
        let error = key(&wrong).unwrap_err().to_string();
        assert!(error.contains("wrong.pem holds no private key"), "{error}");
        let error = roots(&wrong).unwrap_err().to_string();
        assert!(error.contains("trainyard tls init"), "{error}");
    }
}

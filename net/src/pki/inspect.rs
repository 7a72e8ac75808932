//! What is in a certificate, for people. Never says whether it is to be trusted.

use std::{net::IpAddr, path::Path};

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate};

use crate::{TlsError, pem};

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Names and numbers that it is for.
    pub names: Vec<String>,
    /// It may sign others.
    pub authority: bool,
    /// Seconds of Unix time.
    pub not_before: i64,
    /// Seconds of Unix time.
    pub not_after: i64,
    /// SHA-256 of the whole, in hexadecimal.
    pub fingerprint: String,
}

/// Every certificate of a PEM file, in its order.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn inspect(path: &Path) -> Result<Vec<Details>, TlsError> {
    let wrong = |reason: String| TlsError::Content {
        what: "certificate",
        path: path.to_path_buf(),
        reason,
    };
    let chain = pem::chain(path)?;
    let read = |der: &CertificateDer<'_>| {
        let (_, parsed) = parse_x509_certificate(der).map_err(|error| wrong(error.to_string()))?;
        Ok(details(&parsed, der))
    };
    chain.iter().map(read).collect()
}

fn details(parsed: &X509Certificate<'_>, der: &[u8]) -> Details {
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
    let digest = digest::digest(&digest::SHA256, der);
    let fingerprint = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    Details {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        names: names.unwrap_or_default(),
        authority: parsed.is_ca(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        fingerprint: fingerprint.collect(),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum of which few kinds matter here"
)]
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let number = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            number.ok().map(|number| number.to_string())
        }
        _ => None,
    }
}

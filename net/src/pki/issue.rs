//! Making keys and certificates. Never touches a file but to read the authority's.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use super::Pair;
use crate::TlsError;

/// Clocks of machines differ; a certificate is valid a little before it was made.
const EARLIER: Duration = Duration::from_secs(3_600);

/// From when until when, since the beginning of 1970.
type Span = (Duration, Duration);

/// A certificate and its key as PEM.
pub(super) struct Made {
    pub(super) cert: String,
    pub(super) key: String,
}

/// What a certificate that is no authority's is for.
pub(super) struct Leaf<'n> {
    pub(super) names: &'n [String],
    usage: ExtendedKeyUsagePurpose,
}

impl<'n> Leaf<'n> {
    /// Of a coordinator that is reached under these names.
    pub(super) fn server(names: &'n [String]) -> Self {
        Self {
            names,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    /// Of the agent of the node with this name.
    pub(super) fn agent(names: &'n [String]) -> Self {
        Self {
            names,
            usage: ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

/// Signs certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Sent along with each certificate's own.
    cert: String,
}

impl Authority {
    /// A new one.
    pub(super) fn make(span: Span) -> Result<(Made, Self), TlsError> {
        let key = KeyPair::generate().map_err(failed)?;
        // Two authorities of one name are hard to tell apart in a browser.
        let mark = key.public_key_raw().iter().rev().take(4);
        let mark: String = mark.map(|byte| format!("{byte:02x}")).collect();
        let mut params = params(&format!("Trainyard CA {mark}"), span);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(failed)?.pem();
        let made = Made {
            cert: cert.clone(),
            key: key.serialize_pem(),
        };
        let issuer = Issuer::new(params, key);
        Ok((made, Self { issuer, cert }))
    }

    /// One that lies in files.
    pub(super) fn read(pair: &Pair) -> Result<Self, TlsError> {
        let read = |what: &'static str, path: &std::path::Path| {
            let text = std::fs::read_to_string(path);
            text.map_err(|source| TlsError::Read {
                what,
                path: path.to_path_buf(),
                source,
            })
        };
        let cert = read("certificate", &pair.cert)?;
        let key = read("private key", &pair.key)?;
        let unfit = |error: rcgen::Error| TlsError::Pair {
            cert: pair.cert.clone(),
            key: pair.key.clone(),
            reason: error.to_string(),
        };
        let key = KeyPair::from_pem(&key).map_err(unfit)?;
        let issuer = Issuer::from_ca_cert_pem(&cert, key).map_err(unfit)?;
        Ok(Self { issuer, cert })
    }

    /// A certificate with its key; that of the authority follows it.
    pub(super) fn issue(&self, leaf: &Leaf<'_>, span: Span) -> Result<Made, TlsError> {
        let name = leaf.names.first();
        let name = name.ok_or_else(|| TlsError::Make("no host is given (--host)".to_owned()))?;
        let mut params = params(name, span);
        let names = CertificateParams::new(leaf.names).map_err(failed)?;
        params.subject_alt_names = names.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![leaf.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Made {
            cert: format!("{}{}", cert.pem(), self.cert),
            key: key.serialize_pem(),
        })
    }
}

fn params(name: &str, (from, until): Span) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + from.saturating_sub(EARLIER);
    params.not_after = epoch + until;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn failed(error: rcgen::Error) -> TlsError {
    TlsError::Make(error.to_string())
}

//! What a broken connection means, for the person who started it. Pure.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError, Error as Tls};

/// What an error with all that it came of says about TLS, with the way out; none when it is about
/// something else.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = tls_of(error) {
            return Some(words(found));
        }
        next = error.source();
    }
    None
}

/// The error of rustls; it hides inside one of input and output.
fn tls_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Tls> {
    if let Some(found) = error.downcast_ref::<Tls>() {
        return Some(found);
    }
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    tls_of(inner)
}

/// The innermost cause: `Connection refused` says more than `transport error`.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Whether somebody listens there, and says nothing that is understood.
pub(crate) fn is_garbled(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<io::Error>() {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            return !matches!(
                kind,
                Some(
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                )
            );
        }
        next = error.source();
    }
    false
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum of which few kinds matter here"
)]
fn words(error: &Tls) -> String {
    match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is of an authority that is not trusted here; give the authority's certificate with --tls-ca (the file ca.pem that `trainyard tls init` made)".to_owned()
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!("{error}; use a name that is in the certificate, or make one for this name with `trainyard tls init --host`")
        }
        Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => {
            format!("{error}; renew it with `trainyard tls init --force`")
        }
        Tls::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate of the client; give one with --tls-cert and --tls-key".to_owned()
        }
        Tls::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::DecryptError),
        ) => {
            format!("it does not accept the certificate given with --tls-cert ({alert:?})")
        }
        Tls::InvalidMessage(_) => {
            "what answers there does not speak TLS; write http:// if that is meant".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_however_deep_it_lies() {
        let tls = Tls::InvalidCertificate(CertificateError::UnknownIssuer);
        let inner = io::Error::new(io::ErrorKind::InvalidData, tls);
        let outer = io::Error::other(inner);
        let said = explain(&outer).unwrap();
        assert!(said.contains("--tls-ca"), "{said}");
        assert_eq!(explain(&io::Error::other("refused")), None);
    }
}

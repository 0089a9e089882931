//! What is wrong with a handshake, in words that name the fix.
//!
//! It never knows which protocol was to be spoken behind it.

use std::{error::Error, io};

use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError, pki_types::ServerName};

/// What is wrong with the handshake with `host`, where an error or one of its causes is of TLS.
pub(crate) fn handshake_problem(error: &(dyn Error + 'static), host: &str) -> Option<String> {
    tls_error(error).map(|tls| problem(tls, host))
}

/// What of an error, or of one of its causes, is of TLS.
pub(crate) fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<TlsError>() {
            return Some(tls);
        }
        // What an I/O error holds is not its source: that is the source of what it holds.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = within.map(|within| within as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// Whether only a person can mend this: one side does not trust the other's certificate, or there is none, or no TLS.
pub(crate) fn is_denial(error: &TlsError) -> bool {
    match error {
        // OpenSSL may find the name elsewhere in a certificate that has none where it belongs.
        TlsError::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            !presented.is_empty()
        }
        TlsError::InvalidCertificate(problem) => matches!(
            problem,
            CertificateError::NotValidForName
                | CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                | CertificateError::UnknownIssuer
                | CertificateError::BadSignature
        ),
        TlsError::AlertReceived(alert) => is_about_our_certificate(*alert) || *alert == Alert::CertificateExpired,
        TlsError::InvalidMessage(_) => true,
        _ => false,
    }
}

/// Whether a server says by this that it does not like our certificate, or misses one.
pub(crate) fn is_about_our_certificate(alert: Alert) -> bool {
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            // Another authority of the same name has signed it.
            | Alert::DecryptError
    )
}

/// The same of an error that is of TLS.
pub(crate) fn problem(error: &TlsError, host: &str) -> String {
    match error {
        TlsError::InvalidCertificate(certificate) => certificate_problem(certificate, host),
        TlsError::AlertReceived(Alert::CertificateRequired | Alert::NoCertificate) => {
            "it wants a client certificate: set cert and key".to_owned()
        }
        TlsError::AlertReceived(alert) if is_about_our_certificate(*alert) => {
            "it does not accept our client certificate: set a cert and key that its authority has signed".to_owned()
        }
        TlsError::AlertReceived(Alert::CertificateExpired) => {
            "our client certificate has expired: renew cert and key".to_owned()
        }
        TlsError::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn certificate_problem(error: &CertificateError, host: &str) -> String {
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<String> = presented.iter().map(|name| format!("\"{}\"", bare(name))).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("the certificate is for {names}, not \"{}\"", shown(expected))
        }
        CertificateError::NotValidForName => format!("the certificate is not for \"{host}\""),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet: look at the clocks".to_owned()
        }
        // The second is another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority that we trust has signed the certificate: set ca".to_owned()
        }
        other => format!("the certificate is of no use: {other}"),
    }
}

fn shown(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}

/// A name as rustls shows it, `DnsName("other.example")`, without what stands around it.
fn bare(name: &str) -> &str {
    name.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"')).map_or(name, |(name, _)| name)
}

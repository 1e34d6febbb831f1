//! Whom the server trusts when it is a client itself. Towards pods and Services: anybody, since nobody vouches for their
//! certificates (as upstream's proxy does it). Towards webhooks and other API servers: a bundle of certificates, read as Go reads
//! it: what stands in the bundle is trusted itself, also when it is no certificate authority.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A configuration that takes any certificate.
///
/// # Panics
/// Never: the provider supports the default protocol versions.
pub fn anybody() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("ring speaks TLS 1.2 and 1.3");
    builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth()
}

/// A verifier that takes any certificate.
pub(crate) fn nobody_is_asked() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(Arc::new(rustls::crypto::ring::default_provider())))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A verifier that trusts a bundle in PEM: whoever was signed by one of its certificates, and those certificates themselves
/// (Go's `x509.Certificate.Verify` looks for the leaf among the roots first). Harnesses and small operators often put a serving
/// certificate itself into their `caBundle`.
///
/// # Errors
/// There is no certificate in it.
pub(crate) fn bundle(pem: &[u8]) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| e.to_string())?;
    Ok(Arc::new(Bundle { certificates, signed }))
}

#[derive(Debug)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.certificates.iter().any(|c| c == leaf) {
            return self.signed.verify_server_cert(leaf, chain, name, ocsp, now);
        }
        valid_now(leaf, now)?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

fn valid_now(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let (now, validity) = (i64::try_from(now.as_secs()).unwrap_or(i64::MAX), parsed.validity());
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// A certificate for `localhost` that vouches for itself.
    fn own(is_ca: bool) -> (String, CertificateDer<'static>) {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        (made.pem(), made.der().clone())
    }

    #[test]
    fn what_stands_in_a_bundle_is_trusted_itself_by_its_name_and_in_its_time() {
        for is_ca in [false, true] {
            let (pem, certificate) = own(is_ca);
            let verifier = bundle(pem.as_bytes()).unwrap();
            let verify = |name: &str, now| verifier.verify_server_cert(&certificate, &[], &ServerName::try_from(name.to_owned()).unwrap(), &[], now);
            assert!(verify("localhost", UnixTime::now()).is_ok(), "{is_ca}");
            assert!(matches!(verify("example.com", UnixTime::now()), Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }))));
            let late = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 40));
            assert_eq!(verify("localhost", late).unwrap_err(), CertificateError::Expired.into());
        }
    }

    #[test]
    fn others_are_not() {
        let ((pem, _), (_, other)) = (own(true), own(false));
        let verifier = bundle(pem.as_bytes()).unwrap();
        let refused = verifier.verify_server_cert(&other, &[], &ServerName::try_from("localhost").unwrap(), &[], UnixTime::now());
        assert!(matches!(refused, Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature))), "{refused:?}");
        assert!(bundle(b"nothing").is_err());
    }
}

//! Where the server is, what makes it trustworthy, and who asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Error;

/// Where distributions keep the roots they trust.
const SYSTEM_ROOTS: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Who asks, beside a client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    #[default]
    None,
    Token(String),
    /// Read again as it changes: projected service account tokens are renewed in place.
    TokenFile(PathBuf),
    Basic {
        username: String,
        password: String,
    },
}

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:port`, perhaps with a path in front of all API paths.
    pub server: String,
    /// The name to ask for and to check, instead of the URL's host.
    pub tls_server_name: Option<String>,
    /// PEM. Without it the machine's own roots are trusted.
    pub certificate_authority: Option<Vec<u8>>,
    /// Trust any server.
    pub insecure: bool,
    /// PEM certificate (chain) and key.
    pub client_certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub identity: Identity,
    /// Sent with each request: impersonation, for example.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `program/version`: the part before the slash becomes the field manager of writes.
    pub user_agent: String,
    /// Longest time for one call or list, its body included.
    pub timeout: Duration,
}

impl Config {
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            tls_server_name: None,
            certificate_authority: None,
            insecure: false,
            client_certificate: None,
            identity: Identity::None,
            headers: Vec::new(),
            user_agent: format!("knarr/{}", knarr_core::KUBERNETES_VERSION),
            timeout: Duration::from_secs(65),
        }
    }

    pub(super) fn rustls(&self, identity: Arc<dyn rustls::client::ResolvesClientCert>) -> Result<rustls::ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| Error::Config(e.to_string()))?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnybody))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        Ok(builder.with_client_cert_resolver(identity))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        if let Some(pem) = &self.certificate_authority {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|e| Error::Config(format!("certificate authority: {e}")))?;
            }
        } else if let Some(pem) = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()) {
            roots.add_parsable_certificates(certificates(&pem)?);
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| Error::Config(format!("certificate: {e:?}")))
}

/// A certificate and its key, ready to sign.
pub(super) fn certified_key(certificate_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, Error> {
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| Error::Config(format!("client key: {e:?}")))?;
    let signer = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|e| Error::Config(format!("client key: {e}")))?;
    Ok(CertifiedKey::new(certificates(certificate_pem)?, signer))
}

/// `insecure-skip-tls-verify`.
#[derive(Debug)]
struct TrustAnybody;

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

//! TLS configurations of the roles: who shows what to whom.

use std::sync::Arc;

use knarr_apiserver::pki::Shown;
use knarr_cli::cluster::failure::{Failure, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Shows what `shown` holds; takes clients without a certificate, and those whose certificate `client_ca` has signed. Without a
/// `client_ca` nobody is asked for one.
pub fn server(shown: Arc<dyn ResolvesServerCert>, client_ca: Option<&str>, alpn: &[&str]) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(Failure::program)?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?.into(), provider).allow_unauthenticated().build();
            config.with_client_cert_verifier(verifier.map_err(Failure::program)?)
        }
    };
    let mut config = config.with_cert_resolver(shown);
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A certificate and its key out of one text.
pub fn certified_key(pem: &str) -> Result<rustls::sign::CertifiedKey> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| Failure::program(format!("key: {e:?}")))?;
    let signer = rustls::crypto::ring::sign::any_supported_type(&key).map_err(Failure::program)?;
    Ok(rustls::sign::CertifiedKey::new(chain(pem)?, signer))
}

/// Trusts `ca` and shows what `shown` holds.
pub fn client(ca: &str, shown: Arc<Shown>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Failure::program)?
        .with_root_certificates(roots(ca)?)
        .with_client_cert_resolver(shown);
    Ok(Arc::new(config))
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in chain(pem)? {
        store.add(certificate).map_err(Failure::program)?;
    }
    Ok(store)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<std::result::Result<_, _>>().map_err(|e| Failure::program(format!("certificate: {e:?}")))
}

//! The certificate that a TLS configuration shows, exchanged while connections come and go: whoever connects after a renewal sees
//! the new one, and nobody is cut off.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Identity;

/// What is shown now. One may be shown by several configurations.
#[derive(Debug)]
pub struct Shown(ArcSwap<CertifiedKey>);

impl Shown {
    /// # Errors
    /// PEM that holds no certificate or no key, or a key of another certificate.
    pub fn new(identity: &Identity) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(identity)?))))
    }

    /// Shows another one from now on.
    ///
    /// # Errors
    /// As [`Self::new`]; the old one stays.
    pub fn set(&self, identity: &Identity) -> Result<(), String> {
        self.0.store(Arc::new(certified(identity)?));
        Ok(())
    }
}

fn certified(identity: &Identity) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| format!("certificate: {e:?}"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| format!("key: {e:?}"))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(|e| e.to_string())
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.0.load_full();
        current.key.choose_scheme(schemes).is_some().then_some(current)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

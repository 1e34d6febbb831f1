//! The certificate that a TLS configuration shows, exchanged while connections come and go: whoever connects after a renewal sees
//! the new one, and nobody is cut off.

use std::collections::BTreeMap;
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

/// Shows a certificate by the name that the client asks for (upstream: `--tls-sni-cert-key`), and where none fits what `otherwise` holds.
#[derive(Debug)]
pub struct ByName {
    named: BTreeMap<String, Arc<CertifiedKey>>,
    otherwise: Arc<Shown>,
}

impl ByName {
    /// `named`: certificates with the names for which they are shown; without any, those that stand in the certificate. A name that is given
    /// counts for more than one that is found, an earlier certificate for more than a later one.
    ///
    /// # Errors
    /// As [`Shown::new`].
    pub fn new(named: &[(Identity, Vec<String>)], otherwise: Arc<Shown>) -> Result<Self, String> {
        let (mut found, mut given) = (BTreeMap::new(), BTreeMap::new());
        for (identity, names) in named.iter().rev() {
            let key = Arc::new(certified(identity)?);
            if names.is_empty() {
                found.extend(super::names(&identity.certificate).into_iter().map(|name| (name.to_ascii_lowercase(), key.clone())));
            }
            given.extend(names.iter().map(|name| (name.to_ascii_lowercase(), key.clone())));
        }
        found.append(&mut given);
        Ok(Self { named: found, otherwise })
    }

    /// A name itself, or with its first label left open: `*.example.com`.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || self.named.get(&format!("*{}", &name[name.find('.').unwrap_or(name.len())..]));
        self.named.get(&name).or_else(wildcard).cloned()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or_else(|| ResolvesServerCert::resolve(&*self.otherwise, hello))
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

#[cfg(test)]
mod tests {
    use super::super::{Leaf, Pki};
    use super::*;

    #[test]
    fn a_certificate_is_shown_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let pki = Pki::load_or_create(folder.path(), now).unwrap();
        let make = |common_name: &str, dns_names: &[&str]| {
            let dns_names: Vec<String> = dns_names.iter().map(|n| (*n).to_owned()).collect();
            pki.ca.issue(&Leaf { common_name, organization: None, dns_names: &dns_names, addresses: &[], client: false, server: true }, now).unwrap()
        };
        let (first, second) = (make("127.0.0.1", &["found.example", "both.example"]), make("common.example", &[]));
        let chain = |identity: &Identity| certified(identity).unwrap().cert;
        let otherwise = Shown::new(&make("otherwise", &[])).unwrap();
        let named = vec![
            (first.clone(), vec![]),
            (second.clone(), vec!["Given.example".to_owned(), "*.wild.example".to_owned(), "both.example".to_owned()]),
            (second.clone(), vec![]),
        ];
        let by_name = ByName::new(&named, otherwise).unwrap();
        let shown = |name: &str| by_name.find(name).map(|key| key.cert.clone());
        for name in ["found.example", "FOUND.example."] {
            assert_eq!(shown(name), Some(chain(&first)), "{name}");
        }
        for name in ["given.example", "a.wild.example", "both.example", "common.example"] {
            assert_eq!(shown(name), Some(chain(&second)), "{name}");
        }
        for name in ["127.0.0.1", "a.b.wild.example", "wild.example", "other"] {
            assert_eq!(shown(name), None, "{name}");
        }
    }
}

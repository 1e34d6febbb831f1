//! Client certificates: the common name is the user, each organization a group. TLS has verified the chain before.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use knarr_core::{Result, clock::Env};
use parking_lot::Mutex;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authenticator, Credentials, User};

/// Extra of a user that came by certificate: SHA-256 of the certificate (KEP-4872).
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Most certificates of which something is remembered.
const KNOWN_MAX: usize = 4096;

type Fingerprint = [u8; 32];

/// Which clients' certificates a bundle of CAs has signed. TLS lets in whom any CA of the server has signed; authenticators must
/// tell them apart.
pub struct SignedBy {
    bundle: ArcSwap<Bundle>,
    env: Env,
}

struct Bundle {
    verifier: Arc<dyn ClientCertVerifier>,
    /// By the leaf: until when it holds (seconds since 1970), or nothing if it is of somebody else.
    known: Mutex<HashMap<Fingerprint, Option<i64>>>,
}

impl Bundle {
    fn new(ca_pem: &str) -> std::result::Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.map_err(|e| format!("client CA: {e}"))?).map_err(|e| format!("client CA: {e}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| format!("client CA: {e}"))?;
        Ok(Self { verifier, known: Mutex::default() })
    }
}

impl SignedBy {
    /// # Errors
    /// Text that holds no certificates.
    pub fn new(ca_pem: &str, env: Env) -> std::result::Result<Self, String> {
        Ok(Self { bundle: ArcSwap::from_pointee(Bundle::new(ca_pem)?), env })
    }

    /// Other CAs count from now on, also for connections that are open.
    ///
    /// # Errors
    /// As [`Self::new`]; the CAs from before go on to count.
    pub fn set(&self, ca_pem: &str) -> std::result::Result<(), String> {
        self.bundle.store(Arc::new(Bundle::new(ca_pem)?));
        Ok(())
    }

    /// Whether this chain, leaf first, is one of ours and holds now.
    pub fn has_signed(&self, certificates: &[Vec<u8>]) -> bool {
        certificates.first().is_some_and(|leaf| self.has_signed_leaf(certificates, leaf, fingerprint(leaf)))
    }

    fn has_signed_leaf(&self, certificates: &[Vec<u8>], leaf: &[u8], key: Fingerprint) -> bool {
        let (bundle, now) = (self.bundle.load(), self.env.now().as_second());
        if let Some(known) = bundle.known.lock().get(&key) {
            return known.is_some_and(|end| now <= end);
        }
        let end = bundle.verify(certificates, now).then(|| expires(leaf)).flatten();
        let mut known = bundle.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, end);
        end.is_some()
    }
}

impl Bundle {
    fn verify(&self, certificates: &[Vec<u8>], now: i64) -> bool {
        let chain: Vec<CertificateDer<'_>> = certificates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
        self.verifier.verify_client_cert(&chain[0], &chain[1..], now).is_ok()
    }
}

/// Takes certificates for users: those that TLS has let in, or of them those that one bundle of CAs has signed.
#[derive(Default)]
pub struct ClientCertificates {
    signed_by: Option<Arc<SignedBy>>,
    /// What was read of the certificates of open connections, by where they lie: each request of a connection shows the same bytes.
    read: Mutex<HashMap<usize, Arc<Leaf>>>,
}

/// A client's own certificate, and what it says.
struct Leaf {
    der: Vec<u8>,
    fingerprint: Fingerprint,
    user: Option<User>,
}

impl ClientCertificates {
    /// Of these CAs alone, where TLS knows others too.
    pub fn of(signed_by: impl Into<Arc<SignedBy>>) -> Self {
        Self { signed_by: Some(signed_by.into()), read: Mutex::default() }
    }

    fn leaf(&self, der: &[u8]) -> Arc<Leaf> {
        let place = der.as_ptr().addr();
        let mut read = self.read.lock();
        if let Some(leaf) = read.get(&place).filter(|l| l.der == der) {
            return leaf.clone();
        }
        let fingerprint = fingerprint(der);
        let leaf = Arc::new(Leaf { der: der.to_vec(), fingerprint, user: user_of(der, &fingerprint) });
        if read.len() >= KNOWN_MAX {
            read.clear();
        }
        read.insert(place, leaf.clone());
        leaf
    }
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        let chain = credentials.peer_certificates;
        let Some(der) = chain.first() else { return Ok(None) };
        let leaf = self.leaf(der);
        if self.signed_by.as_ref().is_some_and(|ca| !ca.has_signed_leaf(chain, der, leaf.fingerprint)) {
            return Ok(None);
        }
        Ok(leaf.user.clone())
    }
}

fn fingerprint(der: &[u8]) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    std::array::from_fn(|i| digest.as_ref()[i])
}

/// The first common name of a certificate.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

/// When a certificate ends, in seconds since 1970.
pub fn expires(der: &[u8]) -> Option<i64> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

/// The user that a certificate names; none without a common name.
fn user_of(der: &[u8], fingerprint: &Fingerprint) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    let fingerprint = knarr_core::hex::encode(fingerprint);
    let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")])].into();
    Some(User { name, uid: String::new(), groups, extra })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pki::{self, Authority, Pki};

    /// The chain that a client with a certificate of this CA shows.
    pub fn chain_of(ca: &Authority, name: &str, env: &Env) -> Vec<Vec<u8>> {
        let leaf = pki::Leaf { common_name: name, organization: None, dns_names: &[], addresses: &[], client: true, server: false };
        let pem = ca.issue(&leaf, env.now()).unwrap().certificate;
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.unwrap().to_vec()).collect()
    }

    #[tokio::test]
    async fn a_certificate_of_another_ca_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let pki = Pki::load_or_create(folder.path(), env.now()).unwrap();
        let headers = http::HeaderMap::new();
        let ours = ClientCertificates::of(SignedBy::new(&pki.ca.certificate, env.clone()).unwrap());
        for (ca, wanted) in [(&pki.ca, Some("jane")), (&pki.front_proxy_ca, None)] {
            let chain = chain_of(ca, "jane", &env);
            // The second time it is remembered.
            for _ in 0..2 {
                let user = ours.authenticate(&Credentials { headers: &headers, peer_certificates: &chain, path: "/" }).await.unwrap();
                assert_eq!(user.as_ref().map(|u| u.name.as_str()), wanted);
            }
        }
    }

    #[test]
    fn a_certificate_names_user_and_group() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(folder.path(), jiff::Timestamp::now()).unwrap();
        let leaf = pki::Leaf { common_name: "jane", organization: Some("dev"), dns_names: &[], addresses: &[], client: true, server: false };
        let pem = pki.ca.issue(&leaf, jiff::Timestamp::now()).unwrap().certificate;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let user = user_of(&block.contents, &fingerprint(&block.contents)).unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("jane", &["dev".to_owned()][..]));
        assert!(user_of(b"nonsense", &Fingerprint::default()).is_none());
    }
}

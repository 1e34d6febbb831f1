//! Client certificates: the common name is the user, each organization a group. TLS has verified the chain before.

use async_trait::async_trait;
use knarr_core::Result;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authenticator, Credentials, User};

/// Extra of a user that came by certificate: SHA-256 of the certificate (KEP-4872).
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

pub struct ClientCertificates;

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        Ok(credentials.peer_certificates.first().and_then(|der| user_of(der)))
    }
}

/// When a certificate ends, in seconds since 1970.
pub fn expires(der: &[u8]) -> Option<i64> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

/// The user that a certificate names; none without a common name.
fn user_of(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    let fingerprint: String = ring::digest::digest(&ring::digest::SHA256, der).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")])].into();
    Some(User { name, uid: String::new(), groups, extra })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Leaf, Pki};

    #[test]
    fn a_certificate_names_user_and_group() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(folder.path(), jiff::Timestamp::now()).unwrap();
        let leaf = Leaf { common_name: "jane", organization: Some("dev"), dns_names: &[], addresses: &[], client: true, server: false };
        let pem = pki.ca.issue(&leaf, jiff::Timestamp::now()).unwrap().certificate;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let user = user_of(&block.contents).unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("jane", &["dev".to_owned()][..]));
        assert!(user_of(b"nonsense").is_none());
    }
}
